"""All that Redis holds, read or written as a whole, for moving it to another store or back. No node may be running."""

from __future__ import annotations

from typing import Any

import msgspec
from redis.exceptions import RedisError

from edge.cluster.client import RedisClient
from edge.core import sse
from edge.core.errors import StoreUnavailable

_KEEP_SECONDS = 86_400
"""How long a copied project stays when no node takes it up; the first publish or reader sets the usual time."""


class Shared(msgspec.Struct, frozen=True):
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


async def read_all(url: str) -> list[Shared]:
    """Every project. Raises StoreUnavailable."""
    redis = RedisClient(url)
    try:
        await _refuse_nodes(redis)
        names: list[Any] = await redis.client.zrange(redis.keys.projects, 0, -1)
        found = [await _read(redis, name.decode()) for name in names]
        return [one for one in found if one is not None]
    except (RedisError, OSError) as error:
        raise redis.failed(error) from error
    finally:
        await redis.close()


async def write_all(url: str, projects: list[Shared], *, first: bool) -> None:
    """Write `projects`; with `first`, into a Redis that must not have any. Raises StoreUnavailable."""
    redis = RedisClient(url)
    try:
        if first:
            await _refuse_nodes(redis)
            if await redis.client.zcard(redis.keys.projects):
                raise StoreUnavailable("The destination holds projects already; name an empty database.")
        for project in projects:
            await _write(redis, project)
    except (RedisError, OSError) as error:
        raise redis.failed(error) from error
    finally:
        await redis.close()


async def _refuse_nodes(redis: RedisClient) -> None:
    seconds, _ = await redis.client.time()
    if await redis.client.zcount(redis.keys.nodes, seconds - 5, "+inf"):
        raise StoreUnavailable("Nodes are running around this Redis; stop them first.")


async def _read(redis: RedisClient, name: str) -> Shared | None:
    stream, meta_key, pending_key = redis.keys.of(name, "stream", "meta", "pending")
    async with redis.client.pipeline(transaction=True) as pipeline:
        pipeline.hgetall(meta_key)
        pipeline.xrange(stream)
        pipeline.zrange(pending_key, 0, -1)
        fields, entries, pending = await pipeline.execute()
    meta = {key.decode(): value.decode() for key, value in fields.items()}
    if "epoch" not in meta:
        return None
    prefix = f"{meta['epoch']}-".encode()
    return Shared(
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


async def _write(redis: RedisClient, project: Shared) -> None:
    stream, meta, pending = redis.keys.of(project.name, "stream", "meta", "pending")
    oldest = project.newest - len(project.frames) + 1
    async with redis.client.pipeline(transaction=True) as pipeline:
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
        if project.pending:
            pipeline.zadd(pending, {str(seq): seq for seq in project.pending})
            pipeline.hset(redis.keys.pending, project.name, str(len(project.pending)))
            pipeline.hincrby(redis.keys.pending, "", len(project.pending))
            pipeline.zadd(redis.keys.aging, {project.name: project.times[-1]})
        pipeline.zadd(redis.keys.projects, {project.name: project.times[-1]})
        for key in (stream, meta, pending):
            pipeline.expire(key, _KEEP_SECONDS)
        await pipeline.execute()
