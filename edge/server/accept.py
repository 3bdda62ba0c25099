"""New connections: refused where descriptors run out or one address has too many, and let through a few a turn.

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

from edge.core.admission import network_of
from edge.core.errors import LimitReached
from edge.http import problems
from edge.server.fd_limit import FdLimit, refuse

_A_TURN = 32
"""Fewer make a storm slower and its longest turn no shorter (measured with 16 and 24)."""
BESIDE_STREAMS = 16
"""How many connections that are no streams an address may have beyond `limits.max_connections_per_address`."""
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
    """What the new connections of one server share.

    `handler` makes the protocol that speaks HTTP; it passes its argument to `uncount` when its connection is lost or
    becomes a stream.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        fd_limit: FdLimit,
        handler: Callable[[str | None], asyncio.Protocol],
        idle_seconds: float,
        *,
        max_per_address: int = 0,
        is_proxy: Callable[[str], bool] = lambda _address: False,
    ) -> None:
        self.loop = loop
        self._most = max_per_address + BESIDE_STREAMS if max_per_address else 0
        self._is_proxy = is_proxy
        self._per_address: dict[str, int] = {}
        """Connections that are no streams, by address. Those of a trusted proxy are not counted."""
        self.fd_limit = fd_limit
        self.handler = handler
        self.idle_seconds = idle_seconds
        self.throttle = ConnectionThrottle(loop)
        self.pending: set[PendingConnection] = set()

    def count(self, transport: asyncio.Transport) -> str | None:
        """Count a new connection, or refuse it and raise LimitReached. Returns what `uncount` takes."""
        address = transport.get_extra_info("peername")
        if not self._most or not isinstance(address, tuple) or self._is_proxy(address[0]):
            return None
        network = network_of(address[0])
        there = self._per_address.get(network, 0)
        if there >= self._most:
            raise LimitReached(
                f"This address has {there} connections that are not streams (limits.max_connections_per_address and "
                f"{BESIDE_STREAMS} more); close some.",
                code="too_many_address_connections",
                retry_after_seconds=1,
                limit=self._most,
            )
        self._per_address[network] = there + 1
        return network

    def uncount(self, network: str | None) -> None:
        """A counted connection has closed or become a stream, which the hub counts."""
        if network is None:
            return
        there = self._per_address[network] - 1
        if there:
            self._per_address[network] = there
        else:
            del self._per_address[network]

    def close(self) -> None:
        """Close the connections that are pending."""
        for connection in list(self.pending):
            connection.abort()


class PendingConnection(asyncio.Protocol):
    """A connection whose first bytes are still to come, or wait for their turn."""

    __slots__ = ("_acceptor", "_early", "_ended", "_expiry", "_network", "_transport")

    def __init__(self, acceptor: Acceptor) -> None:
        self._acceptor = acceptor
        self._transport: asyncio.Transport | None = None
        self._expiry: asyncio.TimerHandle | None = None
        self._early = b""
        self._ended = False
        self._network: str | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        acceptor = self._acceptor
        transport = cast(asyncio.Transport, transport)
        if not acceptor.fd_limit.admit(transport):
            return
        try:
            self._network = acceptor.count(transport)
        except LimitReached as error:
            acceptor.fd_limit.report(error.code, transport)
            refuse(transport, problems.from_error(error))
            return
        self._transport = transport
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
        self._acceptor.uncount(self._network)

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
        handler = self._acceptor.handler(self._network)
        transport.set_protocol(handler)
        handler.connection_made(transport)
        handler.data_received(self._early)
        if self._ended and not handler.eof_received():
            transport.close()
