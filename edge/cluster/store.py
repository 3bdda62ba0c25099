"""The store for several nodes: Redis Streams number and keep the events, and count who is where.

Publishing: what one turn of the loop brings, and what comes while Redis is answering, is one pipeline with one script a
project. Presence: this node's number of readers of each project, told when it changes, valid while the node beats.
Invariant: a receipt says what Redis has taken; a node whose Redis is gone promises nothing, keeps its streams open, and
goes on without gap or duplicate when it is back.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any

import msgspec
from redis.exceptions import RedisError

from edge.cluster.client import NODE_HEARTBEAT_SECONDS, NODE_TTL_SECONDS, Call, RedisClient, end
from edge.cluster.idempotency import ClusterIdempotency, taken_for_dead
from edge.cluster.presence import PresenceReporter
from edge.cluster.queue import Queued, in_parts
from edge.cluster.replication import Replicator
from edge.cluster.status import ClusterStatus
from edge.cluster.tickets import SharedTickets
from edge.core import sse
from edge.core.connection import Connection
from edge.core.errors import StoreUnavailable
from edge.core.event import Event
from edge.core.hub import Hub
from edge.core.idempotency import Key
from edge.core.observer import Receipt
from edge.core.project import Project
from edge.logs.setup import get_logger

_log = get_logger("store")


class Ack(msgspec.Struct, frozen=True, tag="ack"):
    """A client has answered a probe to a node that doesn't have its connection."""

    project: str
    connection: str
    token: str


class RedisStore:
    """One node of several around one Redis."""

    kind = "redis"
    durable = True
    at_once = False

    def __init__(
        self,
        url: str,
        hub: Hub,
        clock: Callable[[], float],
        *,
        new_epoch: Callable[[], str],
        keep_receipts_seconds: float,
        max_tickets: int,
        max_tickets_per_project: int,
    ) -> None:
        limits = hub.limits
        self._hub = hub
        self._clock = clock
        self._new_epoch = new_epoch
        self._keep_receipts_ms = int(keep_receipts_seconds * 1000)
        self._keep_ms = int((limits.max_age_seconds * 1.5 + 60) * 1000)
        self.node = secrets.token_hex(6)
        self.redis = RedisClient(url)
        self.overview = ClusterStatus(self.redis, self._keep_ms)
        self.tickets = SharedTickets(self.redis, max_tickets, max_tickets_per_project)
        self.run_once = ClusterIdempotency(self.redis, self.node, clock, self._keep_receipts_ms)
        self.waits: Callable[[list[bytes], float], None] = lambda _waits, _now: None
        self.spoken_to: Callable[[bytes], None] = lambda _message: None
        self._telling = PresenceReporter(self.redis, hub, self.node, self._keep_ms, self._unfollow)
        self._following = Replicator(
            self.redis,
            hub,
            clock,
            self.node,
            self._keep_ms,
            new_epoch,
            self._telling.changed,
            lambda waits, now: self.waits(waits, now),  # noqa: PLW0108 - set later
            lambda message: self.spoken_to(message),  # noqa: PLW0108 - set later
        )
        self._queues: dict[str, list[Queued]] = {}
        self._sender: asyncio.Task[None] | None = None
        self._beating: asyncio.Task[None] | None = None

    @property
    def problem(self) -> StoreUnavailable | None:
        return self.redis.problem or self._following.problem

    @property
    def errors(self) -> int:
        return self.redis.errors

    async def open(self) -> None:
        await self.redis.open()
        await self._beat()
        await self._following.open()
        self._beating = asyncio.create_task(self._beat_on())
        _log.info("store_opened", node=self.node)

    async def close(self) -> None:
        if self._beating is not None:
            await end(self._beating)
        if self._sender is not None:
            await asyncio.wait((self._sender,))
        with suppress(StoreUnavailable):  # then the keys are free when this node's beat is over
            await self.run_once.settle_rest()
        await self._telling.close()
        await self._following.close()
        with suppress(StoreUnavailable):  # its beat ends it
            async with self.redis.asking() as client:
                await client.zrem(self.redis.keys.nodes, self.node)
                await client.delete(self.redis.keys.node(self.node), self.redis.keys.told(self.node))
        await self.redis.close()

    @property
    def settled(self) -> bool:
        """Whether Redis has been told all there is to tell."""
        return self._sender is None and self._telling.done

    # Publishing

    def publish(self, name: str, event: Event, now: float, key: Key | None = None) -> Awaitable[Receipt]:
        del now  # Redis says when
        self._hub.check(event)
        future: asyncio.Future[Receipt] = asyncio.get_running_loop().create_future()
        holds = None if key is None else self.run_once.holds(key)
        self._queues.setdefault(name, []).append(Queued(sse.event_text(event.type, event.data), future, holds))
        if self._sender is None:
            self._sender = asyncio.create_task(self._send_all())
        return future

    def publish_many(self, name: str, events: Sequence[Event], now: float) -> None:
        """One by one: they are sent together anyhow."""

    async def record_intent(self, key: Key, fingerprint: bytes, job_id: str) -> None:  # noqa: ARG002 - Redis has it
        await self.run_once.record_intent(key, job_id)

    async def _send_all(self) -> None:
        try:
            await asyncio.sleep(0)
            while self._queues:
                queues, self._queues = self._queues, {}
                parts = [(name, part) for name, queue in queues.items() for part in in_parts(queue)]
                try:
                    answers = await self.redis.run_all([self._append(name, part) for name, part in parts])
                except Exception as error:  # noqa: BLE001 - whatever it is, each publisher has to hear of it
                    answers = [error] * len(parts)
                for (name, part), answer in zip(parts, answers, strict=True):
                    self._settle(name, part, answer)
        finally:
            self._sender = None

    def _append(self, name: str, part: list[Queued]) -> Call:
        keys, limits = self.redis.keys, self._hub.limits
        claims = [(place, *queued.holds) for place, queued in enumerate(part, 1) if queued.holds is not None]
        return (
            "append",
            [
                *keys.of(name, "stream", "meta", "pending", "presence"),
                keys.nodes,
                keys.projects,
                *(receipt for _, receipt, _ in claims),
            ],
            [
                self._new_epoch(),
                name,
                keys.channel(name),
                limits.max_events,
                limits.max_bytes,
                limits.max_age_seconds,
                NODE_TTL_SECONDS,
                self._keep_ms,
                self._keep_receipts_ms,
                len(part),
                *(queued.text for queued in part),
                *(field for place, _, claim in claims for field in (place, claim)),
            ],
        )

    def _settle(self, name: str, part: list[Queued], answer: Any) -> None:
        if isinstance(answer, Exception):
            refusal = answer if isinstance(answer, StoreUnavailable) else self.redis.failed(answer)
            for queued in part:
                if not queued.future.done():
                    queued.future.set_exception(
                        StoreUnavailable(refusal.detail, retry_after_seconds=refusal.retry_after_seconds)
                    )
            return
        epoch, first, connections, _, lost, left_out = answer
        for place in left_out:
            if not part[place - 1].future.done():
                part[place - 1].future.set_exception(taken_for_dead())
        part = [queued for place, queued in enumerate(part, 1) if place not in left_out]
        counters = self._hub.counters
        counters.published += len(part)
        counters.misses.lost += lost
        if not connections:
            counters.misses.misses += len(part)
        for seq, queued in enumerate(part, first):
            if not queued.future.done():
                queued.future.set_result(Receipt(name, f"{epoch.decode()}-{seq}", connections, not connections))

    # Readers

    async def follow(self, name: str, last_id: str = "") -> None:
        """Have the ring of `name` here, for a reader who comes and saw `last_id` last, maybe on another node.

        Raises StoreUnavailable.
        """
        await self._following.follow(name)
        if last_id:
            await self._following.catch_up(name, last_id)

    async def _unfollow(self, name: str) -> None:
        await self._following.unfollow(name)

    def follows(self, name: str) -> bool:
        return self._following.follows(name)

    def connection_came(self, name: str) -> None:
        self._telling.changed(name)

    def connection_left(self, project: Project, _connection: Connection) -> None:
        """Tell Redis what it had not acknowledged, and how many stay; the last one takes the ring with it."""
        self._telling.left(project)

    async def _beat_on(self) -> None:
        while True:
            await asyncio.sleep(NODE_HEARTBEAT_SECONDS)
            try:
                await self._beat()
            except StoreUnavailable:
                await self.redis.start_over()
                self._following.break_off()
                continue
            self._following.look()
            with suppress(StoreUnavailable):
                await self.run_once.settle_rest()

    async def _beat(self) -> None:
        keys = self.redis.keys
        (answer,) = await self.redis.run_all(
            [("beat", [keys.nodes], [self.node, NODE_TTL_SECONDS, keys.prefix, self._hub.limits.max_age_seconds])],
            probing=True,
        )
        if isinstance(answer, RedisError):
            raise self.redis.failed(answer)
        known, gone, missed, now, lost, pending = answer
        self.run_once.redis_says(float(now))
        misses = self._hub.counters.misses
        misses.misses += missed
        misses.lost += lost
        misses.pending_in_all = pending
        for node in gone:
            _log.warning("node_gone", node=node.decode(), missed=missed)
        for name in self._following.projects:
            if not known or not self._hub.connected(name):
                self._telling.changed(name)

    async def delete(self, name: str) -> tuple[int, int] | None:
        """Drop the history of `name` on all nodes: `(connections, events)`; None when it is unknown."""
        keys = self.redis.keys
        there = await self.overview.connections(name)
        known, events, pending = await self.redis.run(
            "delete", [*keys.of(name, "stream", "meta", "pending"), keys.projects], name, keys.channel(name)
        )
        self._hub.counters.misses.lost += pending
        self._hub.counters.evicted["deleted"] += events
        return (there, events) if known else None

    async def pass_on(self, project: str, connection_id: str, token: str) -> None:
        """Give a client's answer to the node that has its connection, whichever that is. Raises StoreUnavailable."""
        async with self.redis.asking() as client:
            await client.publish(self.redis.keys.asks, msgspec.json.encode(Ack(project, connection_id, token)))
