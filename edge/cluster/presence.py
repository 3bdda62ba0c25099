"""Reports this node's connections to Redis: how many each project has, what they recovered, what they left behind.

The numbers of a ledger are counted in Redis, once for all nodes; a project's ledger here collects what to report, and
knows what is pending, so that `since=missed` replays it and a delivery recovers it.

What was recovered and left behind is reported in the order in which it happened, the number of connections as it is
at the time of the report. Reports are numbered, and Redis ignores one that is not newer than the last: a report that is
sent again because its answer was lost, or that a mended cable delivers late, changes nothing. Invariant: a report is
repeated until Redis has confirmed it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain, count, groupby, islice
from operator import itemgetter
from typing import Any, Literal

from edge.cluster.client import NODE_HEARTBEAT_SECONDS, Call, RedisClient
from edge.core.connection import Connection
from edge.core.errors import StoreUnavailable
from edge.core.hub import Hub
from edge.core.intervals import Run
from edge.core.ledger import Ledger, MissTotals
from edge.core.project import Project
from edge.supervisor import Supervisor

_PROJECTS_AT_ONCE = 256
"""Reported in one turn of the event loop: a few milliseconds. After a restart of Redis all have something to report."""
_NEWEST = 64
"""How many connections are looked at for where they began: new ones are at the end of the list."""


class FollowedLedger(Ledger):
    """`report` is called with the project whenever there is something to report."""

    __slots__ = ("_report", "covered_from", "happened", "reported_lost")

    def __init__(self, total: MissTotals, project: str, newest: int, report: Callable[[str], None]) -> None:
        super().__init__(total, project, newest)
        self._report = report
        self.happened: list[tuple[Literal["recovered", "orphaned"], Run]] = []
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

    def gap_unread(self, count: int, first: int) -> None:
        super().gap_unread(count, first)
        self.reported_lost -= count
        self._report(self._project)

    def _miss(self, runs: Iterable[Run], now: float) -> None:  # noqa: ARG002 - Redis has the time
        for lo, hi in runs:
            self._waiting.remove(lo, hi)
            self.pending.add(lo, hi)
            self.happened.append(("orphaned", (lo, hi)))
            self._report(self._project)

    def _count_lost(self, count: int) -> None:
        """Redis counts it, when its own stream evicts it."""

    def cover(self, project: Project) -> int:
        """The number after which each event is covered by some connection here, or was when it left."""
        newest = project.connections[-_NEWEST:]
        starts = [one.start if not one.skips else max(one.start, one.skips.last) for one in newest]
        known = [] if self.covered_from is None else [self.covered_from]
        self.covered_from = min(known + starts) if newest else None
        return self.covered_from or 0


@dataclass(eq=False)
class PresenceReporter:
    """`_unfollow` is called with each project that has no connection here, once Redis knows."""

    _redis: RedisClient
    _hub: Hub
    _supervisor: Supervisor
    _unfollow: Callable[[str], Awaitable[None]]
    _numbers: Iterator[int] = field(default_factory=lambda: count(1))
    _reports: list[Call] = field(default_factory=list)
    """What happened, in order and not confirmed. The number is the first argument."""
    _changed: dict[str, None] = field(default_factory=dict)
    """Projects that have something to report."""
    _task: asyncio.Task[None] | None = None
    _closing: bool = False

    def changed(self, name: str) -> None:
        """Report on project `name` soon."""
        self._changed[name] = None
        if self._task is None and not self._closing:
            self._task = self._supervisor.keep_running("redis_presence", self._report_all)

    def connection_removed(self, project: Project, _connection: Connection) -> None:
        """Report what its peer had not acknowledged and how many stay. `project` may have been dropped meanwhile."""
        self._note_runs(project)
        self.changed(project.name)

    async def close(self) -> None:
        """Report the rest, if Redis can be reached."""
        self._closing = True
        if self._task is not None:
            await asyncio.wait((self._task,))
        while await self._report() and self._changed:
            continue

    async def _report_all(self) -> None:
        await asyncio.sleep(0)
        while self._changed and not self._closing:
            if not await self._report():
                await asyncio.sleep(NODE_HEARTBEAT_SECONDS)
        self._task = None

    async def _report(self) -> bool:
        """Report on the first `_PROJECTS_AT_ONCE` that have changed. Returns whether Redis has confirmed it all."""
        changed = list(islice(self._changed, _PROJECTS_AT_ONCE))
        for name in changed:
            del self._changed[name]
        confirmed = False
        try:
            confirmed = await self._send(changed)
        except StoreUnavailable:
            return False
        finally:
            if not confirmed:
                self._changed = dict.fromkeys(changed) | self._changed
        return confirmed

    async def _send(self, changed: list[str]) -> bool:
        for name in changed:
            self._note_runs(self._hub.projects.get(name))
        reports = self._reports.copy()
        calls = reports + [self._presence(name) for name in changed]
        answers = await self._redis.run_all(calls) if calls else []
        # What Redis refuses although it takes writes, it would refuse again.
        failed = [call for call, answer in zip(calls, answers, strict=True) if isinstance(answer, StoreUnavailable)]
        refused = failed if self._redis.problem is not None else []
        # Refused ones get a new number: Redis may have seen a newer one than theirs by now.
        self._reports[: len(reports)] = [
            (script, [next(self._numbers), *args[1:]]) for script, args in refused if script != "presence"
        ]
        if refused:
            return False
        for name in changed:
            if not self._hub.connected(name):
                await self._unfollow(name)
        return True

    def _note_runs(self, project: Project | None) -> None:
        """Note what connections of `project` recovered, and what none here has any more, as it happened: an event that
        was written to a connection which left without it is both.
        """
        if project is None or not isinstance(project.ledger, FollowedLedger):
            return
        ledger = project.ledger
        happened, ledger.happened = ledger.happened, []
        for kind, group in groupby(happened, itemgetter(0)):
            self._reports.append(self._call(kind, project.name, project.epoch, *_flat(run for _, run in group)))
        if ledger.reported_lost:
            reported, ledger.reported_lost = ledger.reported_lost, 0
            self._reports.append(self._call("gap_reported", project.name, project.epoch, reported))

    def _presence(self, name: str) -> Call:
        project = self._hub.projects.get(name)
        if project is None:
            return self._call("presence", name, "", 0, self._hub.connected(name), 0)
        ledger = project.ledger
        assert isinstance(ledger, FollowedLedger)
        known = project.epoch, project.ring.newest, self._hub.connected(name), ledger.cover(project)
        return self._call("presence", name, *known, *_flat(ledger.received))

    def _call(self, script: str, name: str, *args: Any) -> Call:
        return script, [next(self._numbers), self._redis.node, name, *args]


def _flat(runs: Iterable[Run]) -> list[int]:
    return list(chain.from_iterable(runs))
