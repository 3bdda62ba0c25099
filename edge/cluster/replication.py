"""Keeps the rings of projects with connections on this node equal to Redis's, by one subscription for all of them.

To follow a project: subscribe to its channel, load what is held, then apply what was heard meanwhile. So no event falls
between the history and the live events; and the numbers show when one did: after a hole the project is loaded again.

Invariant: a project in `_followed` that is `ready` has a ring in the hub that is a run of Redis's, up to what was heard
last. A message that can't be understood costs a load, never an event.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from edge.cluster.client import ANSWER_SECONDS, BROKEN, NODE_HEARTBEAT_SECONDS, RedisClient
from edge.cluster.presence import FollowedLedger
from edge.cluster.readiness import ClusterReadiness
from edge.cluster.subscription import Subscription
from edge.core import resume, sse
from edge.core.errors import StoreUnavailable
from edge.core.hub import Hub
from edge.core.ledger import LedgerState
from edge.core.project import Project
from edge.core.saved import SavedProject
from edge.logs.setup import get_logger
from edge.store.base import new_epoch
from edge.supervisor import Supervisor, end

_log = get_logger("store")
_MAX_HEARD = 1000
_SETTLE_SECONDS = 0.05
"""After a restart of Redis, between two looks whether all nodes have reported what they know: no message says so."""

_Appended = tuple[str, int, float, bool, list[str]]
"""Epoch, first number, time, whether the events were missed, the events. No epoch: the project was deleted."""
_decoder = msgspec.msgpack.Decoder(_Appended)


@dataclass(eq=False)
class _Followed:
    """A project that is followed, or about to be."""

    subscribed: asyncio.Event = field(default_factory=asyncio.Event)
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    failure: StoreUnavailable | None = None
    stale: bool = False
    """What is being loaded may lack events that were published while nothing was heard."""
    heard: list[_Appended] = field(default_factory=list)


@dataclass(eq=False)
class Replicator:
    """`readiness` gets the messages to this node; `report` is called with a project that has something to report."""

    _redis: RedisClient
    _hub: Hub
    _clock: Callable[[], float]
    _supervisor: Supervisor
    _readiness: ClusterReadiness
    _report: Callable[[str], None]
    _followed: dict[str, _Followed] = field(default_factory=dict)
    _loading: set[asyncio.Task[None]] = field(default_factory=set)

    def __post_init__(self) -> None:
        keys = self._redis.keys
        own = (keys.inbox(self._redis.node), keys.questions)
        self.subscription = Subscription(
            self._redis, self._clock, self._supervisor, lambda: [*own, *map(keys.channel, self._followed)], self
        )

    async def open(self) -> None:
        """Subscribe, as soon as Redis can be reached."""
        await self.subscription.open()

    async def close(self) -> None:
        for task in self._loading.copy():
            await end(task)
        await self.subscription.close()

    @property
    def projects(self) -> list[str]:
        return list(self._followed)

    def follows(self, name: str) -> bool:
        """Whether the ring of `name` is here and kept up to date."""
        followed = self._followed.get(name)
        return followed is not None and followed.ready.is_set() and name in self._hub.projects

    async def follow(self, names: Sequence[str], last_id: str) -> None:
        """Have the rings of `names` here, up to their parts of `last_id` if Redis has those: a client may have got them
        from a node that hears faster. On return `follows` is true for all. Raises StoreUnavailable, also where no new
        events are heard.
        """
        last_ids = {name: resume.id_in(name, last_id) for name in names}
        await asyncio.gather(*(self._follow_up_to(name, last_id) for name, last_id in last_ids.items()))
        while not all(map(self.follows, last_ids)):  # one may have been dropped while another was loaded
            await asyncio.gather(*(self._follow_up_to(name, "") for name in last_ids))

    async def _follow_up_to(self, name: str, last_id: str) -> None:
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                await self._follow(name)
                if last_id and await self._is_behind(name, last_id):
                    self._load_again(name)
                await self._follow(name)
        except TimeoutError:
            raise StoreUnavailable(
                f"The history of {name} did not arrive from Redis in time; try again soon."
            ) from None

    async def _follow(self, name: str) -> None:
        self.subscription.check()
        while not self.follows(name):
            followed = self._followed.get(name)
            if followed is None or followed.ready.is_set():
                followed = self._followed[name] = _Followed()
                self._start(self._begin(name, followed))
            await followed.ready.wait()
            if followed.failure is not None:
                raise StoreUnavailable(followed.failure.detail)

    async def _is_behind(self, name: str, last_id: str) -> bool:
        project = self._hub.projects.get(name)
        if project is None or resume.knows(project, last_id):
            return False
        async with self._redis.use() as client:
            epoch, newest = await client.hmget(*self._redis.keys.of(name, "meta"), "epoch", "seq")
        if not isinstance(epoch, bytes) or newest is None or resume.knows(project, last_id):
            return False
        return (epoch.decode(), int(newest)) != (project.epoch, project.ring.newest)

    async def unfollow(self, name: str) -> None:
        """`name` has no connection here; one that is about to be attached keeps it."""
        followed = self._followed.get(name)
        if followed is None or not followed.ready.is_set() or self._hub.has_streams(name):
            return
        del self._followed[name]
        self._hub.forget(name)
        await self._unsubscribe(name)

    async def _unsubscribe(self, name: str) -> None:
        if name not in self._followed:
            await self.subscription.remove(self._redis.keys.channel(name))

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._supervisor.start("redis_replication", work)
        self._loading.add(task)
        task.add_done_callback(self._loading.discard)

    # Loading

    async def _begin(self, name: str, followed: _Followed) -> None:
        # Also where the error is none of the two, or the task is cancelled.
        followed.failure = StoreUnavailable(f"{name} could not be loaded from Redis; try again soon.")
        try:
            await self.subscription.add(self._redis.keys.channel(name))
            async with asyncio.timeout(ANSWER_SECONDS):
                await followed.subscribed.wait()
            await self._load_until_fresh(name, followed)
            followed.failure = None
        except StoreUnavailable as error:
            followed.failure = error
        except BROKEN as error:
            followed.failure = self._redis.explain(error)
        finally:
            if followed.failure is not None and self._followed.get(name) is followed:
                del self._followed[name]
            followed.ready.set()

    def _load_again(self, name: str) -> None:
        followed = self._followed.get(name)
        if followed is None:
            return
        followed.stale = True
        if followed.ready.is_set():
            followed.ready.clear()
            self._start(self._reload(name, followed))

    async def _reload(self, name: str, followed: _Followed) -> None:
        try:
            while self._followed.get(name) is followed:
                try:
                    return await self._load_until_fresh(name, followed)
                except StoreUnavailable:
                    await asyncio.sleep(NODE_HEARTBEAT_SECONDS)
        except Exception:
            # Its ring may have a hole: clients come back, and load it anew.
            if (project := self._hub.projects.get(name)) is not None:
                self._drop(project, "restart")
            raise
        finally:
            followed.ready.set()

    async def _load_until_fresh(self, name: str, followed: _Followed) -> None:
        followed.stale = True
        while followed.stale and self._followed.get(name) is followed:
            followed.stale = False
            await self._load(name, followed)

    async def _load(self, name: str, followed: _Followed) -> None:
        while (found := await self._redis.run("follow", name, new_epoch())) is None:  # noqa: ASYNC110 - see above
            await asyncio.sleep(_SETTLE_SECONDS)
        epoch, newest, untold, now, pending, entries, waits, received = found
        if self._followed.get(name) is not followed:
            return
        here = self._hub.projects.get(name)
        held = {int(entry_id.partition(b"-")[0]): fields for entry_id, fields in entries}
        if here is None:
            self._restore(name, epoch.decode(), newest, held, float(now))
        else:
            await self._catch_up(here, epoch.decode(), newest, held, {int(seq) for seq in pending})
        project = self._hub.projects.get(name)
        if project is not None and isinstance(project.ledger, FollowedLedger):
            project.ledger.adopt_lost(untold, project.ring.oldest)
            for seq in pending:
                project.ledger.adopt(int(seq), int(seq))
            for run in zip(received[::2], received[1::2], strict=True):
                project.ledger.acknowledged(*run)
        for appended in followed.heard:
            self._apply(name, appended)
        followed.heard.clear()
        for text in waits:
            with self.subscription.guard(name):
                self._readiness.receive_earlier(text, float(now))

    def _restore(self, name: str, epoch: str, newest: int, held: dict[int, Any], redis_now: float) -> None:
        if held and list(held) != list(range(newest - len(held) + 1, newest + 1)):
            raise StoreUnavailable(f"The stream of {name} in Redis has missing entries; delete the project.")
        prefix, now = f"{epoch}-".encode(), self._clock()
        frames = [sse.numbered(prefix, seq, fields[3]) for seq, fields in held.items()]
        times = [min(now, now - (redis_now - float(fields[1]))) for fields in held.values()]
        self._hub.restore(SavedProject(name, epoch, 1, newest, frames, times, LedgerState(), pinned=True), now)
        project = self._hub.projects.get(name)
        if project is not None:
            project.ledger = FollowedLedger(self._hub.counters.misses, name, newest, self._report)

    async def _catch_up(
        self, project: Project, epoch: str, newest: int, held: dict[int, Any], pending: set[int]
    ) -> None:
        """Append what was published while nothing was heard, or begin anew where that is gone."""
        known = project.ring.newest
        if epoch == project.epoch and (newest < known or _differ(project, held)):
            _log.error("history_lost", project=project.name, epoch=epoch, known=known, newest=newest)
            await self._redis.run("fork", project.name, epoch, new_epoch())
            epoch = ""
        missing = range(known + 1, newest + 1)
        if epoch != project.epoch or not all(seq in held for seq in missing):
            self._drop(project, "restart")
            return
        for seq in missing:
            self._append(project, seq, held[seq][3], missed=seq in pending)

    # Messages

    def rejected(self, channel: str) -> None:
        """A message was not understood: what it announced is loaded."""
        self._load_again(self._redis.keys.project(channel))

    def receive(self, channel: str, message: dict[str, Any]) -> None:
        keys = self._redis.keys
        if channel in {keys.inbox(self._redis.node), keys.questions}:
            if message["type"] == "message" and message["data"] != b"heartbeat":
                self._readiness.receive(message["data"], self.follows)
            return
        name = keys.project(channel)
        followed = self._followed.get(name)
        if followed is None:
            return
        if message["type"] == "subscribe":
            # After a break: what was published meanwhile has to be loaded.
            self._load_again(name)
            followed.subscribed.set()
        elif message["type"] == "message":
            appended = _decoder.decode(message["data"])
            if followed.ready.is_set():
                self._apply(name, appended)
            elif len(followed.heard) < _MAX_HEARD:
                followed.heard.append(appended)
            else:
                followed.heard.clear()
                followed.stale = True

    def _apply(self, name: str, appended: _Appended) -> None:
        epoch, first, _, missed, events = appended
        project = self._hub.projects.get(name)
        if project is None or name not in self._followed:
            return
        if epoch != project.epoch:
            self._drop(project, "restart" if epoch else "deleted")
        elif first > project.ring.newest + 1:
            self._load_again(name)
        else:
            for seq, event in enumerate(events, first):
                if seq > project.ring.newest:
                    self._append(project, seq, event.encode(), missed=missed)

    def _append(self, project: Project, seq: int, text: bytes, *, missed: bool) -> None:
        assert isinstance(project.ledger, FollowedLedger)
        if missed:
            project.ledger.adopt(seq, seq)
        self._hub.append_replicated(project, sse.numbered(project.id_prefix, seq, text), self._clock())

    def _drop(self, project: Project, reason: str) -> None:
        """Its history has begun anew, or has moved past what is here: clients reconnect and get a gap."""
        now = self._clock()
        self._followed.pop(project.name, None)
        self._hub.forget(project.name)
        self._hub.close_all(project, reason, now)
        self._start(self._unsubscribe(project.name))


def _differ(project: Project, held: dict[int, Any]) -> bool:
    """Whether Redis holds something else than this node under the same number."""
    return any(
        seq in held and sse.numbered(project.id_prefix, seq, held[seq][3]) != frame
        for seq, _, frame in project.ring.frames()
    )
