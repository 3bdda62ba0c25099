"""Histograms, and the names of what is counted."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edge.core.counters import (
    DETECTION_BOUNDS_SECONDS,
    TRIGGER_OUTCOMES,
    WAIT_BOUNDS_SECONDS,
    Counters,
    Histogram,
    TriggerCounters,
)

BOUNDS = (0.5, 1.0, 2.0)


@given(st.lists(st.sampled_from((0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 2.25, 100.0))))
def test_each_observation_is_in_the_first_bucket_it_does_not_pass(values: list[float]) -> None:
    histogram = Histogram(BOUNDS)
    for value in values:
        histogram.observe(value)
    below = [sum(value <= bound for value in values) for bound in BOUNDS]
    assert [*below, len(values)] == [sum(histogram.counts[: number + 1]) for number in range(4)]
    assert sum(values) == histogram.total


def test_bounds_ascend() -> None:
    for limits in (WAIT_BOUNDS_SECONDS, DETECTION_BOUNDS_SECONDS):
        assert sorted(set(limits)) == list(limits)


def test_all_begins_at_zero() -> None:
    counters, triggers = Counters(), TriggerCounters()
    tables = (counters.removed, counters.rejected, counters.gaps, counters.evicted, triggers.outcomes)
    assert {0} == {count for table in tables for count in table.values()}
    reasons = "client dead slow shutdown deleted restart lifetime expired finished error"
    assert reasons.split() == list(counters.removed)
    assert {"dispatched", "no_connection", "failed", "cancelled", "replayed"} == set(TRIGGER_OUTCOMES)
    assert 0 == sum(triggers.wait_seconds.counts)
    assert 0 == counters.misses.pending
