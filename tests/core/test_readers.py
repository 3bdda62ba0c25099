"""Readers in the situations that are easily got wrong: bursts, slices, full transports, holes."""

from __future__ import annotations

import pytest

from edge.core import batches, resume, turns
from edge.core.batches import FrameCache
from edge.core.hub import Hub
from tests.core.eventstream import Retry
from tests.core.fakes import UNLIMITED, FakeConnection, make_hub, text, woken


def connect(hub: Hub, name: str = "p", connection_id: str = "c", room_bytes: int = UNLIMITED) -> FakeConnection:
    """A reader of what comes from now on."""
    connection = FakeConnection(hub, connection_id)
    connection.stall(room_bytes)
    hub.attach(name, connection, resume.nothing, 0.0)
    return connection


def publish(hub: Hub, count: int, name: str = "p", now: float = 0.0) -> None:
    for _ in range(count):
        hub.publish(name, text(), now)


def flush(hub: Hub) -> int:
    """Flush until nothing is left; returns in how many turns."""
    turns = 1
    while hub.flush(0.0):
        turns += 1
    return turns


def test_hello_comes_first_and_says_where_the_reader_stands() -> None:
    hub = make_hub(heartbeat_seconds=7.0, retry_ms=1234)
    publish(hub, 3)
    connection = FakeConnection(hub, "me")
    hub.attach("p", connection, resume.everything, 0.0)
    epoch = hub.projects["p"].epoch
    assert Retry(1234) == connection.items[0]
    assert [
        {
            "project": "p",
            "connection": "me",
            "heartbeat_seconds": 7.0,
            "oldest": f"{epoch}-1",
            "newest": f"{epoch}-3",
            "replayed": 3,
        }
    ] == connection.controls("hello")
    assert [1, 2, 3] == connection.seqs


def test_a_burst_is_one_write_a_reader() -> None:
    hub = make_hub()
    readers = [connect(hub, connection_id=str(number)) for number in range(3)]
    publish(hub, 100)
    assert 1 == woken(hub).times
    assert 1 == flush(hub)
    assert [2, 2, 2] == [reader.writes for reader in readers]
    assert list(range(1, 101)) == readers[2].seqs
    assert 300 == hub.counters.delivered
    assert 0 == hub.counters.replayed


def test_readers_in_one_place_share_the_very_same_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    hub = make_hub()
    readers = [connect(hub, connection_id=str(number)) for number in range(3)]
    written: list[bytes] = []
    for reader in readers:
        monkeypatch.setattr(reader, "write", written.append)
    publish(hub, 2)
    flush(hub)
    assert 3 == len(written)
    assert written[0] is written[1] is written[2]


def test_chunked_and_unchunked_readers_stand_side_by_side() -> None:
    hub = make_hub()
    readers = [FakeConnection(hub, str(number), chunked=number % 2 == 0) for number in range(4)]
    for reader in readers:
        hub.attach("p", reader, resume.nothing, 0.0)
    publish(hub, 2)
    flush(hub)
    assert [[1, 2]] * 4 == [reader.seqs for reader in readers]


def test_a_burst_larger_than_the_ring_is_no_gap_for_a_subscriber_that_keeps_up() -> None:
    hub = make_hub(max_events=10)
    quick, slow = connect(hub, connection_id="quick"), connect(hub, connection_id="slow", room_bytes=0)
    assert slow.paused
    publish(hub, 95)
    flush(hub)
    assert list(range(1, 96)) == quick.seqs
    assert [] == quick.controls("gap")
    slow.drain()
    assert list(range(86, 96)) == slow.seqs
    assert [85] == [gap["lost"] for gap in slow.controls("gap")]
    assert 0 == hub.counters.misses.misses


def test_a_burst_is_flushed_once_a_ring_and_not_once_an_event() -> None:
    hub = make_hub(max_events=10)
    reader = connect(hub)
    publish(hub, 100)
    flush(hub)
    assert reader.writes <= 1 + 11


def test_an_event_larger_than_a_batch_goes_alone() -> None:
    hub = make_hub()
    reader = connect(hub)
    hub.publish("p", text("x" * 100_000), 0.0)
    publish(hub, 2)
    hub.publish("p", text("y" * 100_000), 0.0)
    flush(hub)
    assert [1, 2, 3, 4] == reader.seqs
    assert 1 + 3 == reader.writes


def test_two_wanted_turns_are_requested_once() -> None:
    hub = make_hub()
    connect(hub, "p", "1")
    connect(hub, "q", "2")
    publish(hub, 2, "p")
    publish(hub, 2, "q")
    assert 1 == woken(hub).times
    assert not hub.flush(0.0)
    publish(hub, 1, "q")
    assert 2 == woken(hub).times


class TestSlices:
    """A large project is brought up to date in slices of `FLUSH_BUDGET` connections."""

    @pytest.fixture(autouse=True)
    def _two_at_a_time(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(turns, "FLUSH_BUDGET", 2)

    def test_a_slice_a_turn(self) -> None:
        hub = make_hub()
        readers = [connect(hub, connection_id=str(number)) for number in range(5)]
        publish(hub, 1)
        assert hub.flush(0.0)
        assert [[1], [1], [], [], []] == [reader.seqs for reader in readers]
        assert hub.flush(0.0)
        assert [[1], [1], [1], [1], []] == [reader.seqs for reader in readers]
        assert not hub.flush(0.0)
        assert [[1]] * 5 == [reader.seqs for reader in readers]
        assert 1 + 2 == woken(hub).times

    def test_slices_share_the_very_same_bytes(self, monkeypatch: pytest.MonkeyPatch) -> None:
        hub = make_hub()
        readers = [connect(hub, connection_id=str(number)) for number in range(3)]
        written: list[bytes] = []
        for reader in readers:
            monkeypatch.setattr(reader, "write", written.append)
        publish(hub, 2)
        flush(hub)
        assert 3 == len(written)
        assert written[0] is written[2]

    def test_newer_events_come_in_the_next_sweep(self) -> None:
        hub = make_hub()
        readers = [connect(hub, connection_id=str(number)) for number in range(4)]
        publish(hub, 1)
        hub.flush(0.0)
        publish(hub, 1)
        assert hub.flush(0.0)
        assert [[1], [1], [1], [1]] == [reader.seqs for reader in readers]
        assert hub.projects["p"].dirty
        flush(hub)
        assert [[1, 2]] * 4 == [reader.seqs for reader in readers]
        assert not hub.projects["p"].dirty

    def test_who_comes_during_a_sweep_has_everything_at_once(self) -> None:
        hub = make_hub()
        readers = [connect(hub, connection_id=str(number)) for number in range(4)]
        publish(hub, 2)
        hub.flush(0.0)
        late = FakeConnection(hub, "late")
        hub.attach("p", late, resume.everything, 0.0)
        assert [1, 2] == late.seqs
        publish(hub, 1)
        flush(hub)
        assert [[1, 2, 3]] * 5 == [reader.seqs for reader in [*readers, late]]

    def test_who_has_left_during_a_sweep_is_passed_over(self) -> None:
        hub = make_hub()
        readers = [connect(hub, connection_id=str(number)) for number in range(5)]
        publish(hub, 1)
        hub.flush(0.0)
        writes = readers[4].writes
        hub.detach(readers[4], "client", 0.0)
        hub.detach(readers[0], "client", 0.0)
        flush(hub)
        assert [[1]] * 3 == [reader.seqs for reader in readers[1:4]]
        assert writes == readers[4].writes
        assert [readers[3], readers[1], readers[2]] == hub.projects["p"].connections
        assert [0, 1, 2] == [connection.index for connection in hub.projects["p"].connections]

    def test_who_is_full_during_a_sweep_catches_up_when_it_drains(self) -> None:
        hub = make_hub()
        readers = [connect(hub, connection_id=str(number)) for number in range(4)]
        readers[3].stall()
        readers[2].stall()
        hub.paused(readers[2], 0.0)
        publish(hub, 1)
        flush(hub)
        assert [[1], [1], [], [1]] == [reader.seqs for reader in readers]
        publish(hub, 1)
        flush(hub)
        readers[2].drain()
        readers[3].drain()
        assert [[1, 2]] * 4 == [reader.seqs for reader in readers]

    def test_a_burst_larger_than_the_ring_during_a_sweep(self) -> None:
        hub = make_hub(max_events=5)
        readers = [connect(hub, connection_id=str(number)) for number in range(5)]
        publish(hub, 3)
        hub.flush(0.0)
        publish(hub, 20)
        flush(hub)
        assert [list(range(1, 24))] * 5 == [reader.seqs for reader in readers]
        assert [[]] * 5 == [reader.controls("gap") for reader in readers]

    def test_projects_take_turns(self) -> None:
        hub = make_hub()
        large = [connect(hub, "large", f"l{number}") for number in range(10)]
        small = connect(hub, "small", "s")
        publish(hub, 1, "large")
        publish(hub, 1, "small")
        hub.flush(0.0)
        hub.flush(0.0)
        assert [1] == small.seqs
        assert 2 == sum(bool(reader.seqs) for reader in large)

    def test_a_project_stands_in_the_queue_once(self) -> None:
        hub = make_hub(max_events=2)
        for number in range(3):
            connect(hub, connection_id=str(number))
        for _ in range(50):
            publish(hub, 5)
            hub.flush(0.0)
            assert len(hub._flush_queue._dirty) <= 1


class TestFullTransports:
    def test_a_full_reader_is_not_written_to_and_misses_nothing(self) -> None:
        hub = make_hub()
        reader = connect(hub, room_bytes=0)
        writes = reader.writes
        publish(hub, 50)
        flush(hub)
        assert writes == reader.writes
        reader.drain()
        assert list(range(1, 51)) == reader.seqs
        assert [] == reader.controls("gap")

    def test_a_slow_reader_takes_a_batch_at_a_time(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(batches, "MAX_BATCH_BYTES", 70)
        hub = make_hub()
        reader = connect(hub, room_bytes=0)
        publish(hub, 9)
        seen = []
        while reader.paused:
            reader.drain(0)
            seen.append(len(reader.seqs))
            if seen[-1] == 9:
                reader.drain()
        assert [3, 6, 9] == seen
        assert list(range(1, 10)) == reader.seqs

    def test_falling_out_of_the_ring_again_and_again(self) -> None:
        hub = make_hub(max_events=4)
        reader = connect(hub, room_bytes=0)
        for _ in range(5):
            publish(hub, 10)
            flush(hub)
            reader.drain(0)
        assert [seq for seq in range(1, 51) if (seq - 1) % 10 >= 6] == reader.seqs
        assert [6] * 5 == [gap["lost"] for gap in reader.controls("gap")]
        epoch = hub.projects["p"].epoch
        assert [f"{epoch}-{seq}" for seq in (0, 10, 20, 30, 40)] == [gap["asked"] for gap in reader.controls("gap")]
        assert {"evicted": 5, "restart": 0, "unknown": 0} == hub.counters.gaps
        assert 30 == hub.counters.misses.lost

    def test_falling_out_of_a_ring_that_is_empty_by_now(self) -> None:
        hub = make_hub(max_age_seconds=10.0)
        reader = connect(hub, room_bytes=0)
        publish(hub, 3)
        assert hub.project("p", 20.0) is not None
        reader.drain()
        assert [(3, None)] == [(gap["lost"], gap["oldest"]) for gap in reader.controls("gap")]
        publish(hub, 1, now=20.0)
        flush(hub)
        assert [4] == reader.seqs

    def test_falling_out_of_an_empty_ring_with_nothing_lost_is_no_word(self) -> None:
        hub = make_hub(max_age_seconds=10.0)
        publish(hub, 1)
        other = connect(hub, connection_id="other")
        publish(hub, 1)
        flush(hub)
        assert [2] == other.seqs
        reader = FakeConnection(hub, "c")
        reader.stall()
        hub.attach("p", reader, resume.missed, 0.0)
        reader.drain(0)
        assert [1] == reader.seqs
        hub.paused(reader, 0.0)
        assert hub.project("p", 20.0) is not None
        writes = reader.writes
        reader.drain()
        assert (writes, 2) == (reader.writes, reader.cursor)

    def test_what_is_known_of_a_reader_that_falls_out_for_ever_is_bounded(self) -> None:
        hub = make_hub(max_events=2)
        reader = connect(hub, room_bytes=0)
        for _ in range(500):
            publish(hub, 4)
            reader.drain(0)
        assert reader.skips is not None
        assert len(list(reader.skips)) <= 64
        assert 0 < reader.start <= reader.cursor
        hub.detach(reader, "slow", 0.0)
        misses = hub.counters.misses
        assert misses.misses == misses.recovered + misses.lost + misses.pending

    def test_what_is_acknowledged_need_not_be_remembered(self) -> None:
        hub = make_hub(max_events=2)
        reader = connect(hub, room_bytes=0)
        for _ in range(10):
            publish(hub, 4)
            reader.drain(0)
            reader.room_bytes = 0
            reader.acknowledge()
        assert [] == reader.controls("closing")
        assert reader.skips is not None
        assert [] == list(reader.skips)

    def test_a_reader_full_before_it_was_the_hubs_is_watched(self) -> None:
        hub = make_hub(dead_after_seconds=10.0)
        reader = FakeConnection(hub, "c")
        reader.stall(-1)
        hub.paused(reader, 0.0)
        hub.attach("p", reader, resume.nothing, 0.0)
        hub.tick(9.0)
        assert not reader.aborted
        hub.tick(10.0)
        assert reader.aborted

    def test_drained_before_it_was_the_hubs(self) -> None:
        hub = make_hub()
        reader = FakeConnection(hub, "c")
        hub.paused(reader, 0.0)
        hub.drained(reader, 0.0)
        hub.attach("p", reader, resume.nothing, 0.0)
        assert {} == hub._ticker.paused


class TestHoles:
    """`since=missed` gives what no subscriber has, and passes over what others were given."""

    def holed(self, hub: Hub) -> FakeConnection:
        """Events 1, 3, 4 and 6 are pending; 2 and 5 were received. Returns a reader of those, before it comes."""
        for seq in range(1, 7):
            other = None
            if seq in (2, 5):
                other = connect(hub, connection_id=f"other {seq}")
            publish(hub, 1)
            flush(hub)
            if other is not None:
                other.acknowledge()
                hub.detach(other, "client", 0.0)
        assert [(1, 1), (3, 4), (6, 6)] == list(hub.projects["p"].ledger.pending)
        return FakeConnection(hub, "missed")

    def test_exactly_the_missed_events_are_replayed(self) -> None:
        hub = make_hub()
        reader = self.holed(hub)
        hub.attach("p", reader, resume.missed, 0.0)
        publish(hub, 2)
        flush(hub)
        assert [1, 3, 4, 6, 7, 8] == reader.seqs
        assert [4] == [hello["replayed"] for hello in reader.controls("hello")]
        assert (8, 4) == (hub.counters.delivered, hub.counters.replayed)
        assert (4, 4, 0) == (hub.counters.misses.misses, hub.counters.misses.recovered, hub.counters.misses.pending)

    def test_behind_its_holes_it_is_a_reader_like_any_other(self, monkeypatch: pytest.MonkeyPatch) -> None:
        hub = make_hub()
        reader, other = self.holed(hub), FakeConnection(hub, "other")
        hub.attach("p", reader, resume.missed, 0.0)
        hub.attach("p", other, resume.nothing, 0.0)
        written: list[bytes] = []
        for one in (reader, other):
            monkeypatch.setattr(one, "write", written.append)
        publish(hub, 1)
        flush(hub)
        assert written[0] is written[1]

    def test_pausing_between_the_holes(self) -> None:
        hub = make_hub()
        reader = self.holed(hub)
        reader.stall()
        hub.attach("p", reader, resume.missed, 0.0)
        seen = [reader.seqs]
        for _ in range(4):
            reader.drain(0)
            seen.append(reader.seqs)
        assert [[], [1], [1, 3, 4], [1, 3, 4, 6], [1, 3, 4, 6]] == seen
        assert not reader.paused

    def test_leaving_between_the_holes(self) -> None:
        hub = make_hub()
        reader = self.holed(hub)
        reader.stall()
        hub.attach("p", reader, resume.missed, 0.0)
        reader.drain(0)
        reader.drain(0)
        reader.acknowledge(reader.ends[-3])
        hub.detach(reader, "client", 0.0)
        assert [1, 3, 4] == reader.seqs
        assert [(3, 4), (6, 6)] == list(hub.projects["p"].ledger.pending)
        assert 4 + 2 == hub.counters.misses.misses

    def test_an_evicted_hole_is_not_reported_as_lost(self) -> None:
        hub = make_hub(max_events=6)
        reader = self.holed(hub)
        reader.stall()
        hub.attach("p", reader, resume.missed, 0.0)
        reader.drain(0)
        assert [1] == reader.seqs
        publish(hub, 2)
        reader.drain()
        assert [1, 3, 4, 6, 7, 8] == reader.seqs
        assert [] == reader.controls("gap")

    def test_a_reader_whose_last_events_others_have_stands_at_the_head(self) -> None:
        hub = make_hub()
        publish(hub, 1)
        other = connect(hub, connection_id="other")
        publish(hub, 1)
        flush(hub)
        reader = FakeConnection(hub, "c")
        hub.attach("p", reader, resume.missed, 0.0)
        assert ([1], 2, 1) == (reader.seqs, reader.cursor, reader.events_sent)
        assert [2] == other.seqs


def test_a_reader_that_comes_between_an_event_and_its_flush() -> None:
    hub = make_hub()
    there = connect(hub, connection_id="there")
    publish(hub, 2)
    everything, nothing = FakeConnection(hub, "all"), FakeConnection(hub, "none")
    hub.attach("p", everything, resume.everything, 0.0)
    hub.attach("p", nothing, resume.nothing, 0.0)
    assert ([], [1, 2], []) == (there.seqs, everything.seqs, nothing.seqs)
    publish(hub, 1)
    flush(hub)
    assert ([1, 2, 3], [1, 2, 3], [3]) == (there.seqs, everything.seqs, nothing.seqs)
    assert 0 == hub.counters.misses.misses


def test_joined_batches_are_kept_in_bounded_number() -> None:
    hub = make_hub()
    cache: FrameCache = hub._registry._frame_cache
    for number in range(40):
        readers = [connect(hub, f"p{number}", f"{number}/{one}") for one in range(2)]
        publish(hub, 1, f"p{number}")
        flush(hub)
        assert [[1], [1]] == [reader.seqs for reader in readers]
        assert 1 <= len(cache._held) <= 16


def test_one_reader_alone_leaves_no_batch_behind() -> None:
    hub = make_hub()
    connect(hub)
    publish(hub, 3)
    flush(hub)
    assert {} == hub._registry._frame_cache._held
