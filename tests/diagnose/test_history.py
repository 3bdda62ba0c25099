"""What a chronicle remembers of a hub's life, told by the hub itself; its bounds are tested in tests/observability."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edge.core import resume
from edge.core.hub import Hub
from edge.core.limits import Limits
from edge.diagnose.history import Fact, ProjectHistory
from tests.core.fakes import FakeConnection, Recorder, Woken, text

if TYPE_CHECKING:
    from edge.core.connection import Connection
    from edge.core.project import Project


class Teller(Recorder):
    """Tells a chronicle what the hub tells."""

    def __init__(self) -> None:
        super().__init__()
        self.history = ProjectHistory()

    def connection_added(self, project: Project, connection: Connection) -> None:
        self.history.came(project, connection)

    def connection_removed(
        self, project: Project, connection: Connection, reason: str, missed: int, now: float
    ) -> None:
        self.history.left(project, connection, reason, missed, now)

    def project_forgotten(self, project: Project) -> None:
        self.history.forgotten(project)


def told() -> tuple[Hub, ProjectHistory]:
    teller = Teller()
    return Hub(Limits(), boot="boot", wake=Woken(), observer=teller), teller.history


def connect(hub: Hub, connection_id: str, now: float) -> FakeConnection:
    connection = FakeConnection(hub, connection_id, now)
    hub.attach("p", connection, resume.missed, now)
    return connection


def test_while_all_is_well_nothing_is_noted() -> None:
    hub, history = told()
    connect(hub, "a", 1.0)
    hub.publish("p", text(), 2.0)
    connect(hub, "b", 3.0)
    assert [] == history.facts("p")
    assert [] == list(history.names())


def test_the_first_reader_came_late() -> None:
    hub, history = told()
    hub.publish("p", text(), 1.0)
    hub.publish("p", text(), 2.0)
    connect(hub, "a", 5.0)
    assert [Fact("late", "first", 5.0, 5.0, seconds=4.0, missed=2, recovered=2)] == history.facts("p")


def test_a_reader_was_lost_and_came_back() -> None:
    hub, history = told()
    reader = connect(hub, "a", 1.0)
    hub.publish("p", text(), 2.0)
    hub.flush(2.0)
    hub.detach(reader, "dead", 4.0)
    connect(hub, "b", 9.0)
    assert [
        Fact("late", "dropped", 9.0, 9.0, seconds=5.0, missed=1, recovered=1),
        Fact("left", "dead", 4.0, 4.0, seconds=3.0, address="::1", connection="a", missed=1),
    ] == history.facts("p")


def test_a_trigger_waited_in_vain_and_then_somebody_came() -> None:
    hub, history = told()
    history.trigger("p", "no_connection", 3.0, 10.0)
    history.trigger("p", "no_connection", 3.0, 11.0)
    history.trigger("p", "waited", 1.0, 11.5)
    hub.detach(connect(hub, "a", 12.0), "client", 13.0)
    connect(hub, "b", 14.0)
    late = [fact for fact in history.facts("p") if fact.kind == "late"]
    assert [Fact("late", "trigger", 12.0, 12.0, seconds=5.0)] == late
    vain = [fact for fact in history.facts("p") if fact.reason == "no_connection"]
    assert [Fact("trigger", "no_connection", 10.0, 11.0, count=2, seconds=3.0)] == vain


def test_a_trigger_that_failed_at_its_target_waits_for_nobody() -> None:
    hub, history = told()
    history.trigger("p", "failed", 0.0, 10.0)
    connect(hub, "a", 12.0)
    assert ["failed"] == [fact.reason for fact in history.facts("p")]


def test_a_forgotten_project_leaves_its_sums() -> None:
    hub, history = told()
    for now in (1.0, 2.0, 3.0):
        hub.publish("p", text(), now)
    hub.detach(connect(hub, "a", 4.0), "client", 5.0)
    hub.delete("p", 6.0)
    assert Fact("forgotten", "", 5.0, 5.0, missed=6, recovered=3, lost=3) in history.facts("p")
    assert ["p"] == list(history.names())


def test_of_many_kinds_of_facts_the_newest_are_kept() -> None:
    history = ProjectHistory()
    for number in range(20):
        history.refused("p", f"code {number}", None, float(number))
    assert [f"code {number}" for number in range(19, 7, -1)] == [fact.reason for fact in history.facts("p")]


def test_the_oldest_names_give_way() -> None:
    history = ProjectHistory(max_projects=2, max_strangers=2)
    for now, name in enumerate("abca"):
        history.trigger(name, "waited", 1.0, float(now))
    for now, name in enumerate("xyxz"):
        history.refused(name, "unauthenticated", None, float(now))
    assert ["c", "a", "x", "z"] == list(history.names())
    assert [1, 2] == [history.facts(name)[0].count for name in ("a", "x")], "`a` had been forgotten, `x` not"


def test_a_project_that_is_refused_somebody_is_no_stranger() -> None:
    history = ProjectHistory(max_strangers=0)
    history.trigger("p", "waited", 1.0, 1.0)
    history.refused("p", "forbidden", "::1", 2.0)
    assert ["forbidden", "waited"] == [fact.reason for fact in history.facts("p")]


def test_a_reader_of_a_project_since_forgotten_was_lost_too() -> None:
    hub, history = told()
    hub.detach(connect(hub, "a", 1.0), "client", 2.0)
    assert {} == hub.projects
    hub.publish("p", text(), 3.0)
    connect(hub, "b", 4.0)
    assert ["dropped"] == [fact.reason for fact in history.facts("p") if fact.kind == "late"]
