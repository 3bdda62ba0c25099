"""What the hub counts, as plain integers; exporters read them on demand (an `inc()` would cost 0.3 µs).

Only what can't be derived is counted: the number of connections is the size of a set, pending misses are a difference.
"""

from __future__ import annotations

from bisect import bisect_left
from heapq import heapify, heappop, heappush, heapreplace
from itertools import count
from typing import Protocol

from edge.core.ledger import MissTotals
from edge.core.ring import EVENT_OVERHEAD_BYTES

_COMPACT_AT = 64


class Holder(Protocol):
    """A project: when its oldest pending miss was published, and the time of its valid entry here."""

    pending_entry_seconds: float | None

    @property
    def oldest_pending_seconds(self) -> float | None: ...


class OldestMiss:
    """The oldest pending miss of all projects, for one number in Prometheus. All times are the hub's seconds.

    A heap of lower bounds, corrected when they are looked at: an entry whose miss was recovered or lost is removed when
    it reaches the top, or when most entries are such.
    Invariant: each project with a pending miss has one valid entry, no later than its oldest pending miss.
    """

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


DETECTION_BOUNDS_SECONDS = (1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 45.0, 60.0, 90.0, 120.0, 300.0, 900.0)


class Counters:
    """Totals since the process began."""

    __slots__ = (
        "added",
        "dead_detection_seconds",
        "delivered",
        "evicted",
        "gaps",
        "heartbeats",
        "misses",
        "oldest_miss",
        "projects_displaced",
        "published",
        "rejected",
        "removed",
        "replayed",
        "ring_bytes",
        "ring_events",
    )

    def __init__(self) -> None:
        self.published = 0
        self.delivered = 0
        """Events written to connections: one event to ten subscribers counts ten, replay included."""
        self.replayed = 0
        self.heartbeats = 0
        self.projects_displaced = 0
        """Idle projects that gave way to new ones at `limits.max_projects`."""
        self.added = 0
        self.dead_detection_seconds = Histogram(DETECTION_BOUNDS_SECONDS)
        """From the last acknowledgement of a dead peer to its removal."""
        self.removed = dict.fromkeys(REMOVAL_REASONS, 0)
        self.rejected = dict.fromkeys(REJECTION_REASONS, 0)
        self.gaps = dict.fromkeys(GAP_REASONS, 0)
        self.evicted = dict.fromkeys(EVICTION_REASONS, 0)
        self.ring_events = 0
        self.ring_bytes = 0
        self.misses = MissTotals()
        self.oldest_miss = OldestMiss()

    @property
    def ring_memory_bytes(self) -> int:
        """What all rings together occupy: this is what `ring.total_bytes` bounds."""
        return self.ring_bytes + self.ring_events * EVENT_OVERHEAD_BYTES


REMOVAL_REASONS = (
    *("client", "dead", "slow", "shutdown", "deleted", "restart", "lifetime", "expired", "finished"),
    "error",
)
DOOR_REASONS = ("unauthenticated", "forbidden", "wrong_host", "origin_not_allowed", "keys_unavailable")
"""Why a subscriber is not even let in to be counted against the limits."""
REJECTION_REASONS = (
    "too_many_descriptors",
    "too_many_connections",
    "too_many_project_connections",
    "too_many_address_connections",
    "too_many_projects",
    "draining",
    *DOOR_REASONS,
)
GAP_REASONS = ("evicted", "restart", "unknown")
EVICTION_REASONS = ("count", "bytes", "age", "total", "memory", "projects", "deleted")

TRIGGER_OUTCOMES = ("dispatched", "no_connection", "failed", "cancelled", "replayed")
WAIT_BOUNDS_SECONDS = (
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
    30.0,
    60.0,
)


class Histogram:
    """Observations counted by the first bound they do not pass; one more bucket takes what lies beyond the last."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value


class TriggerCounters:
    """Outcomes, and how long triggers waited for a connection (whether one came or not)."""

    __slots__ = ("outcomes", "wait_seconds")

    def __init__(self) -> None:
        self.outcomes = dict.fromkeys(TRIGGER_OUTCOMES, 0)
        self.wait_seconds = Histogram(WAIT_BOUNDS_SECONDS)
