"""The hub's time: heartbeats, ends of life, stuck readers; closing, deleting, draining; who may come in."""

from __future__ import annotations

from typing import Any

import pytest

from edge.core import resume, timers, turns
from edge.core.errors import Draining, LimitReached
from edge.core.hub import Hub
from edge.core.project import Project
from tests.core.eventstream import Comment, Message, Retry
from tests.core.fakes import FakeConnection, Recorder, make_hub, text, woken


def connect(hub: Hub, name: str = "p", connection_id: str = "c", **options: Any) -> FakeConnection:
    connection = FakeConnection(hub, connection_id, **options)
    hub.attach(name, connection, resume.nothing, 0.0)
    return connection


def tick(hub: Hub, now: float) -> int:
    """Beat until nothing is left; returns in how many turns."""
    turns = 1
    while hub.tick(now):
        turns += 1
    return turns


class TestHeartbeats:
    def test_a_quiet_reader_gets_a_ping_each_heartbeat(self) -> None:
        hub = make_hub(heartbeat_seconds=16.0)
        reader = connect(hub)
        for now in range(1, 49):
            tick(hub, float(now))
        pings = [item for item in reader.items if isinstance(item, Comment)]
        assert [Comment(" ping")] * 3 == pings
        assert 3 == hub.counters.heartbeats

    def test_a_ping_can_be_an_event(self) -> None:
        hub = make_hub(heartbeat_seconds=16.0)
        chunked = connect(hub, connection_id="a", ping_as_event=True)
        plain = connect(hub, connection_id="b", ping_as_event=True, chunked=False)
        tick(hub, 17.0)
        for reader in (chunked, plain):
            assert Message("edge.ping", "{}", "boot1-0", own_id=False) == reader.items[-1]

    def test_one_that_was_written_to_is_passed_over(self) -> None:
        hub = make_hub(heartbeat_seconds=16.0)
        connect(hub)
        hub.publish("p", text(), 10.0)
        hub.flush(10.0)
        tick(hub, 17.0)
        assert 0 == hub.counters.heartbeats
        tick(hub, 25.9)
        assert 0 == hub.counters.heartbeats
        tick(hub, 27.0)
        assert 1 == hub.counters.heartbeats

    def test_a_full_or_leaving_reader_gets_none(self) -> None:
        hub = make_hub(heartbeat_seconds=16.0, dead_after_seconds=1000.0)
        full, leaving = connect(hub, connection_id="a"), connect(hub, connection_id="b")
        hub.paused(full, 0.0)
        hub.close(leaving, "expired", 0.0)
        writes = full.writes
        tick(hub, 100.0)
        assert writes == full.writes
        assert 0 == hub.counters.heartbeats

    def test_a_heartbeat_learns_what_was_acknowledged(self) -> None:
        hub = make_hub(heartbeat_seconds=16.0)
        reader = connect(hub)
        hub.publish("p", text(), 0.0)
        hub.flush(0.0)
        reader.acknowledge()
        tick(hub, 17.0)
        assert 1 == reader.acknowledged

    def test_many_are_looked_at_in_several_turns(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(timers, "TICK_BUDGET", 2)
        hub = make_hub(heartbeat_seconds=16.0)
        for number in range(5):
            connect(hub, connection_id=str(number))
        assert 3 == tick(hub, 17.0)
        assert 5 == hub.counters.heartbeats

    def test_the_beat_is_a_sixteenth_of_the_heartbeat_and_a_second_at_most(self) -> None:
        assert 0.5 == make_hub(heartbeat_seconds=8.0).tick_seconds
        assert 1.0 == make_hub(heartbeat_seconds=100.0).tick_seconds

    def test_one_that_has_left_is_looked_at_no_more(self) -> None:
        hub = make_hub(heartbeat_seconds=16.0)
        reader = connect(hub)
        hub.detach(reader, "client", 1.0)
        writes = reader.writes
        tick(hub, 100.0)
        assert writes == reader.writes
        assert {} == hub._ticker.timing_wheel._slots


class TestEndOfLife:
    def test_closing_has_a_reason_and_a_retry(self) -> None:
        hub = make_hub(retry_ms=1000)
        reader = connect(hub, ends_at_seconds=10.0, ends_reason="expired")
        tick(hub, 9.9)
        assert (False, None) == (reader.finished, reader.leaving)
        tick(hub, 11.0)
        assert (True, "expired") == (reader.finished, reader.leaving)
        retry, closing = reader.items[-2:]
        assert isinstance(retry, Retry)
        assert 1000 <= retry.ms < 3000
        assert {"reason": "expired", "retry_ms": retry.ms} == reader.controls("closing")[0]
        assert isinstance(closing, Message)

    def test_clients_closed_together_reconnect_apart(self) -> None:
        hub = make_hub(retry_ms=1000)
        readers = [connect(hub, connection_id=str(number)) for number in range(50)]
        hub.drain(0.0)
        while hub.flush(0.0):
            pass
        assert len({reader.controls("closing")[0]["retry_ms"] for reader in readers}) > 25

    def test_it_is_reported_once(self) -> None:
        hub = make_hub()
        reader = connect(hub, ends_at_seconds=10.0)
        for now in (11.0, 12.0, 40.0):
            tick(hub, now)
        hub.close(reader, "deleted", 41.0)
        assert ["lifetime"] == [closing["reason"] for closing in reader.controls("closing")]

    def test_a_full_reader_is_ended_too(self) -> None:
        hub = make_hub(dead_after_seconds=30.0)
        reader = connect(hub, ends_at_seconds=10.0)
        reader.stall()
        hub.publish("p", text(), 0.0)
        hub.flush(0.0)
        tick(hub, 11.0)
        assert (True, False) == (reader.finished, reader.aborted)
        tick(hub, 31.0)
        assert reader.aborted, "and does not hang on for ever when its peer takes nothing"
        assert "lifetime" == reader.leaving

    def test_a_leaving_reader_gets_no_more_events(self) -> None:
        hub = make_hub()
        reader = connect(hub)
        reader.stall()
        hub.paused(reader, 0.0)
        hub.close(reader, "expired", 0.0)
        hub.publish("p", text(), 0.0)
        hub.flush(0.0)
        reader.drain()
        assert [] == reader.seqs
        hub.detach(reader, "expired", 0.0)
        assert 1 == hub.counters.misses.pending


class TestStuckReaders:
    def test_one_that_takes_nothing_is_slow_or_dead(self) -> None:
        hub = make_hub(dead_after_seconds=30.0)
        slow, dead = connect(hub, connection_id="slow"), connect(hub, connection_id="dead")
        dead.answering = False
        for reader in (slow, dead):
            hub.paused(reader, 5.0)
            reader.stall(-1)
        tick(hub, 5.5)
        tick(hub, 34.9)
        assert (False, False) == (slow.aborted, dead.aborted)
        tick(hub, 35.5)
        assert (True, True) == (slow.aborted, dead.aborted)
        assert ("slow", "dead") == (slow.leaving, dead.leaving)

    def test_one_that_takes_a_little_is_left_alone(self) -> None:
        hub = make_hub(dead_after_seconds=30.0, heartbeat_seconds=10.0)
        reader = connect(hub)
        reader.stall(-100)
        hub.paused(reader, 0.0)
        for now in range(0, 200, 20):
            reader.room_bytes += 1
            tick(hub, float(now))
        assert not reader.aborted
        tick(hub, 209.9)
        assert not reader.aborted
        tick(hub, 211.0)
        assert reader.aborted

    def test_what_a_peer_owes_counts_from_when_it_is_seen(self) -> None:
        """Not from the last look at which it owed nothing: a write just before a look is not owed to a heartbeat."""
        hub = make_hub(dead_after_seconds=16.0, heartbeat_seconds=16.0)
        reader = connect(hub)
        tick(hub, 1.0)
        hub.publish("p", text(), 15.9)
        hub.flush(15.9)
        reader.stall(-10)
        tick(hub, 16.0)
        assert not reader.aborted
        tick(hub, 31.9)
        assert not reader.aborted
        tick(hub, 33.0)
        assert reader.aborted

    def test_how_long_it_took_to_find_the_dead_is_counted(self) -> None:
        hub = make_hub()
        for number, reason in enumerate(("dead", "client", "slow")):
            reader = connect(hub, connection_id=str(number))
            reader.progress_seconds = 2.0
            hub.detach(reader, reason, 9.0)
        assert (1, 7.0) == (sum(hub.counters.dead_detection_seconds.counts), hub.counters.dead_detection_seconds.total)


class TestPendingAcknowledgements:
    """Transports that can't say, once they have failed, what was acknowledged are asked on each beat."""

    def test_polled_until_all_is_acknowledged(self) -> None:
        hub = make_hub()
        reader = connect(hub)
        hub.publish("p", text(), 0.0)
        hub.flush(0.0)
        hub.pending_acks(reader)
        tick(hub, 1.0)
        assert (0, [reader]) == (reader.acknowledged, list(hub._ticker.pending_acks))
        reader.acknowledge()
        tick(hub, 2.0)
        assert (1, []) == (reader.acknowledged, list(hub._ticker.pending_acks))

    def test_many_take_turns(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(timers, "TICK_BUDGET", 2)
        hub = make_hub()
        readers = [connect(hub, connection_id=str(number)) for number in range(5)]
        hub.publish("p", text(), 0.0)
        hub.flush(0.0)
        for reader in readers:
            hub.pending_acks(reader)
            reader.acknowledge()
        for now in (0.1, 0.2):
            hub.tick(now)
        assert [1, 1, 1, 1, 0] == [reader.acknowledged for reader in readers]

    def test_a_closed_connection_is_not_probed(self) -> None:
        hub = make_hub()
        reader = connect(hub)
        hub.pending_acks(reader)
        hub.detach(reader, "client", 0.0)
        assert [] == list(hub._ticker.pending_acks)
        hub.pending_acks(reader)
        tick(hub, 1.0)
        assert [] == list(hub._ticker.pending_acks)


class TestDeleting:
    def test_streams_are_closed_and_history_is_gone(self) -> None:
        hub = make_hub()
        reader = connect(hub)
        hub.publish("p", text(), 0.0)
        assert (1, 1) == hub.delete("p", 0.0)
        assert [1] == reader.seqs, "what was there it still gets"
        assert ["deleted"] == [closing["reason"] for closing in reader.controls("closing")]
        assert {} == hub.projects
        assert (0, 0) == (hub.counters.ring_events, hub.counters.ring_bytes)
        hub.detach(reader, "client", 0.0)
        assert 1 == hub.counters.removed["client"]

    def test_nothing_to_delete(self) -> None:
        assert None is make_hub().delete("p", 0.0)

    def test_the_same_name_begins_anew_beside_those_still_leaving(self) -> None:
        hub = make_hub()
        before = connect(hub, connection_id="before")
        hub.publish("p", text("old"), 0.0)
        old = hub.projects["p"]
        hub.delete("p", 0.0)
        hub.publish("p", text("new"), 0.0)
        after = FakeConnection(hub, "after")
        hub.attach("p", after, resume.missed, 0.0)
        hub.flush(0.0)
        assert ["old"] == [event.data for event in before.events]
        assert ["new"] == [event.data for event in after.events]
        new = hub.projects["p"]
        assert old.epoch != new.epoch
        hub.detach(before, "deleted", 0.0)
        assert new is hub.projects["p"]
        assert [after] == new.connections
        assert (2, 1, 1, 0) == tuple(
            getattr(hub.counters.misses, name) for name in ("misses", "recovered", "lost", "pending")
        )

    def test_an_event_without_a_reader_is_lost(self) -> None:
        hub = make_hub()
        for _ in range(3):
            hub.publish("p", text(), 0.0)
        assert (0, 3) == hub.delete("p", 0.0)
        assert (3, 3, 0) == (hub.counters.misses.misses, hub.counters.misses.lost, hub.counters.misses.pending)
        assert 3 == hub.counters.evicted["deleted"]

    def test_a_store_hears_of_a_new_project(self) -> None:
        hub = make_hub()
        hub.counters.misses.touched = set()
        connect(hub, "q")
        assert {"q"} == hub.counters.misses.touched

    def test_observer_and_store_hear_of_it(self) -> None:
        hub = make_hub()
        hub.counters.misses.touched = set()
        hub.publish("p", text(), 0.0)
        hub.counters.misses.touched.clear()
        hub.delete("p", 0.0)
        observer = hub._observer
        assert isinstance(observer, Recorder)
        assert ["p"] == observer.forgotten
        assert {"p"} == hub.counters.misses.touched


def test_leaving_twice_does_no_harm() -> None:
    hub = make_hub()
    reader = connect(hub)
    hub.detach(reader, "client", 0.0)
    hub.detach(reader, "error", 0.0)
    assert (1, 0) == (hub.counters.removed["client"], hub.counters.removed["error"])


def test_a_project_without_reader_and_event_is_forgotten() -> None:
    hub = make_hub()
    reader = connect(hub)
    assert 1 == hub.connected("p")
    hub.detach(reader, "client", 0.0)
    assert {} == hub.projects
    assert 0 == hub.connected("p")
    observer = hub._observer
    assert isinstance(observer, Recorder)
    assert ["p"] == observer.forgotten


def test_last_connect_and_last_disconnect() -> None:
    hub = make_hub()
    hub.publish("p", text(), 0.0)
    project = hub.projects["p"]
    assert (None, None) == (project.last_connect_seconds, project.last_disconnect)
    reader = FakeConnection(hub, "c")
    hub.attach("p", reader, resume.nothing, 3.0)
    hub.detach(reader, "client", 4.0)
    assert (3.0, (4.0, "client")) == (project.last_connect_seconds, project.last_disconnect)


def test_draining_hands_over_what_is_there_and_takes_nothing_new() -> None:
    hub = make_hub()
    reader = connect(hub)
    hub.publish("p", text(), 0.0)
    hub.drain(0.0)
    assert [1] == reader.seqs
    assert ["shutdown"] == [closing["reason"] for closing in reader.controls("closing")]
    with pytest.raises(Draining) as publishing:
        hub.publish("p", text(), 0.0)
    with pytest.raises(Draining) as connecting:
        connect(hub, connection_id="late")
    assert [1, 1] == [refused.value.retry_after_seconds for refused in (publishing, connecting)]
    assert 1 == hub.counters.rejected["draining"]


def test_draining_in_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "FLUSH_BUDGET", 2)
    hub = make_hub()
    readers = [connect(hub, connection_id=str(number)) for number in range(5)]
    hub.publish("p", text(), 0.0)
    hub.drain(0.0)
    assert [[1]] * 5 == [reader.seqs for reader in readers]


class TestAdmission:
    @pytest.mark.parametrize(
        ("limits", "code", "key"),
        [
            ({"max_connections": 2}, "too_many_connections", "limits.max_connections"),
            (
                {"max_connections_per_project": 2},
                "too_many_project_connections",
                "limits.max_connections_per_project",
            ),
            (
                {"max_connections_per_address": 2},
                "too_many_address_connections",
                "limits.max_connections_per_address",
            ),
        ],
    )
    def test_one_more_than_allowed_is_refused_until_one_leaves(
        self, limits: dict[str, int], code: str, key: str
    ) -> None:
        hub = make_hub(**limits)
        first, _ = connect(hub, connection_id="1"), connect(hub, connection_id="2")
        with pytest.raises(LimitReached) as refused:
            connect(hub, connection_id="3")
        assert code == refused.value.code
        assert refused.value.detail.startswith(f"{key} is 2 ")
        assert {"limit": 2} == refused.value.fields
        assert 5 == refused.value.retry_after_seconds
        assert 1 == hub.counters.rejected[code]
        assert ["1", "2"] == list(hub.connections)
        hub.detach(first, "client", 0.0)
        connect(hub, connection_id="4")

    def test_one_more_project_than_allowed_is_refused_to_both(self) -> None:
        hub = make_hub(max_projects=1)
        hub.publish("p", text(), 0.0)
        with pytest.raises(LimitReached) as publishing:
            hub.publish("q", text(), 0.0)
        with pytest.raises(LimitReached) as connecting:
            connect(hub, "q")
        assert ["too_many_projects"] * 2 == [refused.value.code for refused in (publishing, connecting)]
        assert 2 == hub.counters.rejected["too_many_projects"]
        connect(hub, "p")

    def test_who_was_turned_away_elsewhere_is_counted_here(self) -> None:
        hub = make_hub()
        hub.refused("too_many_connections", "::1", 0.0)
        observer = hub._observer
        assert isinstance(observer, Recorder)
        assert (1, {"too_many_connections": 1}) == (hub.counters.rejected["too_many_connections"], observer.limits)

    def test_no_limit_of_an_address_unless_there_is_one(self) -> None:
        hub = make_hub()
        for number in range(20):
            connect(hub, connection_id=str(number))
        assert {"::/64": 20} == hub._admission._addresses


def test_a_failing_flush_holds_up_no_other_project(monkeypatch: pytest.MonkeyPatch) -> None:
    hub = make_hub()
    broken, sound = connect(hub, "p", "a"), connect(hub, "q", "b")
    flush = Project.flush

    def fail_for_p(project: Project, now: float, budget: int) -> int:
        return 1 // 0 if project.name == "p" else flush(project, now, budget)

    monkeypatch.setattr(Project, "flush", fail_for_p)
    for name in ("p", "q"):
        hub.publish(name, text(), 0.0)
    woken_times = woken(hub).times
    with pytest.raises(ZeroDivisionError):
        hub.flush(0.0)
    assert woken_times + 1 == woken(hub).times, "the rest is still to do"
    assert not hub.flush(0.0)
    assert [1] == sound.seqs
    monkeypatch.undo()
    hub.publish("p", text(), 0.0)
    assert woken_times + 2 == woken(hub).times, "its next event asks again"
    assert not hub.flush(0.0)
    assert [1, 2] == broken.seqs


@pytest.mark.parametrize("broken", ["refresh", "moved_bytes"])
def test_a_connection_that_raises_in_a_tick_costs_no_other_its_heartbeat(broken: str) -> None:
    hub = make_hub(heartbeat_seconds=15)
    connections = [connect(hub, connection_id=str(number)) for number in range(100)]

    def raising() -> int:
        raise LookupError("unforeseen")

    setattr(connections[10], broken, raising)
    others = connections[:10] + connections[11:]
    for now in (16.0, 32.0):
        before = [connection.writes for connection in others]
        tick(hub, now)
        assert [writes + 1 for writes in before] == [connection.writes for connection in others]
    assert (True, "error") == (connections[10].aborted, connections[10].leaving)
    observer = hub._observer
    assert isinstance(observer, Recorder)
    assert {("tick", LookupError)} == {(task, type(error)) for task, error in observer.failures}


def test_a_project_that_raises_in_a_tick_costs_no_other_its_expiry(monkeypatch: pytest.MonkeyPatch) -> None:
    hub = make_hub(max_age_seconds=10)
    for name in ("a", "b", "c"):
        hub.publish(name, text(), 0.0)
    evict = Project.evict

    def raising(project: Project, count: int, reason: str, now: float) -> None:
        if project.name == "b":
            raise LookupError("unforeseen")
        evict(project, count, reason, now)

    monkeypatch.setattr(Project, "evict", raising)
    tick(hub, 11.0)
    assert ["b"] == list(hub.projects)
    monkeypatch.undo()
    tick(hub, 40.0)
    assert [] == list(hub.projects)
