"""At the limit of file descriptors: refuse with a response while there is a descriptor left for it.

Out of descriptors a server can't even accept a connection to close it: clients hang, asyncio logs every attempt. The
kernel gives a new descriptor the lowest free number, so a new connection's number says how many are left, and the
last few are kept: connections that come then are answered `too_many_descriptors` and closed, but for health checks,
which are answered as ever; and what the hub itself has to open (a webhook's connection, a file) still can be.

A burst can take even those before a connection is looked at. Then the event loop stops accepting for a moment (uvloop
closes what came, asyncio waits a second), open connections notice nothing, and it goes on by itself.
"""

from __future__ import annotations

import asyncio
import resource
import socket

from multidict import CIMultiDict

from edge.core.hub import Hub
from edge.http import problems
from edge.http.message import HTTP_1_1, NO_STORE, Request, Response

MOST_KEPT = 64
_CODE = "too_many_descriptors"
_RETRY_AFTER_SECONDS = 5
_REQUEST_SECONDS = 1.0
"""How long a refused client has to send its request; it would not read a response before."""


_ANY_REQUEST = Request("GET", "/", HTTP_1_1, CIMultiDict())
_HEALTH_CHECKS = (b"GET /healthz ", b"GET /healthz?", b"HEAD /healthz ")


class FdLimit:
    """How many are left, and the response when they are few. `limit` is the soft limit of the process."""

    def __init__(self, hub: Hub, limit: int | None = None) -> None:
        self._hub = hub
        self.limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0] if limit is None else limit
        kept = min(MOST_KEPT, self.limit // 8)
        self._few = self.limit - kept
        self._last = self.limit - kept // 4

    def admit(self, transport: asyncio.Transport) -> bool:
        """Whether the new connection may stay. If not, it is refused."""
        sock: socket.socket | None = transport.get_extra_info("socket")
        number = -1 if sock is None else sock.fileno()
        if number < self._few:
            return True
        self.report(_CODE, transport)
        if number >= self._last:
            transport.abort()
        else:
            detail = f"All {self.limit} file descriptors of the hub are in use; try again later, or raise the limit."
            refuse(transport, problems.response(_CODE, detail, retry_after_seconds=_RETRY_AFTER_SECONDS))
        return False

    def report(self, code: str, transport: asyncio.Transport) -> None:
        """Count and log that a connection was refused."""
        address = transport.get_extra_info("peername")
        now = asyncio.get_running_loop().time()
        self._hub.refused(code, str(address[0]) if isinstance(address, tuple) else None, now)


def refuse(transport: asyncio.Transport, problem: Response) -> None:
    """Answer whatever comes with `problem`, once; a health check is answered as ever."""
    transport.set_protocol(_Refused(transport, problem))


class _Refused(asyncio.Protocol):
    def __init__(self, transport: asyncio.Transport, problem: Response) -> None:
        self._transport = transport
        self._problem = problem
        self._ends = asyncio.get_running_loop().call_later(_REQUEST_SECONDS, transport.abort)

    def data_received(self, data: bytes) -> None:
        if self._transport.is_closing():
            return
        healthy = data.startswith(_HEALTH_CHECKS)
        response = Response(200, b'{"status":"ok"}\n', headers=NO_STORE) if healthy else self._problem
        response.keep_alive = False
        self._transport.write(response.encode(_ANY_REQUEST))
        self._transport.close()

    def connection_lost(self, _exc: Exception | None) -> None:
        self._ends.cancel()
