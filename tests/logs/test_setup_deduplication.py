from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edge.logs.setup import LogDeduplicator

PERIOD_SECONDS = 10.0


def deduplicated_log(max_keys: int = 100) -> LogDeduplicator[str]:
    return LogDeduplicator(period_seconds=PERIOD_SECONDS, max_keys=max_keys)


def test_the_first_is_logged_and_the_next_after_the_period_counts_the_suppressed() -> None:
    folded = deduplicated_log()

    assert [0, None, None, None, 3, None, 1] == [
        folded.admit("a", now) for now in (0.0, 0.0, 5.0, 9.9, 10.0, 15.0, 20.0)
    ]


def test_keys_are_counted_apart() -> None:
    folded = deduplicated_log()

    assert [0, 0, None, None] == [folded.admit(key, 0.0) for key in "abab"]


def test_the_rest_of_a_burst_is_reported_after_its_period_and_quiet_keys_are_dropped() -> None:
    folded = deduplicated_log()
    for key in "aaab":
        folded.admit(key, 0.0)

    assert [] == folded.due(9.9)
    assert [("a", 2)] == folded.due(10.0)
    assert 1 == len(folded)
    assert [] == folded.due(20.0)
    assert 0 == len(folded)


def test_beyond_the_most_keys_all_others_share_one_place() -> None:
    folded = deduplicated_log(max_keys=2)

    assert [0, 0, 0, None, None, None] == [folded.admit(key, 0.0) for key in "abcdea"]
    assert 2 == len(folded)
    assert [("a", 1), (None, 2)] == folded.due(10.0)


def test_a_key_whose_period_is_over_gives_its_place_and_keeps_its_count() -> None:
    folded = deduplicated_log(max_keys=1)
    for now in (0.0, 1.0, 2.0):
        folded.admit("a", now)

    assert 0 == folded.admit("b", 10.0)
    assert [(None, 2)] == folded.due(10.0)


@given(
    st.lists(
        st.tuples(st.sampled_from("abcdef"), st.floats(0, 7), st.booleans()),
        max_size=80,
    ),
    st.integers(1, 4),
)
def test_every_occurrence_is_logged_or_counted_in_few_lines(
    steps: list[tuple[str, float, bool]], max_keys: int
) -> None:
    folded = deduplicated_log(max_keys)
    now = 0.0
    logged = counted = 0
    for key, passed, sweep in steps:
        now += passed
        if sweep:
            counted += sum(count for _, count in folded.due(now))
        suppressed = folded.admit(key, now)
        assert len(folded) <= max_keys
        if suppressed is not None:
            logged += 1
            counted += suppressed
    counted += sum(count for _, count in folded.due(now + 2 * PERIOD_SECONDS))

    assert len(steps) == logged + counted


@given(st.lists(st.tuples(st.sampled_from("abc"), st.floats(0, 7)), max_size=80))
def test_a_key_is_never_logged_twice_within_a_period(steps: list[tuple[str, float]]) -> None:
    folded = deduplicated_log()
    now = 0.0
    last_logged: dict[str, float] = {}
    for key, passed in steps:
        now += passed
        if folded.admit(key, now) is not None:
            assert key not in last_logged or now - last_logged[key] >= PERIOD_SECONDS
            last_logged[key] = now


@given(st.lists(st.tuples(st.sampled_from("ab"), st.floats(0, 0.5)), max_size=300))
def test_a_burst_has_its_lines_per_period_and_counts_the_rest(steps: list[tuple[str, float]]) -> None:
    burst: LogDeduplicator[str] = LogDeduplicator(lines=3, period_seconds=1.0, max_keys=9)
    now = 0.0
    logged_at: list[tuple[float, str]] = []
    counted = {"a": 0, "b": 0}
    for key, pause in steps:
        now += pause
        suppressed = burst.admit(key, now)
        if suppressed is not None:
            logged_at.append((now, key))
            counted[key] += 1 + suppressed
    for due, suppressed in burst.due(now + 2.0):
        counted[str(due)] += suppressed

    assert {key: sum(step[0] == key for step in steps) for key in "ab"} == counted
    assert [] == burst.due(now + 2.0)
    for when, key in logged_at:
        assert sum(other == key and when <= at < when + 0.5 for at, other in logged_at) <= 6
