"""Webhooks about projects of all nodes: Redis knows when a project is occupied and vacated, and what it has missed.

Each node says which projects have a confirmed connection. The scripts that count connections and misses queue what is
to be sent, in Redis. One of the nodes with `hooks.url` sends it, and another when that one is gone.

Invariant: a webhook stays in the queue until it was sent or has failed for good, so what a node had not finished is
sent by the next one, under the same id.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from functools import partial
from itertools import islice

import msgspec

from edge.cluster.client import NODE_TTL_SECONDS, RedisClient
from edge.core.connection import Connection
from edge.core.errors import StoreUnavailable
from edge.core.hub import Hub
from edge.core.project import Project
from edge.supervisor import Supervisor, end
from edge.triggers.hooks import HookSender, is_confirmed
from edge.triggers.job import Job

_LOOK_SECONDS = 0.25
_WANTED_MS = 600_000
"""How long webhooks are queued without a node that wants them."""
_AT_ONCE = 512
_Queued = tuple[str, str, str, str, msgspec.Raw]
"""Id, kind, Unix milliseconds, project, data."""
_decoder = msgspec.json.Decoder(_Queued)


class ClusterHooks:
    """As `edge.triggers.hooks.Hooks`, for one node of several."""

    def __init__(
        self, redis: RedisClient, node: str, hub: Hub, sender: HookSender, grace_seconds: float, supervisor: Supervisor
    ) -> None:
        self._redis = redis
        self._node = node
        self._hub = hub
        self.sender = sender
        self._grace_seconds = grace_seconds
        self._supervisor = supervisor
        self.queued = 0
        """How many wait in Redis, where this node sends them."""
        self._unconfirmed: dict[str, None] = {}
        self._confirmed: set[str] = set()
        """Projects with a connection here of which Redis knows that one is confirmed."""
        self._taken: set[bytes] = set()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = self._supervisor.keep_running("hooks", self._run)

    async def close(self) -> None:
        """Stop. What was not sent stays in Redis."""
        await end(self._task)
        await self.sender.close()

    # What the hub's observer reports

    def connection_added(self, name: str) -> None:
        if name not in self._confirmed:
            self._unconfirmed[name] = None

    def connection_removed(self, project: Project, _connection: Connection) -> None:
        if not self._hub.connected(project.name):
            self._unconfirmed.pop(project.name, None)
            self._confirmed.discard(project.name)

    def event_missed(self, project: Project, event_id: str) -> None:
        """Redis knows."""

    def project_dropped(self, project: Project) -> None:
        """Redis knows."""

    async def _run(self) -> None:
        while True:
            with suppress(StoreUnavailable):  # then everything waits
                await self._confirm()
                await self._take()
            await asyncio.sleep(_LOOK_SECONDS)

    async def _confirm(self) -> None:
        """Report projects with a confirmed connection, until Redis knows of the connection, too."""
        looked_at = list(islice(self._unconfirmed, _AT_ONCE))
        names = [name for name in looked_at if name in self._hub.projects and is_confirmed(self._hub.projects[name])]
        of, nodes = self._redis.keys.of, self._redis.keys.nodes
        answers = await self._redis.run_all(
            [("confirm", [*of(name, "pending", "presence"), nodes], [NODE_TTL_SECONDS]) for name in names]
        )
        known = {name for name, answer in zip(names, answers, strict=True) if answer == 1}
        for name in looked_at:
            if name not in self._unconfirmed:
                continue
            del self._unconfirmed[name]
            if name in known:
                self._confirmed.add(name)
            else:
                self._unconfirmed[name] = None  # the last in line

    async def _take(self) -> None:
        """Send what is queued, if this node is the one that sends."""
        keys = self._redis.keys
        answer = await self._redis.run(
            "hooks",
            [keys.nodes],
            keys.prefix,
            self._node,
            NODE_TTL_SECONDS,
            self._grace_seconds,
            _WANTED_MS,
            int(NODE_TTL_SECONDS * 1000),
            _AT_ONCE,
        )
        if answer is None:
            self.queued = 0
            return
        waiting, self.queued, dropped = answer
        self.sender.outcomes["dropped"] += dropped
        for text in waiting:
            if text not in self._taken:
                self._taken.add(text)
                hook_id, kind, ms, project, data = _decoder.decode(text)
                job = Job(id=hook_id, name=kind, ts_ms=int(ms), project=project, data=data)
                self.sender.put(job, partial(self._sent, text))

    async def _sent(self, text: bytes) -> None:
        """Take a webhook from the queue. While Redis is unreachable its project's others wait."""
        while True:
            with suppress(StoreUnavailable):
                async with self._redis.use() as client:
                    await client.lrem(f"{self._redis.keys.hooks}:queue", 1, text.decode())
                self._taken.discard(text)
                return
            await asyncio.sleep(_LOOK_SECONDS)
