"""The busiest projects and all others: whatever is counted is shown once, and nothing shown ever falls."""

from __future__ import annotations

import pytest

from edge.core import resume
from edge.core.hub import Hub
from edge.metrics import busiest as top_module
from edge.metrics.busiest import BusiestProjects, Figures
from tests.core.fakes import FakeConnection, make_hub, text


def publish(hub: Hub, name: str, count: int) -> None:
    for _ in range(count):
        hub.publish(name, text(), 0.0)


def connect(hub: Hub, name: str, connection_id: str) -> FakeConnection:
    connection = FakeConnection(hub, connection_id)
    hub.attach(name, connection, resume.nothing, 0.0)
    return connection


def test_most_subscribers_first_then_most_events() -> None:
    hub = make_hub()
    publish(hub, "quiet", 1)
    publish(hub, "loud", 5)
    connect(hub, "read", "c")
    top = BusiestProjects(hub, 2)
    top.look(0.0)
    publish(hub, "loud", 2)
    publish(hub, "quiet", 1)
    assert [Figures("read", 1, 0, 0), Figures("loud", 0, 2, 2), Figures(None, 0, 7, 7)] == top.figures()


def test_what_was_shown_under_a_name_stays_out_of_the_others() -> None:
    hub = make_hub()
    publish(hub, "a", 1)
    top = BusiestProjects(hub, 1)
    top.look(0.0)
    publish(hub, "a", 3)
    assert [Figures("a", 0, 3, 3), Figures(None, 0, 1, 1)] == top.figures()
    publish(hub, "b", 9)
    top.look(0.0)
    assert [Figures("b", 0, 0, 0), Figures(None, 0, 10, 10)] == top.figures()


def test_a_project_that_stays_goes_on_counting() -> None:
    hub = make_hub()
    publish(hub, "a", 1)
    top = BusiestProjects(hub, 1)
    for _ in range(3):
        top.look(0.0)
        publish(hub, "a", 2)
    assert Figures("a", 0, 6, 6) == top.figures()[0]


def test_a_recreated_project_starts_at_zero() -> None:
    hub = make_hub()
    publish(hub, "a", 3)
    top = BusiestProjects(hub, 1)
    top.look(0.0)
    publish(hub, "a", 1)
    hub.delete("a", 0.0)
    publish(hub, "a", 1)
    top.look(0.0)
    publish(hub, "a", 1)
    assert [Figures("a", 0, 1, 1), Figures(None, 0, 4, 4)] == top.figures()


def test_each_look_takes_a_slice_and_skips_deleted_projects(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(top_module, "PROJECTS_A_LOOK", 2)
    hub = make_hub()
    for number, name in enumerate("abcde"):
        publish(hub, name, number + 1)
    top = BusiestProjects(hub, 2)
    top.look(0.0)
    top.look(0.0)
    assert [None] == [figures.project for figures in top.figures()], "nothing is picked before the round is over"
    hub.delete("e", 0.0)
    top.look(0.0)
    assert ["d", None] == [figures.project for figures in top.figures()], "`e` was picked, and is gone"
