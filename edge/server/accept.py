"""New connections: refused where descriptors run out, and let through a few a turn of the event loop.

aiohttp makes a parser, a protocol and a task for each connection before a byte has come. When ten thousand subscribers
come back at once, an event loop hands over all that has arrived before anything else has its turn. So a new connection
is a `PendingConnection`, which is next to nothing, until its first bytes are there and its turn has come
(`ConnectionThrottle`): then it is aiohttp's. One that stays silent is closed.

Invariant: a pending connection has been read from and not been answered, and what it has sent, its end included, is
handed over whole and in order.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import cast

from edge.server.fd_limit import FdLimit

_A_TURN = 32
"""About four milliseconds of handshakes."""
_EARLY_BYTES = 64 * 1024
"""So much a connection may send while it waits for its turn; with more it is let through at once."""


class ConnectionThrottle:
    """Runs callables in their order, at most `_A_TURN` between two turns of the loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiting: deque[Callable[[], None]] = deque()
        self._passed = 0

    def run_or_wait(self, start: Callable[[], None]) -> None:
        """Call `start`: now, or when its turn has come."""
        if self._passed >= _A_TURN:
            self._waiting.append(start)
            return
        if not self._passed:
            self._loop.call_soon(self._next_turn)
        self._passed += 1
        start()

    def _next_turn(self) -> None:
        self._passed = min(_A_TURN, len(self._waiting))
        if self._passed:
            # First of all: what follows may raise.
            self._loop.call_soon(self._next_turn)
            for _ in range(self._passed):
                self._waiting.popleft()()


class Acceptor:
    """What the new connections of one server share. `handler` makes the protocol that speaks HTTP."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        fd_limit: FdLimit,
        handler: Callable[[], asyncio.Protocol],
        idle_seconds: float,
    ) -> None:
        self.loop = loop
        self.fd_limit = fd_limit
        self.handler = handler
        self.idle_seconds = idle_seconds
        self.throttle = ConnectionThrottle(loop)
        self.pending: set[PendingConnection] = set()

    def close(self) -> None:
        """Close the connections that are pending."""
        for connection in list(self.pending):
            connection.abort()


class PendingConnection(asyncio.Protocol):
    """A connection whose first bytes are still to come, or wait for their turn."""

    __slots__ = ("_acceptor", "_early", "_ended", "_expiry", "_transport")

    def __init__(self, acceptor: Acceptor) -> None:
        self._acceptor = acceptor
        self._transport: asyncio.Transport | None = None
        self._expiry: asyncio.TimerHandle | None = None
        self._early = b""
        self._ended = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        acceptor = self._acceptor
        if acceptor.fd_limit.admit(cast(asyncio.Transport, transport)):
            self._transport = cast(asyncio.Transport, transport)
            self._expiry = acceptor.loop.call_later(acceptor.idle_seconds, self.abort)
            acceptor.pending.add(self)

    def data_received(self, data: bytes) -> None:
        first = not self._early
        self._early += data
        if first:
            self._acceptor.throttle.run_or_wait(self._hand_over)
        elif len(self._early) > _EARLY_BYTES:
            self._hand_over()

    def eof_received(self) -> bool:
        """A caller that has sent its request and closed its side still gets the answer."""
        self._ended = True
        transport = self._transport
        # TLS can't be closed on one side.
        return bool(self._early) and transport is not None and transport.get_extra_info("sslcontext") is None

    def connection_lost(self, _exc: Exception | None) -> None:
        self._forget()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def _forget(self) -> None:
        self._transport = None
        self._acceptor.pending.discard(self)
        if self._expiry is not None:
            self._expiry.cancel()

    def _hand_over(self) -> None:
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        self._forget()
        handler = self._acceptor.handler()
        transport.set_protocol(handler)
        handler.connection_made(transport)
        handler.data_received(self._early)
        if self._ended and not handler.eof_received():
            transport.close()
