"""What this node has to tell Redis: how many readers it has where, what they recovered, what they left behind.

What readers recovered and left behind is told in the order in which it happened, their number as it is when it is told.
Each call has a number, and Redis does none that is not newer than the last: one that was sent again because its answer
was lost, or that comes late out of a mended cable, changes nothing. Invariant: what Redis has not been heard to take is
told again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from itertools import count
from typing import Any

from redis.exceptions import RedisError

from edge.cluster.client import NODE_HEARTBEAT_SECONDS, NODE_TTL_SECONDS, Call, RedisClient
from edge.cluster.ledger import FollowedLedger
from edge.core.errors import StoreUnavailable
from edge.core.hub import Hub
from edge.core.intervals import Run
from edge.core.project import Project

_NEWCOMERS = 64
"""So many connections are looked at for where they began: they come in at the end of the list."""


class PresenceReporter:
    """`unfollow` is called with each project that has no reader here, once Redis knows."""

    def __init__(
        self, redis: RedisClient, hub: Hub, node: str, keep_ms: int, unfollow: Callable[[str], Awaitable[None]]
    ) -> None:
        self._wire = redis
        self._hub = hub
        self._node = node
        self._keep_ms = keep_ms
        self._unfollow = unfollow
        self._numbers = count(1)
        self._calls: list[Call] = []
        """Of events, in order, and not known to be taken."""
        self._changed: dict[str, None] = {}
        """Projects that have something to tell."""
        self._task: asyncio.Task[None] | None = None
        self._closing = False

    @property
    def done(self) -> bool:
        """Whether Redis has been told all there is to tell."""
        return self._task is None and not self._changed

    def changed(self, name: str) -> None:
        """Something of `name` is to be told soon."""
        self._changed[name] = None
        if self._task is None and not self._closing:
            self._task = asyncio.create_task(self._tell())

    def left(self, project: Project) -> None:
        """A reader has left `project`, which may have been forgotten meanwhile."""
        self._note_runs(project)
        self.changed(project.name)

    async def close(self) -> None:
        """Tell what is left, if Redis can be reached."""
        self._closing = True
        if self._task is not None:
            await asyncio.wait((self._task,))
        await self._tell_once()

    async def _tell(self) -> None:
        try:
            await asyncio.sleep(0)
            while self._changed:
                if not await self._tell_once():
                    await asyncio.sleep(NODE_HEARTBEAT_SECONDS)
                if self._closing:
                    return
        finally:
            self._task = None

    async def _tell_once(self) -> bool:
        """Tell Redis of every project that has changed. Returns whether it heard."""
        changed, self._changed = self._changed, {}
        for name in changed:
            self._note_runs(self._hub.projects.get(name))
        events = self._calls.copy()
        calls = events + [self._readers(name) for name in changed]
        try:
            answers = await self._wire.run_all(calls) if calls else []
        except StoreUnavailable:
            self._changed = changed | self._changed
            return False
        del self._calls[: len(events)]
        for (script, _, _), answer in zip(calls, answers, strict=True):
            if isinstance(answer, RedisError):
                self._wire.failed(answer)
            else:
                self._count(script, answer)
        for name in changed:
            if not self._hub.connected(name):
                await self._unfollow(name)
        return True

    def _count(self, script: str, answer: Any) -> None:
        misses = self._hub.counters.misses
        if script == "recovered":
            misses.recovered += answer
        elif script in {"orphaned", "readers"}:
            missed, lost = answer
            misses.misses += missed
            misses.lost += lost

    def _note_runs(self, project: Project | None) -> None:
        """What readers of `project` recovered, and what nobody here has any more: in this order, for an event that was
        written to one who left without it is both.
        """
        if project is None or not isinstance(project.ledger, FollowedLedger):
            return
        ledger, of = project.ledger, self._wire.keys.of
        if ledger.recovered_runs:
            runs, ledger.recovered_runs = ledger.recovered_runs, []
            self._calls.append(
                (
                    "recovered",
                    [self._told, *of(project.name, "meta", "pending")],
                    [next(self._numbers), project.epoch, *_flat(runs)],
                )
            )
        if ledger.orphaned_runs:
            runs, ledger.orphaned_runs = ledger.orphaned_runs, []
            self._calls.append(
                (
                    "orphaned",
                    [self._told, *of(project.name, "stream", "meta", "pending", "presence"), self._wire.keys.nodes],
                    [next(self._numbers), self._node, NODE_TTL_SECONDS, project.epoch, *_flat(runs)],
                )
            )
        if ledger.told:
            told, ledger.told = ledger.told, 0
            self._calls.append(
                (
                    "gap_told",
                    [self._told, *of(project.name, "meta")],
                    [next(self._numbers), project.epoch, told],
                )
            )

    def _readers(self, name: str) -> Call:
        keys, project = self._wire.keys, self._hub.projects.get(name)
        epoch, newest, covered_from, received = "", 0, 0, list[int]()
        if project is not None:
            epoch, newest, received = project.epoch, project.ring.newest, _flat(project.ledger.received)
            covered_from = _covered_from(project)
        return (
            "readers",
            [
                self._told,
                *keys.of(name, "stream", "meta", "pending", "presence"),
                keys.nodes,
                keys.node(self._node),
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
    def _told(self) -> str:
        return self._wire.keys.told(self._node)


def _covered_from(project: Project) -> int:
    """The number after which each event is covered by some reader here, or was when it left."""
    ledger = project.ledger
    assert isinstance(ledger, FollowedLedger)
    known = [] if ledger.covered_from is None else [ledger.covered_from]
    newcomers = project.connections[-_NEWCOMERS:]
    covered = [one.start if not one.skips else max(one.start, one.skips.last) for one in newcomers]
    ledger.covered_from = min(known + covered) if newcomers else None
    return ledger.covered_from or 0


def _flat(runs: Iterable[Run]) -> list[int]:
    return [number for run in runs for number in run]
