"""A histogram as plain integers: observations counted by the first bound they do not pass."""

from __future__ import annotations

from bisect import bisect_left


class Histogram:
    """`bounds` ascend; one more bucket takes what lies beyond the last."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value
