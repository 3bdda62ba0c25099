"""Ports that stay free until a server of ours takes them, and while it is down."""

from __future__ import annotations

import os
import random
import socket
from itertools import count

# Below those that Linux and macOS give to connections (32768 and 49152), so that none is given to a client meanwhile.
# Each of pytest-xdist's workers has some of its own.
_SPAN = 1_000
_first = 10_000 + _SPAN * (int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % 20)
_next = count(random.randrange(_SPAN))


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nothing listens on, not given to another test soon."""
    for offset in _next:
        port = _first + offset % _SPAN
        try:
            socket.create_server(("127.0.0.1", port)).close()
        except OSError:
            continue
        return port
    raise AssertionError
