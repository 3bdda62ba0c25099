"""Reports this node's connections to Redis: how many each project has, what they recovered, what they left behind.

What was recovered and left behind is reported in the order in which it happened, the number of connections as it is
at the time of the report. Reports are numbered, and Redis ignores one that is not newer than the last: a report that is
sent again because its answer was lost, or that a mended cable delivers late, changes nothing. Invariant: a report is
repeated until Redis has confirmed it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from itertools import chain, count, groupby, islice
from operator import itemgetter
from typing import Any

from redis.exceptions import RedisError

from edge.cluster.client import NODE_HEARTBEAT_SECONDS, NODE_TTL_SECONDS, Call, RedisClient, takes_no_writes
from edge.cluster.ledger import FollowedLedger
from edge.core.errors import StoreUnavailable
from edge.core.hub import Hub
from edge.core.intervals import Run
from edge.core.project import Project
from edge.supervisor import Supervisor

_PROJECTS_AT_ONCE = 256
"""Reported in one turn of the event loop: a few milliseconds. After a restart of Redis all have something to report."""
_NEWEST = 64
"""How many connections are asked where they began: new ones are at the end of the list."""


class PresenceReporter:
    """`unfollow` is called with each project that has no connection here, once Redis knows."""

    def __init__(
        self,
        redis: RedisClient,
        hub: Hub,
        node: str,
        keep_ms: int,
        supervisor: Supervisor,
        unfollow: Callable[[str], Awaitable[None]],
    ) -> None:
        self._redis = redis
        self._hub = hub
        self._node = node
        self._keep_ms = keep_ms
        self._supervisor = supervisor
        self._unfollow = unfollow
        self._numbers = count(1)
        self._reports: list[Call] = []
        """What happened, in order and not confirmed. The number is the first argument."""
        self._changed: dict[str, None] = {}
        """Projects that have something to report."""
        self._task: asyncio.Task[None] | None = None
        self._closing = False

    @property
    def done(self) -> bool:
        """Whether everything is reported."""
        return self._task is None and not self._changed

    def changed(self, name: str) -> None:
        """Report on project `name` soon."""
        self._changed[name] = None
        if self._task is None and not self._closing:
            self._task = self._supervisor.keep_running("redis_presence", self._report_all)

    def connection_removed(self, project: Project) -> None:
        """`project` may have been dropped meanwhile."""
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
        refused = []
        for call, answer in zip(calls, answers, strict=True):
            if isinstance(answer, RedisError):
                self._redis.failed(answer)
                if takes_no_writes(answer):
                    refused.append(call)
        # Refused ones get a new number: Redis may have seen a newer one than theirs by now.
        self._reports[: len(reports)] = [
            (script, keys, [next(self._numbers), *args[1:]]) for script, keys, args in refused if script != "presence"
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
        ledger, of, epoch = project.ledger, self._redis.keys.of, project.epoch
        happened, ledger.happened = ledger.happened, []
        for kind, group in groupby(happened, itemgetter(0)):
            runs = _flat(run for _, run in group)
            if kind == "recovered":
                self._note("recovered", of(project.name, "meta", "pending"), epoch, *runs)
            else:
                keys = [*of(project.name, "stream", "meta", "pending", "presence"), self._redis.keys.nodes]
                self._note("orphaned", keys, self._node, NODE_TTL_SECONDS, epoch, *runs)
        if ledger.reported_lost:
            reported, ledger.reported_lost = ledger.reported_lost, 0
            self._note("gap_reported", of(project.name, "meta"), epoch, reported)

    def _note(self, script: str, keys: list[str], *args: Any) -> None:
        self._reports.append((script, [self._reported, *keys], [next(self._numbers), *args]))

    def _presence(self, name: str) -> Call:
        keys, project = self._redis.keys, self._hub.projects.get(name)
        epoch, newest, covered_from, received = "", 0, 0, list[int]()
        if project is not None:
            epoch, newest, received = project.epoch, project.ring.newest, _flat(project.ledger.received)
            covered_from = _covered_from(project)
        return (
            "presence",
            [
                self._reported,
                *keys.of(name, "stream", "meta", "pending", "presence"),
                keys.nodes,
                keys.followed(self._node),
            ],
            [
                next(self._numbers),
                self._node,
                NODE_TTL_SECONDS,
                epoch,
                newest,
                name,
                self._hub.connected(name),
                covered_from,
                self._keep_ms,
                *received,
            ],
        )

    @property
    def _reported(self) -> str:
        return self._redis.keys.reported(self._node)


def _covered_from(project: Project) -> int:
    """The number after which each event is covered by some connection here, or was when it left."""
    ledger = project.ledger
    assert isinstance(ledger, FollowedLedger)
    known = [] if ledger.covered_from is None else [ledger.covered_from]
    newest = project.connections[-_NEWEST:]
    covered = [one.start if not one.skips else max(one.start, one.skips.last) for one in newest]
    ledger.covered_from = min(known + covered) if newest else None
    return ledger.covered_from or 0


def _flat(runs: Iterable[Run]) -> list[int]:
    return list(chain.from_iterable(runs))
