"""Read or write all that Redis holds, to copy it to another store or back. No node may be running."""

from __future__ import annotations

from typing import Any

import msgspec

from edge.cluster.client import RedisClient
from edge.config.redis_url import parse_redis_url
from edge.core import sse
from edge.core.errors import StoreUnavailable

_KEEP_SECONDS = 86_400
"""How long a copied project is kept unused; the first publish or subscriber sets the usual time."""


class StoredProject(msgspec.Struct, frozen=True):
    """One project in Redis: `frames` end with number `newest`, `times` are seconds since 1970."""

    name: str
    epoch: str
    newest: int
    frames: list[bytes]
    times: list[float]
    misses: int
    recovered: int
    lost: int
    untold: int
    pending: list[int]


async def read_all(url: str) -> list[StoredProject]:
    """Every project. Raises StoreUnavailable."""
    redis = RedisClient(parse_redis_url(url))
    try:
        await _refuse_nodes(redis)
        async with redis.use() as client:
            names: list[Any] = await client.zrange(redis.keys.projects, 0, -1)
        found = [await _read(redis, name.decode()) for name in names]
        return [one for one in found if one is not None]
    finally:
        await redis.close()


async def write_all(url: str, projects: list[StoredProject], *, first: bool) -> None:
    """Write `projects`; with `first`, into a Redis that must not have any. Raises StoreUnavailable."""
    redis = RedisClient(parse_redis_url(url))
    try:
        if first:
            await _refuse_nodes(redis)
            async with redis.use() as client:
                if await client.zcard(redis.keys.projects):
                    raise StoreUnavailable("The destination holds projects already; name an empty database.")
        for project in projects:
            await _write(redis, project)
    finally:
        await redis.close()


async def _refuse_nodes(redis: RedisClient) -> None:
    async with redis.use() as client:
        seconds, _ = await client.time()
        nodes = await client.zcount(redis.keys.nodes, seconds - 5, "+inf")
    if nodes:
        raise StoreUnavailable("Nodes are running around this Redis; stop them first.")


async def _read(redis: RedisClient, name: str) -> StoredProject | None:
    stream, meta_key, pending_key = redis.keys.of(name, "stream", "meta", "pending")
    async with redis.use() as client, client.pipeline(transaction=True) as pipeline:
        pipeline.hgetall(meta_key)
        pipeline.xrange(stream)
        pipeline.zrange(pending_key, 0, -1)
        fields, entries, pending = await pipeline.execute()
    meta = {key.decode(): value.decode() for key, value in fields.items()}
    if "epoch" not in meta:
        return None
    prefix = f"{meta['epoch']}-".encode()
    return StoredProject(
        name=name,
        epoch=meta["epoch"],
        newest=int(meta["seq"]),
        frames=[sse.numbered(prefix, int(entry_id.partition(b"-")[0]), event[b"e"]) for entry_id, event in entries],
        times=[float(event[b"t"]) for _, event in entries],
        misses=int(meta.get("misses", 0)),
        recovered=int(meta.get("recovered", 0)),
        lost=int(meta.get("lost", 0)),
        untold=int(meta.get("untold", 0)),
        pending=[int(seq) for seq in pending],
    )


async def _write(redis: RedisClient, project: StoredProject) -> None:
    stream, meta, pending = redis.keys.of(project.name, "stream", "meta", "pending")
    oldest = project.newest - len(project.frames) + 1
    async with redis.use() as client, client.pipeline(transaction=True) as pipeline:
        size_bytes = 0
        for seq, (at, frame) in enumerate(zip(project.times, project.frames, strict=False), oldest):
            text = sse.text_of(frame)
            size_bytes += len(text)
            pipeline.xadd(stream, {"t": str(at), "e": text}, id=f"{seq}-0")
        pipeline.hset(
            meta,
            mapping={
                "epoch": project.epoch,
                "seq": project.newest,
                "bytes": size_bytes,
                "misses": project.misses,
                "recovered": project.recovered,
                "lost": project.lost,
                "untold": project.untold,
            },
        )
        counts = {"misses": project.misses, "recovered": project.recovered, "lost": project.lost}
        for what, number in counts.items():
            pipeline.hincrby(redis.keys.totals, what, number)
        if project.pending:
            pipeline.zadd(pending, {str(seq): seq for seq in project.pending})
            pipeline.hset(redis.keys.pending, project.name, str(len(project.pending)))
            pipeline.hincrby(redis.keys.pending, "", len(project.pending))
            pipeline.zadd(redis.keys.aging, {project.name: project.times[-1]})
        pipeline.zadd(redis.keys.projects, {project.name: project.times[-1]})
        for key in (stream, meta, pending):
            pipeline.expire(key, _KEEP_SECONDS)
        await pipeline.execute()
