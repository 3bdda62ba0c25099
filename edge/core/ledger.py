"""Who got what: the miss ledger of one project.

Every event of the project's epoch is, at every moment, exactly one of

    got        written to a connection that is still there, or acknowledged by one that has left
    waiting    no connection had room for it yet, but one that covers it is there
    pending    a miss: no subscriber got it, the ring still holds it
    lost       a miss: evicted before anybody got it

and the counts obey `misses == recovered + lost + len(pending)`. A miss that is later written to a live connection is
recovered; if that connection is lost before its peer acknowledged it, it is missed once more. (API page, "Metrics".)
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import msgspec

from edge.core.intervals import Intervals, Run

_MAX_RECEIVED_RUNS = 64
"""Bounds the memory of a project whose connections come and go with holes; beyond it, the oldest is dropped."""


class Reader(Protocol):
    """What of a connection the ledger looks at: it covers what comes after `start` but for `skips`, and has been
    written what of that goes up to `cursor`.
    """

    @property
    def start(self) -> int: ...
    @property
    def cursor(self) -> int: ...
    @property
    def skips(self) -> Intervals | None: ...


class MissTotals:
    """Misses of the whole hub: it outlives the projects."""

    __slots__ = ("lost", "misses", "pending_in_all", "recovered", "reported_elsewhere", "touched")

    def __init__(self) -> None:
        self.misses = 0
        self.recovered = 0
        self.lost = 0
        self.pending_in_all: int | None = None
        """What is pending, where misses are counted for several hubs together."""
        self.reported_elsewhere = False
        """The metrics of another of those hubs have them: each is to be in one, or a sum would count it twice."""
        self.touched: set[str] | None = None
        """Names of projects whose history or ledger has changed, where a store keeps track."""

    def touch(self, project: str) -> None:
        if self.touched is not None:
            self.touched.add(project)

    @property
    def pending(self) -> int:
        return self.misses - self.recovered - self.lost if self.pending_in_all is None else self.pending_in_all


class LedgerState(
    msgspec.Struct,
    frozen=True,
    omit_defaults=True,
    # as files of version 0.1 have them
    rename={"unreported_lost": "untold_lost", "unreported_from": "untold_from"},
):
    """A ledger between two processes. What waited for a subscriber's room is missed once the subscribers are gone."""

    misses: int = 0
    recovered: int = 0
    lost: int = 0
    unreported_lost: int = 0
    unreported_from: int | None = None
    first_miss_seconds: float | None = None
    last_miss_seconds: float | None = None
    pending: tuple[Run, ...] = ()
    waiting: tuple[Run, ...] = ()


class Absence(msgspec.Struct, frozen=True, gc=False):
    """A time without connections: when its first event was missed, how many were, how many the next one got."""

    since_seconds: float
    missed: int
    recovered: int


class Ledger:
    """The misses of one project, counted in `total` as well. Numbers are the project's sequence numbers."""

    __slots__ = (
        "_misses_before",
        "_missing_since_seconds",
        "_project",
        "_received",
        "_recovered_before",
        "_taken_to",
        "_total",
        "_waiting",
        "first_miss_seconds",
        "last_miss_seconds",
        "lost",
        "misses",
        "pending",
        "recovered",
        "unreported_from",
        "unreported_lost",
    )

    def __init__(self, total: MissTotals, project: str, newest: int = 0) -> None:
        self._total = total
        self._project = project
        self.misses = 0
        self.recovered = 0
        self.lost = 0
        self.unreported_lost = 0
        """Lost misses that no gap has reported yet."""
        self.unreported_from: int | None = None
        """The first of them; None when there is none."""
        self.first_miss_seconds: float | None = None
        self.last_miss_seconds: float | None = None
        self.pending = Intervals()
        self._waiting = Intervals()
        """What no connection has been written, though one that is there covers it."""
        self._received = Intervals()
        self._taken_to = newest
        """Up to here `_waiting` says which events wait; beyond it, all do."""
        self._missing_since_seconds: float | None = None
        self._misses_before = self._recovered_before = 0
        """As they were when the last absence ended."""

    def event_missed(self, seq: int, now: float) -> None:
        """`seq` is new and the project has no connection."""
        self.pending.add(seq, seq)
        self._taken_to = seq
        if self._missing_since_seconds is None:
            self._missing_since_seconds = now
        self._missed(1, now)

    def absence_ends(self) -> Absence | None:
        """The first connection has got what was held for it. None when nothing was missed since the last one."""
        since_seconds, self._missing_since_seconds = self._missing_since_seconds, None
        if since_seconds is None:
            return None
        absence = Absence(since_seconds, self.misses - self._misses_before, self.recovered - self._recovered_before)
        self._misses_before, self._recovered_before = self.misses, self.recovered
        return absence

    def delivered(self, lo: int, hi: int) -> None:
        """`lo..hi` were written to a live connection."""
        if hi > self._taken_to:
            if lo > self._taken_to + 1:
                self._waiting.add(self._taken_to + 1, lo - 1)
            self._taken_to = hi
        if self._waiting.size:
            self._waiting.remove(lo, hi)
        if self.pending.size:
            recovered = self.pending.remove(lo, hi)
            self.recovered += recovered
            self._total.recovered += recovered
            if recovered:
                self._total.touch(self._project)

    def evicted(self, lo: int, hi: int, now: float) -> None:
        """The ring evicted `lo..hi`, its oldest: what no subscriber got is lost."""
        if hi > self._taken_to:
            self._all_wait_until(hi)
        if self._waiting.size:
            self._miss(self._waiting.within(lo, hi), now)
        if self.pending.size:
            self._lose_until(hi)

    def acknowledged(self, lo: int, hi: int) -> None:
        """`lo..hi` are known to have reached a peer."""
        self._received.add(lo, hi)
        self._received.keep_newest_runs(_MAX_RECEIVED_RUNS)

    @property
    def received(self) -> Iterable[Run]:
        """What is known to have reached a peer: of those that have left, all that matters."""
        return self._received

    def disconnected(
        self,
        acknowledged: Iterable[Run],
        unacknowledged: Iterable[Run],
        unwritten: Iterable[Run],
        others: Iterable[Reader],
        *,
        oldest: int,
        newest: int,
        now: float,
    ) -> int:
        """A connection has left.

        Args:
            acknowledged: what its peer is known to have got.
            unacknowledged: what it was written besides, held or not.
            unwritten: what it was to get and the ring still holds.
            others: the connections that stay.
            oldest: the ring's oldest number.
            newest: the ring's newest number.
            now: seconds.

        Returns:
            How many events became missed.
        """
        for lo, hi in acknowledged:
            self.acknowledged(lo, hi)
        self._all_wait_until(newest)
        orphaned = self._on_no_other(unacknowledged, others)
        for lo, hi in unwritten:
            for run in self._waiting.within(lo, hi):
                orphaned.add(*run)
        orphans = Intervals(orphaned)
        for other in others:
            if not orphans:
                break
            if other.start < orphans.last and other.cursor < orphans.last:
                _take_out_covered(orphans, other, max(other.cursor + 1, oldest), newest)
        for lo, hi in orphaned:
            self._waiting.add(lo, hi)
        missed = len(orphans)
        if missed and self._missing_since_seconds is None:
            self._missing_since_seconds = now
        self._miss(orphans, now)
        self._lose_until(oldest - 1)
        return missed

    def _on_no_other(self, unacknowledged: Iterable[Run], others: Iterable[Reader]) -> Intervals:
        """Of what was written to one that left: what no peer has acknowledged and no other connection was written."""
        events = Intervals(unacknowledged)
        for lo, hi in self._received if events else ():
            events.remove(lo, hi)
        for other in others:
            if not events:
                break
            if other.start < events.last and other.cursor >= events.first:
                _take_out_covered(events, other, events.first, other.cursor)
        return events

    def state(self, newest: int) -> LedgerState:
        """What the next process needs to know."""
        waiting = Intervals(self._waiting)
        waiting.add(self._taken_to + 1, newest)
        return LedgerState(
            self.misses,
            self.recovered,
            self.lost,
            self.unreported_lost,
            self.unreported_from,
            self.first_miss_seconds,
            self.last_miss_seconds,
            tuple(self.pending),
            tuple(waiting),
        )

    def restore(self, state: LedgerState, oldest: int, now: float) -> None:
        """Go on where `state` was left; what is no longer held since then is lost.

        The hub's totals begin with the process, and with what is pending: a total made of the projects that are still
        there would be smaller after a restart than before.
        """
        self.misses, self.recovered, self.lost = state.misses, state.recovered, state.lost
        self.unreported_lost, self.unreported_from = state.unreported_lost, state.unreported_from
        self.first_miss_seconds, self.last_miss_seconds = state.first_miss_seconds, state.last_miss_seconds
        self._misses_before, self._recovered_before = state.misses, state.recovered
        self.pending = Intervals(state.pending)
        self._total.misses += len(self.pending)
        self._miss(state.waiting, now)
        self._lose_until(oldest - 1)

    def gap_reported(self, seq: int) -> None:
        """A gap reported that everything from `seq` up to the oldest that is held is gone."""
        if self.unreported_from is not None and seq <= self.unreported_from:
            self.unreported_lost, self.unreported_from = 0, None
            self._total.touch(self._project)

    def gap_unread(self, count: int, first: int) -> None:
        """The gap that reported `count` losses from `first` on never reached its peer: the next one reports them."""
        self._not_reported(count, first)
        self._total.touch(self._project)

    def _not_reported(self, count: int, first: int) -> None:
        self.unreported_lost += count
        if self.unreported_from is None or first < self.unreported_from:
            self.unreported_from = first

    def _all_wait_until(self, seq: int) -> None:
        if seq > self._taken_to:
            self._waiting.add(self._taken_to + 1, seq)
            self._taken_to = seq

    def _miss(self, runs: Iterable[Run], now: float) -> None:
        """No connection has these, and none that is open will get them."""
        for lo, hi in runs:
            self._waiting.remove(lo, hi)
            self.pending.add(lo, hi)
            self._missed(hi - lo + 1, now)

    def _missed(self, count: int, now: float) -> None:
        total = self._total
        self.misses += count
        total.misses += count
        if total.touched is not None:
            total.touched.add(self._project)
        self.last_miss_seconds = now
        if self.first_miss_seconds is None:
            self.first_miss_seconds = now

    def _lose_until(self, seq: int) -> None:
        """What is pending up to `seq` can't be given any more."""
        pending = self.pending
        if not pending.size or (first := pending.first) > seq:
            return
        count = pending.remove(first, seq)
        self._not_reported(count, first)
        self._count_lost(count)

    def _count_lost(self, count: int) -> None:
        total = self._total
        self.lost += count
        total.lost += count
        if total.touched is not None:
            total.touched.add(self._project)


def _take_out_covered(events: Intervals, reader: Reader, lo: int, hi: int) -> None:
    """Take out of `events` what `reader` covers of `lo..hi`."""
    for run in events.within(max(lo, reader.start + 1), hi):
        for covered in (run,) if reader.skips is None else reader.skips.outside(*run):
            events.remove(*covered)
