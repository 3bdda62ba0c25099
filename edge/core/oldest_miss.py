"""The oldest pending miss of all projects, for one number in Prometheus.

A heap of lower bounds, corrected when they are looked at: an entry whose miss was recovered or lost is removed when it
reaches the top, or when most entries are such.
Invariant: each project with a pending miss has one valid entry, no later than its oldest pending miss.
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush, heapreplace
from itertools import count
from typing import Protocol

_COMPACT_AT = 64


class Holder(Protocol):
    """A project: when its oldest pending miss was published, and the time of its valid entry here."""

    pending_entry_seconds: float | None

    @property
    def oldest_pending_seconds(self) -> float | None: ...


class OldestMiss:
    """All times are the hub's seconds."""

    __slots__ = ("_compact_at", "_entries", "_tie_breaks")

    def __init__(self) -> None:
        self._entries: list[tuple[float, int, Holder]] = []
        self._tie_breaks = count()
        self._compact_at = _COMPACT_AT

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, holder: Holder) -> None:
        """`holder` may have a pending miss that is older than its entry."""
        oldest, entry = holder.oldest_pending_seconds, holder.pending_entry_seconds
        if oldest is not None and (entry is None or oldest < entry):
            holder.pending_entry_seconds = oldest
            heappush(self._entries, (oldest, next(self._tie_breaks), holder))
            if len(self._entries) >= self._compact_at:
                self._compact()

    def oldest(self) -> float | None:
        """When the oldest pending miss was published; None if there is none."""
        entries = self._entries
        while entries:
            entry, tie_break, holder = entries[0]
            actual = holder.oldest_pending_seconds
            if holder.pending_entry_seconds != entry:
                heappop(entries)
            elif actual is None:
                holder.pending_entry_seconds = None
                heappop(entries)
            elif actual != entry:
                holder.pending_entry_seconds = actual
                heapreplace(entries, (actual, tie_break, holder))
            else:
                return entry
        return None

    def _compact(self) -> None:
        """Keep only valid entries with a pending miss: amortized, a constant cost per `add`."""
        kept = []
        for entry in self._entries:
            time, _, holder = entry
            if holder.pending_entry_seconds != time:
                continue
            if holder.oldest_pending_seconds is None:
                holder.pending_entry_seconds = None
            else:
                kept.append(entry)
        heapify(kept)
        self._entries = kept
        self._compact_at = max(_COMPACT_AT, 2 * len(kept))
