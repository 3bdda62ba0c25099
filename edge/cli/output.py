"""Standard output and standard error of the command line, either of which may be closed."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from edge.cli import exit_codes
from edge.logs.text import one_line


def say(text: str) -> int:
    """Write `text` to standard output; the exit status that this makes."""
    if sys.stdout is None:  # started with it closed
        return exit_codes.FAILED
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except OSError as error:
        # Or Python tries again at exit, and complains in its own words.
        with Path(os.devnull).open("w") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):  # `edge check-config | head`: they have what they wanted
            return exit_codes.FAILED
        return refuse(f"edge: can't write to standard output: {error.strerror}", exit_codes.FAILED)
    return exit_codes.OK


def refuse(line: str, status: int) -> int:
    """Write `line` to standard error, and hand `status` on."""
    if sys.stderr is not None:
        sys.stderr.write(one_line(line) + "\n")
    return status
