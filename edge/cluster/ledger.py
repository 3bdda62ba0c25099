"""The ledger of a project that Redis keeps: here it only notes what this node has to report.

What is pending is known here, so that `since=missed` replays it and a delivery is seen to recover it; the numbers are
counted in Redis, once for all nodes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from edge.core.intervals import Run
from edge.core.ledger import Ledger, MissTotals


class FollowedLedger(Ledger):
    """`report` is called with the project whenever there is something to tell."""

    __slots__ = ("_report", "covered_from", "orphaned_runs", "recovered_runs", "told")

    def __init__(self, total: MissTotals, project: str, newest: int, report: Callable[[str], None]) -> None:
        super().__init__(total, project, newest)
        self._report = report
        self.recovered_runs: list[Run] = []
        """Missed events that a reader here was written."""
        self.orphaned_runs: list[Run] = []
        """Events that readers here had or were to have, and that nobody here has any more."""
        self.covered_from: int | None = None
        """The number after which readers here cover everything, since the first of them came; None without readers."""
        self.told = 0
        """How many of the events that Redis counts as lost and untold a reader here was told of."""

    def adopt(self, lo: int, hi: int) -> None:
        """`lo..hi` are pending, Redis says."""
        self.pending.add(lo, hi)

    def lost_elsewhere(self, count: int, oldest: int) -> None:
        """`count` events before `oldest` were lost, Redis says, and no reader was told."""
        self.unreported_lost = count
        self.unreported_from = oldest - 1 if count else None

    def event_missed(self, seq: int, now: float) -> None:
        """Redis counted readers here when it numbered `seq`, unless it said that it was missed."""
        self._taken_to = seq
        if not self.pending.within(seq, seq):
            self._miss(((seq, seq),), now)

    def delivered(self, lo: int, hi: int) -> None:
        if self.pending and (runs := self.pending.within(lo, hi)):
            self.pending.remove(lo, hi)
            self.recovered_runs += runs
            self._report(self._project)
        super().delivered(lo, hi)

    def gap_reported(self, seq: int) -> None:
        untold = self.unreported_lost
        super().gap_reported(seq)
        if untold and not self.unreported_lost:
            self.told += untold
            self._report(self._project)

    def _miss(self, runs: Iterable[Run], now: float) -> None:  # noqa: ARG002 - Redis knows when
        for lo, hi in runs:
            self._waiting.remove(lo, hi)
            self.pending.add(lo, hi)
            self.orphaned_runs.append((lo, hi))
            self._report(self._project)

    def _count_lost(self, count: int) -> None:
        """Redis counts it, when its own stream gives it up."""
