"""New connections, a few a turn of the loop: a thousand readers that come back at once must not hold up everybody else.

An event loop hands over all that has arrived before anything else has its turn: four thousand first requests together,
each worth a tenth of a millisecond, once held it for half a second. Here the first bytes of a connection wait, in the
order they came, until their turn.

Invariant: at most `_A_TURN` pass between two turns of the loop, and whoever waits passes as soon as that lets them.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

_A_TURN = 32
"""About four milliseconds of handshakes."""


class Turnstile:
    """Runs callables, at most `_A_TURN` between two turns of the loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiting: deque[Callable[[], None]] = deque()
        self._passed = 0

    def pass_or_wait(self, enter: Callable[[], None]) -> None:
        """Call `enter`: now, or when its turn has come."""
        if self._passed >= _A_TURN:
            self._waiting.append(enter)
            return
        if not self._passed:
            self._loop.call_soon(self._next_turn)
        self._passed += 1
        enter()

    def _next_turn(self) -> None:
        self._passed = min(_A_TURN, len(self._waiting))
        if self._passed:
            # First of all: what follows may raise.
            self._loop.call_soon(self._next_turn)
            for _ in range(self._passed):
                self._waiting.popleft()()
