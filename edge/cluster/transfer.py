"""Read or write all that Redis holds, to copy it to another store or back. No node may be running."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from edge.cluster.client import RedisClient
from edge.config.texts import parse_redis_url
from edge.core import sse
from edge.core.errors import StoreUnavailable
from edge.core.intervals import Intervals
from edge.core.ledger import LedgerState
from edge.core.saved import SavedProject

_KEEP_SECONDS = 86_400
"""How long a copied project is kept unused; the first publish or subscriber sets the usual time."""


async def read_all(url: str) -> list[SavedProject]:
    """Every project. Raises StoreUnavailable."""
    async with _without_nodes(url) as redis:
        async with redis.use() as client:
            names: list[Any] = await client.zrange(redis.keys.projects, 0, -1)
        found = [await _read(redis, name.decode()) for name in names]
    return [one for one in found if one is not None]


async def write_all(url: str, projects: list[SavedProject]) -> tuple[int, int]:
    """Write `projects` into a Redis that has none; returns how many, and how many events. Raises StoreUnavailable."""
    async with _without_nodes(url) as redis:
        async with redis.use() as client:
            if await client.zcard(redis.keys.projects):
                raise StoreUnavailable("The destination holds projects already; name an empty database.")
        for project in projects:
            await _write(redis, project)
    return len(projects), sum(len(project.frames) for project in projects)


@asynccontextmanager
async def _without_nodes(url: str) -> AsyncIterator[RedisClient]:
    redis = RedisClient(parse_redis_url(url))
    try:
        async with redis.use() as client:
            seconds, _ = await client.time()
            if await client.zcount(redis.keys.nodes, seconds - 5, "+inf"):
                raise StoreUnavailable("Nodes are running around this Redis; stop them first.")
        yield redis
    finally:
        await redis.close()


async def _read(redis: RedisClient, name: str) -> SavedProject | None:
    stream, meta_key, pending_key = redis.keys.of(name, "stream", "meta", "pending")
    async with redis.use() as client, client.pipeline(transaction=True) as pipeline:
        pipeline.hgetall(meta_key)
        pipeline.xrange(stream)
        pipeline.zrange(pending_key, 0, -1)
        fields, entries, pending = await pipeline.execute()
    meta = {key.decode(): value.decode() for key, value in fields.items()}
    if "epoch" not in meta:
        return None
    prefix, newest = f"{meta['epoch']}-".encode(), int(meta["seq"])
    unreported = int(meta.get("untold", 0))
    ledger = LedgerState(
        misses=int(meta.get("misses", 0)),
        recovered=int(meta.get("recovered", 0)),
        lost=int(meta.get("lost", 0)),
        unreported_lost=unreported,
        unreported_from=newest - len(entries) if unreported else None,
        pending=tuple((int(seq), int(seq)) for seq in pending),
    )
    frames = [sse.numbered(prefix, int(entry_id.partition(b"-")[0]), event[b"e"]) for entry_id, event in entries]
    times = [float(event[b"t"]) for _, event in entries]
    return SavedProject(name, meta["epoch"], 1, newest, frames, times, ledger)


async def _write(redis: RedisClient, project: SavedProject) -> None:
    name, ledger = project.name, project.ledger
    stream, meta, pending = redis.keys.of(name, "stream", "meta", "pending")
    oldest, now = project.newest - len(project.frames) + 1, time.time()
    last = project.times[-1] if project.times else now
    # What waited for the subscribers of a process that was killed is missed.
    waiting = Intervals(ledger.waiting)
    missed = [seq for lo, hi in (*ledger.pending, *waiting) for seq in range(lo, hi + 1)]
    counts = {"misses": ledger.misses + len(waiting), "recovered": ledger.recovered, "lost": ledger.lost}
    async with redis.use() as client, client.pipeline(transaction=True) as pipeline:
        size_bytes = 0
        for seq, (at, frame) in enumerate(zip(project.times, project.frames, strict=True), oldest):
            text = sse.text_of(frame)
            size_bytes += len(text)
            pipeline.xadd(stream, {"t": str(at), "e": text}, id=f"{seq}-0")
        fields: dict[Any, Any] = {"epoch": project.epoch, "seq": project.newest, "bytes": size_bytes}
        pipeline.hset(meta, mapping=fields | counts | {"untold": ledger.unreported_lost})
        for what, number in counts.items():
            pipeline.hincrby(redis.keys.totals, what, number)
        if missed:
            pipeline.zadd(pending, {str(seq): seq for seq in missed})
            pipeline.hset(redis.keys.pending, name, str(len(missed)))
            pipeline.hincrby(redis.keys.pending, "", len(missed))
            pipeline.zadd(redis.keys.aging, {name: last})
        pipeline.zadd(redis.keys.projects, {name: last})
        for key in (stream, meta, pending):
            pipeline.expire(key, _KEEP_SECONDS)
        await pipeline.execute()
