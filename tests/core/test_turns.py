"""Ends of many streams: in slices, each after it was written what is there. And finished projects, and observers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from edge.core import resume, retention, timers, turns
from edge.core.errors import LimitReached
from edge.core.hub import Hub
from edge.core.project import BYTES_A_UNIT
from edge.core.turns import CLOSE_BUDGET, LOST_BUDGET
from tests.core.fakes import FakeConnection, Recorder, make_hub, text, woken

MANY = 3 * CLOSE_BUDGET + 1


def connect(hub: Hub, connection_id: str, name: str = "p", **options: Any) -> FakeConnection:
    reader = FakeConnection(hub, connection_id, **options)
    hub.attach(name, reader, resume.missed, 0.0)
    return reader


def closed(readers: list[FakeConnection]) -> int:
    return sum(reader.finished for reader in readers)


def flush(hub: Hub) -> None:
    while hub.flush(0.0):
        pass


def delete(hub: Hub) -> None:
    assert (MANY, 1) == hub.delete("p", 0.0)


@pytest.mark.parametrize(("end", "reason"), [(delete, "deleted"), (lambda hub: hub.drain(0.0), "shutdown")])
def test_many_streams_are_closed_a_slice_a_turn(end: Callable[[Hub], None], reason: str) -> None:
    hub = make_hub()
    readers = [connect(hub, str(number)) for number in range(MANY)]
    hub.publish("p", text(), 0.0)
    end(hub)
    before = closed(readers)
    assert before <= CLOSE_BUDGET
    while closed(readers) < MANY:
        turns = woken(hub).times
        hub.flush(0.0)
        assert before < closed(readers) <= before + CLOSE_BUDGET
        before = closed(readers)
        assert before == MANY or woken(hub).times == turns + 1, "one more turn is asked for, and no more"
    assert [[1]] * MANY == [reader.seqs for reader in readers]
    assert {reason} == {reader.controls("closing")[0]["reason"] for reader in readers}


def test_a_project_that_is_being_deleted_is_gone_at_once_and_lost_when_its_streams_are_closed() -> None:
    hub = make_hub()
    observer = hub._observer
    assert isinstance(observer, Recorder)
    for number in range(MANY):
        connect(hub, str(number))
    hub.publish("p", text(), 0.0)
    hub.delete("p", 0.0)
    assert {} == hub.projects
    assert 0 == hub.publish("p", text("new"), 0.0).connections
    flush(hub)
    assert ["p"] == observer.forgotten
    assert {"deleted": 1} == {reason: count for reason, count in hub.counters.evicted.items() if count}
    assert (1, 0, 0, 1) == tuple(
        getattr(hub.counters.misses, name) for name in ("misses", "recovered", "lost", "pending")
    )


def test_an_error_in_one_stream_does_not_keep_the_others_open() -> None:
    hub = make_hub()
    readers = [connect(hub, str(number)) for number in range(3)]
    readers[1].finish = lambda: 1 / 0  # type: ignore[assignment,method-assign]
    hub.drain(0.0)
    assert [True, False, True] == [reader.finished for reader in readers]
    assert readers[1].aborted


class TestFinished:
    def test_streams_end_once_they_have_the_last_event(self) -> None:
        hub = make_hub()
        reader, slow = connect(hub, "a"), FakeConnection(hub, "slow")
        slow.stall(0)
        hub.attach("p", slow, resume.missed, 0.0)
        hub.publish("p", text(final=True), 0.0)
        flush(hub)
        assert ([1], True, False) == (reader.seqs, reader.finished, slow.finished)
        slow.drain()
        assert ([1], True) == (slow.seqs, slow.finished)
        assert ["finished"] * 2 == [each.controls("closing")[0]["reason"] for each in (reader, slow)]

    def test_what_is_left_is_replayed_and_with_nothing_left_it_is_over(self) -> None:
        hub = make_hub()
        hub.publish("p", text(), 0.0)
        hub.publish("p", text(final=True), 0.0)
        assert not hub.is_over("p", resume.missed)
        reader = connect(hub, "a")
        assert ([1, 2], True) == (reader.seqs, reader.finished)
        for start in (resume.missed, resume.nothing, lambda known: resume.after_id(known, "boot1-2")):
            assert hub.is_over("p", start)
        assert not hub.is_over("p", lambda known: resume.after_id(known, "boot1-1"))
        assert not hub.is_over("p", lambda known: resume.after_id(known, "old-1"))
        assert not hub.is_over("other", resume.missed)

    def test_publishing_opens_it_again(self) -> None:
        hub = make_hub()
        hub.publish("p", text(final=True), 0.0)
        hub.publish("p", text(), 0.0)
        assert not hub.is_over("p", lambda known: resume.after_id(known, "boot1-2"))
        assert not connect(hub, "a").finished

    def test_one_that_was_opened_again_before_its_streams_ended_goes_on(self) -> None:
        hub = make_hub()
        readers = [connect(hub, str(number)) for number in range(2 * CLOSE_BUDGET)]
        hub.publish("p", text(final=True), 0.0)
        hub.flush(0.0)
        hub.publish("p", text(), 0.0)
        flush(hub)
        assert CLOSE_BUDGET == closed(readers)
        assert [[1, 2]] * CLOSE_BUDGET == [reader.seqs for reader in readers if not reader.finished]

    def test_it_stays_finished_when_its_events_have_expired(self) -> None:
        hub = make_hub(max_age_seconds=10.0)
        hub.publish("p", text(final=True), 0.0)
        assert None is hub.project("p", 20.0)
        assert hub.is_over("p", lambda known: resume.after_id(known, "boot1-1"))
        assert connect(hub, "a").finished


class TestObservers:
    def test_they_see_everything_and_count_as_nothing(self) -> None:
        hub = make_hub(heartbeat_seconds=16.0)
        looker = connect(hub, "looker", observes=True)
        assert (0, True) == (hub.publish("p", text(), 0.0).connections, hub.projects["p"].ledger.pending.size == 1)
        hub.flush(0.0)
        hub.tick(40.0)
        assert [1] == looker.seqs
        counters = hub.counters
        assert (0, 0, 0, 0) == (counters.added, counters.delivered, counters.replayed, counters.heartbeats)
        assert (1, 0, 0) == (counters.misses.misses, counters.misses.recovered, hub.connected("p"))
        reader = connect(hub, "reader")
        assert [1] == reader.seqs
        hub.detach(looker, "client", 41.0)
        assert 0 == sum(counters.removed.values())

    def test_what_only_an_observer_has_is_missed(self) -> None:
        hub = make_hub()
        connect(hub, "looker", observes=True)
        reader = connect(hub, "reader")
        hub.publish("p", text(), 0.0)
        hub.flush(0.0)
        hub.detach(reader, "dead", 0.0)
        assert 1 == hub.projects["p"].ledger.pending.size

    def test_they_are_bounded_like_connections(self) -> None:
        hub = make_hub(max_connections=1)
        connect(hub, "looker", observes=True)
        with pytest.raises(LimitReached):
            hub.admit("p", "::1", 0.0)


class Work:
    """What the hub has done: looks at transports, writes and ends of connections, events and projects evicted."""

    def __init__(self, hub: Hub, readers: list[FakeConnection], monkeypatch: pytest.MonkeyPatch) -> None:
        self.hub, self.readers = hub, readers
        self.looks = 0
        recorder = hub._observer
        assert isinstance(recorder, Recorder)
        self.recorder = recorder
        moved_bytes = FakeConnection.moved_bytes

        def look(connection: FakeConnection) -> int:
            self.looks += 1
            return moved_bytes(connection)

        monkeypatch.setattr(FakeConnection, "moved_bytes", look)

    def done(self) -> Counter[str]:
        return Counter(
            writes=sum(reader.writes for reader in self.readers),
            ends=sum(reader.finished + reader.aborted for reader in self.readers),
            looks=self.looks,
            events=sum(self.hub.counters.evicted.values()),
            projects=len(self.recorder.forgotten),
        )

    def bounded(self, step: Callable[[], object]) -> bool:
        """Do a step within the budgets of a turn. Returns whether it did anything."""
        before = self.done()
        step()
        did = self.done() - before
        assert did["ends"] <= 2 * CLOSE_BUDGET, did
        assert did["writes"] <= turns.FLUSH_BUDGET + turns.AHEAD_BUDGET + 3 * CLOSE_BUDGET, did
        assert did["looks"] <= 3 * timers.TICK_BUDGET, did
        assert did["events"] <= 2 * timers.EXPIRE_BUDGET, did
        assert did["projects"] <= 2 * retention.ROOM_BUDGET + timers.TICK_BUDGET, did
        return bool(did)


def burst(hub: Hub) -> None:
    for number in range(25):
        hub.publish("p", text(str(number)), 0.0)


CROWD = 2 * timers.TICK_BUDGET + 10


@pytest.mark.parametrize(
    ("end", "now", "reason"),
    [
        (lambda hub: hub.delete("p", 0.0), 0.0, "deleted"),
        (lambda hub: hub.drain(0.0), 0.0, "shutdown"),
        (lambda hub: hub.close_all(hub.projects["p"], "restart", 0.0), 0.0, "restart"),
        (lambda hub: hub.publish("p", text(final=True), 0.0), 0.0, "finished"),
        (lambda hub: None, 100.0, "expired"),
        (burst, 0.0, None),
    ],
)
def test_no_turn_works_for_all_streams(
    end: Callable[[Hub], object], now: float, reason: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counts work, never time: with any number of streams a turn does at most its budget."""
    hub = make_hub(max_events=10, heartbeat_seconds=1000.0)
    readers = [connect(hub, str(at), ends_at_seconds=100.0, ends_reason="expired") for at in range(CROWD)]
    work = Work(hub, readers, monkeypatch)
    work.bounded(lambda: end(hub))
    while work.bounded(lambda: hub.tick(now)) | work.bounded(lambda: hub.flush(now)):
        assert all(len(project.ring) <= 2 * hub.limits.max_events for project in hub.projects.values())
    if reason is not None:
        assert {reason} == {reader.controls("closing")[0]["reason"] for reader in readers}
    else:
        outcomes = {(tuple(reader.seqs), *(gap["lost"] for gap in reader.controls("gap"))) for reader in readers}
        assert all(len(seqs) + sum(lost) == 25 for seqs, *lost in outcomes), outcomes
        assert len(hub.projects["p"].ring) == hub.limits.max_events
    assert not work.recorder.failures


def test_a_burst_that_fits_twice_into_the_ring_reaches_every_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "AHEAD_BUDGET", 4)
    hub = make_hub(max_events=10)
    readers = [connect(hub, str(at)) for at in range(50)]
    for _ in range(20):
        for _ in range(9):
            hub.publish("p", text(), 0.0)
        assert hub.is_crowded("p") == (len(hub.projects["p"].ring) > 10)
        flush(hub)
        assert not hub.is_crowded("p")
    assert [list(range(1, 181))] * 50 == [reader.seqs for reader in readers]
    assert 10 == len(hub.projects["p"].ring)


def test_stalled_streams_are_looked_at_and_aborted_in_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    hub = make_hub(dead_after_seconds=10.0, heartbeat_seconds=1000.0)
    readers = [connect(hub, str(at)) for at in range(CROWD)]
    work = Work(hub, readers, monkeypatch)
    for reader in readers:
        reader.stall(0)
    hub.publish("p", text(), 0.0)
    flush(hub)
    assert len(hub._ticker.paused) == CROWD
    for now in (1.0, 12.0):
        looks, more = work.looks, True
        while more:
            more = False
            work.bounded(lambda now=now: more_of(hub, now))  # type: ignore[misc]
            more = bool(hub._ticker._look_at) or bool(hub._closing)
        assert work.looks >= looks + CROWD, "each is looked at once a tick"
    assert all(reader.aborted for reader in readers)
    assert {"slow"} == {reader.leaving for reader in readers}


def more_of(hub: Hub, now: float) -> None:
    hub.tick(now)
    hub.flush(now)


def test_events_expire_and_make_room_in_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    projects = 2 * timers.TICK_BUDGET
    hub = make_hub(max_age_seconds=10.0, max_events=100_000, max_bytes=1 << 30, total_bytes=1 << 24)
    work = Work(hub, [], monkeypatch)
    for number in range(projects):
        hub.publish(f"small-{number}", text(), 0.0)
    # An event as large as all of them.
    hub.limits.total_bytes = hub.counters.ring_memory_bytes + 1
    hub.limits.max_bytes = hub.limits.total_bytes
    large_bytes = projects * 80
    assert work.bounded(lambda: hub.publish("large", text("x" * (large_bytes // 40)), 0.0))
    while work.bounded(lambda: hub.flush(0.0)):
        pass
    assert hub.counters.ring_memory_bytes <= hub.limits.total_bytes
    hub.limits.total_bytes = 1 << 40
    hub.publish_many("many", [text()] * 99_999, 0.0)
    while work.bounded(partial(hub.tick, 30.0)):
        pass
    assert (0, {}) == (hub.counters.ring_events, hub.projects)
    hub.publish_many("many", [text()] * 99_999, 40.0)
    work.bounded(lambda: hub.delete("many", 40.0))
    while work.bounded(lambda: hub.flush(40.0)):
        pass
    assert (0, 0) == (hub.counters.ring_events, hub.counters.misses.pending)


def test_a_turn_writes_to_fewer_connections_when_each_is_written_much() -> None:
    hub = make_hub(max_events=1000, max_bytes=1 << 30)
    readers = [connect(hub, str(number)) for number in range(turns.FLUSH_BUDGET)]
    hub.publish_many("p", [text("x" * 1000)] * 60, 0.0)
    written = sum(len(reader.wire) for reader in readers)
    while any(reader.cursor < 60 for reader in readers):
        hub.flush(0.0)
        before, written = written, sum(len(reader.wire) for reader in readers)
        assert 0 < written - before <= turns.FLUSH_BUDGET * BYTES_A_UNIT
    assert [[*range(1, 61)]] * len(readers) == [reader.seqs for reader in readers]


def test_many_lost_connections_are_detached_a_slice_a_turn() -> None:
    hub = make_hub()
    readers = [connect(hub, str(number)) for number in range(3 * LOST_BUDGET + 1)]
    for reader in readers:
        hub.lost(reader, "client", 0.0)
    left = [len(readers) - LOST_BUDGET]
    assert left == [len(hub.connections)]
    hub.publish("p", text(), 0.0)
    while hub.connections:
        turns_wanted = woken(hub).times
        hub.flush(0.0)
        left.append(len(hub.connections))
        assert woken(hub).times > turns_wanted or not hub.connections
    assert [2 * LOST_BUDGET + 1, LOST_BUDGET + 1, 1, 0] == left
    assert 0 == sum(len(reader.seqs) for reader in readers)
    assert (len(readers), 1) == (hub.counters.removed["client"], hub.counters.misses.misses)
    again = connect(hub, "again")
    hub.flush(0.0)
    hub.lost(again, "client", 0.0)
    assert (0, [1]) == (len(hub.connections), again.seqs)
