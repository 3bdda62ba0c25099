"""Calls the hub at the right times: `flush` in the next turn of the event loop, `tick` and callbacks periodically.

Invariant: a flush is scheduled whenever the hub has requested one, and neither a flush nor a tick holds the loop
longer than one budget of the hub: the rest is done in the next turn, after other tasks.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import time
from collections.abc import Callable

from edge.core.counters import Histogram
from edge.core.hub import Hub
from edge.supervisor import Supervisor

LAG_BOUNDS_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
_SECOND = 1.0


# Unlike the loop's clock it goes on while the machine is suspended, so that ages and times shown are right afterwards.
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
_seconds = functools.partial(time.clock_gettime, _CLOCK)


class EventLoopDriver:
    """Drives one hub on the running loop. `hub` is set before the first turn."""

    hub: Hub

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self.each_second: list[Callable[[float], None]] = []
        """Called about once a second with the time."""
        self.lag_seconds = Histogram(LAG_BOUNDS_SECONDS)
        """How late each tick came: how long other work held the loop."""
        self.clock = _seconds
        # A flush serves many publishers: it doesn't run in the context (and under the trace) of the first of them.
        loop, context = asyncio.get_running_loop(), contextvars.copy_context()
        self.wake: Callable[[], object] = functools.partial(loop.call_soon, self._flush, context=context)
        """Flush in the next turn."""

    async def run(self) -> None:
        """Tick until cancelled. Kept running by the supervisor."""
        last_second = self.clock()
        while True:
            wanted = self.clock() + self.hub.tick_seconds
            await asyncio.sleep(self.hub.tick_seconds)
            self.lag_seconds.observe(max(0.0, self.clock() - wanted))
            while self.hub.tick(self.clock()):  # noqa: ASYNC110 - the rest of the same tick, next turn
                await asyncio.sleep(0)
            if self.clock() - last_second >= _SECOND:
                last_second = self.clock()
                for callback in self.each_second:
                    try:
                        callback(last_second)
                    except Exception as error:  # noqa: BLE001 - the other callbacks run
                        self._supervisor.failed("each_second", error)

    def _flush(self) -> None:
        try:
            self.hub.flush(self.clock())
        except Exception as error:  # noqa: BLE001 - the other projects' streams go on
            self._supervisor.failed("flush", error)
