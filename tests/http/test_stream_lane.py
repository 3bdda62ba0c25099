"""The express lane for readers: what it answers is what the ordinary way answers; what isn't plain it leaves alone."""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
from aiohttp import web

import edge
from edge.config.schema import Config
from edge.core.event import Event
from edge.http import stream_lane
from edge.http.context import Context
from edge.http.stream_lane import StreamLane
from edge.server.aiohttp_server import HubRunner
from edge.server.assembly import assemble
from edge.server.process import listen
from edge.transport import tcp
from edge.transport.stream import Stream
from tests.faults.tls import Certificate, self_signed
from tests.http.loops import SUBSCRIBE, served

USUAL = ("User-Agent: curl/8", "Accept: text/event-stream")


class Door:
    """A hub, and readers that knock with raw heads. `by_lane` counts those who took the lane."""

    def __init__(self, context: Context, port: int, by_lane: list[int]) -> None:
        self.context = context
        self.port = port
        self.by_lane = by_lane
        self.writers: list[asyncio.StreamWriter] = []

    def head(
        self, *lines: str, name: str = "p", query: str = "", version: str = "1.1", host: str | None = None
    ) -> bytes:
        fixed = (f"GET /projects/{name}/events{query} HTTP/{version}", f"Host: {host or f'127.0.0.1:{self.port}'}")
        return "\r\n".join((*fixed, *(lines or USUAL), "", "")).encode("latin-1")

    async def knock(self, head: bytes) -> tuple[bytes, bytes]:
        """`(head of the answer without its date, the first piece of the stream or the body)`."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        self.writers.append(writer)
        writer.write(head)
        answer = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"Content-Length: (\d+)", answer)
        body = await (reader.readexactly(int(length[1])) if length else reader.readuntil(b"\n\n\r\n"))
        return re.sub(rb"Date: [^\r]*\r\n", b"", answer), body

    async def status(self, head: bytes) -> tuple[int, int]:
        """The status, and whether (1) or not (0) the lane was taken."""
        before = len(self.by_lane)
        answer, _ = await self.knock(head)
        return int(answer.split()[1]), len(self.by_lane) - before


Open = Callable[..., Awaitable[Door]]


@pytest.fixture(scope="module")
def certificate() -> Iterator[Certificate]:
    yield from self_signed()


@pytest.fixture
async def open_door(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Open]:
    by_lane: list[int] = []
    ordinary = StreamLane.open

    def counted(self: StreamLane, transport: asyncio.Transport, head: bytes) -> bool:
        opened = ordinary(self, transport, head)
        if opened:
            by_lane.append(1)
        return opened

    monkeypatch.setattr(StreamLane, "open", counted)
    async with AsyncExitStack() as stack:

        async def begin(**sections: dict[str, Any]) -> Door:
            hub = await stack.enter_async_context(served(None, **sections))
            door = Door(hub.context, hub.port, by_lane)

            async def leave() -> None:
                for writer in door.writers:
                    writer.close()
                await asyncio.gather(*(writer.wait_closed() for writer in door.writers), return_exceptions=True)

            stack.push_async_callback(leave)
            return door

        yield begin


def hello(body: bytes) -> dict[str, Any]:
    found = re.search(rb"data: (\{.*\})\n", body)
    assert found is not None
    decoded: dict[str, Any] = msgspec.json.decode(found[1])
    return decoded


async def test_the_second_reader_takes_the_lane_and_is_answered_like_the_first(open_door: Open) -> None:
    door = await open_door()
    first_head, first = await door.knock(door.head())
    assert [] == door.by_lane
    second_head, second = await door.knock(door.head(name="q"))
    assert [1] == door.by_lane
    assert first_head == second_head
    assert hello(first).keys() == hello(second).keys()
    assert ("p", "q") == (hello(first)["project"], hello(second)["project"])
    assert {"127.0.0.1"} == {connection.address for connection in door.context.hub.connections.values()}


async def test_what_nobody_reads_may_be_anything_and_a_readers_own_is_read(open_door: Open) -> None:
    door = await open_door(server={"trusted_proxies": ["127.0.0.1"]})
    for _ in range(3):
        door.context.hub.publish("p", Event("message", b"1"), door.context.clock())
    [*_, last] = [door.context.hub.projects["p"].event_id(seq) for seq in (1, 2)]
    await door.knock(door.head())
    browser = ("User-Agent: Mozilla/5.0", "Referer: https://x/y?z", 'Sec-CH-UA: "a";v=1', "Cookie: edge_token=x; a=b")
    _, body = await door.knock(door.head(*browser, USUAL[1], f"Last-Event-ID: {last}", "X-Forwarded-For: 10.0.0.7"))
    assert [1] == door.by_lane
    assert 1 == hello(body)["replayed"]
    [*_, newest] = door.context.hub.connections.values()
    assert "10.0.0.7" == newest.address


@pytest.mark.parametrize(
    ("query", "replayed"),
    [
        ("?since=all", 3),
        ("?since=none&heartbeat=event", 0),
        ("?last_event_id={id}", 2),
        ("?since={id}", 2),
        ("?since=10m&heartbeat=comment", 3),
    ],
)
async def test_plain_queries_are_understood(open_door: Open, query: str, replayed: int) -> None:
    door = await open_door()
    hub = door.context.hub
    for _ in range(3):
        hub.publish("p", Event("message", b"1"), door.context.clock())
    await door.knock(door.head())
    _, body = await door.knock(door.head(query=query.format(id=hub.projects["p"].event_id(1))))
    assert ([1], replayed) == (door.by_lane, hello(body)["replayed"])
    [*_, newest] = hub.connections.values()
    assert ("event=" in query or "heartbeat=event" in query) == (b"edge.ping" in newest.ping)


@pytest.mark.parametrize(
    ("status", "change"),
    [
        (200, {"query": "?ticket=x"}),
        (200, {"query": "?since=all&since=none"}),
        (200, {"query": "?since=%61ll"}),
        (400, {"query": "?since=never"}),
        (400, {"query": "?heartbeat=drum"}),
        (400, {"name": "-p"}),
        (421, {"host": "evil.example"}),
        (200, {"version": "1.0"}),
        (406, {"lines": (USUAL[0], "Accept: text/html")}),
        (200, {"lines": (*USUAL, "Forwarded: for=1.2.3.4")}),
        (200, {"lines": (*USUAL, "Last-Event-ID: a-1", "Last-Event-ID: a-2")}),
        (200, {"lines": (*USUAL, "Last-Event-ID: \xe4")}),
        (200, {"lines": (*USUAL, "Traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")}),
        (200, {"lines": (*USUAL, "Content-Length: 0")}),
        (403, {"lines": (*USUAL, "Sec-Fetch-Site: cross-site")}),
        (400, {"lines": (*USUAL, "X : y")}),
        (400, {"lines": (*USUAL, "Host: other")}),
    ],
)
async def test_the_rest_takes_the_ordinary_way(open_door: Open, status: int, change: dict[str, Any]) -> None:
    door = await open_door()
    lines = change.pop("lines", ())
    assert (200, 0) == await door.status(door.head())
    assert (200, 1) == await door.status(door.head())
    expected = re.compile(rb"HTTP/1\.[01] %d " % status)
    for _ in range(2):
        answer, _body = (
            await door.knock(door.head(*lines, **change))
            if change.get("version") != "1.0"
            else (
                await first_line(door, door.head(*lines, **change)),
                b"",
            )
        )
        assert expected.match(answer)
    assert [1] == door.by_lane


async def first_line(door: Door, head: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", door.port)
    door.writers.append(writer)
    writer.write(head)
    return await reader.readline()


async def test_a_head_in_two_pieces_or_with_more_behind_it_is_read_by_the_parser(open_door: Open) -> None:
    door = await open_door()
    await door.knock(door.head())
    assert (200, 0) == await door.status(door.head() + door.head())
    reader, writer = await asyncio.open_connection("127.0.0.1", door.port)
    door.writers.append(writer)
    writer.write(door.head()[:30])
    await asyncio.sleep(0.05)
    writer.write(door.head()[30:])
    assert b"200" in await reader.readline()
    assert [] == door.by_lane


async def test_limits_are_counted_once_and_told_by_the_ordinary_way(open_door: Open) -> None:
    door = await open_door(limits={"max_connections_per_project": 2})
    assert [(200, 0), (200, 1), (429, 0)] == [await door.status(door.head()) for _ in range(3)]
    assert 1 == door.context.hub.counters.rejected["too_many_project_connections"]
    door.context.hub.draining = True
    assert (503, 0) == await door.status(door.head(name="q"))
    assert 1 == door.context.hub.counters.rejected["draining"]


async def test_the_door_is_asked_every_time(open_door: Open) -> None:
    door = await open_door(auth={"token": "x" * 32})
    permission = (*USUAL, f"Authorization: Bearer {'x' * 32}")
    assert (401, 0) == await door.status(door.head())
    assert [(200, 0), (200, 1)] == [await door.status(door.head(*permission)) for _ in range(2)]
    assert (401, 0) == await door.status(door.head(*USUAL, f"Authorization: Bearer {'y' * 32}"))
    assert (401, 0) == await door.status(door.head())
    cookie = f"Cookie: edge_token={'x' * 32}"
    assert [(200, 0), (200, 0)] == [await door.status(door.head(*USUAL, cookie)) for _ in range(2)]
    assert (401, 0) == await door.status(door.head(*USUAL, "Cookie: edge_token=other"))


async def test_who_needs_no_token_is_not_asked_for_one(open_door: Open) -> None:
    door = await open_door(auth={"token": "x" * 32, "anonymous": ["subscribe"]})
    assert [(200, 0), (200, 1)] == [await door.status(door.head()) for _ in range(2)]
    assert (401, 0) == await door.status(door.head(*USUAL, "Cookie: edge_token=wrong"))


async def test_each_origin_has_its_own_answer(open_door: Open) -> None:
    door = await open_door(cors={"origins": ["https://a.example", "https://b.example"]})
    answers = {}
    for origin in ("https://a.example", "https://b.example"):
        lines = (*USUAL, f"Origin: {origin}", "Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: cors")
        answers[origin] = [(await door.knock(door.head(*lines)))[0] for _ in range(2)]
        assert answers[origin][0] == answers[origin][1]
        assert b"Access-Control-Allow-Origin: " + origin.encode() in answers[origin][1]
    assert [1, 1] == door.by_lane


async def test_what_is_remembered_is_bounded(open_door: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_lane, "_MAX_REMEMBERED", 2)
    door = await open_door()
    for number in range(5):
        await door.knock(door.head(USUAL[0], f"Accept: text/event-stream;q=0.{number + 1}"))
    assert [] == door.by_lane
    assert (200, 1) == await door.status(door.head(USUAL[0], "Accept: text/event-stream;q=0.5"))
    assert (200, 0) == await door.status(door.head(USUAL[0], "Accept: text/event-stream;q=0.1"))


async def test_a_bug_behind_the_lane_ends_the_connection_and_is_told(
    open_door: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    door = await open_door()
    await door.knock(door.head())

    def fail(*_: object) -> None:
        raise LookupError

    told: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
    monkeypatch.setattr(door.context.hub, "attach", fail)
    reader, writer = await asyncio.open_connection("127.0.0.1", door.port)
    door.writers.append(writer)
    writer.write(door.head())
    with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
        await reader.readuntil(b"\r\n\r\n")
    assert [LookupError] == [type(context["exception"]) for context in told]
    assert 1 == len(door.context.hub.connections)


async def test_by_tls_too(certificate: Certificate, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[bool] = []
    ordinary = StreamLane.open

    def counted(self: StreamLane, transport: asyncio.Transport, head: bytes) -> bool:
        opened.append(ordinary(self, transport, head))
        return opened[-1]

    monkeypatch.setattr(StreamLane, "open", counted)
    async with served(certificate) as hub:
        peers = [await hub.connect(SUBSCRIBE)]
        first = re.sub(rb"Date: [^\r]*\r\n", b"", await peers[0].hello())
        peers.append(await hub.connect(SUBSCRIBE))
        assert first == re.sub(rb"Date: [^\r]*\r\n", b"", await peers[1].hello())
        assert [False, True] == opened
        for peer in peers:
            await peer.close()


@pytest.mark.linux
async def test_a_connection_inherits_what_a_stream_needs(open_door: Open) -> None:
    """Linux copies a listening socket's options; nothing is set again on the lane."""
    door = await open_door(stream={"dead_after_seconds": 7.5})
    assert [(200, 0), (200, 1)] == [await door.status(door.head()) for _ in range(2)]
    wanted = {
        (socket.SOL_SOCKET, socket.SO_KEEPALIVE): 1,
        (socket.IPPROTO_TCP, socket.TCP_NODELAY): 1,
        (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT): 7500,
        (socket.IPPROTO_TCP, tcp._TCP_NOTSENT_LOWAT): tcp.UNSENT_LIMIT_BYTES,
    }
    for connection in door.context.hub.connections.values():
        sock = cast(Any, cast(Stream, connection)._sock)
        assert wanted == {option: sock.getsockopt(*option) for option in wanted}


async def test_without_prepared_sockets_there_is_no_lane(open_door: Open) -> None:
    app, context = await assemble(Config())
    runner = HubRunner(app, shutdown_timeout_seconds=0.25)
    await runner.setup()
    [sock] = listen("127.0.0.1", 0)
    await web.SockSite(runner, sock).start()
    door = Door(context, sock.getsockname()[1], [])
    assert [(200, 0), (200, 0)] == [await door.status(door.head()) for _ in range(2)]
    for writer in door.writers:
        writer.close()
    await runner.cleanup()


def test_what_is_called_unread_is_read_nowhere_on_a_streams_way() -> None:
    folder = Path(edge.__file__).parent
    sources = [
        folder / f"http/{name}.py" for name in ("subscribe", "open_stream", "access_control", "address", "access_log")
    ]
    sources.append(folder / "auth/hosts.py")
    text = "".join(source.read_text().lower() for source in sources)
    for name in stream_lane._UNREAD:
        for form in (f'"{name.lower()}"', f"hdrs.{name.lower().replace('-', '_')}]", f"(hdrs.{name.lower()})"):
            assert form not in text, name
