"""What became of triggers, as plain integers."""

from __future__ import annotations

from edge.core.histogram import Histogram

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


class TriggerCounters:
    """Outcomes, and how long triggers waited for a connection (whether one came or not)."""

    __slots__ = ("outcomes", "wait_seconds")

    def __init__(self) -> None:
        self.outcomes = dict.fromkeys(TRIGGER_OUTCOMES, 0)
        self.wait_seconds = Histogram(WAIT_BOUNDS_SECONDS)
