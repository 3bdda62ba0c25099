"""Webhooks about projects of all nodes: Redis knows when a project is occupied and vacated, and what it has missed.

Each node says which projects have a confirmed connection. The scripts that count connections and misses queue what is
to be sent, in Redis. One of the nodes with `hooks.url` sends it, and another when that one is gone.

Invariant: a webhook stays in the queue until it was sent or has failed for good, so what a node had not finished is
sent by the next one, under the same id.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field

import msgspec

from edge.cluster.client import RedisClient
from edge.core.connection import Connection
from edge.core.errors import StoreUnavailable
from edge.core.project import Project
from edge.triggers.hooks import Hooks
from edge.triggers.job import Job

_WANTED_MS = 600_000
"""How long webhooks are queued without a node that wants them."""
_AT_ONCE = 512
_decode = msgspec.json.Decoder(tuple[str, str, str, str, msgspec.Raw]).decode
"""Id, kind, Unix milliseconds, project, data."""


@dataclass(eq=False)
class ClusterHooks(Hooks):
    """For one node of several. What was not sent when it ends stays in Redis.

    `queued`: how many wait in Redis, where this node sends them. `_occupied`: projects with a connection here of which
    Redis knows that one is confirmed.
    """

    look_seconds = 0.25

    _redis: RedisClient
    _taken: dict[str, bytes] = field(default_factory=dict, init=False)
    """By id."""

    def connection_removed(self, project: Project, connection: Connection) -> None:
        super().connection_removed(project, connection)
        if not self._hub.connected(project.name):
            self._occupied.discard(project.name)

    async def look(self) -> None:
        with suppress(StoreUnavailable):  # then everything waits
            names = self._confirmed()
            answers = await self._redis.run_all([("confirm", [name]) for name in names])
            for name, answer in zip(names, answers, strict=True):
                if answer == 1 and name in self._unconfirmed:  # else Redis doesn't know of the connection yet
                    del self._unconfirmed[name]
                    self._occupied.add(name)
            await self._take()

    async def _take(self) -> None:
        """Send what is queued, if this node is the one that sends."""
        answer = await self._redis.run("hooks", self._redis.node, self._grace_seconds, _WANTED_MS, _AT_ONCE)
        if answer is None:
            self.queued = 0
            return
        waiting, self.queued, dropped = answer
        self.outcomes["dropped"] += dropped
        for text in waiting:
            hook_id, kind, ms, project, data = _decode(text)
            if hook_id not in self._taken:
                self._taken[hook_id] = text
                self.send(Job(id=hook_id, name=kind, ts_ms=int(ms), project=project, data=data))

    async def _sent(self, job: Job) -> None:
        """Take a webhook from the queue. While Redis is unreachable its project's others wait."""
        while True:
            with suppress(StoreUnavailable):
                async with self._redis.use() as client:
                    await client.lrem(f"{self._redis.keys.hooks}:queue", 1, self._taken[job.id].decode())
                del self._taken[job.id]
                return
            await asyncio.sleep(self.look_seconds)
