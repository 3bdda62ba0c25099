"""At the limit of file descriptors: refuse in words while there is one left to do it with.

Out of descriptors a server can't even accept a connection to close it: clients hang, asyncio logs every attempt. The
kernel gives a new descriptor the lowest free number, so a new connection's number says how many are left, and the
last few are kept: those who come then are answered `too_many_descriptors` and closed, and what the hub itself has to
open (a webhook's connection, a journal) still can be.

A burst can take even those before a connection is looked at. Then the event loop stops accepting for a moment (uvloop
closes what came, asyncio waits a second), whoever is connected notices nothing, and it goes on by itself.
"""

from __future__ import annotations

import asyncio
import resource
import socket

from multidict import CIMultiDict

from edge.core.hub import Hub
from edge.http import problems
from edge.http.request import HTTP_1_1, Request

MOST_KEPT = 64
_CODE = "too_many_descriptors"
_RETRY_AFTER_SECONDS = 5
_REQUEST_SECONDS = 1.0
"""How long a client that is refused has to send its request: it would not read an answer before."""


_ANY_REQUEST = Request("GET", "/", HTTP_1_1, CIMultiDict())


class FdLimit:
    """How many are left, and what is said when they are few. `limit` is the soft limit of the process."""

    def __init__(self, hub: Hub, limit: int | None = None) -> None:
        self._hub = hub
        self.limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0] if limit is None else limit
        kept = min(MOST_KEPT, self.limit // 8)
        self._few = self.limit - kept
        self._last = self.limit - kept // 4

    def admit(self, transport: asyncio.Transport) -> bool:
        """Whether the new connection may stay. If not it is dealt with, and has another protocol."""
        sock: socket.socket | None = transport.get_extra_info("socket")
        number = -1 if sock is None else sock.fileno()
        if number < self._few:
            return True
        address = transport.get_extra_info("peername")
        loop = asyncio.get_running_loop()
        self._hub.refused(_CODE, str(address[0]) if isinstance(address, tuple) else None, loop.time())
        if number >= self._last:
            transport.abort()
        else:
            transport.set_protocol(Refused(loop, transport, self._answer()))
        return False

    def _answer(self) -> bytes:
        detail = f"All {self.limit} file descriptors of the hub are in use; come back later, or raise its limit."
        answer = problems.response(_CODE, detail, retry_after_seconds=_RETRY_AFTER_SECONDS)
        answer.keep_alive = False
        return answer.encode(_ANY_REQUEST)


class Refused(asyncio.Protocol):
    """Answers whatever is asked, once."""

    def __init__(self, loop: asyncio.AbstractEventLoop, transport: asyncio.Transport, answer: bytes) -> None:
        self._transport = transport
        self._answer = answer
        self._ends = loop.call_later(_REQUEST_SECONDS, transport.abort)

    def data_received(self, _data: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(self._answer)
            self._transport.close()

    def connection_lost(self, _exc: Exception | None) -> None:
        self._ends.cancel()
