"""What the hub counts, as plain integers; whoever exports them reads them when asked (an `inc()` would cost 0.3 µs).

Only what can't be derived is counted: the number of connections is the size of a set, pending misses are a difference.
"""

from __future__ import annotations

from edge.core.ledger import Tally


class Counters:
    """Totals since the process began."""

    __slots__ = (
        "added",
        "delivered",
        "evicted",
        "gaps",
        "heartbeats",
        "misses",
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
        """Events written to connections: one event to ten readers counts ten, replay included."""
        self.replayed = 0
        self.heartbeats = 0
        self.added = 0
        self.removed = dict.fromkeys(REMOVAL_REASONS, 0)
        self.rejected = dict.fromkeys(REJECTION_REASONS, 0)
        self.gaps = dict.fromkeys(GAP_REASONS, 0)
        self.evicted = dict.fromkeys(EVICTION_REASONS, 0)
        self.ring_events = 0
        self.ring_bytes = 0
        self.misses = Tally()


REMOVAL_REASONS = ("client", "dead", "slow", "shutdown", "deleted", "lifetime", "expired", "error")
REJECTION_REASONS = (
    "too_many_connections",
    "too_many_project_connections",
    "too_many_address_connections",
    "too_many_projects",
    "draining",
)
GAP_REASONS = ("evicted", "restart", "unknown")
EVICTION_REASONS = ("count", "bytes", "age", "total", "deleted")
