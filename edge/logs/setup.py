"""Structured logs on standard error: one line per event, for people (`console`) or machines (`json`).

Invariants: nothing inside a value can end or forge a line, or reach a terminal as a command. The log never blocks or
ends the program: a line that can't be written at once (pipe closed or stalled, disk full) is dropped and counted in
`dropped_lines`.

    log = get_logger(__name__)
    log.info("connection added", project=project, total=3)
"""

from __future__ import annotations

import json
import logging
import os
import re
import select
import sys
import time
import traceback
from collections.abc import Callable, Hashable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from types import TracebackType
from typing import Any, Generic, Literal, TypeAlias, TypeVar, cast

import structlog
from structlog.typing import EventDict, FilteringBoundLogger, WrappedLogger

from edge.logs.text import TRACE, TRACE_HEADER, one_line, shorten

_loggers: list[Any] = []
dropped_lines = 0
"""Lines that could not be written since the program started."""

LogFormat: TypeAlias = Literal["console", "json"]
Key = TypeVar("Key", bound=Hashable)

# PIPE_BUF on Linux: a pipe that polls as writable takes so much in one piece without blocking.
_MAX_LINE_BYTES = 4096
_BESIDE_LINE_BYTES = 4
"""A priority and the line end."""
# The worst case, twelve bytes a character (an emoji as two JSON escapes), still leaves room in the line.
_MAX_EVENT_CHARS = 250
_MAX_VALUE_CHARS = 1000
_MAX_CUT_VALUE_CHARS = 60
_MAX_FRAMES = 8
_MAX_CAUSES = 3
# Out of descriptors asyncio logs thousands of lines a second (measured: 24,000 in 5 s).
_FOREIGN_PERIOD_SECONDS = 10.0
_FOREIGN_MAX_KEYS = 200

_NEEDS_QUOTES = re.compile(r'[\s"=\\]')
_PRIORITIES = {"debug": "<7>", "info": "<6>", "warning": "<4>", "error": "<3>", "critical": "<2>"}
"""As sd-daemon(3) has them."""
_COLOURS = {"debug": "2", "info": "32", "warning": "33", "error": "31", "critical": "1;31"}


def configure(log_format: LogFormat, level: str, *, fd: int | None = None) -> None:
    """Send every log of the process, the standard library's too, to `fd` (standard error) from `level` up.

    Call it once, before the first line: a logger keeps the level it had when it was first used.
    """
    # None where the process was started without it: descriptor 2 may be a socket by now.
    _output.fd = fd if fd is not None else (2 if sys.stderr is not None else None)
    _output.torn = False
    _output.priorities = _PRIORITIES if _is_journal(_output.fd) else {}
    _output.render = _render_json if log_format == "json" else partial(_render_console, _is_terminal(_output.fd))
    structlog.configure(
        processors=_PROCESSORS,
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=lambda *_: _output,
        cache_logger_on_first_use=True,
    )
    _adopt_standard_library(level)


def get_logger(name: str) -> FilteringBoundLogger:
    """A logger whose lines carry `name`; may be made before `configure` is called, but used only after."""
    logger = structlog.get_logger(logger_name=name)
    _loggers.append(logger)
    return cast(FilteringBoundLogger, logger)


def set_level(level: str) -> None:
    """Log from `level` up from now on."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(level))
    for logger in _loggers:
        logger.__dict__.pop("bind", None)  # where structlog caches the class that filters by the level
    logging.getLogger().setLevel(level.upper())


# --- writing ---


class _Output:
    """Where lines go. The method names are those structlog calls."""

    def __init__(self) -> None:
        self.fd: int | None = None
        self.render: Callable[[dict[str, object]], str] = partial(_render_console, False)
        self.priorities: Mapping[str, str] = {}
        self.torn = False  # the last line was written in part: the next begins with a line end

    def write(self, line: str) -> None:
        global dropped_lines  # noqa: PLW0603 - the counter is part of the interface
        data = f"{line}\n".encode("utf-8", "backslashreplace")
        if self.torn:
            data = b"\n" + data
        written = 0
        with suppress(OSError):
            if self.fd is not None and _is_writable(self.fd):
                written = os.write(self.fd, data)
                self.torn = written < len(data)
        dropped_lines += written < len(data)

    debug = info = warning = error = critical = write


def _is_writable(fd: int) -> bool:
    """Whether a line can be written without waiting: a stalled process that reads the pipe must not stall the hub.

    O_NONBLOCK would do too, but it belongs to the open file: the shell that shares it would get it as well.
    """
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    return bool(poll.poll(0))


def _is_journal(fd: int | None) -> bool:
    """Whether systemd connected `fd` to the journal, which reads a priority at the beginning of each line."""
    with suppress(OSError):
        found = os.fstat(-1 if fd is None else fd)
        return os.environ.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"
    return False


def _is_terminal(fd: int | None) -> bool:
    wanted = "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"
    return wanted and fd is not None and os.isatty(fd)


# --- one event to one line ---


def _to_line(_logger: WrappedLogger, level: str, fields: EventDict) -> str:
    """The line of an event: the last and only processor of structlog. A field `exc_info` is an exception, or True for
    the one at hand.
    """
    if (traceparent := TRACE.get()) is not None:
        fields[TRACE_HEADER] = traceparent
    exc_info = fields.pop("exc_info", None)
    error = sys.exc_info()[1] if exc_info is True else exc_info
    if isinstance(error, BaseException):
        fields["error"] = _describe_error(error)
        fields["trace"] = _trace(error.__traceback__)
    head = {
        "time": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "level": level,
        "logger": fields.pop("logger_name", "edge"),
        "event": shorten(_to_text(fields.pop("event", "")), _MAX_EVENT_CHARS),
    }
    for key, value in fields.items():
        if isinstance(value, str):
            fields[key] = shorten(value, _MAX_VALUE_CHARS)
    # `head` twice: it comes first, and no field can take its place.
    line = _output.render({**head, **fields, **head})
    while fields and len(line.encode("utf-8", "backslashreplace")) >= _MAX_LINE_BYTES - _BESIDE_LINE_BYTES:
        fields = {key: shorten(_to_text(value), _MAX_CUT_VALUE_CHARS) for key, value in fields.items()}
        line = _output.render({**head, **fields, **head, "cut": True})
        fields.popitem()
    return _output.priorities.get(level, "") + line


def _render_json(fields: dict[str, object]) -> str:
    try:
        line = json.dumps(fields, default=_to_text, allow_nan=False)
    except (ValueError, TypeError, RecursionError):  # NaN, a cycle, a key that is not a string
        line = json.dumps({key: _to_text(value) for key, value in fields.items()})
    # ASCII by now, and without controls but for this one.
    return line.replace("\x7f", "\\u007f")


def _render_console(colour: bool, fields: dict[str, object]) -> str:
    def paint(text: str, code: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if colour else text

    (_, stamp), (_, level), (_, logger), (_, event), *others = fields.items()
    return " ".join(
        (
            paint(str(stamp), "2"),
            paint(f"{level:<7}", _COLOURS.get(str(level), "0")),
            paint(_quoted(logger), "2"),
            one_line(str(event)),
            *(f"{paint(_quoted(key) + '=', '2')}{_quoted(value)}" for key, value in others),
        )
    )


def _quoted(value: object) -> str:
    text = _to_text(value)
    if text and text.isprintable() and not _NEEDS_QUOTES.search(text):
        return text
    return '"' + one_line(text.replace("\\", "\\\\").replace('"', '\\"')) + '"'


def _to_text(value: object) -> str:
    try:
        return value if isinstance(value, str) else str(value)
    except Exception as error:  # noqa: BLE001 - whatever a foreign __str__ does, the line must come out
        return f"<{type(value).__name__}: its text raises {type(error).__name__}>"


# --- exceptions ---


def _describe_error(error: BaseException) -> str:
    """The exception and what caused it, outermost first: `RuntimeError: no < OSError: disk`."""
    causes: list[str] = []
    cause: BaseException | None = error
    while cause is not None and len(causes) < _MAX_CAUSES:
        text = _to_text(cause)
        causes.append(f"{type(cause).__name__}: {text}" if text else type(cause).__name__)
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
    return " < ".join(causes)


def _trace(frames: TracebackType | None) -> str:
    """Where it was raised, innermost first: `edge.core.ring:40 append < edge.core.hub:12 publish`."""
    names = [
        f"{frame.f_globals.get('__name__', '?')}:{line} {frame.f_code.co_name}"
        for frame, line in traceback.walk_tb(frames)
    ]
    return " < ".join(reversed(names[-_MAX_FRAMES:]))


# --- deduplication ---


@dataclass(slots=True)
class _Period:
    began: float
    admitted: int = 0
    suppressed: int = 0


class LogDeduplicator(Generic[Key]):
    """For each key: at most `lines` per `period_seconds`, and how many were suppressed since the last one.

        suppressed = deduplicator.admit(project, now)
        if suppressed is not None:
            log.warning("event_missed", project=project, suppressed=suppressed)

    With `max_keys` keys inside their period, all further keys share one place (None), so that many keys make no more
    lines than few. Invariant: at most `max_keys + 1` keys are remembered, and every occurrence is either admitted,
    counted in a later `suppressed`, or still held.
    """

    def __init__(self, *, period_seconds: float, max_keys: int, lines: int = 1) -> None:
        self._period_seconds = period_seconds
        self._max_keys = max_keys
        self._lines = lines
        self._periods: dict[Key | None, _Period] = {}  # oldest first

    def __len__(self) -> int:
        return len(self._periods) - (None in self._periods)

    def admit(self, key: Key, now: float) -> int | None:
        """None: log nothing. A number: log it, and that so many were suppressed since the last line."""
        place: Key | None = key
        period = self._periods.get(key)
        if period is None and len(self) >= self._max_keys and not self._forget_oldest(now):
            place, period = None, self._periods.get(None)
        if period is None or now - period.began >= self._period_seconds:
            self._periods.pop(place, None)
            period = self._periods[place] = _Period(now, suppressed=0 if period is None else period.suppressed)
        if period.admitted >= self._lines:
            period.suppressed += 1
            return None
        period.admitted += 1
        suppressed, period.suppressed = period.suppressed, 0
        return suppressed

    def due(self, now: float) -> list[tuple[Key | None, int]]:
        """Keys whose period is over with occurrences that no line has counted, and how many: for a line of their own.

        What it returns counts as logged, and quiet keys are forgotten. Call it now and then, or the last of a burst
        stay uncounted.
        """
        due: list[tuple[Key | None, int]] = []
        for key, period in list(self._periods.items()):
            if not self._over(period, now):
                break
            del self._periods[key]
            if period.suppressed:
                due.append((key, period.suppressed))
                self._periods[key] = _Period(now, admitted=1)
        return due

    def _over(self, period: _Period, now: float) -> bool:
        return now - period.began >= self._period_seconds

    def _forget_oldest(self, now: float) -> bool:
        """Make room: drop a key whose period is over; its count goes to the shared place. Returns whether one was."""
        key = next(key for key in self._periods if key is not None)
        period = self._periods[key]
        if not self._over(period, now):
            return False
        del self._periods[key]
        if period.suppressed:
            shared = self._periods.setdefault(None, _Period(period.began))
            shared.admitted = self._lines
            shared.suppressed += period.suppressed
        return True


# --- the standard library's logs ---


class _StandardLibraryHandler(logging.Handler):
    """Takes what asyncio and others log through the same pipeline, deduplicated, one line each."""

    def __init__(self) -> None:
        super().__init__()
        self._deduplicator: LogDeduplicator[tuple[str, int, str, str]] = LogDeduplicator(
            period_seconds=_FOREIGN_PERIOD_SECONDS, max_keys=_FOREIGN_MAX_KEYS
        )

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        key = (record.name, record.levelno, _to_text(record.msg), type(error).__name__)
        suppressed = self._deduplicator.admit(key, time.monotonic())
        if suppressed is None:
            return
        try:
            event = record.getMessage()
        except Exception:  # noqa: BLE001 - a wrong format string in a library: log its parts
            event = f"{_to_text(record.msg)} {_to_text(record.args)}"
        fields: EventDict = {"event": event, "logger_name": record.name, "exc_info": error}
        if suppressed:
            fields["suppressed"] = suppressed
        _output.write(_to_line(None, record.levelname.lower(), fields))


def _adopt_standard_library(level: str) -> None:
    root = logging.getLogger()
    for handler in [handler for handler in root.handlers if isinstance(handler, _StandardLibraryHandler)]:
        root.removeHandler(handler)
    root.addHandler(_StandardLibraryHandler())
    root.setLevel(level.upper())
    logging.captureWarnings(True)


_output = _Output()
# One list for ever: structlog's cached loggers hold on to it.
_PROCESSORS: list[structlog.typing.Processor] = [_to_line]
