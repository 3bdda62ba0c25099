"""The ledger of a project whose numbers are counted in Redis, once for all nodes: this one collects what to report.

What is pending is known here, so that `since=missed` replays it and a delivery recovers it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal

from edge.core.intervals import Run
from edge.core.ledger import Ledger, MissTotals

Happening = Literal["recovered", "orphaned"]


class FollowedLedger(Ledger):
    """`report` is called with the project whenever there is something to report."""

    __slots__ = ("_report", "covered_from", "happened", "reported_lost")

    def __init__(self, total: MissTotals, project: str, newest: int, report: Callable[[str], None]) -> None:
        super().__init__(total, project, newest)
        self._report = report
        self.happened: list[tuple[Happening, Run]] = []
        """Missed events that were written to a connection here (`recovered`), and events that connections here had or
        were to have and that none here has any more (`orphaned`). In order: a connection may get what another left.
        """
        self.covered_from: int | None = None
        """The number after which connections here cover everything, since the first opened; None without any."""
        self.reported_lost = 0
        """How many of the lost events that no gap had reported a gap here has."""

    def adopt(self, lo: int, hi: int) -> None:
        """Redis says that `lo..hi` are pending."""
        self.pending.add(lo, hi)

    def adopt_lost(self, count: int, oldest: int) -> None:
        """Redis says that `count` events before `oldest` were lost and no gap has reported them."""
        self.unreported_lost = count
        self.unreported_from = oldest - 1 if count else None

    def event_missed(self, seq: int, now: float) -> None:
        """Redis counted connections here when it numbered `seq`, unless it reported that it was missed."""
        self._taken_to = seq
        if not self.pending.within(seq, seq):
            self._miss(((seq, seq),), now)

    def delivered(self, lo: int, hi: int) -> None:
        if self.pending and (runs := self.pending.within(lo, hi)):
            self.pending.remove(lo, hi)
            self.happened += [("recovered", run) for run in runs]
            self._report(self._project)
        super().delivered(lo, hi)

    def gap_reported(self, seq: int) -> None:
        unreported = self.unreported_lost
        super().gap_reported(seq)
        if unreported and not self.unreported_lost:
            self.reported_lost += unreported
            self._report(self._project)

    def _miss(self, runs: Iterable[Run], now: float) -> None:  # noqa: ARG002 - Redis has the time
        for lo, hi in runs:
            self._waiting.remove(lo, hi)
            self.pending.add(lo, hi)
            self.happened.append(("orphaned", (lo, hi)))
            self._report(self._project)

    def _count_lost(self, count: int) -> None:
        """Redis counts it, when its own stream evicts it."""


class TotalsFromRedis:
    """The misses of all nodes, as of the last heartbeat: `totals` is set to them, and one node has them in its metrics.

    A Redis that comes back with less than it had doesn't make a counter smaller: what is `known` here is handed to it.
    """

    def __init__(self, totals: MissTotals) -> None:
        self._totals = totals
        totals.pending_in_all = 0
        totals.reported_elsewhere = True

    @property
    def known(self) -> tuple[int, int, int, int]:
        """1 while this node reports them, misses, recovered, lost."""
        totals = self._totals
        return int(not totals.reported_elsewhere), totals.misses, totals.recovered, totals.lost

    def update(self, reports: int, misses: int, recovered: int, lost: int, pending: int) -> None:
        totals = self._totals
        totals.reported_elsewhere = not reports
        if misses >= totals.misses and recovered >= totals.recovered and lost >= totals.lost:
            totals.misses, totals.recovered, totals.lost, totals.pending_in_all = misses, recovered, lost, pending

    def expire(self) -> None:
        """Without heartbeats this node doesn't know whether another one reports by now."""
        self._totals.reported_elsewhere = True
