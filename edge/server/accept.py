"""New connections: refused where descriptors run out or one address has too many, and let through a few a turn.

When ten thousand subscribers come back at once, an event loop hands over all that has arrived before anything else has
its turn. So the first request of a connection waits for its turn (`ConnectionThrottle`).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from edge.core.errors import LimitReached
from edge.core.limits import network_of
from edge.http import problems
from edge.server.fd_limit import FdLimit, refuse

_A_TURN = 32
"""Fewer make a storm slower and its longest turn no shorter (measured with 16 and 24)."""
BESIDE_STREAMS = 16
"""How many connections that are no streams an address may have beyond `limits.max_connections_per_address`."""


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
    """Which new connections of one server may stay. `max_per_address` 0 is no limit."""

    def __init__(self, fd_limit: FdLimit, max_per_address: int, is_proxy: Callable[[str], bool]) -> None:
        self._fd_limit = fd_limit
        self._most = max_per_address + BESIDE_STREAMS if max_per_address else 0
        self._is_proxy = is_proxy
        self._per_address: dict[str, int] = {}
        """Connections that are no streams, by address. Those of a trusted proxy are not counted."""

    def admit(self, transport: asyncio.Transport, address: str | None) -> str | None:
        """Count a new connection. Returns what `uncount` takes, empty for one that isn't counted; None: refused."""
        if not self._fd_limit.admit(transport):
            return None
        if not self._most or address is None or self._is_proxy(address):
            return ""
        network = network_of(address)
        there = self._per_address.get(network, 0)
        if there < self._most:
            self._per_address[network] = there + 1
            return network
        error = LimitReached(
            f"This address has {there} connections that are not streams (limits.max_connections_per_address and "
            f"{BESIDE_STREAMS} more); close some.",
            code="too_many_address_connections",
            retry_after_seconds=1,
            limit=self._most,
        )
        self._fd_limit.report(error.code, transport)
        refuse(transport, problems.from_error(error))
        return None

    def uncount(self, network: str) -> None:
        """A counted connection has closed or become a stream, which the hub counts."""
        there = self._per_address[network] - 1
        if there:
            self._per_address[network] = there
        else:
            del self._per_address[network]
