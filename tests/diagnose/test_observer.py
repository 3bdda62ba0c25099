"""What the history records of a hub's life, and its bounds, whatever callers do."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.core import resume
from edge.core.hub import Hub
from edge.core.limits import Limits
from edge.diagnose import observer
from edge.diagnose.observer import FOLD_SECONDS, Fact, HubObserver, ProjectHistory
from edge.supervisor import Supervisor
from tests.core.fakes import FakeConnection, Recorder, Woken, text

if TYPE_CHECKING:
    from edge.core.connection import Connection
    from edge.core.project import Project


class HistoryRecorder(Recorder):
    """Records in a history what the hub reports."""

    def __init__(self) -> None:
        super().__init__()
        self.history = ProjectHistory()

    def connection_added(self, project: Project, connection: Connection) -> None:
        self.history.connected(project, connection)

    def connection_removed(
        self, project: Project, connection: Connection, reason: str, missed: int, now: float
    ) -> None:
        self.history.disconnected(project, connection, reason, missed, now)

    def project_forgotten(self, project: Project) -> None:
        self.history.dropped(project)


def recorded() -> tuple[Hub, ProjectHistory]:
    recorder = HistoryRecorder()
    return Hub(Limits(), boot="boot", wake=Woken(), observer=recorder), recorder.history


def connect(hub: Hub, connection_id: str, now: float) -> FakeConnection:
    connection = FakeConnection(hub, connection_id, now)
    hub.attach("p", connection, resume.missed, now)
    return connection


def test_nothing_is_recorded_while_all_is_well() -> None:
    hub, history = recorded()
    connect(hub, "a", 1.0)
    hub.publish("p", text(), 2.0)
    connect(hub, "b", 3.0)
    assert [] == history.facts("p")
    assert [] == [*history.projects, *history.unknown]


def test_first_subscriber_late() -> None:
    hub, history = recorded()
    hub.publish("p", text(), 1.0)
    hub.publish("p", text(), 2.0)
    connect(hub, "a", 5.0)
    assert [Fact("late", "first", 5.0, seconds=4.0, connection="a", missed=2, recovered=2)] == history.facts("p")


def test_dropped_and_reconnected() -> None:
    hub, history = recorded()
    connection = connect(hub, "a", 1.0)
    hub.publish("p", text(), 2.0)
    hub.flush(2.0)
    hub.detach(connection, "dead", 4.0)
    connect(hub, "b", 9.0)
    assert [
        Fact("late", "dropped", 9.0, seconds=5.0, connection="b", missed=1, recovered=1),
        Fact("left", "dead", 4.0, seconds=3.0, address="::1", connection="a", missed=1),
    ] == history.facts("p")


def test_subscriber_after_timed_out_triggers() -> None:
    hub, history = recorded()
    history.trigger("p", "no_connection", 3.0, 10.0)
    history.trigger("p", "no_connection", 3.0, 11.0)
    history.trigger("p", "waited", 1.0, 11.5)
    hub.detach(connect(hub, "a", 12.0), "client", 13.0)
    connect(hub, "b", 14.0)
    late = [fact for fact in history.facts("p") if fact.kind == "late"]
    assert [Fact("late", "trigger", 12.0, seconds=5.0)] == late
    vain = [fact for fact in history.facts("p") if fact.reason == "no_connection"]
    assert [Fact("trigger", "no_connection", 11.0, count=2, seconds=3.0)] == vain


def test_a_failed_dispatch_waits_for_no_subscriber() -> None:
    hub, history = recorded()
    history.trigger("p", "failed", 0.0, 10.0)
    connect(hub, "a", 12.0)
    assert ["failed"] == [fact.reason for fact in history.facts("p")]


def test_a_dropped_project_keeps_its_totals() -> None:
    hub, history = recorded()
    for now in (1.0, 2.0, 3.0):
        hub.publish("p", text(), now)
    hub.detach(connect(hub, "a", 4.0), "client", 5.0)
    hub.delete("p", 6.0)
    assert Fact("forgotten", "", 5.0, missed=6, recovered=3, lost=3) in history.facts("p")
    assert ["p"] == [*history.projects, *history.unknown]


def test_of_many_kinds_of_facts_the_newest_are_kept() -> None:
    history = ProjectHistory()
    for number in range(20):
        history.refused("p", f"code {number}", None, float(number))
    assert [f"code {number}" for number in range(19, 7, -1)] == [fact.reason for fact in history.facts("p")]


def test_the_oldest_names_are_evicted() -> None:
    history = ProjectHistory(max_projects=2, max_unknown=2)
    for now, name in enumerate("abca"):
        history.trigger(name, "waited", 1.0, float(now))
    for now, name in enumerate("xyxz"):
        history.refused(name, "unauthenticated", None, float(now))
    assert ["c", "a", "x", "z"] == [*history.projects, *history.unknown]
    assert [1, 2] == [history.facts(name)[0].count for name in ("a", "x")], "`a` was evicted, `x` was not"


def test_a_known_project_is_not_an_unknown_name() -> None:
    history = ProjectHistory(max_unknown=0)
    history.trigger("p", "waited", 1.0, 1.0)
    history.refused("p", "forbidden", "::1", 2.0)
    assert ["forbidden", "waited"] == [fact.reason for fact in history.facts("p")]


def test_reconnect_to_a_dropped_project() -> None:
    hub, history = recorded()
    hub.detach(connect(hub, "a", 1.0), "client", 2.0)
    assert {} == hub.projects
    hub.publish("p", text(), 3.0)
    connect(hub, "b", 4.0)
    assert ["dropped"] == [fact.reason for fact in history.facts("p") if fact.kind == "late"]


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


def test_unknown_names_evict_no_project() -> None:
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


def test_refusals_of_an_unknown_name_are_kept_once_the_project_exists() -> None:
    history = ProjectHistory(max_projects=1, max_unknown=1)
    history.refused("p", "forbidden", None, 1.0)
    history.trigger("p", "waited", 0.2, 2.0)

    assert ["waited", "forbidden"] == [fact.reason for fact in history.facts("p")]
    assert ["p"] == [*history.projects, *history.unknown]


def test_a_long_name_is_cut() -> None:
    history = ProjectHistory()
    history.refused("x" * 10_000, "invalid_project", None, 1.0)

    assert ["x" * 128] == [*history.projects, *history.unknown]


def test_suppressed_lines_are_counted_under_the_name_of_their_event(monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[tuple[str, dict[str, object]]] = []

    class Log:
        def warning(self, event: str, **fields: object) -> None:
            lines.append((event, fields))

    monkeypatch.setattr(observer, "_log", Log())
    log = HubObserver(ProjectHistory(), Supervisor())
    hub, _ = recorded()
    connect(hub, "a", 0.0)
    for _ in range(3):
        log.project_displaced(hub.projects["p"], 0.0)
        log.limit_reached("too_many_projects", "p", None, 0.0)
    lines.clear()
    log.flush_suppressed(FOLD_SECONDS)

    assert [
        ("project_displaced", {"suppressed": 2}),
        ("limit_reached", {"code": "too_many_projects", "suppressed": 2}),
    ] == lines
