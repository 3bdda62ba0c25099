"""The age of the oldest pending miss over all projects, against a look at every project."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edge.core import resume
from edge.core.hub import Hub
from edge.core.limits import Limits
from tests.core.fakes import FakeConnection, Recorder, Woken, text

PROJECTS = st.sampled_from(["a", "b", "c"])
ACTIONS = st.one_of(
    st.tuples(st.just("publish"), PROJECTS),
    st.tuples(st.just("connect"), PROJECTS),
    st.tuples(st.just("lose"), PROJECTS),
    st.tuples(st.just("delete"), PROJECTS),
    st.tuples(st.just("tick"), PROJECTS),
)


def by_looking_at_each(hub: Hub) -> float | None:
    times = [project.oldest_pending_seconds for project in hub.projects.values()]
    return min((time for time in times if time is not None), default=None)


@given(st.lists(ACTIONS, max_size=60))
def test_it_is_the_oldest_of_all_projects(actions: list[tuple[str, str]]) -> None:
    hub = Hub(Limits(max_events=3, max_age_seconds=20.0), boot="b", wake=Woken(), observer=Recorder())
    connections: dict[str, list[FakeConnection]] = {}
    for now, (action, name) in enumerate(actions, 1):
        match action:
            case "publish":
                hub.publish(name, text(), now)
                hub.flush(now)
            case "connect":
                connection = FakeConnection(hub, f"{now}", now)
                hub.attach(name, connection, resume.missed, now)
                connections.setdefault(name, []).append(connection)
            case "lose" if connections.get(name):
                hub.detach(connections[name].pop(0), "dead", now)
            case "delete":
                hub.delete(name, now)
                connections.pop(name, None)
            case "tick":
                hub.tick(now)
        assert by_looking_at_each(hub) == hub.counters.oldest_miss.oldest()


def test_dropped_projects_leave_little_behind() -> None:
    hub = Hub(Limits(max_age_seconds=1e6), boot="b", wake=Woken(), observer=Recorder())
    hub.publish("old", text(), 0.0)
    for number in range(5_000):
        hub.publish(f"p{number}", text(), float(number))
        hub.delete(f"p{number}", float(number))
    assert len(hub.counters.oldest_miss) <= 128
    assert 0.0 == hub.counters.oldest_miss.oldest()
