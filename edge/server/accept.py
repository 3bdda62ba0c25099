"""New connections: refused where descriptors run out or one address has too many, and let through a few a turn.

Out of descriptors a server can't even accept a connection to close it: clients hang, asyncio logs every attempt. The
kernel gives a new descriptor the lowest free number, so a new connection's number says how many are left, and the
last few are kept: connections that come then are answered `too_many_descriptors` and closed, but for health checks,
which are answered as ever; and what the hub itself has to open (a webhook's connection, a file) still can be. A burst
can take even those before a connection is looked at. Then the event loop stops accepting for a moment (uvloop closes
what came, asyncio waits a second), open connections notice nothing, and it goes on by itself.

When ten thousand subscribers come back at once, an event loop hands over all that has arrived before anything else has
its turn. So the first request of a connection waits for its turn (`ConnectionThrottle`).
"""

from __future__ import annotations

import asyncio
import re
import resource
import socket
from collections import deque
from collections.abc import Callable

from multidict import CIMultiDict

from edge.core.errors import LimitReached
from edge.core.limits import network_of
from edge.http import problems
from edge.http.message import HTTP_1_1, NO_STORE, Request, Response
from edge.http.routes import Application

_A_TURN = 32
"""Fewer make a storm slower and its longest turn no shorter (measured with 16 and 24)."""
BESIDE_STREAMS = 16
"""How many connections that are no streams an address may have beyond `limits.max_connections_per_address`."""
_MOST_KEPT = 64
"""Descriptors that are kept, and at most an eighth of all; without the last quarter of them nothing is answered."""
_REQUEST_SECONDS = 1.0
"""How long a refused client has to send its request; it would not read a response before."""
_ORIGIN = re.compile(rb"\n[Oo][Rr][Ii][Gg][Ii][Nn]:[ \t]*([!-~]{1,300})[ \t]*\r?\n")
_HEALTH_CHECKS = (b"GET /healthz ", b"GET /healthz?", b"HEAD /healthz ")


def origin_in(head: bytes) -> str | None:
    """The `Origin` in a head that no parser has read, or could read."""
    found = _ORIGIN.search(head)
    return None if found is None else found[1].decode()


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
    """Which new connections of one server may stay, as the configuration in use says."""

    def __init__(self, app: Application) -> None:
        self._app = app
        self._descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self._kept = min(_MOST_KEPT, self._descriptors // 8)
        self._per_address: dict[str, int] = {}
        """Connections that are no streams, by address. Those of a trusted proxy are not counted."""

    def admit(self, transport: asyncio.Transport, address: str | None) -> str | None:
        """Count a new connection. Returns what `uncount` takes, empty for one that isn't counted; None: refused."""
        sock: socket.socket | None = transport.get_extra_info("socket")
        left = self._descriptors - (-1 if sock is None else sock.fileno())
        if left <= self._kept:
            detail = (
                f"All {self._descriptors} file descriptors of the hub are in use; try again later, or raise the limit."
            )
            error = LimitReached(detail, code="too_many_descriptors", retry_after_seconds=5)
            self._refuse(transport, error, answer=left > self._kept // 4)
            return None
        context = self._app.context
        streams = context.config.limits.max_connections_per_address
        if not streams or address is None or context.client_addresses.is_proxy(address):
            return ""
        network = network_of(address)
        there = self._per_address.get(network, 0)
        if there < streams + BESIDE_STREAMS:
            self._per_address[network] = there + 1
            return network
        error = LimitReached(
            f"This address has {there} connections that are not streams (limits.max_connections_per_address and "
            f"{BESIDE_STREAMS} more); close some.",
            code="too_many_address_connections",
            retry_after_seconds=1,
            limit=streams + BESIDE_STREAMS,
        )
        self._refuse(transport, error)
        return None

    def _refuse(self, transport: asyncio.Transport, error: LimitReached, *, answer: bool = True) -> None:
        """Count, log and answer it."""
        peer = transport.get_extra_info("peername")
        now = asyncio.get_running_loop().time()
        self._app.context.hub.refused(error.code, str(peer[0]) if isinstance(peer, tuple) else None, now)
        if answer:
            transport.set_protocol(_Refused(transport, problems.from_error(error), self._app.shared_problem))
        else:
            transport.abort()

    def uncount(self, network: str) -> None:
        """A counted connection has closed or become a stream, which the hub counts."""
        there = self._per_address[network] - 1
        if there:
            self._per_address[network] = there
        else:
            del self._per_address[network]


class _Refused(asyncio.Protocol):
    """Answers whatever comes with `problem`, once; a health check is answered as ever."""

    def __init__(self, transport: asyncio.Transport, problem: Response, shared: Callable[[str | None], bytes]) -> None:
        self._transport = transport
        self._problem = problem
        self._shared = shared
        self._ends = asyncio.get_running_loop().call_later(_REQUEST_SECONDS, transport.abort)

    def data_received(self, data: bytes) -> None:
        if self._transport.is_closing():
            return
        healthy = data.startswith(_HEALTH_CHECKS)
        response = Response(200, b'{"status":"ok"}\n', headers=NO_STORE) if healthy else self._problem
        response.keep_alive = False
        request = Request("GET", "/", HTTP_1_1, CIMultiDict())
        request.shared = self._shared(origin_in(data))
        self._transport.write(response.encode(request))
        self._transport.close()

    def connection_lost(self, _exc: Exception | None) -> None:
        self._ends.cancel()
