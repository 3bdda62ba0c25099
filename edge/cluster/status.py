"""What Redis knows of one project, and which projects there are: the status of all nodes together."""

from __future__ import annotations

from typing import Any

import msgspec
from redis.exceptions import RedisError

from edge.cluster.client import NODE_TTL_SECONDS, RedisClient


class View(msgspec.Struct, frozen=True):
    """One project on all nodes; times are seconds since 1970."""

    connections: int
    epoch: str
    oldest: int
    newest: int
    events: int
    bytes: int
    misses: int
    recovered: int
    lost: int
    pending: int
    first_miss: float | None
    last_miss: float | None


class ClusterStatus:
    """A project with its last event before `keep_ms` is no longer listed."""

    def __init__(self, redis: RedisClient, keep_ms: int) -> None:
        self._redis = redis
        self._keep_ms = keep_ms

    async def connections(self, name: str) -> int:
        """Connections of `name` on all nodes. Raises StoreUnavailable."""
        view = await self.view(name)
        return 0 if view is None else view.connections

    async def view(self, name: str) -> View | None:
        """None when `name` has neither connections nor events. Raises StoreUnavailable."""
        return (await self.views([name]))[0]

    async def views(self, names: list[str]) -> list[View | None]:
        """As `view` for each name, in one round trip."""
        keys = self._redis.keys
        answers = await self._redis.run_all(
            [
                (
                    "view",
                    [*keys.of(name, "stream", "meta", "pending", "presence"), keys.nodes],
                    [NODE_TTL_SECONDS],
                )
                for name in names
            ]
        )
        return [self._view(answer) for answer in answers]

    def _view(self, answer: Any) -> View | None:
        if isinstance(answer, RedisError):
            raise self._redis.failed(answer)
        there, fields, events, oldest, pending = answer
        meta = {key.decode(): value.decode() for key, value in zip(fields[::2], fields[1::2], strict=True)}
        if "epoch" not in meta or not (there or events):
            return None
        return View(
            connections=there,
            epoch=meta["epoch"],
            oldest=oldest or int(meta["seq"]) + 1,
            newest=int(meta["seq"]),
            events=events,
            bytes=int(meta["bytes"]),
            misses=int(meta.get("misses", 0)),
            recovered=int(meta.get("recovered", 0)),
            lost=int(meta.get("lost", 0)),
            pending=pending,
            first_miss=_seconds(meta.get("first_miss")),
            last_miss=_seconds(meta.get("last_miss")),
        )

    async def names(self, offset: int, count: int) -> tuple[list[str], int]:
        """Names of projects, most recently published first, and how many there are. Raises StoreUnavailable."""
        keys = self._redis.keys
        async with self._redis.use() as client:
            oldest = f"({(await client.time())[0] - self._keep_ms // 1000}"
            await client.zremrangebyscore(keys.projects, "-inf", oldest)
            total = await client.zcard(keys.projects)
            names: list[Any] = await client.zrevrange(keys.projects, offset, offset + count - 1)
        return [name.decode() for name in names], total


def _seconds(text: str | None) -> float | None:
    return None if text is None else float(text)
