"""Every limit of the core, in one struct; the settings say where each comes from and why it is what it is."""

from __future__ import annotations

import msgspec

from edge.core.ring import EVENT_OVERHEAD_BYTES


class Limits(msgspec.Struct):
    """Every limit of the core. Zero means "no limit" for `max_connections_per_address` only.

    A hub and its parts share one of these: what is assigned to a number of connections or projects holds from then on.
    """

    max_events: int = 1000
    max_bytes: int = 1 << 20
    max_age_seconds: float = 3600.0
    total_bytes: int = 256 << 20
    max_connections: int = 50_000
    max_connections_per_project: int = 20_000
    max_connections_per_address: int = 0
    max_projects: int = 100_000
    heartbeat_seconds: float = 15.0
    dead_after_seconds: float = 30.0
    retry_ms: int = 1000

    @property
    def max_frame_bytes(self) -> int:
        """The longest frame that a ring can hold."""
        return min(self.max_bytes, self.total_bytes - EVENT_OVERHEAD_BYTES)
