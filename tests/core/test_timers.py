"""Everything put on the wheel comes out once, not before its time and at most one tick after it."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from edge.core.timers import TimingWheel
from tests.core.fakes import FakeConnection, make_hub

TICK = 0.25  # a power of two, so that no rounding stands between the test and the truth
hub = make_hub()


@given(
    when=st.lists(st.floats(0, 100, width=16), max_size=40),
    steps=st.lists(st.floats(0, 30, width=16), min_size=1, max_size=20),
    count=st.integers(1, 7),
    late=st.lists(st.tuples(st.integers(0, 19), st.floats(-50, 50, width=16)), max_size=20),
)
def test_everything_comes_out_once_and_in_time(
    when: list[float], steps: list[float], count: int, late: list[tuple[int, float]]
) -> None:
    wheel = TimingWheel(TICK)
    put: dict[str, tuple[float, float]] = {}
    came: Counter[str] = Counter()
    now = 0.0

    def insert(seconds: float) -> None:
        connection = FakeConnection(hub, f"c{len(put)}")
        put[connection.id] = (seconds, now)
        wheel.put(connection, seconds)

    def turn() -> None:
        while due := wheel.due(now, count):
            assert len(due) <= count
            assert all(put[connection.id][0] <= now for connection in due), "before its time"
            came.update(connection.id for connection in due)
        waiting = {name: when for name, when in put.items() if name not in came}
        assert all(now < max(when) + TICK for when in waiting.values()), "later than a tick"

    for seconds in when:
        insert(seconds)
    for number, write_batch in enumerate(steps):
        now += write_batch
        for at, offset in late:
            if at == number:
                insert(max(0.0, now + offset))
        turn()
    now += 1000.0
    turn()
    assert dict.fromkeys(put, 1) == dict(came)
    assert not wheel._slots


def test_what_is_over_the_count_comes_out_next_time() -> None:
    wheel = TimingWheel(1.0)
    connections = [FakeConnection(hub, str(number)) for number in range(5)]
    for connection in connections:
        wheel.put(connection, 3.0)
    assert [] == wheel.due(2.9, 2)
    assert connections[:2] == wheel.due(3.0, 2)
    assert connections[2:4] == wheel.due(3.0, 2)
    assert connections[4:] == wheel.due(3.0, 2)
    assert [] == wheel.due(3.0, 2)


def test_a_time_that_has_passed_is_the_next_tick() -> None:
    wheel = TimingWheel(1.0)
    assert [] == wheel.due(100.0, 1)
    connection = FakeConnection(hub, "late")
    wheel.put(connection, 3.0)
    assert [] == wheel.due(100.9, 1)
    assert [connection] == wheel.due(101.0, 1)
