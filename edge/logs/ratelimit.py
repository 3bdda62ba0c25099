"""Log deduplication: a line that could come ten thousand times a second comes a few times per period, with a count.

Pure: the clock is an argument. Invariant: at most `max_keys + 1` keys are remembered, and every occurrence is either
admitted, counted in a later `suppressed`, or still held.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)


@dataclass(slots=True)
class _Period:
    began: float
    admitted: int = 0
    suppressed: int = 0


class LogDeduplicator(Generic[Key]):
    """For each key: at most `lines` per `period_seconds`, and how many were suppressed since the last one.

        suppressed = deduplicator.admit(project, now)
        if suppressed is not None:
            log.warning("event_missed", project=project, suppressed=suppressed)

    With `max_keys` keys inside their period, all further keys share one place (None), so that many keys make no more
    lines than few.
    """

    def __init__(self, *, period_seconds: float, max_keys: int, lines: int = 1) -> None:
        self._period_seconds = period_seconds
        self._max_keys = max_keys
        self._lines = lines
        self._periods: dict[Key | None, _Period] = {}  # oldest first

    def __len__(self) -> int:
        return len(self._periods) - (None in self._periods)

    def admit(self, key: Key, now: float) -> int | None:
        """None: log nothing. A number: log it, and that so many were suppressed since the last line."""
        place: Key | None = key
        period = self._periods.get(key)
        if period is None and len(self) >= self._max_keys and not self._forget_oldest(now):
            place, period = None, self._periods.get(None)
        if period is None or now - period.began >= self._period_seconds:
            self._periods.pop(place, None)
            period = self._periods[place] = _Period(now, suppressed=0 if period is None else period.suppressed)
        if period.admitted >= self._lines:
            period.suppressed += 1
            return None
        period.admitted += 1
        suppressed, period.suppressed = period.suppressed, 0
        return suppressed

    def due(self, now: float) -> list[tuple[Key | None, int]]:
        """Keys whose period is over with occurrences that no line has counted, and how many: for a line of their own.

        What it returns counts as logged, and quiet keys are forgotten. Call it now and then, or the last of a burst
        stay uncounted.
        """
        due: list[tuple[Key | None, int]] = []
        for key, period in list(self._periods.items()):
            if not self._over(period, now):
                break
            del self._periods[key]
            if period.suppressed:
                due.append((key, period.suppressed))
                self._periods[key] = _Period(now, admitted=1)
        return due

    def _over(self, period: _Period, now: float) -> bool:
        return now - period.began >= self._period_seconds

    def _forget_oldest(self, now: float) -> bool:
        """Make room: drop a key whose period is over; its count goes to the shared place. Returns whether one was."""
        key = next(key for key in self._periods if key is not None)
        period = self._periods[key]
        if not self._over(period, now):
            return False
        del self._periods[key]
        if period.suppressed:
            shared = self._periods.setdefault(None, _Period(period.began))
            shared.admitted = self._lines
            shared.suppressed += period.suppressed
        return True
