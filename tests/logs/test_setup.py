from __future__ import annotations

import asyncio
import json
import logging
import os
import pty
import re
import socket
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.logs import setup

AWKWARD = "a\r\nb\0c\x1b[31md\x7fe\x85f\x9bg\u2028h\u2029i\u202ej\ud800k"
Reader = Callable[[], list[str]]
Configure = Callable[[setup.LogFormat], Reader]


@pytest.fixture
def logging_to_file(read: tuple[int, Reader]) -> Configure:
    """Configures logging from `info` up, to a file; returns what lines have been written to it."""

    def configure(log_format: setup.LogFormat) -> Reader:
        setup.configure(log_format, "info", fd=read[0])
        root = logging.getLogger()  # without pytest's handlers: a worker can't send on what is not UTF-8
        root.handlers[:] = [each for each in root.handlers if isinstance(each, setup._StandardLibraryHandler)]
        return read[1]

    return configure


@pytest.fixture
def read(tmp_path: Path) -> Iterator[tuple[int, Reader]]:
    """A descriptor to log to, and what lines have been written to it."""
    path = tmp_path / "log"
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    yield fd, lambda: path.read_bytes().decode().split("\n")[:-1]
    os.close(fd)


def fields(line: str) -> dict[str, object]:
    decoded = json.loads(line)
    assert isinstance(decoded, dict)
    return decoded


# --- the formats ---


def test_a_console_line_reads_as_time_level_logger_event_and_values(logging_to_file: Configure) -> None:
    lines = logging_to_file("console")

    setup.get_logger("edge.hub").info("connection added", project="demo", total=3, peer="a b", empty="", no=None)

    (line,) = lines()
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z info    edge\.hub connection added"
        r' project=demo total=3 peer="a b" empty="" no=None',
        line,
    )


def test_a_json_line_has_time_level_logger_event_and_the_values_as_they_are(logging_to_file: Configure) -> None:
    lines = logging_to_file("json")

    setup.get_logger("edge.hub").warning(
        "published without a subscriber", project="demo", suppressed=3, who=["a"], no=None
    )

    (line,) = lines()
    line_fields = fields(line)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", str(line_fields.pop("time")))
    assert {
        "level": "warning",
        "logger": "edge.hub",
        "event": "published without a subscriber",
        "project": "demo",
        "suppressed": 3,
        "who": ["a"],
        "no": None,
    } == line_fields


@pytest.mark.parametrize("log_format", ["console", "json"])
def test_nothing_in_a_value_ends_a_line_or_reaches_a_terminal(
    logging_to_file: Configure, log_format: setup.LogFormat
) -> None:
    lines = logging_to_file(log_format)

    setup.get_logger(AWKWARD).info(AWKWARD, value=AWKWARD, nested={"k": [AWKWARD]}, **{AWKWARD: 1})
    logging.getLogger("foreign").warning(AWKWARD)

    assert 2 == len(lines())
    for line in lines():
        assert line.isprintable()
        assert 1 == len(line.splitlines())


@given(text=st.text(st.characters(exclude_categories=())))
def test_a_value_cant_pass_for_another_field(text: str) -> None:
    with tempfile.TemporaryFile() as file:
        for log_format in ("console", "json"):
            setup.configure(log_format, "info", fd=file.fileno())
            setup.get_logger("edge").info("event", value=text, last="x")
        file.seek(0)
        console, as_json, rest = file.read().decode().split("\n")

    assert "" == rest
    assert text[:999] == str(fields(as_json)["value"])[:999]
    assert re.search(r' value=("([^"\\]|\\.)*"|[^\s"=\\]+) last=x$', console)


def test_a_field_cant_take_the_place_of_time_level_or_logger(logging_to_file: Configure) -> None:
    lines = logging_to_file("json")

    setup.get_logger("edge").info("event", level="critical", time="never", logger="other")

    (line,) = lines()
    assert ("info", "edge") == (fields(line)["level"], fields(line)["logger"])
    assert "never" != fields(line)["time"]


class _Hostile:
    def __str__(self) -> str:
        raise RuntimeError("no text for you")

    __repr__ = __str__


@pytest.mark.parametrize("log_format", ["console", "json"])
def test_a_value_that_cant_be_encoded_still_makes_a_line(
    logging_to_file: Configure, log_format: setup.LogFormat
) -> None:
    lines = logging_to_file(log_format)
    circle: list[object] = []
    circle.append(circle)

    setup.get_logger("edge").info("event", a=_Hostile(), b=float("nan"), c=circle, d={1: 2, (3,): 4}, e=b"\xff")

    (line,) = lines()
    assert "<_Hostile: its text raises RuntimeError>" in line
    assert "nan" in line


@pytest.mark.parametrize("log_format", ["console", "json"])
def test_a_line_is_never_longer_than_a_pipe_takes_at_once(
    logging_to_file: Configure, log_format: setup.LogFormat
) -> None:
    lines = logging_to_file(log_format)
    logger = setup.get_logger("edge")

    logger.info("🚀" * 5000, **{f"key{number}": "🚀" * 5000 for number in range(50)})
    logger.info("event", many=list(range(5000)))
    logger.info("event", value="x" * 3000)

    for line in lines():
        assert len(line.encode()) < 4096
    if log_format == "json":
        assert [True, True, None] == [fields(line).get("cut") for line in lines()]
        assert "x" * 999 + "…" == fields(lines()[2])["value"]


def test_colours_are_for_terminals_only(read: tuple[int, Reader], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    fd, lines = read
    setup.configure("console", "info", fd=fd)
    setup.get_logger("edge").info("to a file")
    ours, theirs = pty.openpty()
    try:
        setup.configure("console", "info", fd=theirs)
        setup.get_logger("edge").info("to a terminal", value=AWKWARD)
        coloured = os.read(ours, 4096).decode()
        monkeypatch.setenv("NO_COLOR", "1")
        setup.configure("console", "info", fd=theirs)
        setup.get_logger("edge").info("to a terminal")
        plain = os.read(ours, 4096).decode()
    finally:
        os.close(ours)
        os.close(theirs)

    assert "\x1b" not in lines()[0]
    assert "\x1b[32minfo" in coloured
    assert {"2", "32", "0"} == set(re.findall(r"\x1b\[(\d+)m", coloured)), "our colours and no others"
    assert "\x1b" not in plain


@pytest.mark.parametrize("log_format", ["console", "json"])
def test_lines_to_the_journal_begin_with_their_priority(
    read: tuple[int, Reader], log_format: setup.LogFormat, monkeypatch: pytest.MonkeyPatch
) -> None:
    fd, lines = read
    found = os.fstat(fd)
    monkeypatch.setenv("JOURNAL_STREAM", f"{found.st_dev}:{found.st_ino}")
    setup.configure(log_format, "debug", fd=fd)
    for level in ("debug", "info", "warning", "error"):
        getattr(setup.get_logger("edge"), level)("event", value="x" * 5000)
    logging.getLogger("foreign").critical("event")
    assert ["<7>", "<6>", "<4>", "<3>", "<2>"] == [line[:3] for line in lines()]
    assert all(len(line.encode()) < 4096 for line in lines())

    monkeypatch.setenv("JOURNAL_STREAM", f"{found.st_dev}:{found.st_ino + 1}")
    setup.configure(log_format, "info", fd=fd)
    setup.get_logger("edge").info("event")
    assert not lines()[-1].startswith("<")


# --- levels, loggers ---


def test_the_level_may_change_while_loggers_are_in_use(read: tuple[int, Reader]) -> None:
    fd, lines = read
    setup.configure("console", "warning", fd=fd)
    logger = setup.get_logger("edge")
    logger.info("no")
    setup.set_level("info")
    logger.info("yes")
    logging.getLogger("foreign").info("yes")
    setup.set_level("error")
    logger.warning("no")
    assert ["yes", "yes"] == [line.split()[-1] for line in lines()]


def test_lines_below_the_level_are_not_written(read: tuple[int, Reader]) -> None:
    fd, lines = read
    setup.configure("console", "warning", fd=fd)
    logger = setup.get_logger("edge")

    logger.info("no")
    logging.getLogger("foreign").info("no")
    logger.warning("yes")

    assert 1 == len(lines())
    assert "yes" in lines()[0]


def test_a_logger_in_use_follows_a_new_format_and_descriptor(read: tuple[int, Reader], tmp_path: Path) -> None:
    fd, lines = read
    setup.configure("console", "info", fd=-1)
    logger = setup.get_logger("edge").bind(project="demo")
    setup.configure("json", "info", fd=fd)

    logger.info("event")

    assert "demo" == fields(lines()[0])["project"]


# --- exceptions ---


def test_an_exception_is_one_line_with_its_causes_and_where_it_was_raised(logging_to_file: Configure) -> None:
    lines = logging_to_file("json")
    try:
        try:
            raise OSError("disk\nfull")
        except OSError as error:
            raise RuntimeError from error
    except RuntimeError:
        setup.get_logger("edge").exception("failed")

    (line,) = lines()
    assert "error" == fields(line)["level"]
    assert "RuntimeError < OSError: disk\nfull" == fields(line)["error"]
    assert re.fullmatch(
        r"\S*test_setup:\d+ test_an_exception_is_one_line_with_its_causes_and_where_it_was_raised",
        str(fields(line)["trace"]),
    )


# --- the standard library ---


def test_the_standard_librarys_logs_and_warnings_are_lines_too(read: tuple[int, Reader]) -> None:
    fd, lines = read
    logging.getLogger().handlers.clear()  # pytest's own, which raise what a library formats wrongly
    setup.configure("json", "info", fd=fd)

    logging.getLogger("asyncio").warning("slow: %s", "x\ny")
    logging.getLogger("foreign").error("broken %d", "text")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(True)
        warnings.warn("old", stacklevel=1)
        logging.captureWarnings(False)

    written = [fields(line) for line in lines()]
    assert ["asyncio", "foreign", "py.warnings"] == [line["logger"] for line in written]
    assert ["slow: x\ny", "broken %d ('text',)"] == [line["event"] for line in written[:2]]


def test_a_flood_from_a_library_is_folded(logging_to_file: Configure) -> None:
    lines = logging_to_file("console")

    for number in range(1000):
        logging.getLogger("asyncio").error("socket.accept() out of system resource %d", number)

    assert 1 == len(lines())


def test_configuring_again_does_not_repeat_foreign_lines(read: tuple[int, Reader]) -> None:
    fd, lines = read
    setup.configure("console", "info", fd=fd)
    setup.configure("console", "info", fd=fd)

    logging.getLogger("foreign").warning("once")

    assert 1 == len(lines())


# --- when a line can't be written ---


def drops() -> int:
    return setup.dropped_lines


def test_a_closed_pipe_costs_lines_only() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    before = drops()
    try:
        setup.configure("console", "info", fd=writer)
        setup.get_logger("edge").info("to no process")
    finally:
        os.close(writer)

    assert before + 1 == drops()


def test_a_stalled_pipe_never_blocks_the_program() -> None:
    reader, writer = os.pipe()
    before = drops()
    written = 0
    try:
        setup.configure("console", "info", fd=writer)
        logger = setup.get_logger("edge")
        for number in range(2000):
            logger.info("event", number=number, fill="x" * 100)
        assert drops() > before
        assert os.get_blocking(writer), "the descriptor is shared: its mode is not ours to change"
        written = 2000 - (drops() - before)
        received = os.read(reader, 1 << 20).split(b"\n")
        before = drops()
        logger.info("again")
        received_after = os.read(reader, 4096)
    finally:
        os.close(reader)
        os.close(writer)

    assert written == len(received) - 1, "what was written was written whole"
    assert b"" == received[-1]
    assert before == drops()
    assert received_after.endswith(b"again\n")


def test_a_stalled_socket_never_blocks_the_program() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        before = drops()
        setup.configure("json", "info", fd=ours.fileno())
        for _ in range(5000):
            setup.get_logger("edge").info("event", fill="x" * 900)

    assert drops() > before


@pytest.mark.linux
def test_a_full_disk_costs_lines_only() -> None:
    before = drops()
    fd = os.open("/dev/full", os.O_WRONLY)
    try:
        setup.configure("json", "info", fd=fd)
        setup.get_logger("edge").info("lost")
        logging.getLogger("foreign").warning("lost")
    finally:
        os.close(fd)

    assert before + 2 == drops()


def test_the_line_after_a_torn_one_begins_a_new_line(read: tuple[int, Reader]) -> None:
    fd, lines = read
    setup.configure("console", "info", fd=fd)
    logger = setup.get_logger("edge")
    before = drops()

    script = (
        "import os, resource, signal; from edge.logs import setup as log\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))\n"
        "log.configure('console', 'info'); logger = log.get_logger('edge')\n"
        "[logger.info('first', fill='x' * 30) for _ in range(2)]\n"
        "logger.info('lost')\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))\n"
        "logger.info('last', dropped=log.dropped_lines)\n"
    )
    subprocess.run([sys.executable, "-c", script], stderr=fd, check=True)
    logger.info("ours")

    assert 4 == len(lines())
    assert "first fill=" in lines()[0]
    assert lines()[2].endswith("last dropped=2")
    assert before == drops()


def test_without_standard_error_nothing_is_written_to_its_number(tmp_path: Path) -> None:
    script = (
        "import os, sys; from edge.logs import setup as log\n"
        "taken = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT)\n"
        "assert taken == 2, taken\n"
        "log.configure('console', 'info'); log.get_logger('edge').info('event')\n"
        "print(log.dropped_lines)\n"
    )
    out = subprocess.run(
        ["sh", "-c", 'exec "$0" -c "$1" "$2" 2>&-', sys.executable, script, str(tmp_path / "socket")],
        stdout=subprocess.PIPE,
        check=True,
    )

    assert b"1\n" == out.stdout
    assert b"" == (tmp_path / "socket").read_bytes()


async def test_a_line_may_be_written_from_the_event_loop(logging_to_file: Configure) -> None:
    lines = logging_to_file("console")

    setup.get_logger("edge").info("event")

    assert 1 == len(await asyncio.to_thread(lines))
