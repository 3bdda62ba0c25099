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
from typing import Any

import msgspec
from redis.exceptions import RedisError

from edge.cluster.following import Following
from edge.cluster.ledger import FollowedLedger
from edge.cluster.overview import NODE_TTL_SECONDS, Overview
from edge.cluster.queue import Queued, in_parts
from edge.cluster.wire import Call, Wire
from edge.core import sse
from edge.core.connection import Connection
from edge.core.errors import InvalidRequest, StoreUnavailable
from edge.core.event import Event
from edge.core.hub import Hub
from edge.core.idempotency import Answer, Key, unknown_fate
from edge.core.observer import Receipt
from edge.core.project import Project
from edge.log import get_logger

_log = get_logger("store")
BEAT_SECONDS = 1.0
_LEASE_MS = 7_200_000
"""Longer than any request may take; a node that dies gives its keys free earlier, unless a job was on its way."""
_POLL_SECONDS = 0.1


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
    ) -> None:
        bounds = hub.bounds
        self._hub = hub
        self._clock = clock
        self._new_epoch = new_epoch
        self._keep_receipts_ms = int(keep_receipts_seconds * 1000)
        self._keep_ms = int((bounds.max_age_seconds * 1.5 + 60) * 1000)
        self.node = secrets.token_hex(6)
        self.wire = Wire(url)
        self.overview = Overview(self.wire, self._keep_ms)
        self.waits: Callable[[list[bytes], float], None] = lambda _waits, _now: None
        self.spoken_to: Callable[[bytes], None] = lambda _message: None
        self._following = Following(
            self.wire,
            hub,
            clock,
            self.node,
            self._keep_ms,
            new_epoch,
            self._changed,
            lambda waits, now: self.waits(waits, now),  # noqa: PLW0108 - set later
            lambda message: self.spoken_to(message),  # noqa: PLW0108 - set later
        )
        self._queues: dict[str, list[Queued]] = {}
        self._sender: asyncio.Task[None] | None = None
        self._to_tell: dict[str, list[Call]] = {}
        """Per project, departures in order; joins and recoveries are made of the state when they are sent."""
        self._teller: asyncio.Task[None] | None = None
        self._beating: asyncio.Task[None] | None = None
        self._closing = False

    @property
    def problem(self) -> StoreUnavailable | None:
        return self.wire.problem

    @property
    def errors(self) -> int:
        return self.wire.errors

    async def open(self) -> None:
        await self.wire.open()
        await self._beat()
        await self._following.open()
        self._beating = asyncio.create_task(self._beat_on())
        _log.info("store_opened", node=self.node)

    async def close(self) -> None:
        self._closing = True
        for task in (self._beating, self._sender):
            if task is not None and task is self._beating:
                task.cancel()
            if task is not None:
                await asyncio.wait((task,))
        if self._teller is not None:
            await asyncio.wait((self._teller,))
        await self._tell_once()
        await self._following.close()
        try:
            await self.wire.client.zrem(self.wire.keys.nodes, self.node)
            await self.wire.client.delete(self.wire.keys.node(self.node))
        except (RedisError, OSError) as error:
            self.wire.failed(error)
        await self.wire.close()

    @property
    def settled(self) -> bool:
        """Whether Redis has been told all there is to tell."""
        return self._sender is None and self._teller is None and not self._to_tell

    # Publishing

    def publish(self, name: str, event: Event, now: float) -> Receipt | Awaitable[Receipt]:
        del now  # Redis says when
        self._hub.check(event)
        future: asyncio.Future[Receipt] = asyncio.get_running_loop().create_future()
        self._queues.setdefault(name, []).append(Queued(sse.event_text(event.type, event.data), future))
        if self._sender is None:
            self._sender = asyncio.create_task(self._send_all())
        return future

    def publish_many(self, name: str, events: Sequence[Event], now: float) -> None:
        """One by one: they are sent together anyhow."""

    async def intend(self, key: Key, fingerprint: bytes, job_id: str) -> None:  # noqa: ARG002 - Redis has it
        if not await self.wire.run("intend", [self._receipt(key)], self.node, job_id):
            raise StoreUnavailable(
                "This node was taken for dead while it waited, so another may have the key; send it again.",
                retry_after_seconds=1,
            )

    async def _send_all(self) -> None:
        try:
            await asyncio.sleep(0)
            while self._queues:
                queues, self._queues = self._queues, {}
                parts = [(name, part) for name, queue in queues.items() for part in in_parts(queue)]
                try:
                    answers = await self.wire.run_all([self._append(name, part) for name, part in parts])
                except StoreUnavailable as error:
                    answers = [error] * len(parts)
                for (name, part), answer in zip(parts, answers, strict=True):
                    self._settle(name, part, answer)
        finally:
            self._sender = None

    def _append(self, name: str, part: list[Queued]) -> Call:
        keys, bounds = self.wire.keys, self._hub.bounds
        return (
            "append",
            [*keys.of(name, "stream", "meta", "pending", "presence"), keys.nodes, keys.projects],
            [
                self._new_epoch(),
                name,
                keys.channel(name),
                bounds.max_events,
                bounds.max_bytes,
                bounds.max_age_seconds,
                NODE_TTL_SECONDS,
                self._keep_ms,
                *(queued.text for queued in part),
            ],
        )

    def _settle(self, name: str, part: list[Queued], answer: Any) -> None:
        if isinstance(answer, Exception):
            refusal = answer if isinstance(answer, StoreUnavailable) else self.wire.failed(answer)
            for queued in part:
                if not queued.future.done():
                    queued.future.set_exception(
                        StoreUnavailable(refusal.detail, retry_after_seconds=refusal.retry_after_seconds)
                    )
            return
        epoch, first, connections, _, lost = answer
        counters = self._hub.counters
        counters.published += len(part)
        counters.misses.lost += lost
        if not connections:
            counters.misses.misses += len(part)
        for seq, queued in enumerate(part, first):
            if not queued.future.done():
                queued.future.set_result(Receipt(name, f"{epoch.decode()}-{seq}", connections, not connections))

    # Readers

    async def follow(self, name: str) -> None:
        """Have the ring of `name` here, for a reader who comes. Raises StoreUnavailable."""
        await self._following.follow(name)

    def follows(self, name: str) -> bool:
        return self._following.follows(name)

    def connection_came(self, name: str) -> None:
        self._changed(name)

    def connection_left(self, project: Project, _connection: Connection) -> None:
        """Tell Redis what it had not acknowledged, and how many stay; the last one takes the ring with it."""
        ledger = project.ledger
        if not isinstance(ledger, FollowedLedger):
            return
        self._to_tell.setdefault(project.name, []).append(self._left(project, ledger))
        self._changed(project.name)

    def _left(self, project: Project, ledger: FollowedLedger) -> Call:
        orphans, ledger.orphaned_runs = ledger.orphaned_runs, []
        keys = self.wire.keys
        return (
            "left",
            [*keys.of(project.name, "stream", "meta", "pending", "presence"), keys.nodes, keys.node(self.node)],
            [
                self.node,
                project.name,
                self._hub.connected(project.name),
                NODE_TTL_SECONDS,
                project.epoch,
                project.ring.newest,
                *(number for run in orphans for number in run),
            ],
        )

    def _changed(self, name: str) -> None:
        self._to_tell.setdefault(name, [])
        if self._teller is None and not self._closing:
            self._teller = asyncio.create_task(self._tell())

    async def _tell(self) -> None:
        try:
            await asyncio.sleep(0)
            while self._to_tell:
                if not await self._tell_once():
                    await asyncio.sleep(BEAT_SECONDS)
                if self._closing:
                    return
        finally:
            self._teller = None

    async def _tell_once(self) -> bool:
        """Tell Redis of every project that has changed. Returns whether it heard."""
        told, self._to_tell = self._to_tell, {}
        calls: list[Call] = []
        owners: list[str] = []
        empty: list[str] = []
        for name, departures in told.items():
            project = self._hub.projects.get(name)
            here = self._calls(name, project) + departures
            if project is None or not project.connections:
                empty.append(name)
            calls += here
            owners += [name] * len(here)
        try:
            answers = await self.wire.run_all(calls) if calls else []
        except StoreUnavailable:
            for name, departures in told.items():
                self._to_tell[name] = departures + self._to_tell.get(name, [])
            return False
        misses = self._hub.counters.misses
        for (script, _, _), answer in zip(calls, answers, strict=True):
            if isinstance(answer, RedisError):
                self.wire.failed(answer)
            elif script == "left":
                misses.misses += answer[0]
                misses.lost += answer[1]
            elif script == "recovered":
                misses.recovered += answer
        for name in empty:
            await self._following.unfollow(name)
        return True

    def _calls(self, name: str, project: Project | None) -> list[Call]:
        if project is None or not isinstance(project.ledger, FollowedLedger):
            return []
        keys, ledger = self.wire.keys, project.ledger
        calls: list[Call] = []
        if ledger.recovered_runs:
            runs, ledger.recovered_runs = ledger.recovered_runs, []
            flat = [number for run in runs for number in run]
            calls.append(("recovered", keys.of(name, "meta", "pending"), [project.epoch, *flat]))
        if ledger.orphaned_runs:
            calls.append(self._left(project, ledger))
        if project.connections:
            calls.append(self._join(name, project, ledger))
        return calls

    def _join(self, name: str, project: Project, ledger: FollowedLedger) -> Call:
        keys = self.wire.keys
        told, ledger.told = ledger.told, False
        (presence,) = keys.of(name, "presence")
        return (
            "join",
            [presence, keys.nodes, keys.node(self.node), *keys.of(name, "meta", "stream", "pending")],
            [self.node, name, len(project.connections), int(told), self._keep_ms],
        )

    async def _beat_on(self) -> None:
        while True:
            await asyncio.sleep(BEAT_SECONDS)
            try:
                await self._beat()
            except StoreUnavailable:
                self._following.break_off()

    async def _beat(self) -> None:
        keys = self.wire.keys
        known, gone, missed = await self.wire.run("beat", [keys.nodes], self.node, NODE_TTL_SECONDS, keys.prefix)
        self._hub.counters.misses.misses += missed
        for node in gone:
            _log.warning("node_gone", node=node.decode(), missed=missed)
        if not known:
            for name in self._following.projects:
                self._changed(name)

    async def delete(self, name: str) -> tuple[int, int] | None:
        """Drop the history of `name` on all nodes: `(connections, events)`; None when it is unknown."""
        keys = self.wire.keys
        there = await self.overview.connections(name)
        known, events, pending = await self.wire.run(
            "delete", [*keys.of(name, "stream", "meta", "pending"), keys.projects], name, keys.channel(name)
        )
        self._hub.counters.misses.lost += pending
        self._hub.counters.evicted["deleted"] += events
        return (there, events) if known else None

    async def pass_on(self, project: str, connection_id: str, token: str) -> None:
        """Give a client's answer to the node that has its connection, whichever that is. Raises StoreUnavailable."""
        try:
            await self.wire.client.publish(self.wire.keys.asks, msgspec.json.encode(Ack(project, connection_id, token)))
        except (RedisError, OSError) as error:
            raise self.wire.failed(error) from error

    # Doing once, on whichever node

    async def claim(self, key: Key, fingerprint: bytes) -> Answer | None:
        """Take a key for this request (None), or give the answer it had. Waits for one that is at work elsewhere.

        Raises InvalidRequest (`idempotency_mismatch`), StoreUnavailable.
        """
        keys = [self._receipt(key), self.wire.keys.nodes]
        while True:
            found = await self.wire.run("claim", keys, fingerprint, self.node, _LEASE_MS, NODE_TTL_SECONDS)
            if found[0] == b"new":
                return None
            if found[0] != fingerprint:
                raise InvalidRequest(
                    "This idempotency key was used with another body; take a new key for a new request.",
                    code="idempotency_mismatch",
                )
            if found[1] is not None:
                return msgspec.json.decode(found[1], type=Answer)
            if found[2] is not None and not found[3]:
                return unknown_fate(found[2].decode())
            await asyncio.sleep(_POLL_SECONDS)

    async def settle(self, key: Key, answer: Answer | None) -> None:
        """What became of a key that was claimed: its answer, or None when nothing was done."""
        text = b"" if answer is None else msgspec.json.encode(answer)
        await self.wire.run("settle", [self._receipt(key)], self.node, text, self._keep_receipts_ms)

    def _receipt(self, key: Key) -> str:
        return f"{self.wire.keys.prefix}receipt:{msgspec.json.encode(key).decode()}"
