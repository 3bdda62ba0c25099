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
from dataclasses import dataclass, field

import msgspec

from edge.cluster.client import RedisClient
from edge.cluster.status import ClusterStatus
from edge.core.errors import EdgeError, NotReady, StoreUnavailable
from edge.triggers.readiness import Confirm, Confirmation, Confirmed, Readiness, draining

_MIN_SECONDS = 0.05


class Question(msgspec.Struct, frozen=True, tag="ask"):
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


_decoder = msgspec.json.Decoder(Question | Done | Ack | Report)


@dataclass(eq=False)
class _Waiting:
    """A caller of this node, and what the nodes have reported."""

    count: int
    reports: dict[str, Report] = field(default_factory=dict)
    enough: asyncio.Future[bool] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    """False when the node is shut down first. Without Redis an exception would stay unretrieved."""

    @property
    def connections(self) -> int:
        return sum(report.connections for report in self.reports.values())

    def end(self, *, enough: bool) -> None:
        if not self.enough.done():
            self.enough.set_result(enough)


@dataclass(eq=False)
class ClusterReadiness(Readiness):
    """Readiness of all nodes."""

    _redis: RedisClient
    _status: ClusterStatus
    _callers: dict[str, _Waiting] = field(default_factory=dict, init=False)
    """By the id of their question."""
    _answering: dict[str, asyncio.Task[None]] = field(default_factory=dict, init=False)

    @property
    def waiting(self) -> int:
        return self._waiting + len(self._callers)

    async def wait(
        self, project: str, count: int, timeout_seconds: float, confirm: Confirm = "transport"
    ) -> Confirmation:
        """As on one node, on all nodes. Without Redis only connections of this node count."""
        self.check(project, self.waiting)
        began, seconds = self._clock(), max(timeout_seconds, _MIN_SECONDS)
        deadline = began + seconds + self._redis.ahead_seconds
        question = Question(secrets.token_hex(8), self._redis.node, project, count, confirm, deadline, seconds)
        caller = self._callers[question.id] = _Waiting(count)
        try:
            await self._publish(question)
            done, _ = await asyncio.wait((caller.enough,), timeout=seconds)
            if not done:
                raise await self._timed_out(project, count, timeout_seconds)
            if not caller.enough.result():
                raise draining()
        except StoreUnavailable:
            if caller.enough.done():  # drained meanwhile
                raise draining() from None
            return await super().wait(project, count, timeout_seconds, confirm)
        finally:
            del self._callers[question.id]
            self._supervisor.start("redis_readiness", self._publish_done(question))
        how = {report.confirmed for report in caller.reports.values() if report.connections}
        return Confirmation(
            caller.connections,
            next((weaker for weaker in ("written", "acknowledged") if weaker in how), "client"),
            round((self._clock() - began) * 1000, 3),
        )

    async def _publish(self, question: Question) -> None:
        """Ask all nodes, also those that follow the project later."""
        text = msgspec.json.encode(question)
        (waits,) = self._redis.keys.of(question.project, "waits")
        async with self._redis.use() as client, client.pipeline(transaction=True) as pipeline:
            pipeline.zadd(waits, {text: question.deadline})
            pipeline.expire(waits, int(question.timeout_seconds) + 2)
            pipeline.publish(self._redis.keys.questions, text)
            await pipeline.execute()

    async def _publish_done(self, question: Question) -> None:
        with suppress(StoreUnavailable):  # then the deadline ends it
            async with self._redis.use() as client, client.pipeline(transaction=False) as pipeline:
                pipeline.zrem(*self._redis.keys.of(question.project, "waits"), msgspec.json.encode(question))
                pipeline.publish(self._redis.keys.questions, msgspec.json.encode(Done(question.id)))
                await pipeline.execute()

    async def _timed_out(self, project: str, count: int, timeout_seconds: float) -> NotReady:
        view = None
        with suppress(EdgeError):
            view = await self._status.view(project)
        return self.not_ready(project, count, timeout_seconds, 0 if view is None else view.connections)

    async def answer_probe(self, project: str, connection_id: str, token: str) -> bool | None:
        """What another node that has the connection makes of the answer is not known here."""
        expected = await super().answer_probe(project, connection_id, token)
        if expected is not None:
            return expected
        async with self._redis.use() as client:
            await client.publish(self._redis.keys.questions, msgspec.json.encode(Ack(project, connection_id, token)))
        return True

    def drain(self) -> None:
        for caller in self._callers.values():
            caller.end(enough=False)
        super().drain()
        for task in self._answering.values():
            task.cancel()

    def receive(self, text: bytes, follows: Callable[[str], bool]) -> None:
        """A message from a node; `follows` says whether this one follows a project. Raises msgspec.DecodeError for a
        message that is not understood.
        """
        message = _decoder.decode(text)
        if isinstance(message, Report):
            if (caller := self._callers.get(message.id)) is not None:
                caller.reports[message.node] = message
                if caller.connections >= caller.count:
                    caller.end(enough=True)
        elif isinstance(message, Done):
            if (task := self._answering.get(message.id)) is not None:
                task.cancel()
        elif isinstance(message, Ack):
            self.answer(message.project, message.connection, message.token)
        elif follows(message.project):
            self._begin_to_answer(message, message.timeout_seconds)

    def receive_earlier(self, text: bytes, redis_now: float) -> None:
        """A question that was asked before this node followed its project. Raises as `receive`."""
        message = _decoder.decode(text)
        if isinstance(message, Question) and message.deadline > redis_now:
            self._begin_to_answer(message, message.deadline - redis_now)

    def _begin_to_answer(self, question: Question, seconds: float) -> None:
        if question.id not in self._answering:
            task = self._supervisor.start("redis_readiness", self._confirm(question, seconds))
            self._answering[question.id] = task
            task.add_done_callback(lambda _: self._answering.pop(question.id, None))

    async def _confirm(self, question: Question, seconds: float) -> None:
        """Report each time more connections of this node are confirmed."""
        deadline, confirmed = self._clock() + seconds, 0
        with suppress(EdgeError):
            while confirmed < question.count:
                left = max(deadline - self._clock(), 0.0)
                found = await super().wait(question.project, confirmed + 1, left, question.confirm)
                confirmed = found.connections
                report = Report(question.id, self._redis.node, confirmed, found.confirmed or "written")
                async with self._redis.use() as client:
                    await client.publish(self._redis.keys.inbox(question.node), msgspec.json.encode(report))
