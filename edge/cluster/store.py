"""One node of several around one Redis: Redis Streams number and keep the events, and count the connections of all.

What is published in one turn of the event loop, and while Redis answers, is one pipeline with one script a project.
Presence is this node's number of connections of each project, reported when it changes, valid while the node has
heartbeats.

Invariant: a receipt says what Redis has stored. Without Redis a node acknowledges nothing and keeps its streams open;
it goes on without a gap or a duplicate when Redis comes (back), also after the start.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from itertools import chain
from operator import ge
from typing import Any, NamedTuple

from edge.cluster.client import ANSWER_SECONDS, NODE_HEARTBEAT_SECONDS, NODE_TTL_SECONDS, Call, RedisClient
from edge.cluster.hooks import ClusterHooks
from edge.cluster.idempotency import Claim, ClusterIdempotency, claim_lost
from edge.cluster.presence import PresenceReporter
from edge.cluster.readiness import ClusterReadiness
from edge.cluster.replication import Replicator
from edge.cluster.status import ClusterStatus, SharedTickets
from edge.config.schema import LimitsSettings
from edge.config.texts import RedisAddress
from edge.core.errors import StoreUnavailable
from edge.core.event import Event
from edge.core.hub import Hub
from edge.core.idempotency import Receipts
from edge.core.observer import Receipt
from edge.logs.setup import get_logger
from edge.store.base import Keyed, all_of, new_epoch
from edge.supervisor import Supervisor, end
from edge.triggers.job import Target

_log = get_logger("store")
_MAX_SCRIPT_EVENTS = 500
_MAX_SCRIPT_BYTES = 1 << 20
_SETTLE_SECONDS = 0.05


class _Queued(NamedTuple):
    """An event to publish."""

    text: bytes
    future: asyncio.Future[Receipt]
    claim: Claim | None


class RedisStore:
    """The store, and what only all nodes together know: readiness, tickets, idempotency keys, status."""

    def __init__(
        self,
        address: RedisAddress,
        hub: Hub,
        receipts: Receipts,
        clock: Callable[[], float],
        supervisor: Supervisor,
        limits: LimitsSettings,
    ) -> None:
        self._hub = hub
        self._clock = clock
        self._supervisor = supervisor
        keep_ms = int((hub.limits.max_age_seconds * 1.5 + 60) * 1000)
        self.redis = RedisClient(
            address,
            MAX_EVENTS=hub.limits.max_events,
            MAX_BYTES=hub.limits.max_bytes,
            MAX_AGE_SECONDS=hub.limits.max_age_seconds,
            KEEP_MS=keep_ms,
        )
        self.status = ClusterStatus(self.redis, keep_ms)
        self.tickets = SharedTickets(self.redis, limits.max_tickets, limits.project_share(limits.max_tickets))
        self.idempotency = ClusterIdempotency(self.redis, receipts, clock)
        self._presence = PresenceReporter(self.redis, hub, supervisor, self._unfollow)
        waiting = limits.max_waiting, limits.project_share(limits.max_waiting)
        self.readiness = ClusterReadiness(hub, clock, *waiting, supervisor, self.redis, self.status)
        self._replicator = Replicator(self.redis, hub, clock, supervisor, self.readiness, self._presence.changed)
        self.claim, self.record_intent = self.idempotency.claim, self.idempotency.record_intent
        self.settle, self.abandon = self.idempotency.settle, self.idempotency.abandon
        # `edge.cluster.local.Nodes`, but for `delete`
        self.follow = self._replicator.follow
        self.view, self.page = self.status.view, self.status.page
        # for the hub's observer
        self.connection_added, self.connection_removed = self._presence.changed, self._presence.connection_removed
        self._queues: dict[str, list[list[_Queued]]] = {}
        """Of each project, in groups that go in one script: the events of one key."""
        self._sender: asyncio.Task[None] | None = None
        self._heartbeats: asyncio.Task[None] | None = None
        self._heartbeat_seconds = clock()
        self._unchecked = True
        self._appends = 0
        """How many appends Redis is known to have done, on all nodes."""
        self._has_joined = False
        misses = hub.counters.misses
        misses.pending_in_all, misses.reported_elsewhere = 0, True

    @property
    def problem(self) -> StoreUnavailable | None:
        return self.redis.problem or self._replicator.subscription.problem

    @property
    def errors(self) -> int:
        return self.redis.errors

    @property
    def rejected_messages(self) -> int:
        return self._replicator.subscription.rejected_messages

    async def open(self) -> None:
        """Join the other nodes; where Redis can't be reached yet, as soon as it can."""
        await self.redis.open()
        with suppress(StoreUnavailable):
            await self._heartbeat()
        await self._replicator.open()
        self._heartbeats = self._supervisor.keep_running("redis_heartbeat", self._send_heartbeats)
        _log.info("store_opened", node=self.redis.node, redis=str(self.redis.address))

    async def close(self) -> None:
        await end(self._heartbeats)
        if self._sender is not None:
            await asyncio.wait((self._sender,))
        with suppress(StoreUnavailable):  # then the keys are free when this node's last heartbeat is too old
            await self.idempotency.settle_rest()
        await self._presence.close()
        await self._replicator.close()
        with suppress(StoreUnavailable):  # likewise
            await self.redis.run("close_node", self.redis.node)
        await self.redis.close()

    # Publishing

    def publish(self, name: str, event: Event, now: float, keyed: Keyed | None = None) -> Awaitable[Receipt]:
        del now  # Redis has the time
        self._hub.check(event)
        future: asyncio.Future[Receipt] = asyncio.get_running_loop().create_future()
        queue = self._queues.setdefault(name, [])
        queued = _Queued(event.text(), future, self.idempotency.publishing(keyed))
        first = len(queue) if keyed is None else len(queue) - keyed.events + 1
        queue[first:] = [[*chain.from_iterable(queue[first:]), queued]]
        if self._sender is None:
            self._sender = self._supervisor.start("redis_sender", self._send_all())
        return future

    async def publish_each(
        self, names: Sequence[str], event: Event, now: float, keyed: Keyed | None = None
    ) -> list[Receipt]:
        del now
        self._hub.check(event)
        loop = asyncio.get_running_loop()
        claim, text = self.idempotency.publishing(keyed), event.text()
        queued = [_Queued(text, loop.create_future(), claim) for _ in names]
        await self._append_all([(name, [one]) for name, one in zip(names, queued, strict=True)], together=True)
        return await all_of(one.future for one in queued)

    def publish_many(self, name: str, events: Sequence[Event], now: float) -> None:
        """One by one: they are sent together anyhow."""

    async def _send_all(self) -> None:
        try:
            await asyncio.sleep(0)
            while self._queues:
                queues, self._queues = self._queues, {}
                parts = [(name, part) for name, queue in queues.items() for part in _parts(queue)]
                try:
                    await self._append_all(parts)
                except BaseException as error:
                    for _, part in parts:
                        _refuse(part, error)
                    if not isinstance(error, StoreUnavailable):
                        raise
        finally:
            self._sender = None

    async def _append_all(self, parts: list[tuple[str, list[_Queued]]], *, together: bool = False) -> None:
        """Append each part to its project. After a restart of Redis this waits until each node has reported what it
        knows.
        """
        calls = [_append(name, part) for name, part in parts]
        answers = await self.redis.run_all(calls, together=together)
        deadline = self._clock() + ANSWER_SECONDS
        while any(answer is None for answer in answers):
            if self._clock() > deadline:
                raise StoreUnavailable("Redis was restarted and waits for the nodes; try again soon.")
            await self._heartbeat()
            waiting = [place for place, answer in enumerate(answers) if answer is None]
            again = await self.redis.run_all([calls[place] for place in waiting], together=together)
            for place, answer in zip(waiting, again, strict=True):
                answers[place] = answer
            await asyncio.sleep(_SETTLE_SECONDS if None in answers else 0)
        for (name, part), answer in zip(parts, answers, strict=True):
            self._settle(name, part, answer)

    def _settle(self, name: str, part: list[_Queued], answer: Any) -> None:
        if isinstance(answer, StoreUnavailable):
            _refuse(part, answer)
            return
        epoch, first, connections, left_out, appends = answer
        self._appends = max(self._appends, appends)
        _refuse([part[place - 1] for place in left_out], claim_lost())
        part = [queued for place, queued in enumerate(part, 1) if place not in left_out]
        self._hub.counters.published += len(part)
        for seq, queued in enumerate(part, first):
            if not queued.future.done():
                queued.future.set_result(Receipt(name, f"{epoch.decode()}-{seq}", connections, not connections))

    # Subscribers

    def hooks(self, target: Target, grace_seconds: float) -> ClusterHooks:
        """Webhooks about the projects of all nodes, sent to `target`."""
        return ClusterHooks(self._hub, target, grace_seconds, self._supervisor, self.redis)

    async def _unfollow(self, name: str) -> None:
        await self._replicator.unfollow(name)

    async def delete(self, name: str) -> tuple[int, int] | None:
        """Drop the history of `name` on all nodes: `(connections, events)`; None when it is unknown."""
        known, connections, events = await self.redis.run("delete", name)
        self._hub.counters.evicted["deleted"] += events
        return (connections, events) if known else None

    async def deleted(self, name: str) -> None:
        """Redis has deleted it."""

    # Time

    async def _send_heartbeats(self) -> None:
        while True:
            await asyncio.sleep(NODE_HEARTBEAT_SECONDS)
            try:
                await self._heartbeat()
            except StoreUnavailable as error:
                self.redis.problem = error
                if self._clock() - self._heartbeat_seconds > NODE_TTL_SECONDS:  # another one may report by now
                    self._hub.counters.misses.reported_elsewhere = True
                if self.redis.unreachable:
                    self._unchecked = True
                    await self.redis.start_over()
                    self._replicator.subscription.break_off()
                continue
            self._replicator.subscription.heartbeat_published()
            with suppress(StoreUnavailable):
                await self.idempotency.settle_rest()

    async def _heartbeat(self) -> None:
        misses = self._hub.counters.misses
        heard = int(not misses.reported_elsewhere), misses.misses, misses.recovered, misses.lost
        arguments = [self.redis.node, self._appends, int(not self._has_joined), *heard]
        known, gone, now, appends, *totals = await self.redis.run("heartbeat", *arguments, probing=True)
        self.redis.recovered()
        self._has_joined = True
        self._appends = max(self._appends, appends)
        self._heartbeat_seconds = self._clock()
        self.redis.ahead_seconds = float(now) - self._clock()
        # One node has them in its metrics. A Redis that came back with less makes no counter smaller: it learns what is
        # known here with the next heartbeat.
        reports, *counts, pending = totals
        misses.reported_elsewhere = not reports
        if all(map(ge, counts, (misses.misses, misses.recovered, misses.lost))):
            (misses.misses, misses.recovered, misses.lost), misses.pending_in_all = counts, pending
        for node in gone:
            _log.warning("node_gone", node=node.decode())
        for name in self._replicator.projects:
            if not known or not self._hub.connected(name):
                self._presence.changed(name)
        if self._unchecked:
            self._unchecked = False
            await self.redis.check_eviction()


def _parts(queue: list[list[_Queued]]) -> list[list[_Queued]]:
    """A project's queue in pieces that one script may take; a group is never split."""
    parts: list[list[_Queued]] = []
    room = room_bytes = 0
    for group in queue:
        size_bytes = sum(len(queued.text) for queued in group)
        if len(group) > room or size_bytes > room_bytes:
            parts.append([])
            room, room_bytes = _MAX_SCRIPT_EVENTS, _MAX_SCRIPT_BYTES
        parts[-1] += group
        room -= len(group)
        room_bytes -= size_bytes
    return parts


def _append(name: str, part: list[_Queued]) -> Call:
    claims: list[str | int | bytes] = []
    for last, queued in enumerate(part, 1):
        if queued.claim is not None:
            receipt, claim, besides, events, keep_ms = queued.claim
            claims += [receipt, last - events + 1, last, claim, besides, keep_ms]
    return "append", [name, new_epoch(), len(part), *(queued.text for queued in part), *claims]


def _refuse(part: list[_Queued], error: BaseException) -> None:
    """Each publisher gets an error of its own: one that several raise would collect the tracebacks of all."""
    detail = error.detail if isinstance(error, StoreUnavailable) else "Publishing failed unexpectedly; try again."
    for queued in part:
        if not queued.future.done():
            queued.future.set_exception(StoreUnavailable(detail))
