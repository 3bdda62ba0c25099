"""Where a connection waits until it has said what it wants, and what it becomes then.

aiohttp makes a parser, a request handler and a task for each connection before a byte has come. When ten thousand
readers come back at once, most of them ask for their stream in words that are known by then: they become streams
here (`edge.http.stream_lane`), and nothing of it is made. Everybody else gets aiohttp's handler and what they have sent
so far, in the order they came and a few a turn (`edge.server.throttle`); so does who says nothing for a second, because
the handler has the deadlines.

Invariant: who is in the lobby has been read from and not been answered, and leaves it in one of three ways: as a
stream, as a request handler, or because the connection is lost.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

from edge.http.stream_lane import StreamLane
from edge.server.fd_limit import FdLimit
from edge.server.throttle import Turnstile

_EARLY_BYTES = 64 * 1024
"""So much a connection may send while it waits for its turn; with more it passes at once."""
_PATIENCE_SECONDS = 1.0


class Lobby:
    """The lobby of one server. `handler` makes what speaks HTTP."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, descriptors: FdLimit, handler: Callable[[], asyncio.Protocol]
    ) -> None:
        self.descriptors = descriptors
        self.lane: StreamLane | None = None
        """Opened by a server whose sockets are prepared for streams; without it everybody gets a handler."""
        self.turnstile = Turnstile(loop)
        self._loop = loop
        self._handler = handler
        self._recent: set[Newcomer] = set()
        self._before: set[Newcomer] = set()
        self._timer: asyncio.TimerHandle | None = None

    def enter(self, newcomer: Newcomer) -> None:
        self._recent.add(newcomer)
        if self._timer is None:
            self._timer = self._loop.call_later(_PATIENCE_SECONDS, self._look_around)

    def leave(self, newcomer: Newcomer) -> None:
        self._recent.discard(newcomer)
        self._before.discard(newcomer)

    def close(self) -> None:
        """Send everybody away, and have no timer left."""
        for newcomer in (*self._recent, *self._before):
            newcomer.go()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def hand_over(self, transport: asyncio.Transport, early: bytes) -> None:
        """Let aiohttp speak with who has sent `early`."""
        handler = self._handler()
        transport.set_protocol(handler)
        handler.connection_made(transport)
        if early:
            handler.data_received(early)

    def _look_around(self) -> None:
        """Whoever has been here for a whole round and said nothing is aiohttp's."""
        silent, self._before, self._recent = self._before, self._recent, set()
        self._timer = None
        if silent or self._before:
            self._timer = self._loop.call_later(_PATIENCE_SECONDS, self._look_around)
        for newcomer in silent:
            newcomer.said_nothing()


class Newcomer(asyncio.Protocol):
    """A connection that has not said yet what it wants."""

    __slots__ = ("_early", "_lobby", "_transport")

    def __init__(self, lobby: Lobby) -> None:
        self._lobby = lobby
        self._transport: asyncio.Transport | None = None
        self._early = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if self._lobby.descriptors.admit(cast(asyncio.Transport, transport)):
            self._transport = cast(asyncio.Transport, transport)
            self._lobby.enter(self)

    def data_received(self, data: bytes) -> None:
        waiting = bool(self._early)
        self._early += data
        if not waiting:
            self._lobby.turnstile.pass_or_wait(self._pass)
        elif len(self._early) > _EARLY_BYTES:
            self._pass()

    def connection_lost(self, _exc: Exception | None) -> None:
        self._transport = None
        self._lobby.leave(self)

    def said_nothing(self) -> None:
        """It has been here long enough; who waits for a turn has said something."""
        if self._early:
            self._lobby.enter(self)
        else:
            self._pass()

    def go(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def _pass(self) -> None:
        transport, lobby = self._transport, self._lobby
        if transport is None or transport.is_closing():
            return
        self._transport = None
        lobby.leave(self)
        if lobby.lane is None or not lobby.lane.open(transport, self._early):
            lobby.hand_over(transport, self._early)
