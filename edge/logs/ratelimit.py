"""Log deduplication: a line that could come ten thousand times a second comes a few times per period, with a count.

Pure: the clock is an argument. Invariant: at any moment at most `max_keys + 1` keys are remembered inside their period,
and every occurrence is either admitted, counted in a later `suppressed`, or still held.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)


class _Period:
    __slots__ = ("admitted", "began", "suppressed")

    def __init__(self, now: float) -> None:
        self.began = now
        self.admitted = 0
        self.suppressed = 0


class LogDeduplicator(Generic[Key]):
    """For each key: at most `lines` per `period_seconds`, and how many were suppressed since the last one.

        suppressed = deduplicator.admit(project, now)
        if suppressed is not None:
            log.warning("event_missed", project=project, suppressed=suppressed)

    With `max_keys` keys inside their period, all further keys share one place, so that many keys make no more
    lines than few.
    """

    def __init__(self, *, period_seconds: float, max_keys: int, lines: int = 1) -> None:
        self._period_seconds = period_seconds
        self._max_keys = max_keys
        self._lines = lines
        self._periods: dict[Key, _Period] = {}  # the one that began first is the first
        self._others: _Period | None = None

    def __len__(self) -> int:
        return len(self._periods)

    def admit(self, key: Key, now: float) -> int | None:
        """None: log nothing. A number: log it, and that so many were suppressed since the last line."""
        period = self._periods.get(key)
        if period is not None:
            if self._over(period, now):
                period.began, period.admitted = now, 0
                self._periods[key] = self._periods.pop(key)
        elif len(self._periods) < self._max_keys or self._forget_first(now):
            period = self._periods[key] = _Period(now)
        else:
            period = self._others = self._others or _Period(now)
            if self._over(period, now):
                period.began, period.admitted = now, 0
        if period.admitted >= self._lines:
            period.suppressed += 1
            return None
        period.admitted += 1
        suppressed, period.suppressed = period.suppressed, 0
        return suppressed

    def due(self, now: float) -> list[tuple[Key | None, int]]:
        """Keys whose period is over with occurrences that no line has counted, and how many: for a line of their own.

        What it returns counts as logged, and quiet keys are forgotten. None is the place shared by keys beyond
        `max_keys`. Call it now and then, or the last of a burst stay uncounted.
        """
        due: list[tuple[Key | None, int]] = []
        for key, period in list(self._periods.items()):
            if not self._over(period, now):
                break
            del self._periods[key]
            if period.suppressed:
                due.append((key, period.suppressed))
                self._periods[key] = self._logged(now)
        if self._others is not None and self._over(self._others, now):
            suppressed = self._others.suppressed
            self._others = self._logged(now) if suppressed else None
            if suppressed:
                due.append((None, suppressed))
        return due

    def _over(self, period: _Period, now: float) -> bool:
        return now - period.began >= self._period_seconds

    @staticmethod
    def _logged(now: float) -> _Period:
        period = _Period(now)
        period.admitted = 1
        return period

    def _forget_first(self, now: float) -> bool:
        """Make room: drop a key whose period is over; its count goes to the shared place. Returns whether one was."""
        key, period = next(iter(self._periods.items()))
        if not self._over(period, now):
            return False
        del self._periods[key]
        if period.suppressed:
            self._others = self._others or _Period(period.began)
            self._others.admitted = self._lines
            self._others.suppressed += period.suppressed
        return True
