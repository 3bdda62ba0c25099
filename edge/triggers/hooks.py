"""Webhooks about projects, sent to `hooks.url`: `occupied`, `vacated`, `missed` and `lost`.

    occupied   the project's first connection is confirmed, after there was none
    vacated    its last connection has been gone for `grace_seconds`
    missed     an event was published without a subscriber: the first one since the last subscriber
    lost       missed events were evicted before any subscriber received them

Invariants: the hub never waits for a webhook. Those of one project are sent one after another, in order; at most
`MAX_QUEUED` wait, and what comes beyond is counted as dropped. Each is signed and retried as a triggered job is.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Final

import msgspec

from edge.core.connection import Connection
from edge.core.errors import EdgeError
from edge.core.hub import Hub
from edge.core.project import Project
from edge.logs.setup import get_logger
from edge.supervisor import Supervisor, end
from edge.triggers.job import Job, Target

MAX_QUEUED = 10_000
_MAX_AT_ONCE = 16
_SLICE = 512
"""Projects that are looked at in one turn of the event loop."""
OUTCOMES: Final = ("sent", "failed", "dropped")
_log = get_logger("hooks")


@dataclass(eq=False)
class Hooks:
    """What a hub that is alone and a node of several have in common.

    `look` is called all the time, `look_seconds` apart; the methods without `async` are called by the hub's observer.
    """

    look_seconds = 0.05

    _hub: Hub
    _target: Target
    _grace_seconds: float
    _supervisor: Supervisor
    queued: int = field(default=0, init=False)
    """Webhooks that wait to be sent, or are being sent."""
    outcomes: Counter[str] = field(default_factory=lambda: Counter(dict.fromkeys(OUTCOMES, 0)), init=False)
    _occupied: set[str] = field(default_factory=set, init=False)
    _unconfirmed: dict[str, None] = field(default_factory=dict, init=False)
    """Projects that are not occupied and have a connection."""
    _queues: dict[str, deque[Job]] = field(default_factory=dict, init=False)
    _sending: dict[str, asyncio.Task[None]] = field(default_factory=dict, init=False)
    _closing: bool = field(default=False, init=False)
    _task: asyncio.Task[None] | None = field(default=None, init=False)

    def start(self) -> None:
        self._task = self._supervisor.keep_running("hooks", self._run)

    async def close(self) -> None:
        """Stop sending."""
        await end(self._task)
        self._closing = True
        for task in list(self._sending.values()):
            await end(task)
        await self._target.close()

    def send(self, job: Job) -> None:
        """Send `job` behind those of its project."""
        self._queues.setdefault(job.project, deque()).append(job)
        self._send_next()

    def _send_next(self) -> None:
        if len(self._sending) >= _MAX_AT_ONCE or self._closing:
            return
        waiting = (name for name in self._queues if name not in self._sending)
        for name in list(islice(waiting, _MAX_AT_ONCE - len(self._sending))):
            self._sending[name] = self._supervisor.start("hooks", self._send_all(name))

    async def _send_all(self, name: str) -> None:
        queue = self._queues[name]
        try:
            while queue:
                try:
                    await self._target.dispatch(queue[0])
                    self.outcomes["sent"] += 1
                except EdgeError:  # the target has logged it
                    self.outcomes["failed"] += 1
                await self._sent(queue.popleft())
        finally:
            del self._sending[name]
            if not queue:
                del self._queues[name]
            self._send_next()

    def connection_added(self, name: str) -> None:
        if name not in self._occupied:
            self._unconfirmed[name] = None

    def connection_removed(self, project: Project, _connection: Connection) -> None:
        if not self._hub.connected(project.name):
            self._unconfirmed.pop(project.name, None)

    def event_missed(self, project: Project, event_id: str) -> None:
        """The event was published without a subscriber."""

    def project_dropped(self, project: Project) -> None:
        """The hub has forgotten the project."""

    async def look(self) -> None:
        raise NotImplementedError

    async def _sent(self, job: Job) -> None:
        """`job` was sent, or has failed for good."""
        raise NotImplementedError

    async def _run(self) -> None:
        while True:
            await self.look()
            await asyncio.sleep(self.look_seconds)

    def _confirmed(self) -> list[str]:
        """Projects of which the peer of a connection has acknowledged every byte so far."""
        found, looks = [], 0
        for name in list(islice(self._unconfirmed, _SLICE)):
            if looks > _SLICE:
                break
            del self._unconfirmed[name]
            if (project := self._hub.projects.get(name)) is None:
                continue
            self._unconfirmed[name] = None  # the last in line
            connections = project.connections[:_SLICE]
            looks += len(connections)
            if any(connection.acked_bytes() >= connection.written_bytes for connection in connections):
                found.append(name)
        return found


@dataclass(eq=False)
class LocalHooks(Hooks):
    """Webhooks of a hub that is alone. What has not been sent when it ends is dropped."""

    _clock: Callable[[], float]
    _vacating: dict[str, float] = field(default_factory=dict, init=False)
    """Occupied projects without a connection, with the end of their grace time; the first one to end first."""
    _lost: dict[str, int] = field(default_factory=dict, init=False)
    """Projects that have missed events since their last subscriber, with the losses reported so far."""
    _look_from: int = field(default=0, init=False)

    async def close(self) -> None:
        await super().close()
        self.outcomes["dropped"] += self.queued
        if self.queued:
            _log.warning("hooks_dropped", count=self.queued)

    def connection_added(self, name: str) -> None:
        self._vacating.pop(name, None)
        self._lost.pop(name, None)
        super().connection_added(name)

    def connection_removed(self, project: Project, connection: Connection) -> None:
        super().connection_removed(project, connection)
        if project.name in self._occupied and not self._hub.connected(project.name):
            self._vacating.setdefault(project.name, self._clock() + self._grace_seconds)

    def event_missed(self, project: Project, event_id: str) -> None:
        if project.name not in self._lost:
            self._lost[project.name] = project.ledger.lost
            self._queue("missed", project.name, {"event_id": event_id})

    def project_dropped(self, project: Project) -> None:
        self._report_losses(project)
        self._lost.pop(project.name, None)

    async def look(self) -> None:
        for name in self._confirmed():
            del self._unconfirmed[name]
            self._occupied.add(name)
            self._queue("occupied", name, {"connections": len(self._hub.projects[name].connections)})
        now = self._clock()
        for name in list(islice(self._vacating, _SLICE)):
            if self._vacating[name] > now:
                break
            del self._vacating[name]
            self._occupied.discard(name)
            self._queue("vacated", name, {"connections": 0})
        if self._look_from >= len(self._lost):
            self._look_from = 0
        for name in list(islice(self._lost, self._look_from, self._look_from + _SLICE)):
            if (project := self._hub.projects.get(name)) is not None:
                self._report_losses(project)
        self._look_from += _SLICE

    def _report_losses(self, project: Project) -> None:
        reported = self._lost.get(project.name)
        if reported is not None and project.ledger.lost > reported:
            self._lost[project.name] = project.ledger.lost
            self._queue("lost", project.name, {"events": project.ledger.lost - reported})

    def _queue(self, kind: str, name: str, data: dict[str, Any]) -> None:
        if self.queued >= MAX_QUEUED:
            self.outcomes["dropped"] += 1
            return
        raw = msgspec.Raw(msgspec.json.encode(data))
        ts_ms = time.time_ns() // 1_000_000
        self.queued += 1
        self.send(Job(id=f"hook_{secrets.token_hex(12)}", name=kind, ts_ms=ts_ms, project=name, data=raw))

    async def _sent(self, job: Job) -> None:  # noqa: ARG002 - as the base class has it
        self.queued -= 1
