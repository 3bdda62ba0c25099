"""What is evicted, in which order and for which reason; nothing grows however fast projects come and go."""

from __future__ import annotations

import pytest

from edge.core import resume, timers
from edge.core.counters import EVICTION_REASONS
from edge.core.errors import LimitReached
from edge.core.hub import Hub
from edge.core.ring import EVENT_OVERHEAD_BYTES
from tests.core.fakes import FakeConnection, make_hub, text


def held(hub: Hub) -> dict[str, list[int]]:
    """What each project holds, by number."""
    return {name: [seq for seq, _, _ in project.ring.frames()] for name, project in hub.projects.items()}


def tick(hub: Hub, now: float) -> int:
    turns = 1
    while hub.tick(now):
        turns += 1
    return turns


FRAME_BYTES = len(b"id: boot1-1\ndata: x\n\n")
HELD_BYTES = FRAME_BYTES + EVENT_OVERHEAD_BYTES


def test_by_count() -> None:
    hub = make_hub(max_events=3)
    for _ in range(5):
        hub.publish("p", text(), 0.0)
    assert {"p": [3, 4, 5]} == held(hub)
    assert {**dict.fromkeys(EVICTION_REASONS, 0), "count": 2} == hub.counters.evicted


def test_by_bytes() -> None:
    hub = make_hub(max_bytes=600)
    for _ in range(3):
        hub.publish("p", text("y" * 200), 0.0)
    assert {"p": [2, 3]} == held(hub)
    assert 1 == hub.counters.evicted["bytes"]


def test_exactly_full_is_not_too_full() -> None:
    size_bytes = 2 * (FRAME_BYTES + 200)
    hub = make_hub(max_events=2, max_bytes=size_bytes, total_bytes=size_bytes + 2 * EVENT_OVERHEAD_BYTES)
    hub.publish("p", text("x" * 201), 0.0)
    hub.publish("p", text("x" * 201), 0.0)
    assert {"p": [1, 2]} == held(hub)
    assert size_bytes == hub.counters.ring_bytes


def test_the_project_idle_longest_gives_for_all() -> None:
    hub = make_hub(total_bytes=6 * HELD_BYTES)
    for name in "aabbcc":
        hub.publish(name, text(), 0.0)
    hub.publish("a", text(), 0.0)
    assert {"a": [1, 2, 3], "b": [2], "c": [1, 2]} == held(hub)
    hub.publish("a", text(), 0.0)
    assert {"a": [1, 2, 3, 4], "c": [1, 2]} == held(hub)
    assert ["c", "a"] == [project.name for project in hub._retention._lru]
    assert 2 == hub.counters.evicted["total"]


def test_one_large_event_makes_as_much_room_as_it_needs_and_no_more() -> None:
    hub = make_hub(max_bytes=9 * HELD_BYTES, total_bytes=9 * HELD_BYTES)
    for name in "aaabbbccc":
        hub.publish(name, text(), 0.0)
    hub.publish("d", text("x" + "y" * 4 * HELD_BYTES), 0.0)
    assert {"b": [3], "c": [1, 2, 3], "d": [1]} == held(hub)


def test_an_event_never_makes_room_for_itself() -> None:
    hub = make_hub(total_bytes=2 * HELD_BYTES)
    for _ in range(5):
        hub.publish("alone", text(), 0.0)
    assert {"alone": [4, 5]} == held(hub)


def test_a_connected_project_that_gave_all_goes_on_in_the_same_epoch() -> None:
    hub = make_hub(total_bytes=2 * HELD_BYTES)
    reader = FakeConnection(hub, "c")
    hub.attach("a", reader, resume.nothing, 0.0)
    hub.publish("a", text(), 0.0)
    for _ in range(3):
        hub.publish("b", text(), 0.0)
    assert {"a": [], "b": [2, 3]} == held(hub)
    hub.publish("a", text(), 0.0)
    hub.flush(0.0)
    assert {"a": [2], "b": [3]} == held(hub)
    assert [1, 2] == reader.seqs


def test_a_reader_that_keeps_up_gets_what_gives_for_others() -> None:
    hub = make_hub(total_bytes=2 * HELD_BYTES)
    reader = FakeConnection(hub, "c")
    hub.attach("a", reader, resume.nothing, 0.0)
    hub.publish("a", text(), 0.0)
    hub.publish("b", text(), 0.0)
    hub.publish("b", text(), 0.0)
    assert [1] == reader.seqs
    assert ([], 2) == (reader.controls("gap"), hub.counters.misses.misses)


class TestAge:
    def test_old_events_go_in_their_time(self) -> None:
        hub = make_hub(max_age_seconds=64.0)
        for now in (0.0, 10.0, 20.0):
            hub.publish("p", text(), now)
        seen = []
        for now in (64.0, 65.0, 66.0, 74.0, 76.0, 84.0, 86.0):
            tick(hub, now)
            seen.append(held(hub).get("p"))
        assert [[1, 2, 3], [2, 3], [2, 3], [2, 3], [3], [3], None] == seen
        assert 3 == hub.counters.evicted["age"]
        assert (3, 3) == (hub.counters.misses.misses, hub.counters.misses.lost)

    def test_a_project_that_others_were_published_after_is_not_held_longer(self) -> None:
        """The order of looking is the order of the oldest events, not of the last looks."""
        hub = make_hub(max_age_seconds=64.0)
        hub.publish("p", text(), 0.0)
        hub.publish("p", text(), 60.0)
        hub.publish("q", text(), 64.0)
        tick(hub, 66.0)
        tick(hub, 126.0)
        assert {"q": [1]} == held(hub)

    def test_a_look_sees_nothing_over_age(self) -> None:
        hub = make_hub(max_age_seconds=64.0)
        hub.publish("p", text(), 0.0)
        hub.publish("p", text(), 10.0)
        project = hub.project("p", 64.0)
        assert project is not None
        assert [1, 2] == held(hub)["p"], "not over age, but of age"
        assert project is hub.project("p", 64.1)
        assert [2] == held(hub)["p"]
        assert None is hub.project("p", 100.0)
        assert None is hub.project("p", 100.0)
        assert {} == hub.projects

    def test_who_comes_back_finds_the_epoch_though_all_events_are_over_age(self) -> None:
        hub = make_hub(max_age_seconds=64.0)
        first = hub.publish("p", text(), 0.0)
        reader = FakeConnection(hub, "c")
        hub.attach("p", reader, lambda project: resume.after_id(project, first.id), 100.0)
        assert [] == reader.controls("gap")
        assert 2 == int(hub.publish("p", text(), 100.0).id.rpartition("-")[2])

    def test_an_emptied_project_does_not_stand_in_line(self) -> None:
        """One that was emptied by a reader who came would have been asked to give what it has not."""
        hub = make_hub(max_age_seconds=64.0, total_bytes=2 * HELD_BYTES)
        hub.publish("old", text(), 0.0)
        hub.attach("old", FakeConnection(hub, "c"), resume.nothing, 100.0)
        for _ in range(3):
            hub.publish("new", text(), 100.0)
        assert {"old": [], "new": [2, 3]} == held(hub)

    def test_many_projects_of_age_are_a_few_a_turn(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(timers, "TICK_BUDGET", 10)
        hub = make_hub(max_age_seconds=64.0)
        for number in range(35):
            hub.publish(str(number), text(), 0.0)
        assert 4 == tick(hub, 100.0)
        assert {} == hub.projects


class TestNothingGrows:
    @pytest.mark.parametrize("how", ["deleted", "evicted"])
    def test_projects_that_come_and_go(self, how: str) -> None:
        hub = make_hub(total_bytes=10 * HELD_BYTES)
        for number in range(500):
            name = str(number) if how == "evicted" else "same name"
            hub.publish(name, text(), 0.0)
            if how == "deleted":
                hub.delete(name, 0.0)
        assert len(hub.projects) <= 10
        assert len(hub._retention._expiry) == len(hub._retention._lru) == len(hub.projects)

    def test_readers_that_come_and_go(self) -> None:
        hub = make_hub()
        for number in range(200):
            reader = FakeConnection(hub, str(number))
            hub.attach("p", reader, resume.nothing, float(number))
            hub.publish("p", text(), float(number))
            hub.flush(float(number))
            hub.detach(reader, "client", float(number))
            while hub.tick(float(number)):
                pass
        assert sum(map(len, hub._ticker.timing_wheel._slots.values())) <= hub.limits.heartbeat_seconds + 2

    def test_refused_events_leave_no_project_behind(self) -> None:
        hub = make_hub(max_bytes=1000)
        for number in range(10):
            with pytest.raises(LimitReached) as refused:
                hub.publish(str(number), text("x" * 1000), 0.0)
            assert "event_too_large" == refused.value.code
            assert {"limit_bytes": 1000} == refused.value.fields
        assert {} == hub.projects

    def test_one_too_large_among_many_refuses_them_all(self) -> None:
        hub = make_hub(max_bytes=2000)
        for too_large in (text("x" * 2000), text("\n" * 300)):
            with pytest.raises(LimitReached):
                hub.publish_many("p", [text("y" * 1000), too_large, text()], 0.0)
        assert {} == hub.projects
        assert 1 == hub.publish_many("p", [text("\n" * 200)], 0.0).events

    def test_an_event_that_grows_on_the_wire_is_measured_there(self) -> None:
        hub = make_hub(max_bytes=1000)
        with pytest.raises(LimitReached, match="allows 1000"):
            hub.publish("p", text("\n" * 140), 0.0)
        with pytest.raises(LimitReached):
            hub.publish("p", text("\n" * 105, "t" * 256), 0.0)
        hub.publish("p", text("\n" * 105), 0.0)
        assert {"p": [1]} == held(hub)
