"""The hub's time: its flushes in the turns of the event loop, its beat, and nothing else.

Invariant: a flush is scheduled whenever the hub has asked for one, and neither a flush nor a beat holds the loop
longer than one budget of the hub's: what is left is done in the next turn, after whoever else has waited.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from edge.core.hub import Hub
from edge.log import get_logger

_log = get_logger("pulse")
_FOLDED_EVERY_SECONDS = 1.0


class Pulse:
    """Drives one hub on the running loop. `hub` is set before the first turn."""

    hub: Hub

    def __init__(self, tell_folded: Callable[[float], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._tell_folded = tell_folded
        self.clock = self._loop.time

    def wake(self) -> None:
        """Flush in the next turn."""
        self._loop.call_soon(self._flush)

    async def beat(self) -> None:
        """Beat until cancelled."""
        told = self.clock()
        while True:
            await asyncio.sleep(self.hub.beat_seconds)
            try:
                while self.hub.beat(self.clock()):  # noqa: ASYNC110 - more of the same beat, next turn
                    await asyncio.sleep(0)
                if self.clock() - told >= _FOLDED_EVERY_SECONDS:
                    told = self.clock()
                    self._tell_folded(told)
            except Exception:  # noqa: BLE001 - a bug in one beat may not end all heartbeats
                _log.exception("unexpected_error", doing="beat")

    def _flush(self) -> None:
        self.hub.flush(self.clock())
