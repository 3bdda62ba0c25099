"""The rings of projects that have readers on this node, kept like Redis's by one subscription for all of them.

A project is taken up in this order: subscribe to its channel, load what is held, then apply what was heard meanwhile.
So nothing falls between the load and the live events, and the numbers show when something did: a hole is loaded anew.
Invariant: a project in `_taken` that is `ready` has a ring in the hub that is a run of Redis's, up to what was last
heard.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import msgspec
from redis.asyncio.client import PubSub

from edge.cluster.client import BROKEN, NODE_TTL_SECONDS, RedisClient, end
from edge.cluster.ledger import FollowedLedger
from edge.core import resume, sse
from edge.core.errors import StoreUnavailable
from edge.core.hub import Hub
from edge.core.ledger import LedgerState
from edge.core.project import Project, SavedProject
from edge.logs.setup import get_logger

_log = get_logger("store")
_RECONNECT_SECONDS = (0.05, 0.1, 0.2, 0.5, 1.0)

_Told = tuple[str, int, float, bool, list[str]]
"""Epoch, first number, when, whether nobody was there, and the events. No epoch: the project was deleted."""
_decoder = msgspec.msgpack.Decoder(_Told)


class _Taken:
    """A project that is followed, or about to be."""

    def __init__(self) -> None:
        self.subscribed = asyncio.Event()
        self.ready = asyncio.Event()
        self.failure: StoreUnavailable | None = None
        self.stale = False
        """What is being loaded may lack what was said while nobody listened."""
        self.heard: list[_Told] = []


class Replicator:
    """`report` is called with a project that has something to tell Redis; `waits` with who waits for its readers."""

    def __init__(
        self,
        redis: RedisClient,
        hub: Hub,
        clock: Callable[[], float],
        node: str,
        keep_ms: int,
        new_epoch: Callable[[], str],
        report: Callable[[str], None],
        waits: Callable[[list[bytes], float], None],
        spoken_to: Callable[[bytes], None],
    ) -> None:
        self._wire = redis
        self._hub = hub
        self._clock = clock
        self._node = node
        self._keep_ms = keep_ms
        self._new_epoch = new_epoch
        self._report = report
        self._waits = waits
        self._spoken_to = spoken_to
        self._taken: dict[str, _Taken] = {}
        self._pubsub: PubSub | None = None
        self._listening: asyncio.Task[None] | None = None
        self._loading: set[asyncio.Task[None]] = set()
        self._heard_seconds = clock()
        self.problem: StoreUnavailable | None = None
        """Why nothing is heard at the moment."""

    async def open(self) -> None:
        """Subscribe to what the other nodes have to say to this one. Raises StoreUnavailable."""
        await self._connect()
        self._listening = asyncio.create_task(self._listen())

    async def close(self) -> None:
        for task in (self._listening, *self._loading):
            if task is not None:
                await end(task)
        if self._pubsub is not None:
            await self._pubsub.aclose()  # type: ignore[no-untyped-call]

    @property
    def projects(self) -> list[str]:
        return list(self._taken)

    def follows(self, name: str) -> bool:
        """Whether `name` is ready: its ring is here and kept up."""
        taken = self._taken.get(name)
        return taken is not None and taken.ready.is_set() and taken.failure is None and name in self._hub.projects

    async def follow(self, name: str) -> None:
        """Have `name`'s ring here. Raises StoreUnavailable, also where nothing new would be heard of it."""
        self._check()
        while not self.follows(name):
            taken = self._taken.get(name)
            if taken is None or taken.ready.is_set():
                taken = self._taken[name] = _Taken()
                self._start(self._take_up(name, taken))
            await taken.ready.wait()
            if taken.failure is not None:
                raise StoreUnavailable(taken.failure.detail, retry_after_seconds=taken.failure.retry_after_seconds)

    async def catch_up(self, name: str, last_id: str) -> None:
        """Load `name` anew where Redis is ahead of what was heard and `last_id` is not known here: its reader got it
        from a node that hears faster. Raises StoreUnavailable.
        """
        project, taken = self._hub.projects.get(name), self._taken.get(name)
        if project is None or taken is None or resume.knows(project, last_id):
            return
        async with self._wire.asking() as client:
            epoch, newest = await client.hmget(*self._wire.keys.of(name, "meta"), "epoch", "seq")
        if not isinstance(epoch, bytes) or newest is None or resume.knows(project, last_id):
            return
        if taken.ready.is_set() and (epoch.decode(), int(newest)) != (project.epoch, project.ring.newest):
            taken.ready.clear()
            self._start(self._take_up_again(name, taken))
        await self.follow(name)

    async def unfollow(self, name: str) -> None:
        """Nobody reads `name` here any more; one who is about to come keeps it."""
        taken = self._taken.get(name)
        if taken is None or not taken.ready.is_set() or self._hub.connected(name):
            return
        del self._taken[name]
        self._hub.forget(name)
        if self._pubsub is not None:
            with suppress(*BROKEN):  # a connection that is gone follows nothing
                await self._pubsub.unsubscribe(self._wire.keys.channel(name))

    def _check(self) -> None:
        self._wire.check()
        if self.problem is not None:
            raise StoreUnavailable(self.problem.detail, retry_after_seconds=self.problem.retry_after_seconds)

    def _start(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._loading.add(task)
        task.add_done_callback(self._loading.discard)

    # Taking up

    async def _take_up(self, name: str, taken: _Taken) -> None:
        try:
            self._check()
            pubsub = self._pubsub
            assert pubsub is not None, "not connected, and no problem"
            await pubsub.subscribe(self._wire.keys.channel(name))
            async with asyncio.timeout(self._wire.answer_seconds):
                await taken.subscribed.wait()
            await self._load_all(name, taken)
        except StoreUnavailable as error:
            taken.failure = error
        except BROKEN as error:
            taken.failure = self._wire.failed(error)
        finally:
            if taken.failure is not None and self._taken.get(name) is taken:
                del self._taken[name]
            taken.ready.set()

    async def _load_all(self, name: str, taken: _Taken) -> None:
        taken.stale = True
        while taken.stale and self._taken.get(name) is taken:
            taken.stale = False
            await self._load(name, taken)

    async def _load(self, name: str, taken: _Taken) -> None:
        keys = self._wire.keys
        epoch, newest, untold, now, pending, entries, waits, received = await self._wire.run(
            "follow",
            [*keys.of(name, "stream", "meta", "pending"), keys.projects, *keys.of(name, "waits")],
            self._new_epoch(),
            name,
            self._keep_ms,
        )
        if self._taken.get(name) is not taken:
            return
        here = self._hub.projects.get(name)
        numbers = [int(entry_id.partition(b"-")[0]) for entry_id, _ in entries]
        if here is not None:
            await self._go_on(here, epoch.decode(), int(newest), numbers, entries, {int(seq) for seq in pending})
        else:
            self._restore(name, epoch.decode(), int(newest), numbers, entries, float(now))
        project = self._hub.projects.get(name)
        if project is not None:
            assert isinstance(project.ledger, FollowedLedger)
            project.ledger.lost_elsewhere(int(untold), project.ring.oldest)
            for seq in pending:
                project.ledger.adopt(int(seq), int(seq))
            for run in zip(received[::2], received[1::2], strict=True):
                project.ledger.acknowledged(*run)
        for told in taken.heard:
            self._apply(name, told)
        taken.heard.clear()
        self._waits(waits, float(now))

    def _restore(
        self, name: str, epoch: str, newest: int, numbers: list[int], entries: list[Any], redis_now: float
    ) -> None:
        first_held = newest - len(numbers) + 1
        if numbers and numbers != list(range(first_held, newest + 1)):
            raise StoreUnavailable(f"The stream of {name} in Redis has a hole; delete the project.")
        prefix = f"{epoch}-".encode()
        frames = [sse.numbered(prefix, seq, fields[3]) for seq, (_, fields) in zip(numbers, entries, strict=True)]
        now = self._clock()
        times = [min(now, now - (redis_now - float(fields[1]))) for _, fields in entries]
        self._hub.restore(SavedProject(name, epoch, 1, newest, frames, times, LedgerState(), pinned=True), now)
        project = self._hub.projects.get(name)
        if project is not None:
            project.ledger = FollowedLedger(self._hub.counters.misses, name, newest, self._report)

    async def _go_on(
        self,
        project: Project,
        epoch: str,
        newest: int,
        numbers: list[int],
        entries: list[Any],
        pending: set[int],
    ) -> None:
        """After the connection was lost: what was numbered meanwhile, or a new start where that is gone."""
        known = project.ring.newest
        held = {seq: fields[3] for seq, (_, fields) in zip(numbers, entries, strict=True)}
        if epoch == project.epoch and (newest < known or _differ(project, held)):
            _log.error("history_lost", project=project.name, epoch=epoch, known=known, newest=newest)
            await self._wire.run(
                "fork",
                self._wire.keys.of(project.name, "meta"),
                *(epoch, self._new_epoch(), self._wire.keys.channel(project.name)),
            )
            epoch = ""
        missing = range(known + 1, newest + 1)
        if epoch != project.epoch or not all(seq in held for seq in missing):
            self._start_anew(project, "restart")
            return
        for seq in missing:
            self._hold(project, seq, held[seq], missed=seq in pending)

    # Listening

    async def _connect(self) -> None:
        pubsub = self._wire.listener.pubsub()
        try:
            async with asyncio.timeout(self._wire.answer_seconds):
                await pubsub.subscribe(
                    self._wire.keys.node(self._node), self._wire.keys.asks, *map(self._wire.keys.channel, self._taken)
                )
        except BROKEN as error:
            await pubsub.aclose()  # type: ignore[no-untyped-call]
            self.problem = self._wire.failed(error)
            raise self.problem from error
        self._pubsub = pubsub
        self._heard_seconds = self._clock()
        self.problem = None
        self._wire.worked()

    async def _listen(self) -> None:
        """Hear what is said, and come back after every break."""
        tries = 0
        while True:
            try:
                assert self._pubsub is not None
                # No time-out: that nothing is said for long is found out by `look`.
                message = await self._pubsub.get_message(timeout=None)
                if message is None:
                    # redis-py takes the kernel's ETIMEDOUT for its own time-out, and says so for ever without waiting.
                    raise ConnectionError("the kernel gave the connection up")
                tries = 0
                self._heard_seconds = self._clock()
                self._hear(message)
            except BROKEN as error:
                self.problem = self._wire.failed(error)
                await self._reconnect(tries)
                tries += 1

    async def _reconnect(self, tries: int) -> None:
        pubsub, self._pubsub = self._pubsub, None
        if pubsub is not None:
            with suppress(*BROKEN):
                await pubsub.aclose()  # type: ignore[no-untyped-call]
        while self._pubsub is None:
            await asyncio.sleep(_RECONNECT_SECONDS[min(tries, len(_RECONNECT_SECONDS) - 1)])
            tries += 1
            with suppress(StoreUnavailable):
                await self._connect()

    def look(self) -> None:
        """Connect anew where not even this node's own beat was heard: a way that is cut for one side is just silent."""
        if self._clock() - self._heard_seconds > NODE_TTL_SECONDS:
            self.break_off()

    def break_off(self) -> None:
        """The connection is known to be of no use: connect anew."""
        connection = getattr(self._pubsub, "connection", None)
        if connection is not None:
            self._start(connection.disconnect(nowait=True))

    def _hear(self, message: dict[str, Any]) -> None:
        channel = message["channel"].decode()
        if channel in {self._wire.keys.node(self._node), self._wire.keys.asks}:
            if message["type"] == "message" and message["data"] != b"beat":
                self._spoken_to(message["data"])
            return
        name = channel.partition("{")[2][:-1]
        taken = self._taken.get(name)
        if taken is None:
            return
        if message["type"] == "subscribe":
            # Subscribed once more after a break: what was said meanwhile has to be loaded.
            taken.stale = True
            if taken.ready.is_set():
                taken.ready.clear()
                self._start(self._take_up_again(name, taken))
            taken.subscribed.set()
        elif message["type"] == "message":
            told = _decoder.decode(message["data"])
            if taken.ready.is_set():
                self._apply(name, told)
            else:
                taken.heard.append(told)

    async def _take_up_again(self, name: str, taken: _Taken) -> None:
        try:
            await self._load_all(name, taken)
        except StoreUnavailable:
            # The connection has broken again; the next one starts over.
            self.break_off()
        finally:
            taken.ready.set()

    def _apply(self, name: str, told: _Told) -> None:
        epoch, first, _, missed, events = told
        project = self._hub.projects.get(name)
        taken = self._taken.get(name)
        if project is None or taken is None:
            return
        if epoch != project.epoch:
            self._start_anew(project, "restart" if epoch else "deleted")
        elif first > project.ring.newest + 1:
            taken.ready.clear()
            self._start(self._take_up_again(name, taken))
        else:
            for seq, event in enumerate(events, first):
                if seq > project.ring.newest:
                    self._hold(project, seq, event.encode(), missed=missed)

    def _hold(self, project: Project, seq: int, text: bytes, *, missed: bool) -> None:
        assert isinstance(project.ledger, FollowedLedger)
        if missed:
            project.ledger.adopt(seq, seq)
        self._hub.append_replicated(project, sse.numbered(project.id_prefix, seq, text), self._clock())

    def _start_anew(self, project: Project, reason: str) -> None:
        """Its history has begun anew, or has moved past what is here: readers come back and are told of the gap."""
        now = self._clock()
        self._taken.pop(project.name, None)
        self._hub.forget(project.name)
        for connection in project.connections.copy():
            self._hub.close(connection, reason, now)


def _differ(project: Project, held: dict[int, bytes]) -> bool:
    """Whether what Redis holds is not what was here under the same number."""
    return any(
        seq in held and sse.numbered(project.id_prefix, seq, held[seq]) != frame
        for seq, _, frame in project.ring.frames()
    )
