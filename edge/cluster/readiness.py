"""Wait for confirmed readers on any node.

Who waits asks all nodes at once; each node that follows the project, this one too, confirms its own readers as ever and
reports how many. A node that takes the project up later finds the question in Redis. Invariant: an asker counts each
node once, with the most it has confirmed, and nobody works on a question whose asker is done or late.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from contextlib import suppress

import msgspec

from edge.cluster.store import Ack, RedisStore
from edge.core.errors import EdgeError, NotReady, StoreUnavailable
from edge.triggers.readiness import Confirm, Confirmation, Confirmed, Readiness, draining

_MIN_SECONDS = 0.05


class Ask(msgspec.Struct, frozen=True, tag="ask"):
    """Node `node` wants `count` confirmed readers of `project` until `deadline` (seconds since 1970, Redis's clock)."""

    id: str
    node: str
    project: str
    count: int
    confirm: Confirm
    deadline: float
    timeout_seconds: float


class Done(msgspec.Struct, frozen=True, tag="done"):
    """The asker needs no more reports."""

    id: str


class Report(msgspec.Struct, frozen=True, tag="report"):
    """Node `node` has confirmed `connections` readers for the question `id`."""

    id: str
    node: str
    connections: int
    confirmed: Confirmed


_decoder = msgspec.json.Decoder(Ask | Done | Ack | Report)


class _Asking:
    def __init__(self, count: int) -> None:
        self.count = count
        self.reports: dict[str, Report] = {}
        self.enough: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def connections(self) -> int:
        return sum(report.connections for report in self.reports.values())


class ClusterReadiness:
    """What `Readiness` is for one node, for all of them."""

    def __init__(self, local: Readiness, store: RedisStore, clock: Callable[[], float]) -> None:
        self._local = local
        self._store = store
        self._clock = clock
        self._asking: dict[str, _Asking] = {}
        self._answering: dict[str, asyncio.Task[None]] = {}
        store.spoken_to = self._hear
        store.waits = self._take_up

    @property
    def waiting(self) -> int:
        return self._local.waiting + len(self._asking)

    def waiting_for(self, project: str) -> int:
        return self._local.waiting_for(project)

    def connection_added(self, project: str) -> None:
        self._local.connection_added(project)

    async def wait(
        self, project: str, count: int, timeout_seconds: float, confirm: Confirm = "transport"
    ) -> Confirmation:
        """As `Readiness.wait`, on all nodes. Without Redis only this node's readers can be asked."""
        self._local.check(len(self._asking))
        began = self._clock()
        asking = _Asking(count)
        ask_id = secrets.token_hex(8)
        redis = self._store.redis
        (waits,) = redis.keys.of(project, "waits")
        self._asking[ask_id] = asking
        text = b""
        try:
            try:
                patience_seconds = max(timeout_seconds, _MIN_SECONDS)
                async with redis.asking() as client:
                    seconds, micros = await client.time()
                    deadline = seconds + micros / 1e6 + patience_seconds
                    text = msgspec.json.encode(
                        Ask(ask_id, self._store.node, project, count, confirm, deadline, patience_seconds)
                    )
                    async with client.pipeline(transaction=True) as pipeline:
                        pipeline.zadd(waits, {text: deadline})
                        pipeline.expire(waits, int(patience_seconds) + 2)
                        pipeline.publish(redis.keys.asks, text)
                        await pipeline.execute()
            except StoreUnavailable:
                return await self._local.wait(project, count, timeout_seconds, confirm)
            done, _ = await asyncio.wait((asking.enough,), timeout=patience_seconds)
            if not done:
                raise await self._missed_log(project, count, timeout_seconds)
            asking.enough.result()
        finally:
            del self._asking[ask_id]
            if text:
                await asyncio.shield(self._say_done(ask_id, waits, text))
        how = {report.confirmed for report in asking.reports.values() if report.connections}
        return Confirmation(
            asking.connections,
            next((weaker for weaker in ("written", "acknowledged") if weaker in how), "client"),
            round((self._clock() - began) * 1000, 3),
        )

    def answer(self, project: str, connection_id: str, token: str) -> bool:
        """As `Readiness.answer`, for a connection of this node."""
        return self._local.answer(project, connection_id, token)

    def drain(self) -> None:
        for asking in self._asking.values():
            if not asking.enough.done():
                asking.enough.set_exception(draining())
        self._local.drain()
        for task in self._answering.values():
            task.cancel()

    async def _say_done(self, ask_id: str, waits: str, text: bytes) -> None:
        redis = self._store.redis
        with suppress(StoreUnavailable):  # then the deadline ends it
            async with redis.asking() as client, client.pipeline(transaction=False) as pipeline:
                pipeline.zrem(waits, text)
                pipeline.publish(redis.keys.asks, msgspec.json.encode(Done(ask_id)))
                await pipeline.execute()

    async def _missed_log(self, project: str, count: int, timeout_seconds: float) -> NotReady:
        try:
            there = await self._store.overview.connections(project)
        except EdgeError:
            there = 0
        return self._local.nobody(project, count, timeout_seconds, there)

    def _hear(self, message: bytes) -> None:
        try:
            said = _decoder.decode(message)
        except msgspec.ValidationError:
            return  # a newer node says what this one doesn't know yet
        if isinstance(said, Report):
            asking = self._asking.get(said.id)
            if asking is not None:
                asking.reports[said.node] = said
                if asking.connections >= asking.count and not asking.enough.done():
                    asking.enough.set_result(None)
        elif isinstance(said, Done):
            task = self._answering.get(said.id)
            if task is not None:
                task.cancel()
        elif isinstance(said, Ack):
            self._local.answer(said.project, said.connection, said.token)
        elif self._store.follows(said.project):
            self._answer(said, said.timeout_seconds)

    def _take_up(self, waits: list[bytes], redis_now: float) -> None:
        """Questions that were asked before this node had the project."""
        for text in waits:
            said = _decoder.decode(text)
            if isinstance(said, Ask) and said.deadline > redis_now:
                self._answer(said, said.deadline - redis_now)

    def _answer(self, ask: Ask, patience_seconds: float) -> None:
        if ask.id not in self._answering:
            task = self._answering[ask.id] = asyncio.create_task(self._confirm(ask, patience_seconds))
            task.add_done_callback(lambda _: self._answering.pop(ask.id, None))

    async def _confirm(self, ask: Ask, patience_seconds: float) -> None:
        """Report each time more readers of this node are confirmed."""
        redis = self._store.redis
        deadline = self._clock() + patience_seconds
        confirmed = 0
        while confirmed < ask.count:
            try:
                found = await self._local.wait(
                    ask.project, confirmed + 1, max(deadline - self._clock(), 0.0), ask.confirm
                )
                confirmed = found.connections
                report = Report(ask.id, self._store.node, confirmed, found.confirmed or "written")
                async with redis.asking() as client:
                    await client.publish(redis.keys.node(ask.node), msgspec.json.encode(report))
            except EdgeError:
                return
