"""What the exit status of `edge` means: the one list."""

from __future__ import annotations

from typing import Final

OK: Final = 0
FAILED: Final = 1  # at run time: the port is taken, the hub isn't healthy
USAGE: Final = 2  # wrong usage or configuration: starting again won't help (argparse's number too)
NO_SUBSCRIBER: Final = 3  # of a client command: the hub answered 409 `no_connection`
INTERRUPTED: Final = 130  # Ctrl-C before the server listens, as shells have it: 128 + SIGINT
