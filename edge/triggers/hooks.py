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
from collections.abc import Awaitable, Callable
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
_LOOK_SECONDS = 1.0
_CONFIRM_SECONDS = 0.05
"""How often an unconfirmed connection is looked at while it is new; an acknowledgement takes a round trip."""
_NEW_SECONDS = 2.0
OUTCOMES: Final = ("sent", "failed", "dropped")
_log = get_logger("hooks")


class HookSender:
    """Sends webhooks to `target`: those of one project one after another, in order."""

    def __init__(self, target: Target, supervisor: Supervisor) -> None:
        self._target = target
        self._supervisor = supervisor
        self.outcomes: Counter[str] = Counter(dict.fromkeys(OUTCOMES, 0))
        self.queued = 0
        """Webhooks that wait to be sent, or are being sent."""
        self._queues: dict[str, deque[tuple[Job, Callable[[], Awaitable[None]] | None]]] = {}
        self._sending: dict[str, asyncio.Task[None]] = {}
        self._closing = False

    def put(self, job: Job, done: Callable[[], Awaitable[None]] | None = None) -> None:
        """Send `job` behind those of its project; `done` is awaited when it was sent, or has failed for good."""
        self._queues.setdefault(job.project, deque()).append((job, done))
        self.queued += 1
        self._send_next()

    async def close(self) -> None:
        """Stop sending; what has not been sent stays in `queued`."""
        self._closing = True
        for task in list(self._sending.values()):
            await end(task)
        await self._target.close()

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
                job, done = queue[0]
                await self._send(job)
                queue.popleft()
                self.queued -= 1
                if done is not None:
                    await done()
        finally:
            del self._sending[name]
            if not queue:
                del self._queues[name]
            self._send_next()

    async def _send(self, job: Job) -> None:
        try:
            await self._target.dispatch(job)
        except EdgeError:  # the target has logged it
            self.outcomes["failed"] += 1
        else:
            self.outcomes["sent"] += 1


class Hooks:
    """Watches one hub. Its methods without `async` are called by the hub's observer."""

    def __init__(
        self, hub: Hub, sender: HookSender, clock: Callable[[], float], grace_seconds: float, supervisor: Supervisor
    ) -> None:
        self._hub = hub
        self.sender = sender
        self._clock = clock
        self._grace_seconds = grace_seconds
        self._supervisor = supervisor
        self._occupied: set[str] = set()
        self._unconfirmed: dict[str, float] = {}
        """Projects that are not occupied and have a connection, with the time of the first."""
        self._vacating: dict[str, float] = {}
        """Occupied projects without a connection, with the end of their grace time; the first one to end first."""
        self._lost: dict[str, int] = {}
        """Projects that have missed events since their last subscriber, with the losses reported so far."""
        self._look_from = 0
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def queued(self) -> int:
        """Webhooks that wait to be sent, or are being sent."""
        return self.sender.queued

    def start(self) -> None:
        self._task = self._supervisor.keep_running("hooks", self._run)

    async def close(self) -> None:
        """Stop watching. What has not been sent by now is dropped."""
        await end(self._task)
        await self.sender.close()
        self.sender.outcomes["dropped"] += self.queued
        if self.queued:
            _log.warning("hooks_dropped", count=self.queued)

    # What the hub's observer reports

    def connection_added(self, name: str) -> None:
        self._vacating.pop(name, None)
        self._lost.pop(name, None)
        if name not in self._occupied and name not in self._unconfirmed:
            self._unconfirmed[name] = self._clock()
            self._wake.set()

    def connection_removed(self, project: Project, _connection: Connection) -> None:
        name = project.name
        if self._hub.connected(name):
            return
        self._unconfirmed.pop(name, None)
        if name in self._occupied and name not in self._vacating:
            self._vacating[name] = self._clock() + self._grace_seconds
            self._wake.set()

    def event_missed(self, project: Project, event_id: str) -> None:
        if project.name not in self._lost:
            self._lost[project.name] = project.ledger.lost
            self._queue("missed", project.name, {"event_id": event_id})

    def project_dropped(self, project: Project) -> None:
        self._report_losses(project)
        self._lost.pop(project.name, None)

    # What is looked for

    async def _run(self) -> None:
        while True:
            now = self._clock()
            new = self._confirm(now)
            self._vacate(now)
            self._look_for_losses()
            pause_seconds = _CONFIRM_SECONDS if new else self._until_vacated(now)
            try:
                async with asyncio.timeout(pause_seconds):
                    await self._wake.wait()
            except TimeoutError:
                continue
            self._wake.clear()

    def _confirm(self, now: float) -> bool:
        """Report projects with a confirmed connection. Returns whether a new connection is still unconfirmed."""
        looks = 0
        for name in list(islice(self._unconfirmed, _SLICE)):
            if looks > _SLICE:
                break
            since = self._unconfirmed.pop(name)
            project = self._hub.projects.get(name)
            if project is None or not project.connections:
                continue
            asked = project.connections[:_SLICE]
            looks += len(asked)
            if any(connection.acked_bytes() >= connection.written_bytes for connection in asked):
                self._occupied.add(name)
                self._queue("occupied", name, {"connections": len(project.connections)})
            else:
                self._unconfirmed[name] = since  # the last in line
        return any(now - since < _NEW_SECONDS for since in islice(self._unconfirmed.values(), _SLICE))

    def _vacate(self, now: float) -> None:
        for name in list(islice(self._vacating, _SLICE)):
            if self._vacating[name] > now:
                break
            del self._vacating[name]
            self._occupied.discard(name)
            self._queue("vacated", name, {"connections": 0})

    def _until_vacated(self, now: float) -> float:
        first = next(iter(self._vacating.values()), now + _LOOK_SECONDS)
        return min(max(first - now, 0.0), _LOOK_SECONDS)

    def _look_for_losses(self) -> None:
        if self._look_from >= len(self._lost):
            self._look_from = 0
        names = list(islice(self._lost, self._look_from, self._look_from + _SLICE))
        self._look_from += _SLICE
        for name in names:
            project = self._hub.projects.get(name)
            if project is not None:
                self._report_losses(project)

    def _report_losses(self, project: Project) -> None:
        reported = self._lost.get(project.name)
        if reported is not None and project.ledger.lost > reported:
            self._lost[project.name] = project.ledger.lost
            self._queue("lost", project.name, {"events": project.ledger.lost - reported})

    def _queue(self, kind: str, name: str, data: dict[str, Any]) -> None:
        if self.sender.queued >= MAX_QUEUED:
            self.sender.outcomes["dropped"] += 1
            return
        job = Job(
            id=f"hook_{secrets.token_hex(12)}",
            name=kind,
            ts_ms=time.time_ns() // 1_000_000,
            project=name,
            data=msgspec.Raw(msgspec.json.encode(data)),
        )
        self.sender.put(job)


def is_confirmed(project: Project) -> bool:
    """Whether the peer of a connection has acknowledged every byte so far."""
    return any(connection.acked_bytes() >= connection.written_bytes for connection in project.connections[:_SLICE])
