"""Streams of several projects, cut at any byte: each project comes whole, or with a gap that says what is missing."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from edge.core.event import Event
from edge.core.hub import Hub
from edge.http.subscribe import start_at
from edge.transport.carrier import Carrier, Part
from tests.core.eventstream import Message, Parser, unchunk
from tests.core.fakes import Recorder, make_hub
from tests.faults.tls import Certificate, self_signed
from tests.http.loops import LOOPS, run, served
from tests.transport.wire import Wire

NAMES = ("a", "b", "c")


class Client:
    """Reads a stream, and comes back with the last id. It notes what it got of each project, and what gaps said."""

    def __init__(
        self, hub: Hub, clock: Callable[[], float], *, chunked: bool, prefixes: bool, names: tuple[str, ...]
    ) -> None:
        self.hub, self.clock, self.names = hub, clock, names
        self.chunked, self.prefixes = chunked, prefixes
        self.last_id = ""
        self.got: dict[str, list[int]] = {name: [] for name in names}
        self.missing: dict[str, set[int]] = {name: set() for name in names}
        self.finished = False
        self._numbers = itertools.count()
        self.carrier: Carrier | None = None
        self.connect()

    def connect(self) -> None:
        if self.carrier is not None:
            return
        start = start_at("all", self.last_id, self.clock())
        if all(self.hub.is_over(name, start) for name in self.names):
            return
        carrier = Carrier(self.hub, self.clock, "::1", chunked=self.chunked, prefixes=self.prefixes)
        parts = [Part(carrier, name, f"{id(self)}-{next(self._numbers)}", self.clock()) for name in self.names]
        self.wire = carrier_wire = Wire()
        carrier.attach_transport(carrier_wire, b"")
        carrier_wire.protocol = carrier
        for name, part in zip(self.names, parts, strict=True):
            self.hub.attach(name, part, start, self.clock())
        carrier.begin()
        self.carrier, self._parser, self._text = carrier, Parser(), b""
        self._raw = b""

    def read(self, count: int) -> None:
        if self.carrier is None:
            return
        self._raw += self.wire.take(count)
        body = self._whole_chunks() if self.chunked else self._raw
        if not self.chunked:
            self._raw = b""
        self._text += body
        whole, end, self._text = self._text.rpartition(b"\n")
        for item in self._parser.feed(whole + end) if end else ():
            if isinstance(item, Message):
                self._take(item)
        if self.wire.closing and not self.wire.buffer:
            self.cut()

    def _whole_chunks(self) -> bytes:
        body = b""
        while True:
            size, end, rest = self._raw.partition(b"\r\n")
            if not end or len(rest) < int(size, 16) + 2:
                return body
            body += rest[: int(size, 16)]
            self._raw = rest[int(size, 16) + 2 :]

    def _take(self, message: Message) -> None:
        before = self._position()
        self.last_id = message.id
        if message.type == "edge.gap":
            gap = message.json
            asked = -1 if gap["asked"] == "all" else int(gap["asked"].rpartition("-")[2])
            oldest = int(gap["oldest"].rpartition("-")[2]) if gap["oldest"] else 1 << 30
            self.missing[gap["project"]] |= set(range(asked + 1, min(oldest, 200)))
        elif message.type == "edge.hello":
            assert set(self.names) == set(self._position()), "the first hello has all positions"
        elif not message.type.startswith("edge."):
            after = self._position()
            [name] = [name for name in self.names if before.get(name) != after[name]]
            assert json.loads(message.data) == [name, int(after[name].rpartition("-")[2])]
            assert message.type == (f"{name}/tick" if self.prefixes else "tick")
            self.got[name].append(int(after[name].rpartition("-")[2]))

    def _position(self) -> dict[str, str]:
        return dict(place.split(":") for place in self.last_id.split(",") if place)

    def cut(self, count: int = 0) -> None:
        """The cable is cut when the peer has read `count` more bytes."""
        if self.carrier is None:
            return
        if count:
            self.read(count)
        if self.carrier is not None:
            carrier, self.carrier = self.carrier, None
            self.wire.protocol = None
            carrier.connection_lost(None if self.wire.closing else ConnectionResetError())

    def check(self, newest: dict[str, int]) -> None:
        for name in self.names:
            got = self.got[name]
            assert got == sorted(set(got)), f"{name}: an event came twice, or out of order"
            lost = set(range(1, newest[name] + 1)) - set(got) - self.missing[name]
            assert set() == lost, f"{name}: neither delivered nor reported"


_steps = st.one_of(
    st.tuples(st.just("publish"), st.sampled_from(NAMES), st.sampled_from([False, False, False, True])),
    st.tuples(st.just("read"), st.integers(0, 1), st.integers(1, 300)),
    st.tuples(st.just("read"), st.integers(0, 1), st.just(1 << 20)),
    st.tuples(st.just("cut"), st.integers(0, 1), st.integers(0, 400)),
    st.tuples(st.just("connect"), st.integers(0, 1), st.just(0)),
    st.tuples(st.just("flush"), st.just(0), st.just(0)),
    st.tuples(st.just("tick"), st.just(0), st.just(0)),
)
_FINISHED_AND_REOPENED: list[tuple[str, Any, Any]] = [
    ("publish", "a", True), ("flush", 0, 0), ("read", 0, 1 << 20), ("publish", "a", False), ("cut", 0, 100),
]  # fmt: skip

_CUT_BEHIND_AN_EVENT: list[tuple[str, Any, Any]] = [
    ("publish", "a", False), ("publish", "a", False), ("read", 0, 1 << 20), ("cut", 0, 62),
]  # fmt: skip


@given(
    steps=st.lists(_steps, max_size=60),
    chunked=st.booleans(),
    prefixes=st.booleans(),
    max_events=st.sampled_from([2, 5, 100]),
)
@example(steps=_FINISHED_AND_REOPENED, chunked=True, prefixes=False, max_events=5)
@example(steps=_CUT_BEHIND_AN_EVENT, chunked=False, prefixes=False, max_events=2)
def test_each_project_comes_whole_or_with_a_gap(
    steps: list[tuple[str, Any, Any]], chunked: bool, prefixes: bool, max_events: int
) -> None:
    now = 0.0
    hub = make_hub(max_events=max_events, max_age_seconds=1e6)
    newest = dict.fromkeys(NAMES, 0)
    clients = [
        Client(hub, lambda: now, chunked=chunked, prefixes=prefixes, names=names) for names in (NAMES, ("b", "c"))
    ]

    def settle() -> None:
        for _ in range(50):
            hub.flush(now)
            for client in clients:
                client.connect()
                client.read(1 << 20)

    for what, whom, much in steps:
        now += 0.5
        if what == "publish":
            newest[whom] += 1
            receipt = hub.publish(whom, Event("tick", json.dumps([whom, newest[whom]]).encode(), much), now)
            assert str(newest[whom]) == receipt.id.rpartition("-")[2]
        elif what == "read":
            clients[whom].read(much)
        elif what == "cut":
            clients[whom].cut(much)
        elif what == "connect":
            clients[whom].connect()
        elif what == "flush":
            hub.flush(now)
        else:
            hub.tick(now)
        for project in hub.projects.values():
            ledger = project.ledger
            assert ledger.misses == ledger.recovered + ledger.lost + len(ledger.pending)
    settle()
    for client in clients:
        client.check(newest)
    observer = hub._observer
    assert isinstance(observer, Recorder)
    assert [] == observer.failures
    now += 10  # a peer that resets right after a replay may not have read it
    for client in clients:
        client.cut()
    assert {} == hub.connections
    # What a client read just before it was cut, the hub may not know.
    for name, project in hub.projects.items():
        assert all(set(range(lo, hi + 1)) <= set(clients[0].got[name]) for lo, hi in project.ledger.pending)


def test_a_full_transport_is_shared_fairly() -> None:
    """A project that always has more doesn't keep the others from theirs."""
    hub = make_hub(max_events=1000)
    client = Client(hub, lambda: 0.0, chunked=True, prefixes=False, names=NAMES)
    client.read(1 << 20)
    for number in range(1, 301):
        for name in NAMES:
            hub.publish(name, Event("tick", json.dumps([name, number]).encode()), 0.0)
    hub.flush(0.0)
    for _ in range(4):
        client.read(1 << 20)
    assert {300} == {client.got[name][-1] for name in NAMES}


@pytest.fixture(scope="module")
def certificate() -> Iterator[Certificate]:
    yield from self_signed()


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
def test_on_the_real_server(loop: str, secure: bool, certificate: Certificate) -> None:
    """Replay and live events over a real socket; what was acknowledged is not a miss, what was cut off is one."""

    async def main() -> None:
        async with served(certificate if secure else None) as hub:
            core, clock = hub.context.hub, hub.context.clock
            for number in range(200):
                core.publish("a" if number % 2 else "b", Event("tick", b"x" * 1000), clock())
            request = b"GET /events?project=a&project=b HTTP/1.1\r\nHost: localhost\r\n\r\n"
            peer = await hub.connect(request)
            await peer.reader.readuntil(b"\r\n\r\n")
            parser, text = Parser(), b""
            ids: list[str] = []
            while len(ids) < 200:
                text += unchunk(await _chunk(peer.reader))
                whole, end, text = text.rpartition(b"\n")
                ids += [
                    item.id for item in parser.feed(whole + end) if isinstance(item, Message) and item.type == "tick"
                ]
            assert 200 == len(set(ids))
            assert 2 == ids[-1].count("-100")
            while any(part.refresh() for part in core.connections.values()):
                await asyncio.sleep(0.01)
            await peer.close()
            await hub.streams(0)
            assert [0, 0] == [len(core.projects[name].ledger.pending) for name in "ab"]
            assert [100, 100] == [core.projects[name].ledger.recovered for name in "ab"]

    run(loop, main)


async def _chunk(reader: asyncio.StreamReader) -> bytes:
    size = await reader.readuntil(b"\r\n")
    return size + await reader.readexactly(int(size, 16) + 2)
