from __future__ import annotations

import os
import subprocess
import sys
import time
import types
from pathlib import Path

import pytest

from docs import make_man
from edge import __version__
from edge.cli import main
from edge.cli.hub import ExitStatus
from edge.cli.main import version_text
from tests.cli.process import run

# --- usage ---


def test_the_man_page_is_what_the_command_line_says() -> None:
    assert make_man.made(make_man.PAGE.read_text()) == make_man.PAGE.read_text(), "python -m docs.make_man writes it"


def test_version_names_edge_python_and_what_it_is_built_on() -> None:
    done = run("--version")

    first, second = done.stdout.splitlines()
    assert (0, "") == (done.returncode, done.stderr)
    assert f"edge {__version__}" == first.partition(" (commit ")[0]
    assert second.startswith(f"Python {sys.version.split()[0]}, aiohttp 3.")


def test_version_names_the_commit_that_a_build_wrote_down(monkeypatch: pytest.MonkeyPatch) -> None:
    build_info = types.ModuleType("edge._build_info")
    build_info.COMMIT = "abc1234"  # type: ignore[attr-defined]
    build_info.GLIBC = "2.36"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "edge._build_info", build_info)

    assert f"edge {__version__} (commit abc1234, for glibc 2.36 or later)" == version_text().splitlines()[0]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["serv"], "invalid choice: 'serv'"),
        (["serve", "--prot", "1"], "unrecognized arguments: --prot 1"),
        (["serve", "--por", "1"], "unrecognized arguments: --por 1"),
        (["check-config", "extra"], "unrecognized arguments: extra"),
    ],
)
def test_wrong_usage_exits_with_2(arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exited:
        main.main(arguments)

    assert ExitStatus.USAGE == exited.value.code
    assert sentence in capsys.readouterr().err


def test_starting_imports_neither_the_http_server_nor_the_logs() -> None:
    script = (
        "import sys; from edge.cli.main import main; assert main(['check-config']) == 0\n"
        "print([name for name in ('aiohttp', 'asyncio', 'structlog', 'logging') if name in sys.modules])"
    )

    assert "[]" == subprocess.check_output([sys.executable, "-c", script], text=True).splitlines()[-1]


@pytest.mark.linux
def test_a_hub_starts_without_loading_authorities_or_sqlite(tmp_path: Path) -> None:
    """Each takes time and memory on a small machine. A FIFO blocks a process that opens it to read."""
    authorities = tmp_path / "authorities.pem"
    os.mkfifo(authorities)
    command = (sys.executable, "-m", "edge", "serve", "--port", "0")
    environ = {**os.environ, "SSL_CERT_FILE": str(authorities)}
    with subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as hub:
        assert hub.stdout is not None
        try:
            assert hub.stdout.readline().startswith("edge: listening on ")
            assert "_sqlite3" not in Path(f"/proc/{hub.pid}/maps").read_text()
        finally:
            hub.kill()


def test_a_closed_pipe_makes_no_message() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = run("check-config", stdout=writer)
    finally:
        os.close(writer)

    assert (ExitStatus.FAILED, "") == (done.returncode, done.stderr)


@pytest.mark.linux
def test_standard_output_that_takes_nothing_is_one_line() -> None:
    done = run("check-config", shell=">/dev/full")

    assert ExitStatus.FAILED == done.returncode
    assert "edge: can't write to standard output: No space left on device\n" == done.stderr


def test_closed_standard_streams_make_no_traceback() -> None:
    without_out = run("check-config", shell=">&-")
    without_err = run("check-config", "--port", "x", shell="2>&-")

    assert (ExitStatus.FAILED, "") == (without_out.returncode, without_out.stderr)
    assert (ExitStatus.USAGE, "") == (without_err.returncode, without_err.stdout)


@pytest.mark.parametrize("shell", ["0<&- 1>&- 2>&-", "0<&- 1>&-", "2>&-"])
def test_closed_standard_streams_end_nothing(shell: str, tmp_path: Path) -> None:
    path = tmp_path / "edge.sock"
    command = [sys.executable, "-m", "edge", "serve", "--host", f"unix:{path}"]
    process = subprocess.Popen(["sh", "-c", f'exec "$@" {shell}', "sh", *command], stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while main.main(["healthcheck", "--url", f"unix:{path}"]) != ExitStatus.OK:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.terminate()
        assert 0 == process.wait(60)
    finally:
        process.kill()
        process.wait()


def test_the_binary_looks_for_authorities_where_other_systems_have_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.setenv(name, "")  # so that it is restored, although main sets it
        monkeypatch.delenv(name)
    theirs = tmp_path / "ca-bundle.crt"
    theirs.write_text("")
    monkeypatch.setattr(main, "AUTHORITIES", (str(tmp_path / "none"), str(theirs)))
    main._trust_the_systems_authorities()
    assert "SSL_CERT_FILE" not in os.environ, "a Python of the system knows where they are"
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    main._trust_the_systems_authorities()
    assert str(theirs) == os.environ["SSL_CERT_FILE"]
    monkeypatch.setenv("SSL_CERT_FILE", "mine")
    main._trust_the_systems_authorities()
    assert "mine" == os.environ["SSL_CERT_FILE"]
