"""The hub's time: its flushes in the turns of the event loop, its beat, and nothing else.

Invariant: a flush is scheduled whenever the hub has asked for one, and neither a flush nor a beat holds the loop
longer than one budget of the hub's: what is left is done in the next turn, after whoever else has waited.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable

from edge.core.histogram import Histogram
from edge.core.hub import Hub
from edge.logs.setup import get_logger

_log = get_logger("pulse")
LAG_BOUNDS_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
_SECOND = 1.0


class EventLoopDriver:
    """Drives one hub on the running loop. `hub` is set before the first turn."""

    hub: Hub

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.each_second: list[Callable[[float], None]] = []
        """Called about once a second with the time."""
        self.lag_seconds = Histogram(LAG_BOUNDS_SECONDS)
        """How late each beat came: how long others held the loop."""
        self.clock = self._loop.time
        # A flush serves many publishers: it doesn't run in the context (and under the trace) of the first of them.
        self._context = contextvars.copy_context()

    def wake(self) -> None:
        """Flush in the next turn."""
        self._loop.call_soon(self._flush, context=self._context)

    async def run(self) -> None:
        """Beat until cancelled."""
        told = self.clock()
        while True:
            wanted = self.clock() + self.hub.tick_seconds
            await asyncio.sleep(self.hub.tick_seconds)
            self.lag_seconds.observe(max(0.0, self.clock() - wanted))
            try:
                while self.hub.tick(self.clock()):  # noqa: ASYNC110 - more of the same beat, next turn
                    await asyncio.sleep(0)
                if self.clock() - told >= _SECOND:
                    told = self.clock()
                    for tell in self.each_second:
                        tell(told)
            except Exception:  # noqa: BLE001 - a bug in one beat may not end all heartbeats
                _log.exception("unexpected_error", doing="beat")

    def _flush(self) -> None:
        try:
            self.hub.flush(self.clock())
        except Exception:  # noqa: BLE001 - a bug in one project may not end the others' streams
            _log.exception("unexpected_error", doing="flush")
