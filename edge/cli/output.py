"""Exit statuses, and standard output and standard error of the command line, either of which may be closed."""

from __future__ import annotations

import enum
import os
import sys
from pathlib import Path

from edge.logs.text import one_line


class ExitStatus(enum.IntEnum):
    """What the exit status of `edge` means."""

    OK = 0
    FAILED = 1
    """At run time: the port is taken, the hub isn't healthy, a request was refused."""
    USAGE = 2
    """Wrong usage or configuration: starting again won't help. argparse's number too."""
    NO_SUBSCRIBER = 3
    """The hub answered 409 `no_connection`."""
    INTERRUPTED = 130
    """Ctrl-C before the server listens: 128 + SIGINT, as in shells."""


class CommandError(Exception):
    """A command failed. The text is one line, without the name of the program."""

    def __init__(self, text: str, status: ExitStatus = ExitStatus.FAILED) -> None:
        super().__init__(text)
        self.status = status


def say(text: str) -> int:
    """Write `text` to standard output; the exit status that this makes."""
    if sys.stdout is None:  # started with it closed
        return ExitStatus.FAILED
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except OSError as error:
        # Or Python tries again at exit, and complains in its own words.
        with Path(os.devnull).open("w") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):  # `edge check-config | head` has all it wants
            warn(f"can't write to standard output: {error.strerror}")
        return ExitStatus.FAILED
    return ExitStatus.OK


def warn(line: str) -> None:
    """Write a line to standard error."""
    if sys.stderr is not None:
        sys.stderr.write(one_line(f"edge: {line}") + "\n")
