"""The ring against a list."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from edge.core.ring import Ring
from tests.core.fakes import machine_settings

shares = st.floats(0, 1)


class RingMachine(RuleBasedStateMachine):
    """`held` is the whole truth: (number, when, frame), oldest first."""

    @initialize(newest=st.sampled_from((0, 41)))
    def begin(self, newest: int) -> None:
        self.ring = Ring(newest)
        self.held: list[tuple[int, float, bytes]] = []
        self.newest = newest
        self.now = 0.0
        self.evicted_until: float | None = None

    @rule(sizes=st.lists(st.integers(1, 40), min_size=1, max_size=90), write_batch=st.sampled_from((0.0, 0.0, 1.5)))
    def append(self, sizes: list[int], write_batch: float) -> None:
        for size in sizes:
            self.now += write_batch
            self.newest += 1
            frame = (b"%d," % self.newest).ljust(size, b".")
            assert self.newest == self.ring.append(frame, self.now)
            self.held.append((self.newest, self.now, frame))

    @rule(count=st.integers(0, 90))
    def extend(self, count: int) -> None:
        frames = [b"extended %d" % number for number in range(count)]
        assert self.newest + count == self.ring.extend(frames, self.now)
        self.held += [(seq, self.now, frame) for seq, frame in enumerate(frames, self.newest + 1)]
        self.newest += count

    @rule(share=shares)
    def evict(self, share: float) -> None:
        count = int(len(self.held) * share)
        gone, self.held = self.held[:count], self.held[count:]
        assert sum(len(frame) for _, _, frame in gone) == self.ring.evict(count)
        if gone:
            self.evicted_until = gone[-1][1]

    @rule(max_events=st.integers(0, 100), max_bytes=st.integers(0, 2000))
    def excess(self, max_events: int, max_bytes: int) -> None:
        by_count = max(0, len(self.held) - max_events)
        left = self.held[by_count:]
        by_bytes = 0
        while sum(len(frame) for _, _, frame in left) > max_bytes:
            left = left[1:]
            by_bytes += 1
        assert (by_count, by_bytes) == self.ring.excess(max_events, max_bytes)

    @rule(ago=st.floats(0, 50))
    def older_than(self, ago: float) -> None:
        moment = self.now - ago
        assert len([when for _, when, _ in self.held if when < moment]) == self.ring.older_than(moment)

    @precondition(lambda self: self.held)
    @rule(first=shares, last=shares, max_bytes=st.sampled_from((1, 30, 200, 1 << 20)))
    def batch(self, first: float, last: float, max_bytes: int) -> None:
        """At least one frame, and no more than the bytes allow beyond it."""
        low = int((len(self.held) - 1) * first)
        high = low + int((len(self.held) - 1 - low) * last)
        wanted = self.held[low : high + 1]
        delivered = wanted[:1]
        for one in wanted[1:]:
            if sum(len(frame) for _, _, frame in [*delivered, one]) > max_bytes:
                break
            delivered.append(one)
        joined = b"".join(frame for _, _, frame in delivered)
        assert (joined, delivered[-1][0]) == self.ring.batch(wanted[0][0] - 1, wanted[-1][0], max_bytes)

    @rule(count=st.integers(1, 100))
    def newest_frames(self, count: int) -> None:
        assert [frame for _, _, frame in self.held[-count:]] == self.ring.newest_frames(count)

    @invariant()
    def holds_what_the_list_holds(self) -> None:
        ring = self.ring
        assert self.held == ring.frames()
        assert len(self.held) == len(ring)
        assert self.newest == ring.newest
        assert (self.held[0][0] if self.held else self.newest + 1) == ring.oldest
        assert sum(len(frame) for _, _, frame in self.held) == ring.size_bytes
        assert self.evicted_until == ring.evicted_until_seconds
        assert [when for _, when, _ in self.held] == [ring.published_at(seq) for seq, _, _ in self.held]


TestRing = RingMachine.TestCase
TestRing.settings = machine_settings(40, steps=25)


def test_memory_is_given_back_as_frames_go() -> None:
    ring = Ring()
    for number in range(10_000):
        ring.append(b"x" * 10, float(number))
        ring.evict(max(0, len(ring) - 100))
    assert 100 == len(ring)
    assert len(ring._frames) <= 2 * 100 + 64
    assert len(ring._times) == len(ring._frames)


def test_evicted_frames_are_freed_before_the_list_is_compacted() -> None:
    ring = Ring()
    for _ in range(1000):
        ring.append(b"x", 0.0)
    ring.evict(10)
    assert 10 == ring._frames.count(b"")


def test_a_ring_goes_on_where_an_earlier_one_stopped() -> None:
    ring = Ring(newest=7)
    ring.load([b"f", b"gg"], [1.0, 2.0])
    assert [(6, 1.0, b"f"), (7, 2.0, b"gg")] == ring.frames()
    assert (6, 7, 3, 2) == (ring.oldest, ring.newest, ring.size_bytes, len(ring))
    assert 8 == ring.append(b"h", 3.0)


def test_a_frame_that_is_not_held_has_no_time() -> None:
    with pytest.raises(IndexError):
        Ring().published_at(1)
