"""Ends of many streams: in slices, each after it was written what is there. And finished projects, and observers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from edge.core import resume
from edge.core.closing import CLOSE_BUDGET
from edge.core.errors import LimitReached
from edge.core.hub import Hub
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
    assert {reason} == {reader.told("closing")[0]["reason"] for reader in readers}


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
        assert ["finished"] * 2 == [each.told("closing")[0]["reason"] for each in (reader, slow)]

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
