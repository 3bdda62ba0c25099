"""The same story played on every store: the same receipts, the same events, the same ledger."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from edge.cluster.store import RedisStore
from edge.config.schema import LimitsSettings
from edge.config.texts import parse_redis_url
from edge.core import resume, sse
from edge.core.errors import StoreUnavailable
from edge.core.event import Event
from edge.core.hub import Hub
from edge.core.idempotency import Receipts
from edge.core.limits import Limits
from edge.core.observer import Observer, Receipt
from edge.store.base import MemoryStore, Store
from edge.store.sqlite import SqliteStore
from edge.supervisor import Supervisor
from edge.transport.carrier import Carrier, Part
from tests.cluster.conftest import RedisServer
from tests.cluster.nodes import unreported
from tests.store.rig import Silent, Subscriber
from tests.transport.wire import Wire

BOUNDS = Limits(max_events=4, heartbeat_seconds=1000.0)
STARTS: dict[str, Any] = {"missed": resume.missed, "all": resume.everything, "none": resume.nothing}


class Publish(NamedTuple):
    project: str
    text: str


class Connect(NamedTuple):
    project: str
    start: Literal["missed", "all", "none"]


class PublishEach(NamedTuple):
    """One event to both projects."""

    text: str


class ConnectToBoth(NamedTuple):
    """One stream of both projects."""

    start: Literal["missed", "all", "none"]


class Leave(NamedTuple):
    which: int
    acknowledged_all: bool


_projects = st.sampled_from(["p", "q"])
_texts = st.text(st.characters(codec="utf-8"), max_size=5)
_steps = st.one_of(
    st.builds(Publish, _projects, _texts),
    st.builds(PublishEach, _texts),
    st.builds(ConnectToBoth, st.sampled_from(["missed", "all", "none"])),
    st.builds(Connect, _projects, st.sampled_from(["missed", "all", "none"])),
    st.builds(Leave, st.integers(0, 5), st.booleans()),
)
Story = list[Publish | PublishEach | Connect | ConnectToBoth | Leave]
BOTH = ("p", "q")


_LEFT_TO_ANOTHER: Story = [
    PublishEach(""),
    ConnectToBoth("missed"),
    Connect("p", "missed"),
    ConnectToBoth("missed"),
    Leave(0, False),
]


class Outcome(NamedTuple):
    """What can be seen from outside, without epochs."""

    receipts: list[tuple[int, int, bool]]
    subscribers: list[tuple[list[int], int]]
    """For each subscriber the numbers it got, and how many gaps it got."""
    ledgers: dict[str, tuple[int, int, int, int]]


_GOT_BEFORE_IT_WAS_LEFT_UNREAD: Story = [
    Publish("q", ""),
    Connect("q", "missed"),
    Leave(0, True),
    Connect("q", "all"),
    Leave(0, False),
]


class Kept(Wire):
    """Takes everything; how much of it the peer has acknowledged is known at the end."""

    unacked = False

    def get_write_buffer_size(self) -> int:
        return len(self.buffer) if self.unacked else 0


class WholeStream:
    """A stream of both projects, as `Subscriber` is one of one project."""

    def __init__(self, hub: Hub, clock: Callable[[], float], start: Any) -> None:
        self.carrier = Carrier(hub, clock, "::1", chunked=False, prefixes=True)
        self.wire = Kept()
        self.carrier.attach_transport(self.wire, b"")
        parts = [Part(self.carrier, name, f"{id(self)}{name}", clock()) for name in BOTH]
        for name, part in zip(BOTH, parts, strict=True):
            hub.attach(name, part, start, clock())
        self.carrier.begin()

    @property
    def sent(self) -> bytes:
        return bytes(self.wire.buffer)

    @property
    def ids(self) -> list[str]:
        """As those of `Subscriber`, one project after the other: in which order both come is for the stores to say."""
        events = [sse.decode(frame + b"\n\n") for frame in self.sent.split(b"\n\n")[:-1]]
        return [
            dict(place.split(":") for place in event.id.split(","))[name]
            for name in BOTH
            for event in events
            if event.type == f"{name}/message"
        ]

    def leave(self, *, acknowledged_all: bool) -> None:
        self.wire.unacked = not acknowledged_all
        self.carrier.connection_lost(None if acknowledged_all else OSError(errno.ETIMEDOUT, "dead"))


class Player:
    """Plays a story on one store."""

    def __init__(self, hub: Hub, store: Store, settle: Callable[[], Awaitable[None]]) -> None:
        self.hub = hub
        self.store = store
        self.settle = settle
        self.clock = asyncio.get_running_loop().time

    async def play(self, story: Story) -> tuple[list[tuple[int, int, bool]], list[tuple[list[int], int]]]:
        receipts: list[tuple[int, int, bool]] = []
        everybody: list[Subscriber | WholeStream] = []
        there: list[Subscriber | WholeStream] = []
        for step in story:
            if isinstance(step, Publish):
                given = self.store.publish(step.project, Event("message", step.text.encode()), self.clock())
                receipt = given if isinstance(given, Receipt) else await given
                receipts.append((_number(receipt.id), receipt.connections, receipt.missed))
            elif isinstance(step, PublishEach):
                each = await self.store.publish_each(BOTH, Event("message", step.text.encode()), self.clock())
                receipts += [(_number(one.id), one.connections, one.missed) for one in each]
            elif isinstance(step, ConnectToBoth):
                if isinstance(self.store, RedisStore):
                    await self.store.follow(BOTH, "")
                whole = WholeStream(self.hub, self.clock, STARTS[step.start])
                everybody.append(whole)
                there.append(whole)
            elif isinstance(step, Connect):
                if isinstance(self.store, RedisStore):
                    await self.store.follow([step.project], "")
                subscriber = Subscriber(self.clock())
                self.hub.attach(step.project, subscriber, STARTS[step.start], self.clock())
                everybody.append(subscriber)
                there.append(subscriber)
            elif there:
                self._leave(there.pop(step.which % len(there)), acknowledged_all=step.acknowledged_all)
            await self.settle()
        seen = [
            (
                [int(event_id.rpartition("-")[2]) for event_id in subscriber.ids],
                subscriber.sent.count(b"event: edge.gap"),
            )
            for subscriber in everybody
        ]
        for left in there:
            self._leave(left, acknowledged_all=True)
        await self.settle()
        return receipts, seen

    def _leave(self, subscriber: Subscriber | WholeStream, *, acknowledged_all: bool) -> None:
        if isinstance(subscriber, WholeStream):
            subscriber.leave(acknowledged_all=acknowledged_all)
            return
        if not acknowledged_all:
            subscriber.acked = 0
        self.hub.detach(subscriber, "client" if acknowledged_all else "dead", self.clock())


def _hub() -> Hub:
    loop = asyncio.get_running_loop()

    def wake() -> None:
        loop.call_soon(lambda: hub.flush(loop.time()))

    hub = Hub(BOUNDS, boot="b0", wake=wake, observer=cast(Observer, Silent()))
    return hub


def _ledgers(hub: Hub) -> dict[str, tuple[int, int, int, int]]:
    return {
        name: (one.ledger.misses, one.ledger.recovered, one.ledger.lost, len(one.ledger.pending))
        for name, one in hub.projects.items()
    }


async def in_memory(story: Story) -> Outcome:
    hub = _hub()

    async def settle() -> None:
        for _ in range(3):
            await asyncio.sleep(0)

    store = MemoryStore(hub, Receipts(10, 60.0), asyncio.get_running_loop().time)
    return Outcome(*await Player(hub, store, settle).play(story), _ledgers(hub))


async def in_sqlite(story: Story, path: Path, *, commit: bool) -> Outcome:
    """The ledgers are those of the next process."""

    def rig() -> tuple[Hub, SqliteStore]:
        hub = _hub()
        clock = asyncio.get_running_loop().time
        return hub, SqliteStore(hub, Receipts(10, 60.0), clock, path, commit=commit, flush_seconds=0.001)

    async def settle() -> None:
        for _ in range(3):
            await asyncio.sleep(0)

    hub, store = rig()
    await store.open()
    receipts, subscribers = await Player(hub, store, settle).play(story)
    await store.close()
    hub, store = rig()
    await store.open()
    ledgers = _ledgers(hub)
    await store.close()
    return Outcome(receipts, subscribers, ledgers)


async def in_redis(story: Story, server: RedisServer) -> Outcome:
    server.empty()
    hub = _hub()
    clock = asyncio.get_running_loop().time
    store = RedisStore(parse_redis_url(server.url), hub, Receipts(10, 60.0), clock, Supervisor(), LimitsSettings())
    hub._observer = cast(Observer, _Reporter(store))
    await store.open()

    async def settle() -> None:
        for _ in range(400):
            names = list(hub.projects)
            has_undelivered = any(
                view is not None and name in hub.projects and _number(view.newest_id) > hub.projects[name].ring.newest
                for name, view in zip(names, await store.status.views(names), strict=True)
            )
            if not (has_undelivered or unreported(store)):
                return
            await asyncio.sleep(0.002)
        raise StoreUnavailable("the store does not settle")

    try:
        receipts, subscribers = await Player(hub, store, settle).play(story)
        views = {name: await store.status.view(name) for name in ("p", "q")}
    finally:
        await store.close()
    ledgers = {
        name: (view.misses, view.recovered, view.lost, view.pending) for name, view in views.items() if view is not None
    }
    return Outcome(receipts, subscribers, ledgers)


def _number(event_id: str) -> int:
    return int(event_id.rpartition("-")[2])


class _Reporter(Silent):
    """Tells the store who comes and goes, as the hub's log does."""

    def __init__(self, store: RedisStore) -> None:
        self._store = store

    def connection_added(self, project: Any, _connection: object) -> None:
        self._store.connection_added(project.name)

    def connection_removed(self, project: Any, connection: Any, *_: object) -> None:
        self._store.connection_removed(project, connection)


@settings(max_examples=40, suppress_health_check=list(HealthCheck))
@given(story=st.lists(_steps, max_size=16))
@example(story=_GOT_BEFORE_IT_WAS_LEFT_UNREAD)
@example(story=_LEFT_TO_ANOTHER)
def test_all_stores_behave_alike(story: Story, redis_server: RedisServer, tmp_path_factory: Any) -> None:
    folder = tmp_path_factory.mktemp("alike")
    expected = asyncio.run(in_memory(story))
    assert expected == asyncio.run(in_sqlite(story, folder / "async.db", commit=False))
    assert expected == asyncio.run(in_sqlite(story, folder / "commit.db", commit=True))
    assert expected == asyncio.run(in_redis(story, redis_server))
