"""Say it once, then say how often: a line that could come ten thousand times a second comes once per period.

Pure: the clock is an argument. Invariant: at any moment at most `max_keys + 1` keys are remembered and inside
their period, and every occurrence is either admitted, told in a later `suppressed` count, or still held.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)


class _Entry:
    __slots__ = ("admitted_at", "suppressed")

    def __init__(self, now: float) -> None:
        self.admitted_at = now
        self.suppressed = 0


class LogDeduplicator(Generic[Key]):
    """For each key: the first occurrence, then at most one per `period_seconds` with how many were left out.

        suppressed = folded.admit(project, now)
        if suppressed is not None:
            log.warning("published to nobody", project=project, suppressed=suppressed)

    With `max_keys` keys inside their period, all further keys share one place, so that many keys make no more
    lines than few.
    """

    def __init__(self, *, period_seconds: float, max_keys: int) -> None:
        self._period_seconds = period_seconds
        self._max_keys = max_keys
        self._entries: dict[Key, _Entry] = {}  # the one admitted longest ago first
        self._others: _Entry | None = None

    def __len__(self) -> int:
        return len(self._entries)

    def admit(self, key: Key, now: float) -> int | None:
        """None: say nothing. A number: say it, and that so many were left out since it was last said."""
        entry = self._entries.get(key)
        if entry is not None:
            suppressed = self._admit(entry, now)
            if suppressed is not None:
                del self._entries[key]
                self._entries[key] = entry
            return suppressed
        if len(self._entries) >= self._max_keys:
            self._forget_quiet(now)
        if len(self._entries) < self._max_keys:
            self._entries[key] = _Entry(now)
            return 0
        if self._others is None:
            self._others = _Entry(now)
            return 0
        return self._admit(self._others, now)

    def due(self, now: float) -> list[tuple[Key | None, int]]:
        """Keys whose period is over with occurrences never told, and how many: for a line of their own.

        What it returns counts as told, and quiet keys are forgotten. None is the place shared by keys beyond
        `max_keys`. Call it now and then, or the last of a burst stay untold.
        """
        told: list[tuple[Key | None, int]] = []
        for key, entry in list(self._entries.items()):
            if now - entry.admitted_at < self._period_seconds:
                break
            del self._entries[key]
            if entry.suppressed:
                told.append((key, entry.suppressed))
                self._entries[key] = _Entry(now)
        if self._others is not None and now - self._others.admitted_at >= self._period_seconds:
            if self._others.suppressed:
                told.append((None, self._others.suppressed))
                self._others = _Entry(now)
            else:
                self._others = None
        return told

    def _admit(self, entry: _Entry, now: float) -> int | None:
        if now - entry.admitted_at < self._period_seconds:
            entry.suppressed += 1
            return None
        suppressed = entry.suppressed
        entry.admitted_at, entry.suppressed = now, 0
        return suppressed

    def _forget_quiet(self, now: float) -> None:
        """Make room: drop one key whose period is over; what it held untold goes to the shared place."""
        key, entry = next(iter(self._entries.items()))
        if now - entry.admitted_at < self._period_seconds:
            return
        del self._entries[key]
        if entry.suppressed:
            if self._others is None:
                self._others = _Entry(entry.admitted_at)
            self._others.suppressed += entry.suppressed


class Burst(Generic[Key]):
    """For each key: at most `lines` in a period, then at most one line with how many more there were.

    For facts that are each worth a line, until they come in floods. Keys are few: whoever calls bounds them.
    """

    def __init__(self, *, lines: int, period_seconds: float) -> None:
        self._lines = lines
        self._period_seconds = period_seconds
        self._windows: dict[Key, _Window] = {}

    def admit(self, key: Key, now: float) -> int | None:
        """None: say nothing. A number: say it, and that so many were left out since it was last said."""
        window = self._windows.get(key)
        if window is None:
            window = self._windows[key] = _Window(now)
        elif now - window.began >= self._period_seconds:
            window.began, window.said = now, 0
        if window.said >= self._lines:
            window.suppressed += 1
            return None
        window.said += 1
        suppressed, window.suppressed = window.suppressed, 0
        return suppressed

    def due(self, now: float) -> list[tuple[Key, int]]:
        """Keys whose period is over with occurrences never told, and how many; they count as told then."""
        told = []
        for key, window in self._windows.items():
            if window.suppressed and now - window.began >= self._period_seconds:
                told.append((key, window.suppressed))
                window.suppressed = 0
        return told


class _Window:
    __slots__ = ("began", "said", "suppressed")

    def __init__(self, now: float) -> None:
        self.began = now
        self.said = 0
        self.suppressed = 0
