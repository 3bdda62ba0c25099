"""What a connection knows of itself: what was written, what of it was acknowledged, what it covers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.core.connection import Connection
from edge.core.intervals import Intervals, Run
from edge.core.resume import Start
from edge.core.sse import chunk
from tests.core.fakes import FakeConnection, make_hub

hub = make_hub()


def frame(seq: int, size: int = 0) -> bytes:
    return b"id: e-%d\ndata: %b\n\n" % (seq, b"x" * size)


@given(
    sizes=st.lists(st.integers(0, 30), max_size=200),
    acks=st.lists(st.tuples(st.integers(0, 199), st.floats(0, 1)), max_size=10),
)
def test_acknowledged_is_the_last_write_whose_every_byte_was(sizes: list[int], acks: list[tuple[int, float]]) -> None:
    connection = FakeConnection(hub, "c", chunked=False)
    at = dict(acks)
    ends = [0]
    for seq, size in enumerate(sizes, 1):
        connection.write_events(frame(seq, size), seq, 0.0)
        ends.append(len(connection.wire))
        if seq in at:
            connection.acknowledge(int(len(connection.wire) * at[seq]))
            on_the_way = connection.refresh()
            acknowledged = max(number for number, end in enumerate(ends) if end <= connection.known_acked_bytes)
            assert (acknowledged, acknowledged < seq) == (connection.acknowledged, on_the_way)
    connection.acknowledge()
    assert not connection.refresh()
    assert len(sizes) == connection.acknowledged == connection.cursor


def test_the_hubs_own_frames_lie_between_and_carry_no_event() -> None:
    connection = FakeConnection(hub, "c")
    connection.control(b"event: edge.x\ndata: 1\n\n", 1.0)
    assert not connection.refresh()
    connection.write_events(chunk(frame(7)), 7, 2.0)
    connection.control(b": more\n\n", 3.0)
    assert (7, 0, 3.0) == (connection.cursor, connection.acknowledged, connection.last_write_seconds)
    connection.acknowledge(connection.ends[1] - 1)
    assert connection.refresh()
    connection.acknowledge(connection.ends[1])
    assert not connection.refresh()
    assert 7 == connection.acknowledged
    assert len(connection.wire) == connection.written_bytes


def test_a_peer_that_acknowledges_is_checked_now_and_then() -> None:
    connection = FakeConnection(hub, "c", chunked=False)
    for seq in range(1, 1001):
        connection.write_events(frame(seq), seq, 0.0)
        connection.acknowledge()
        assert len(connection._marks or ()) <= 64
    assert connection.acknowledged > 900


def test_a_peer_that_never_says_so_costs_bounded_memory_and_no_wrong_answer() -> None:
    connection = FakeConnection(hub, "c", chunked=False)
    ends = [0]
    for seq in range(1, 10_001):
        connection.write_events(frame(seq), seq, 0.0)
        ends.append(len(connection.wire))
        marks = connection._marks
        assert marks is not None
        assert len(marks) <= 512
        assert (ends[seq], seq) == (marks[-2], marks[-1])
    marks = connection._marks
    assert marks is not None
    pairs = list(zip(marks[::2], marks[1::2], strict=True))
    assert [(ends[seq], seq) for _, seq in pairs] == pairs
    assert sorted(pairs) == pairs
    for acked, known in ((100, 100), (255, 255), (256, 255), (5000, 255)):
        connection.acknowledge(ends[acked])
        connection.refresh()
        assert known == connection.acknowledged
    connection.acknowledge()
    connection.refresh()
    assert 10_000 == connection.acknowledged


@pytest.mark.parametrize(
    ("lo", "hi", "covered"),
    [
        (0, 10, [(4, 5), (8, 10)]),
        (1, 3, []),
        (4, 4, [(4, 4)]),
        (5, 8, [(5, 5), (8, 8)]),
        (6, 7, []),
        (9, 9, [(9, 9)]),
        (9, 8, []),
    ],
)
def test_what_it_covers(lo: int, hi: int, covered: list[Run]) -> None:
    connection = FakeConnection(hub, "c")
    connection.place(Start(3, Intervals([(6, 7)])), 20)
    assert covered == connection.covered(lo, hi)


def test_where_it_was_placed() -> None:
    connection = FakeConnection(hub, "c")
    connection.place(Start(3), 20)
    assert (3, 3, 3, 20) == (connection.start, connection.cursor, connection.acknowledged, connection.replay_to)
    assert [(4, 9)] == connection.covered(0, 9)


class TestForgetting:
    def test_it_never_goes_back(self) -> None:
        connection = FakeConnection(hub, "c")
        connection.place(Start(10), 10)
        connection.forget_until(5)
        assert 10 == connection.start
        connection.forget_until(12)
        assert 12 == connection.start

    def test_runs_behind_it_are_dropped(self) -> None:
        connection = FakeConnection(hub, "c")
        connection.place(Start(0, Intervals([(2, 3), (6, 9), (12, 12)])), 0)
        connection.forget_until(7)
        assert connection.skips is not None
        assert (7, [(8, 9), (12, 12)]) == (connection.start, list(connection.skips))

    def test_so_many_runs_and_no_more(self) -> None:
        connection = FakeConnection(hub, "c")
        connection.place(Start(0, Intervals([(10 * number, 10 * number + 1) for number in range(1, 71)])), 0)
        connection.forget_until(0)
        assert connection.skips is not None
        assert 64 == len(list(connection.skips))
        assert (61, 70) == (connection.start, connection.skips.first)


@pytest.mark.parametrize("method", ["confirmable", "acked_bytes", "moved_bytes", "answers", "finish", "abort"])
def test_the_core_knows_no_transport(method: str) -> None:
    with pytest.raises(NotImplementedError):
        getattr(Connection("c", "::1", 0.0), method)()


def test_the_core_writes_nothing_itself() -> None:
    connection = Connection("c", "::1", 0.0)
    with pytest.raises(NotImplementedError):
        connection.write(b"x")
    with pytest.raises(NotImplementedError):
        connection.silent_seconds(0.0)
