"""Evicts history when memory runs low, before the kernel ends the process.

Four times a second the free memory of the cgroups and of the machine is compared with a threshold. Below it the rings
lose at least a quarter of what they hold, and `ring.total_bytes` falls with them; when memory is free again, it rises
to its setting.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from edge.config.machine import cgroups, memory_info_bytes
from edge.core.hub import Hub
from edge.core.limits import Limits
from edge.logs.setup import get_logger

_log = get_logger("memory")
_PERIOD_SECONDS = 0.25  # 40 µs each: 0.02 % of a core.
_LEAST_FREE = 0.1
_LEAST_FREE_BYTES = 64 << 20
"""The threshold is a tenth of the limit, and at most this much."""
_EVENTS_PER_TURN = 1000
_KEEP, _RISE = 0.75, 1.25
_CALM_SECONDS = 10.0
"""How long memory has to stay free before the rings may grow again, by a quarter each time."""


class MemoryWatch:
    """Watches the memory that `hub` may use. `root` is where /proc and /sys are."""

    def __init__(self, hub: Hub, clock: Callable[[], float], root: Path = Path("/")) -> None:
        self._hub = hub
        self._clock = clock
        self._root = root
        self._cgroups = list(cgroups(root))
        self._machine_bytes = memory_info_bytes(root, "MemTotal")
        self._total_bytes = hub.limits.total_bytes
        self._low_until = 0.0

    async def run(self) -> None:
        """Watch until cancelled. Kept running by the supervisor."""
        while True:
            await asyncio.sleep(_PERIOD_SECONDS)
            await self.look()

    async def look(self) -> None:
        """Compare once, and shrink the rings or let them grow."""
        limits, now = self._hub.limits, self._clock()
        missing = self.missing_bytes()
        if missing > 0:
            self._low_until = now + _CALM_SECONDS
            await self._shrink(limits, missing)
        elif limits.total_bytes < self._total_bytes and now >= self._low_until:
            self._low_until = now + _CALM_SECONDS
            limits.total_bytes = min(self._total_bytes, int(limits.total_bytes * _RISE))
            if limits.total_bytes == self._total_bytes:
                _log.info("memory_recovered", ring_total_bytes=self._total_bytes)

    def missing_bytes(self) -> int:
        """How much more memory should be free; negative while there is enough."""
        found = [_missing(limit, limit - _used_bytes(folder)) for folder, limit in self._cgroups]
        free = memory_info_bytes(self._root, "MemAvailable")
        if self._machine_bytes is not None and free is not None:
            found.append(_missing(self._machine_bytes, free))
        return max(found, default=-1)

    async def _shrink(self, limits: Limits, missing_bytes: int) -> None:
        counters = self._hub.counters
        before_bytes, before_events = counters.ring_memory_bytes, counters.ring_events
        target_bytes = max(min(int(before_bytes * _KEEP), before_bytes - missing_bytes), limits.max_bytes)
        while self._hub.shrink(target_bytes, _EVENTS_PER_TURN, self._clock()):  # noqa: ASYNC110 - other tasks run between
            await asyncio.sleep(0)
        limits.total_bytes = min(limits.total_bytes, target_bytes)
        if before_events == counters.ring_events:
            return
        import ctypes  # noqa: PLC0415 - most hubs never need it

        with suppress(AttributeError):  # where the C library isn't glibc
            # It keeps freed memory between what is in use, and the kernel would still count it.
            ctypes.CDLL(None).malloc_trim(0)
        _log.warning(
            "memory_low",
            missing_bytes=missing_bytes,
            events_evicted=before_events - counters.ring_events,
            ring_total_bytes=limits.total_bytes,
        )


def _missing(limit_bytes: int, free_bytes: int) -> int:
    return min(int(limit_bytes * _LEAST_FREE), _LEAST_FREE_BYTES) - free_bytes


def _used_bytes(folder: Path) -> int:
    """What a cgroup uses, but for files that the kernel would drop first."""
    with suppress(OSError, ValueError):  # The cgroup was removed, or its files are not readable here.
        for current, cached in (("memory.current", "inactive_file"), ("memory.usage_in_bytes", "total_inactive_file")):
            if (folder / current).exists():
                stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
                return int((folder / current).read_text()) - int(stat.get(cached, 0))
    return 0
