"""What is a miss, and what becomes of it: situations by name, and the corners of the ledger."""

from __future__ import annotations

import msgspec
import pytest

from edge.core import resume
from edge.core.hub import Hub
from edge.core.intervals import Intervals, Run
from edge.core.ledger import Absence, Ledger, LedgerState, MissTotals
from tests.core.fakes import UNLIMITED, FakeConnection, Recorder, make_hub, text


def publish(hub: Hub, count: int = 1, now: float = 0.0) -> None:
    for _ in range(count):
        hub.publish("p", text(), now)
    while hub.flush(now):
        pass


def connect(
    hub: Hub, connection_id: str, start: str = "none", room_bytes: int = UNLIMITED, now: float = 0.0
) -> FakeConnection:
    connection = FakeConnection(hub, connection_id, now)
    connection.stall(room_bytes)
    starts = {"none": resume.nothing, "missed": resume.missed, "all": resume.everything}
    hub.attach("p", connection, starts[start], now)
    return connection


def numbers(hub: Hub) -> tuple[int, int, int, int]:
    """Misses, recovered, lost, pending: of the project, which must be those of the hub."""
    ledger, total = hub.projects["p"].ledger, hub.counters.misses
    found = (ledger.misses, ledger.recovered, ledger.lost, len(ledger.pending))
    assert found == (total.misses, total.recovered, total.lost, total.pending)
    return found


def missed(hub: Hub) -> list[tuple[str, str, int]]:
    observer = hub._observer
    assert isinstance(observer, Recorder)
    return observer.removed


def test_event_missed_then_recovered() -> None:
    hub = make_hub()
    publish(hub, 3)
    assert (3, 0, 0, 3) == numbers(hub)
    reader = connect(hub, "a", "missed")
    assert [1, 2, 3] == reader.seqs
    assert (3, 3, 0, 0) == numbers(hub)


def test_event_missed_then_evicted() -> None:
    hub = make_hub(max_events=2)
    publish(hub, 5)
    assert (5, 0, 3, 2) == numbers(hub)


def test_written_to_one_that_was_lost_before_its_peer_acknowledged() -> None:
    hub = make_hub()
    reader = connect(hub, "a")
    publish(hub, 2)
    publish(hub, 1)
    reader.acknowledge(reader.ends[-2])
    hub.detach(reader, "dead", 0.0)
    assert [("a", "dead", 1)] == missed(hub)
    assert (1, 0, 0, 1) == numbers(hub)
    assert [3] == connect(hub, "b", "missed").seqs
    assert (1, 1, 0, 0) == numbers(hub)


def test_a_batch_acknowledged_in_part_counts_as_not_acknowledged() -> None:
    hub = make_hub()
    reader = connect(hub, "a")
    for _ in range(3):
        hub.publish("p", text(), 0.0)
    hub.flush(0.0)
    reader.acknowledge(len(reader.wire) - 1)
    hub.detach(reader, "dead", 0.0)
    assert (3, 0, 0, 3) == numbers(hub)


def test_recovered_and_lost_again_is_missed_once_more() -> None:
    hub = make_hub()
    publish(hub)
    hub.detach(connect(hub, "a", "missed"), "dead", 0.0)
    assert (2, 1, 0, 1) == numbers(hub)


def test_another_that_was_written_it_has_it() -> None:
    hub = make_hub()
    lost, there = connect(hub, "a"), connect(hub, "b")
    publish(hub, 2)
    hub.detach(lost, "dead", 0.0)
    assert (0, 0, 0, 0) == numbers(hub)
    hub.detach(there, "dead", 0.0)
    assert (2, 0, 0, 2) == numbers(hub)


def test_another_that_came_later_has_it_not() -> None:
    hub = make_hub()
    lost = connect(hub, "a")
    publish(hub, 2)
    later = connect(hub, "b")
    publish(hub, 1)
    hub.detach(lost, "dead", 0.0)
    assert (2, 0, 0, 2) == numbers(hub)
    assert [3] == later.seqs


def test_another_that_will_get_it_still_has_time() -> None:
    hub = make_hub()
    lost, slow = connect(hub, "a"), connect(hub, "b", room_bytes=0)
    publish(hub, 2)
    hub.detach(lost, "dead", 0.0)
    assert (0, 0, 0, 0) == numbers(hub)
    slow.drain()
    assert [1, 2] == slow.seqs
    assert (0, 0, 0, 0) == numbers(hub)


def test_another_that_would_have_got_it_before_it_was_evicted() -> None:
    hub = make_hub(max_events=2)
    lost, slow = connect(hub, "a"), connect(hub, "b", room_bytes=0)
    publish(hub, 2)
    hub.detach(lost, "dead", 0.0)
    keeps_up = connect(hub, "c")
    publish(hub, 2)
    assert (2, 0, 2, 0) == numbers(hub)
    assert [3, 4] == keeps_up.seqs
    slow.drain()
    assert [3, 4] == slow.seqs


def test_evicted_before_the_only_one_that_had_it_was_lost() -> None:
    hub = make_hub(max_events=2)
    reader = connect(hub, "a")
    publish(hub, 5)
    assert (0, 0, 0, 0) == numbers(hub)
    hub.detach(reader, "dead", 0.0)
    assert (5, 0, 3, 2) == numbers(hub)


def test_evicted_and_lost_while_another_is_behind_the_ring() -> None:
    """The slow one covers the numbers, but can't get the events any more: they belong to no connection."""
    hub = make_hub(max_events=2)
    quick, slow = connect(hub, "a"), connect(hub, "b", room_bytes=0)
    publish(hub, 5)
    hub.detach(quick, "dead", 0.0)
    assert (3, 0, 3, 0) == numbers(hub)
    slow.drain()
    assert [4, 5] == slow.seqs
    assert [3] == [gap["lost"] for gap in slow.controls("gap")]


def test_waiting_for_room_and_evicted() -> None:
    hub = make_hub(max_events=2)
    slow = connect(hub, "a", room_bytes=0)
    publish(hub, 5)
    assert (3, 0, 3, 0) == numbers(hub)
    hub.detach(slow, "slow", 0.0)
    assert (5, 0, 3, 2) == numbers(hub)


def test_a_pending_event_stays_pending_until_it_is_written() -> None:
    hub = make_hub()
    publish(hub, 2)
    reader = connect(hub, "a", "missed", room_bytes=0)
    assert (2, 0, 0, 2) == numbers(hub)
    hub.detach(reader, "client", 0.0)
    assert (2, 0, 0, 2) == numbers(hub)


def test_acknowledged_by_one_that_left_is_received_for_good() -> None:
    hub = make_hub()
    first, second = connect(hub, "a"), connect(hub, "b")
    publish(hub, 3)
    first.acknowledge()
    hub.detach(first, "client", 0.0)
    hub.detach(second, "dead", 0.0)
    assert (0, 0, 0, 0) == numbers(hub)
    assert [] == connect(hub, "c", "missed").seqs


def test_acknowledged_by_one_that_has_fallen_out_since() -> None:
    hub = make_hub(max_events=2)
    slow, quick = connect(hub, "a"), connect(hub, "b")
    publish(hub, 2)
    slow.acknowledge()
    slow.stall(-1)
    hub.paused(slow, 0.0)
    publish(hub, 4)
    slow.drain()
    assert [1, 2, 5, 6] == slow.seqs
    assert 4 == slow.start
    hub.detach(quick, "dead", 0.0)
    assert (2, 0, 2, 0) == numbers(hub), "only what the slow one fell out of belongs to no connection"


def test_unflushed_events_of_the_last_reader_are_missed() -> None:
    hub = make_hub()
    reader = connect(hub, "a")
    for _ in range(3):
        hub.publish("p", text(), 0.0)
    hub.detach(reader, "client", 0.0)
    assert (3, 0, 0, 3) == numbers(hub)
    assert [("a", "client", 3)] == missed(hub)


class TestUnreportedLosses:
    """The first reader who asks for what was missed gets a gap with how much of that is lost; it is reported once."""

    def test_reported_once(self) -> None:
        hub = make_hub(max_events=2)
        publish(hub, 5)
        first, second = connect(hub, "a", "missed"), connect(hub, "b", "missed")
        assert [("missed", "evicted", 3)] == [
            (gap["asked"], gap["reason"], gap["lost"]) for gap in first.controls("gap")
        ]
        assert [4, 5] == first.seqs
        assert ([], []) == (second.controls("gap"), second.seqs)

    def test_a_gap_with_an_empty_ring(self) -> None:
        hub = make_hub(max_age_seconds=10.0)
        connect(hub, "paused", room_bytes=0)
        publish(hub, 2)
        late = FakeConnection(hub, "late", 20.0)
        hub.attach("p", late, resume.missed, 20.0)
        assert [2] == [gap["lost"] for gap in late.controls("gap")]
        assert {"oldest": None, "newest": None} == {
            name: late.controls("gap")[0][name] for name in ("oldest", "newest")
        }

    def test_later_losses_are_reported_next(self) -> None:
        hub = make_hub(max_events=2)
        publish(hub, 3)
        first = connect(hub, "a", "missed")
        first.acknowledge(1)
        hub.detach(first, "dead", 0.0)
        publish(hub, 4)
        assert [4] == [gap["lost"] for gap in connect(hub, "b", "missed").controls("gap")]

    @pytest.mark.parametrize(
        ("acked_bytes", "reset", "again"),
        [(0, False, [3]), (1, False, []), (UNLIMITED, False, []), (UNLIMITED, True, [3])],
    )
    def test_what_never_reached_its_peer_is_reported_again(
        self, acked_bytes: int, reset: bool, again: list[int]
    ) -> None:
        hub = make_hub(max_events=2)
        publish(hub, 5)
        reader = connect(hub, "a", "missed")
        reader.acknowledge(acked_bytes)
        hub.detach(reader, "client", 0.0, reset=reset)
        back = connect(hub, "b", "missed")
        assert again == [gap["lost"] for gap in back.controls("gap")]

    def test_losses_of_several_unread_gaps_are_reported_again_together(self) -> None:
        hub = make_hub(max_events=2)
        publish(hub, 3)
        slow = connect(hub, "slow", "missed", room_bytes=0)
        publish(hub, 4)
        slow.drain()
        assert [1, 4] == [gap["lost"] for gap in slow.controls("gap")]
        hub.detach(slow, "dead", 0.0)
        assert [5] == [gap["lost"] for gap in connect(hub, "b", "missed").controls("gap")]

    @pytest.mark.parametrize(("asked", "gap_again"), [("all", []), (0, []), (2, [3])])
    def test_a_gap_that_covers_everything(self, asked: str | int, gap_again: list[int]) -> None:
        hub = make_hub(max_events=2)
        publish(hub, 5)
        other = FakeConnection(hub, "a")
        epoch = hub.projects["p"].epoch
        if isinstance(asked, int):
            hub.attach("p", other, lambda project: resume.after_id(project, f"{epoch}-{asked}"), 0.0)
        else:
            hub.attach("p", other, resume.everything, 0.0)
        assert 1 == len(other.controls("gap"))
        assert gap_again == [gap["lost"] for gap in connect(hub, "b", "missed").controls("gap")]

    def test_a_gap_of_another_kind(self) -> None:
        hub = make_hub(max_events=2)
        publish(hub, 5)
        for number, asked in enumerate(("elsewhere-1", "garbage")):
            reader = FakeConnection(hub, str(number))
            hub.attach("p", reader, lambda project, asked=asked: resume.after_id(project, asked), 0.0)  # type: ignore[misc]
        young = FakeConnection(hub, "young")
        hub.attach("p", young, lambda project: resume.younger_than(project, "1h", 3600.0, 0.0), 0.0)
        assert [None] == [gap["lost"] for gap in young.controls("gap")]
        assert [3] == [gap["lost"] for gap in connect(hub, "b", "missed").controls("gap")]

    def test_a_slow_subscriber_gets_a_gap_and_the_next_does_not(self) -> None:
        hub = make_hub(max_events=2)
        slow = connect(hub, "a", room_bytes=0)
        publish(hub, 5)
        slow.drain()
        assert [3] == [gap["lost"] for gap in slow.controls("gap")]
        assert [] == connect(hub, "b", "missed").controls("gap")

    def test_a_slow_subscriber_does_not_report_events_it_skipped(self) -> None:
        hub = make_hub(max_events=4)
        publish(hub, 1)
        with_it = connect(hub, "with it", "missed")
        publish(hub, 1)
        hub.detach(with_it, "dead", 0.0)
        publish(hub, 1)
        there = connect(hub, "there")
        slow = FakeConnection(hub, "slow")
        slow.stall()
        hub.attach("p", slow, resume.nothing, 0.0)
        assert [(1, 3)] == list(hub.projects["p"].ledger.pending)
        publish(hub, 7)
        slow.drain()
        assert [3] == [gap["lost"] for gap in slow.controls("gap")]
        assert [3] == [gap["lost"] for gap in connect(hub, "b", "missed").controls("gap")]
        assert 7 == len(there.seqs)


class Reader:
    """A connection as the ledger sees it."""

    def __init__(self, start: int, cursor: int, skips: list[Run] | None = None) -> None:
        self.start = start
        self.cursor = cursor
        self.skips = None if skips is None else Intervals(skips)


def test_knowledge_of_what_was_received_is_bounded_and_errs_towards_a_miss() -> None:
    ledger = Ledger(MissTotals(), "p", 1000)
    for number in range(100):
        ledger.acknowledged(10 * number, 10 * number)
    assert 64 == len(list(ledger._received))
    assert 1 == ledger.disconnected([], [(350, 350)], [], [], oldest=1, newest=1000, now=0.0)
    assert 0 == ledger.disconnected([], [(370, 370)], [], [], oldest=1, newest=1000, now=0.0)


@pytest.mark.parametrize(
    ("others", "missed_runs"),
    [
        ([], [(5, 9)]),
        ([Reader(4, 9)], []),
        ([Reader(0, 7)], [(8, 9)]),
        ([Reader(6, 9)], [(5, 6)]),
        ([Reader(4, 9, [(6, 7)])], [(6, 7)]),
        ([Reader(4, 9, [(6, 9)]), Reader(7, 9)], [(6, 7)]),
        ([Reader(9, 9)], [(5, 9)]),
        ([Reader(0, 4)], [(5, 9)]),
        ([Reader(5, 5), Reader(4, 5, [(5, 5)]), Reader(6, 8)], [(5, 6), (9, 9)]),
    ],
)
def test_who_else_was_written_what_is_evicted(others: list[Reader], missed_runs: list[Run]) -> None:
    """Events 5 to 9, no longer held: only who was written them has them."""
    totals = MissTotals()
    ledger = Ledger(totals, "p")
    ledger.delivered(1, 9)
    count = sum(hi - lo + 1 for lo, hi in missed_runs)
    assert count == ledger.disconnected([(1, 4)], [(5, 9)], [], others, oldest=10, newest=9, now=3.0)
    assert (count, count, 0) == (totals.misses, totals.lost, totals.pending)
    assert (missed_runs[0][0] if missed_runs else None) == ledger.unreported_from


@pytest.mark.parametrize(
    ("others", "pending", "waiting"),
    [
        ([], [(5, 9)], []),
        ([Reader(0, 4)], [], [(5, 9)]),
        ([Reader(6, 6)], [(5, 6)], [(7, 9)]),
        ([Reader(0, 7, [(8, 8)])], [(8, 8)], [(9, 9)]),
        ([Reader(4, 4, [(5, 8)]), Reader(4, 4, [(7, 9)])], [(7, 8)], [(5, 6), (9, 9)]),
    ],
)
def test_who_else_will_get_what_is_held(others: list[Reader], pending: list[Run], waiting: list[Run]) -> None:
    ledger = Ledger(MissTotals(), "p")
    ledger.delivered(1, 9)
    ledger.disconnected([], [(5, 9)], [], others, oldest=1, newest=9, now=3.0)
    assert pending == list(ledger.pending)
    assert waiting == list(ledger._waiting)
    ledger.evicted(1, 9, 4.0)
    assert sum(hi - lo + 1 for lo, hi in pending + waiting) == ledger.lost


def test_events_between_two_writes_wait() -> None:
    ledger = Ledger(MissTotals(), "p")
    ledger.delivered(4, 5)
    assert [(1, 3)] == list(ledger._waiting)
    ledger.delivered(2, 2)
    assert [(1, 1), (3, 3)] == list(ledger._waiting)
    ledger.evicted(1, 2, 0.0)
    assert (1, 1) == (ledger.misses, ledger.lost)


def test_times_of_the_first_and_the_last_miss() -> None:
    ledger = Ledger(MissTotals(), "p")
    assert (None, None) == (ledger.first_miss_seconds, ledger.last_miss_seconds)
    ledger.event_missed(1, 5.0)
    ledger.event_missed(2, 9.0)
    ledger.delivered(1, 2)
    assert (5.0, 9.0) == (ledger.first_miss_seconds, ledger.last_miss_seconds)


class TestAbsence:
    """A time without readers, as the first one who comes ends it."""

    def test_nothing_missed(self) -> None:
        assert None is Ledger(MissTotals(), "p").absence_ends()

    def test_what_was_missed_and_got(self) -> None:
        ledger = Ledger(MissTotals(), "p")
        ledger.event_missed(1, 5.0)
        ledger.event_missed(2, 6.0)
        ledger.delivered(2, 2)
        assert Absence(5.0, 2, 1) == ledger.absence_ends()
        assert None is ledger.absence_ends()

    def test_what_went_with_the_last_reader_counts(self) -> None:
        ledger = Ledger(MissTotals(), "p")
        ledger.delivered(1, 4)
        ledger.disconnected([], [(3, 4)], [], [], oldest=1, newest=4, now=7.0)
        ledger.event_missed(5, 9.0)
        ledger.delivered(3, 5)
        assert Absence(7.0, 3, 3) == ledger.absence_ends()


class TestBetweenProcesses:
    def test_a_ledger_goes_on_where_it_was_left(self) -> None:
        before = Ledger(MissTotals(), "p")
        for seq in range(1, 7):
            before.event_missed(seq, float(seq))
        before.delivered(2, 3)
        before.evicted(1, 1, 9.0)
        state = msgspec.json.decode(msgspec.json.encode(before.state(8)), type=LedgerState)
        assert LedgerState(6, 2, 1, 1, 1, 1.0, 6.0, ((4, 6),), ((7, 8),)) == state
        totals = MissTotals()
        after = Ledger(totals, "p", 8)
        after.restore(state, oldest=5, now=20.0)
        assert [(5, 8)] == list(after.pending)
        assert (8, 2, 2, 4) == (after.misses, after.recovered, after.lost, len(after.pending))
        assert (5, 0, 1, 4) == (totals.misses, totals.recovered, totals.lost, totals.pending)
        assert (2, 1) == (after.unreported_lost, after.unreported_from)
        assert (1.0, 20.0) == (after.first_miss_seconds, after.last_miss_seconds)

    def test_what_an_earlier_process_missed_is_no_part_of_the_next_absence(self) -> None:
        ledger = Ledger(MissTotals(), "p", 4)
        ledger.restore(LedgerState(misses=9, recovered=7, lost=2), oldest=5, now=0.0)
        ledger.event_missed(5, 1.0)
        assert Absence(1.0, 1, 0) == ledger.absence_ends()

    def test_a_store_hears_whose_ledger_has_changed(self) -> None:
        totals = MissTotals()
        totals.touch("unused")
        totals.touched = set()

        def changed() -> set[str]:
            assert totals.touched is not None
            names = set(totals.touched)
            totals.touched.clear()
            return names

        ledger = Ledger(totals, "p")
        ledger.delivered(1, 1)
        ledger.gap_reported(1)
        assert set() == changed()
        ledger.event_missed(2, 0.0)
        assert {"p"} == changed()
        ledger.event_missed(3, 0.0)
        ledger.delivered(2, 2)
        assert {"p"} == changed()
        ledger.evicted(1, 2, 0.0)
        ledger.delivered(9, 9)
        assert set() == changed()
        ledger.evicted(3, 3, 0.0)
        assert {"p"} == changed()
        ledger.gap_reported(4)
        assert set() == changed()
        ledger.gap_reported(3)
        assert {"p"} == changed()


class TestPendingWhileASubscriberIsThere:
    """A phone changes its network: its new connection is there before the old one is found dead."""

    def test_it_gets_what_the_dead_connection_did_not_acknowledge(self) -> None:
        hub = make_hub()
        old = connect(hub, "old", "missed")
        publish(hub)
        new = connect(hub, "new", "missed")
        assert [] == new.seqs
        hub.detach(old, "dead", 32.0)
        assert [1] == new.seqs
        assert (1, 1, 0, 0) == numbers(hub)
        publish(hub)
        assert [1, 2] == new.seqs

    def test_not_what_another_has_acknowledged(self) -> None:
        hub = make_hub()
        old, other = connect(hub, "old", "missed"), connect(hub, "other", "missed")
        publish(hub)
        new = connect(hub, "new", "missed")
        hub.detach(old, "dead", 32.0)
        other.acknowledge()
        hub.detach(other, "client", 33.0)
        assert [] == new.seqs
        assert (0, 0, 0, 0) == numbers(hub)

    def test_not_where_it_would_come_behind_a_later_event(self) -> None:
        """`Last-Event-ID` would go back, and the later events would be given twice."""
        hub = make_hub()
        old = connect(hub, "old", "missed")
        publish(hub)
        new = connect(hub, "new", "missed")
        publish(hub)
        hub.detach(old, "dead", 32.0)
        assert [2] == new.seqs
        assert (1, 0, 0, 1) == numbers(hub)
        assert [1] == connect(hub, "newest", "missed").seqs

    @pytest.mark.parametrize("start", ["none", "all"])
    def test_only_subscribers_that_start_at_missed(self, start: str) -> None:
        hub = make_hub()
        old = connect(hub, "old", "missed")
        publish(hub)
        new = connect(hub, "new", start)
        seqs = new.seqs
        hub.detach(old, "dead", 32.0)
        assert seqs == new.seqs

    def test_one_of_them_gets_it_the_one_that_came_last(self) -> None:
        hub = make_hub()
        old = connect(hub, "old", "missed")
        publish(hub)
        first, second = connect(hub, "first", "missed", now=1.0), connect(hub, "second", "missed", now=2.0)
        hub.detach(old, "dead", 32.0)
        assert ([], [1]) == (first.seqs, second.seqs)
        hub.detach(second, "dead", 64.0)
        assert [1] == first.seqs
        assert (2, 2, 0, 0) == numbers(hub)

    def test_one_whose_transport_is_full_gets_it_when_it_has_drained(self) -> None:
        hub = make_hub()
        old = connect(hub, "old", "missed")
        publish(hub)
        new = connect(hub, "new", "missed", room_bytes=0)
        hub.detach(old, "dead", 3.0)
        assert [] == new.seqs
        new.drain()
        assert [1] == new.seqs
        assert (1, 1, 0, 0) == numbers(hub)
