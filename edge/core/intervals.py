"""A set of event numbers, kept as sorted, disjoint, never adjacent closed intervals.

Sequence numbers come in runs, so a set of thousands of them is nearly always one or two intervals.
Invariant: `_runs` is sorted, no two runs touch, and `len(self)` is the number of members.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator

Run = tuple[int, int]


_NO_RUNS: list[Run] = []
"""Shared by all that are empty, as most are: three lists less for each project. Nothing is ever put into it."""


class Intervals:
    """A mutable set of integers; every operation takes closed ranges `lo..hi` (empty when `hi < lo`)."""

    __slots__ = ("_runs", "size")

    def __init__(self, runs: Iterable[Run] = ()) -> None:
        self._runs = _NO_RUNS
        self.size = 0
        """How many members there are."""
        for lo, hi in runs:
            self.add(lo, hi)

    def __len__(self) -> int:
        return self.size

    def __bool__(self) -> bool:
        return self.size > 0

    def __iter__(self) -> Iterator[Run]:
        return iter(self._runs)

    def __repr__(self) -> str:
        return f"Intervals({self._runs})"

    @property
    def first(self) -> int:
        """The smallest member; the set must not be empty."""
        return self._runs[0][0]

    @property
    def last(self) -> int:
        """The largest member; the set must not be empty."""
        return self._runs[-1][1]

    def add(self, lo: int, hi: int) -> None:
        """Make `lo..hi` members."""
        if hi < lo:
            return
        runs = self._runs
        if not runs:
            self._runs = [(lo, hi)]
            self.size = hi - lo + 1
            return
        if lo > runs[-1][1] + 1:
            runs.append((lo, hi))
            self.size += hi - lo + 1
            return
        if lo == runs[-1][1] + 1:
            runs[-1] = (runs[-1][0], hi)
            self.size += hi - lo + 1
            return
        left = self._first_reaching(lo - 1)
        right = left
        while right < len(runs) and runs[right][0] <= hi + 1:
            lo = min(lo, runs[right][0])
            hi = max(hi, runs[right][1])
            self.size -= runs[right][1] - runs[right][0] + 1
            right += 1
        runs[left:right] = [(lo, hi)]
        self.size += hi - lo + 1

    def remove(self, lo: int, hi: int) -> int:
        """Take `lo..hi` out; returns how many of them were members."""
        runs = self._runs
        if hi < lo or not runs or hi < runs[0][0] or lo > runs[-1][1]:
            return 0
        first_lo, first_hi = runs[0]
        if lo <= first_lo and hi < first_hi:
            runs[0] = (hi + 1, first_hi)
            self.size -= hi + 1 - first_lo
            return hi + 1 - first_lo
        left = self._first_reaching(lo)
        right = left
        kept: list[Run] = []
        removed = 0
        while right < len(runs) and runs[right][0] <= hi:
            run_lo, run_hi = runs[right]
            if run_lo < lo:
                kept.append((run_lo, lo - 1))
            if run_hi > hi:
                kept.append((hi + 1, run_hi))
            removed += min(run_hi, hi) - max(run_lo, lo) + 1
            right += 1
        runs[left:right] = kept
        self.size -= removed
        return removed

    def within(self, lo: int, hi: int) -> list[Run]:
        """The members inside `lo..hi`, as runs."""
        found: list[Run] = []
        for run_lo, run_hi in self._runs[self._first_reaching(lo) :]:
            if run_lo > hi or lo > hi:
                break
            found.append((max(lo, run_lo), min(hi, run_hi)))
        return found

    def outside(self, lo: int, hi: int) -> list[Run]:
        """The numbers of `lo..hi` that are not members, as runs."""
        holes: list[Run] = []
        for run_lo, run_hi in self.within(lo, hi):
            if run_lo > lo:
                holes.append((lo, run_lo - 1))
            lo = run_hi + 1
        if lo <= hi:
            holes.append((lo, hi))
        return holes

    def hole(self, lo: int, hi: int) -> Run | None:
        """The first run of `outside(lo, hi)`, without making the others."""
        runs = self._runs
        at = self._first_reaching(lo)
        if at < len(runs) and runs[at][0] <= lo:
            lo = runs[at][1] + 1
            at += 1
        if at < len(runs):
            hi = min(hi, runs[at][0] - 1)
        return (lo, hi) if lo <= hi else None

    def keep_newest_runs(self, count: int) -> int:
        """Forget the oldest runs beyond `count`: bounds the memory of a fragmented set.

        Returns the largest member forgotten, 0 when none was.
        """
        forgotten = self._runs[: max(0, len(self._runs) - count)]
        if not forgotten:
            return 0
        del self._runs[: len(forgotten)]
        self.size -= sum(hi - lo + 1 for lo, hi in forgotten)
        return forgotten[-1][1]

    def _first_reaching(self, number: int) -> int:
        """Index of the first run whose end is at or beyond `number`."""
        return bisect_left(self._runs, number, key=_end)


def _end(run: Run) -> int:
    return run[1]
