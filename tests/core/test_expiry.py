"""Each project with events is looked at when its oldest one expires, and stands in one slot however it came there."""

from __future__ import annotations

from edge.core.batches import FrameCache
from edge.core.counters import Counters
from edge.core.project import Project
from edge.core.retention import STEPS, ExpiryWheel

AGE_SECONDS = 64.0


def project(name: str, *times: float) -> Project:
    made = Project(name, name, Counters(), FrameCache())
    for seconds in times:
        made.ring.append(b"x", seconds)
    return made


def test_a_project_is_looked_at_after_its_oldest_event_has_come_of_age_and_soon_after() -> None:
    assert 64 == STEPS
    ages = ExpiryWheel(AGE_SECONDS)
    one = project("a", 10.0, 60.0)
    ages.watch(one)
    assert [] == ages.due(74.0, 5)
    assert [one] == ages.due(75.0, 5)
    assert [] == ages.due(1000.0, 5)
    assert 0 == len(ages)


def test_the_oldest_come_first_and_no_more_than_the_limit() -> None:
    ages = ExpiryWheel(AGE_SECONDS)
    projects = [project(str(seconds), float(seconds)) for seconds in (3, 1, 2, 2, 9)]
    for one in projects:
        ages.watch(one)
    assert 5 == len(ages)
    assert [projects[1], projects[2]] == ages.due(70.0, 2)
    assert [projects[3], projects[0]] == ages.due(70.0, 2)
    assert [] == ages.due(70.0, 2)
    assert [projects[4]] == ages.due(74.0, 2)


def test_a_forgotten_project_leaves_nothing_behind() -> None:
    ages = ExpiryWheel(AGE_SECONDS)
    one, other = project("a", 1.0), project("b", 1.0)
    ages.watch(one)
    ages.watch(other)
    ages.forget(one)
    ages.forget(one)
    assert (1, None) == (len(ages), one.expiry_slot)
    assert [other] == ages.due(100.0, 5)
    ages.watch(one)
    ages.forget(one)
    assert {} == ages._slots
