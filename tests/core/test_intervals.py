"""Intervals against a set of numbers."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from edge.core import intervals
from edge.core.intervals import Intervals, Run
from tests.core.fakes import machine_settings

LARGEST = 40
numbers = st.integers(0, LARGEST)
ranges = st.tuples(numbers, st.integers(-2, 12)).map(lambda pair: (pair[0], pair[0] + pair[1]))


def members(runs: list[Run] | Intervals) -> set[int]:
    return {number for lo, hi in runs for number in range(lo, hi + 1)}


def runs_of(numbers: set[int]) -> list[Run]:
    """The runs of a set, found by looking at each number's neighbours."""
    firsts = sorted(number for number in numbers if number - 1 not in numbers)
    lasts = sorted(number for number in numbers if number + 1 not in numbers)
    return list(zip(firsts, lasts, strict=True))


class IntervalsMachine(RuleBasedStateMachine):
    @initialize(runs=st.lists(ranges, max_size=4))
    def begin(self, runs: list[Run]) -> None:
        self.intervals = Intervals(runs)
        self.model = members(runs)

    @rule(one=ranges)
    def add(self, one: Run) -> None:
        self.intervals.add(*one)
        self.model |= members([one])

    @rule(one=ranges)
    def remove(self, one: Run) -> None:
        gone = self.model & members([one])
        assert len(gone) == self.intervals.remove(*one)
        self.model -= gone

    @rule(count=st.integers(0, 4))
    def keep_newest_runs(self, count: int) -> None:
        runs = runs_of(self.model)
        forgotten = runs[: max(0, len(runs) - count)]
        assert max(members(forgotten), default=0) == self.intervals.keep_newest_runs(count)
        self.model -= members(forgotten)

    @rule(one=ranges)
    def look(self, one: Run) -> None:
        inside, outside = self.model & members([one]), members([one]) - self.model
        assert runs_of(inside) == self.intervals.within(*one)
        assert runs_of(outside) == self.intervals.outside(*one)
        assert next(iter(runs_of(outside)), None) == self.intervals.hole(*one)

    @invariant()
    def same_as_the_set(self) -> None:
        runs = list(self.intervals)
        assert runs_of(self.model) == runs
        assert all(left[1] + 1 < right[0] for left, right in pairwise(runs))
        assert len(self.model) == len(self.intervals) == self.intervals.size
        assert bool(self.model) == bool(self.intervals)
        if self.model:
            assert (min(self.model), max(self.model)) == (self.intervals.first, self.intervals.last)


TestIntervals = IntervalsMachine.TestCase
TestIntervals.settings = machine_settings(60, steps=25)


@given(st.lists(ranges, max_size=6))
def test_order_of_adding_does_not_matter(runs: list[Run]) -> None:
    assert list(Intervals(runs)) == list(Intervals(reversed(runs))) == runs_of(members(runs))


def test_says_what_it_holds() -> None:
    assert "Intervals([(1, 2), (4, 4)])" == repr(Intervals([(4, 4), (1, 2)]))


def test_what_empty_sets_share_stays_empty() -> None:
    one, other = Intervals(), Intervals()
    one.add(1, 3)
    one.remove(1, 3)
    one.add(5, 5)
    one.keep_newest_runs(0)
    assert [] == list(one) == list(other) == intervals._NO_RUNS
