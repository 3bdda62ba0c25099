"""The record behind explain: bounded whatever callers do."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edge.diagnose.history import ProjectHistory

NAMES = st.sampled_from([f"p{number}" for number in range(8)])
CODES = st.sampled_from([f"code_{number}" for number in range(30)])


@given(st.lists(st.tuples(NAMES, CODES, st.booleans()), max_size=200))
def test_it_holds_no_more_than_its_bounds_and_the_newest_of_each(calls: list[tuple[str, str, bool]]) -> None:
    history = ProjectHistory(max_projects=3, max_unknown=2)
    for now, (name, code, trigger) in enumerate(calls):
        if trigger:
            history.trigger(name, code, 0.5, float(now))
        else:
            history.refused(name, code, "127.0.0.1", float(now))

    names = [*history.projects, *history.unknown]
    assert len(names) <= 5
    assert all(len(history.facts(name)) <= 12 for name in names)
    if calls:
        name, code, trigger = calls[-1]
        newest = history.facts(name)[0]
        assert ("trigger" if trigger else "refused", code) == (newest.kind, newest.reason)
    for name in names:
        times = [fact.last_seconds for fact in history.facts(name)]
        assert sorted(times, reverse=True) == times


def test_made_up_names_push_out_no_project() -> None:
    history = ProjectHistory(max_projects=2, max_unknown=3)
    history.trigger("mine", "no_connection", 3.0, 1.0)
    for number in range(100):
        history.refused(f"made-up-{number}", "unauthenticated", "192.0.2.1", 2.0)

    assert ["no_connection"] == [fact.reason for fact in history.facts("mine")]
    assert ["mine", "made-up-97", "made-up-98", "made-up-99"] == [*history.projects, *history.unknown]


def test_repeated_facts_are_counted() -> None:
    history = ProjectHistory()
    for moment in (1.0, 5.0, 9.0):
        history.refused("p", "forbidden", f"192.0.2.{moment:.0f}", moment)

    [fact] = history.facts("p")
    assert (3, 9.0, "192.0.2.9") == (fact.count, fact.last_seconds, fact.address)


def test_what_a_stranger_was_refused_is_kept_when_the_project_is_met() -> None:
    history = ProjectHistory(max_projects=1, max_unknown=1)
    history.refused("p", "forbidden", None, 1.0)
    history.trigger("p", "waited", 0.2, 2.0)

    assert ["waited", "forbidden"] == [fact.reason for fact in history.facts("p")]
    assert ["p"] == [*history.projects, *history.unknown]


def test_a_long_name_is_cut() -> None:
    history = ProjectHistory()
    history.refused("x" * 10_000, "invalid_project", None, 1.0)

    assert ["x" * 128] == [*history.projects, *history.unknown]
