"""Wait for confirmed connections on any node.

A caller's node asks all nodes at once. Each node that follows the project, this one included, confirms its own
connections and reports how many. A node that begins to follow the project later finds the question in Redis. Invariant:
a question counts each node once, with the most it has confirmed, and no node works on a question that is done or late.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from contextlib import suppress

import msgspec

from edge.cluster.client import RedisClient
from edge.cluster.local import connected
from edge.cluster.status import ClusterStatus
from edge.core.errors import EdgeError, NotReady, StoreUnavailable
from edge.core.hub import Hub
from edge.supervisor import Supervisor
from edge.triggers.readiness import Confirm, Confirmation, Confirmed, Readiness, draining

_MIN_SECONDS = 0.05


class Ask(msgspec.Struct, frozen=True, tag="ask"):
    """`node` wants `count` confirmed connections of `project` until `deadline` (seconds since 1970, Redis's clock)."""

    id: str
    node: str
    project: str
    count: int
    confirm: Confirm
    deadline: float
    timeout_seconds: float


class Done(msgspec.Struct, frozen=True, tag="done"):
    """The asking node needs no more reports."""

    id: str


class Ack(msgspec.Struct, frozen=True, tag="ack"):
    """A client has answered a probe at a node that doesn't have its connection."""

    project: str
    connection: str
    token: str


class Report(msgspec.Struct, frozen=True, tag="report"):
    """Node `node` has confirmed `connections` connections for the question `id`."""

    id: str
    node: str
    connections: int
    confirmed: Confirmed


_decoder = msgspec.json.Decoder(Ask | Done | Ack | Report)


class _Question:
    def __init__(self, count: int) -> None:
        self.count = count
        self.reports: dict[str, Report] = {}
        self.enough: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        """False when the node is shut down first. An exception would stay unretrieved while only this node is asked."""

    @property
    def connections(self) -> int:
        return sum(report.connections for report in self.reports.values())


class ClusterReadiness:
    """`Readiness` for all nodes. `follows` says whether this node follows a project."""

    def __init__(
        self,
        local: Readiness,
        hub: Hub,
        redis: RedisClient,
        node: str,
        status: ClusterStatus,
        clock: Callable[[], float],
        supervisor: Supervisor,
        follows: Callable[[str], bool],
    ) -> None:
        self._local = local
        self._hub = hub
        self._redis = redis
        self._node = node
        self._status = status
        self._clock = clock
        self._supervisor = supervisor
        self._follows = follows
        self._questions: dict[str, _Question] = {}
        self._answering: dict[str, asyncio.Task[None]] = {}

    @property
    def waiting(self) -> int:
        return self._local.waiting + len(self._questions)

    def waiting_for(self, project: str) -> int:
        return self._local.waiting_for(project)

    def connection_added(self, project: str) -> None:
        self._local.connection_added(project)

    async def wait(
        self, project: str, count: int, timeout_seconds: float, confirm: Confirm = "transport"
    ) -> Confirmation:
        """As `Readiness.wait`, on all nodes. Without Redis only connections of this node are asked."""
        self._local.check(project, len(self._questions))
        began = self._clock()
        question = _Question(count)
        ask_id = secrets.token_hex(8)
        patience_seconds = max(timeout_seconds, _MIN_SECONDS)
        self._questions[ask_id] = question
        text = b""
        try:
            try:
                async with self._redis.use() as client:
                    seconds, micros = await client.time()
                    deadline = seconds + micros / 1e6 + patience_seconds
                    text = msgspec.json.encode(
                        Ask(ask_id, self._node, project, count, confirm, deadline, patience_seconds)
                    )
                    (waits,) = self._redis.keys.of(project, "waits")
                    async with client.pipeline(transaction=True) as pipeline:
                        pipeline.zadd(waits, {text: deadline})
                        pipeline.expire(waits, int(patience_seconds) + 2)
                        pipeline.publish(self._redis.keys.asks, text)
                        await pipeline.execute()
            except StoreUnavailable:
                if question.enough.done():  # drained meanwhile
                    raise draining() from None
                return await self._local.wait(project, count, timeout_seconds, confirm)
            done, _ = await asyncio.wait((question.enough,), timeout=patience_seconds)
            if not done:
                raise await self._not_ready(project, count, timeout_seconds)
            if not question.enough.result():
                raise draining()
        finally:
            del self._questions[ask_id]
            if text:
                self._supervisor.start("redis_readiness", self._publish_done(ask_id, project, text))
        how = {report.confirmed for report in question.reports.values() if report.connections}
        return Confirmation(
            question.connections,
            next((weaker for weaker in ("written", "acknowledged") if weaker in how), "client"),
            round((self._clock() - began) * 1000, 3),
        )

    async def answer_probe(self, project: str, connection_id: str, token: str) -> bool:
        """As `Nodes.answer_probe`. What a node that has the connection makes of the answer is not known here."""
        if connected(self._hub, project, connection_id):
            return self._local.answer(project, connection_id, token)
        async with self._redis.use() as client:
            await client.publish(self._redis.keys.asks, msgspec.json.encode(Ack(project, connection_id, token)))
        return True

    def drain(self) -> None:
        for question in self._questions.values():
            if not question.enough.done():
                question.enough.set_result(False)
        self._local.drain()
        for task in self._answering.values():
            task.cancel()

    async def _publish_done(self, ask_id: str, project: str, text: bytes) -> None:
        with suppress(StoreUnavailable):  # then the deadline ends it
            async with self._redis.use() as client, client.pipeline(transaction=False) as pipeline:
                pipeline.zrem(*self._redis.keys.of(project, "waits"), text)
                pipeline.publish(self._redis.keys.asks, msgspec.json.encode(Done(ask_id)))
                await pipeline.execute()

    async def _not_ready(self, project: str, count: int, timeout_seconds: float) -> NotReady:
        try:
            there = await self._status.connections(project)
        except EdgeError:
            there = 0
        return self._local.not_ready(project, count, timeout_seconds, there)

    def receive(self, message: bytes) -> None:
        """A message from a node. Raises msgspec.DecodeError for one that is not understood."""
        said = _decoder.decode(message)
        if isinstance(said, Report):
            question = self._questions.get(said.id)
            if question is not None:
                question.reports[said.node] = said
                if question.connections >= question.count and not question.enough.done():
                    question.enough.set_result(True)
        elif isinstance(said, Done):
            task = self._answering.get(said.id)
            if task is not None:
                task.cancel()
        elif isinstance(said, Ack):
            self._local.answer(said.project, said.connection, said.token)
        elif self._follows(said.project):
            self._answer(said, said.timeout_seconds)

    def take_up(self, text: bytes, redis_now: float) -> None:
        """A question that was asked before this node followed its project. Raises as `receive`."""
        said = _decoder.decode(text)
        if isinstance(said, Ask) and said.deadline > redis_now:
            self._answer(said, said.deadline - redis_now)

    def _answer(self, ask: Ask, patience_seconds: float) -> None:
        if ask.id not in self._answering:
            task = self._supervisor.start("redis_readiness", self._confirm(ask, patience_seconds))
            self._answering[ask.id] = task
            task.add_done_callback(lambda _: self._answering.pop(ask.id, None))

    async def _confirm(self, ask: Ask, patience_seconds: float) -> None:
        """Report each time more connections of this node are confirmed."""
        deadline = self._clock() + patience_seconds
        confirmed = 0
        while confirmed < ask.count:
            try:
                found = await self._local.wait(
                    ask.project, confirmed + 1, max(deadline - self._clock(), 0.0), ask.confirm
                )
                confirmed = found.connections
                report = Report(ask.id, self._node, confirmed, found.confirmed or "written")
                async with self._redis.use() as client:
                    await client.publish(self._redis.keys.inbox(ask.node), msgspec.json.encode(report))
            except EdgeError:
                return
