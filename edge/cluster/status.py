"""What Redis knows of one project, and which projects there are: the status of all nodes together."""

from __future__ import annotations

from heapq import nsmallest
from typing import Any

from redis.exceptions import RedisError

from edge.cluster.client import NODE_TTL_SECONDS, RedisClient
from edge.cluster.local import PROJECTS_A_TURN, Order, View, rank


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
        epoch, newest = meta["epoch"], int(meta["seq"])
        oldest = oldest or newest + 1
        return View(
            connections=there,
            epoch=epoch,
            oldest=oldest,
            newest=newest,
            oldest_id=f"{epoch}-{oldest}",
            newest_id=f"{epoch}-{newest}",
            events=events,
            bytes=int(meta["bytes"]),
            misses=int(meta.get("misses", 0)),
            recovered=int(meta.get("recovered", 0)),
            lost=int(meta.get("lost", 0)),
            pending=pending,
            first_miss_seconds=self._moment(meta.get("first_miss")),
            last_miss_seconds=self._moment(meta.get("last_miss")),
        )

    def _moment(self, redis_time: str | None) -> float | None:
        return None if redis_time is None else float(redis_time) - self._redis.ahead_seconds

    async def page(self, offset: int, count: int, order: Order, match: str) -> tuple[list[tuple[str, View]], int]:
        """As `Nodes.page`, the most recently published first by default. Raises StoreUnavailable."""
        if order == "busiest" and not match:
            return await self._recent(offset, count)
        best: list[tuple[str, View]] = []
        at, total, matching = 0, 1, 0
        while at < total:
            part, total = await self._recent(at, PROJECTS_A_TURN)
            fitting = [(name, view) for name, view in part if match.lower() in name.lower()]
            matching += len(fitting)
            best = nsmallest(
                offset + count,
                [*best, *fitting],
                lambda one: (rank(order, one[1].connections, one[1].lost, one[1].pending), one[0]),
            )
            at += PROJECTS_A_TURN
        return best[offset:], matching

    async def _recent(self, offset: int, count: int) -> tuple[list[tuple[str, View]], int]:
        keys = self._redis.keys
        async with self._redis.use() as client:
            oldest = f"({(await client.time())[0] - self._keep_ms // 1000}"
            await client.zremrangebyscore(keys.projects, "-inf", oldest)
            total = await client.zcard(keys.projects)
            found: list[Any] = await client.zrevrange(keys.projects, offset, offset + count - 1)
        names = [name.decode() for name in found]
        views = zip(names, await self.views(names), strict=True)
        return [(name, view) for name, view in views if view is not None], total
