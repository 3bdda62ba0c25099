"""The express lane: what it answers is what the ordinary way answers, and what it can't know it leaves alone."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import msgspec
import pytest
from structlog.testing import capture_logs

from edge.http.context import Context
from edge.http.express import Express
from edge.server.aiohttp_server import HubRequestHandler
from tests.http.loops import served

BODY = b'{"type": "progress", "data": {"percent": 50}}'


class Wire:
    """A hub, and raw connections to it. `lane` counts the requests that took the express lane."""

    def __init__(self, context: Context, port: int, lane: list[int]) -> None:
        self.context = context
        self.port = port
        self.lane = lane

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port)

    def head(self, *lines: str, project: str = "p", length: int = len(BODY), method: str = "POST") -> bytes:
        fixed = (f"{method} /projects/{project}/events HTTP/1.1", f"Host: 127.0.0.1:{self.port}")
        return "\r\n".join((*fixed, *lines, f"Content-Length: {length}", "", "")).encode()


async def answer(reader: asyncio.StreamReader) -> tuple[bytes, Any]:
    """`(head without the date, body)` of the next answer."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = re.search(rb"Content-Length: (\d+)", head)
    assert length is not None
    body = await reader.readexactly(int(length[1]))
    assert body.endswith(b"\n")
    return re.sub(rb"Date: [^\r]*\r\n", b"", head), msgspec.json.decode(body)


@pytest.fixture
async def start(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Callable[..., Awaitable[Wire]]]:
    lane: list[int] = []
    ordinary = Express._publish

    def counted(self: Express, *arguments: Any) -> Any:
        receipt = ordinary(self, *arguments)
        if receipt is not None:
            lane.append(1)
        return receipt

    monkeypatch.setattr(Express, "_publish", counted)
    async with AsyncExitStack() as stack:

        async def begin(**sections: dict[str, Any]) -> Wire:
            hub = await stack.enter_async_context(served(None, **sections))
            return Wire(hub.context, hub.port, lane)

        yield begin


async def exchange(wire: Wire, *requests: bytes) -> list[tuple[bytes, Any]]:
    """Send one after the other over one connection, each when the last one is answered."""
    reader, writer = await wire.connect()
    answers = []
    for request in requests:
        writer.write(request)
        answers.append(await answer(reader))
    writer.close()
    return answers


async def test_the_second_publish_of_a_connection_takes_the_lane_and_is_answered_like_the_first(
    start: Callable[..., Awaitable[Wire]],
) -> None:
    wire = await start()
    request = wire.head("Content-Type: application/json") + BODY
    (first_head, first), (second_head, second) = await exchange(wire, request, request)
    assert 1 == len(wire.lane)
    assert first_head == second_head
    assert first.keys() == second.keys()
    assert [1, 2] == [int(receipt["id"].rpartition("-")[2]) for receipt in (first, second)]


@pytest.mark.parametrize("cors", [["https://app.example"], ["*"]])
async def test_answers_are_alike_where_origins_are_shared(
    start: Callable[..., Awaitable[Wire]], cors: list[str]
) -> None:
    wire = await start(cors={"origins": cors})
    request = wire.head("Content-Type: application/json") + BODY
    (first, _), (second, _) = await exchange(wire, request, request)
    assert 1 == len(wire.lane)
    assert first == second


async def test_another_project_and_another_length_are_known_by_the_same_lines(
    start: Callable[..., Awaitable[Wire]],
) -> None:
    wire = await start()
    request = wire.head() + BODY
    other = wire.head(project="q", length=11) + b'{"data": 1}'
    answers = await exchange(wire, request, other, other)
    assert 1 == len(wire.lane)  # q is made by the ordinary way
    assert ["p", "q", "q"] == [receipt["project"] for _, receipt in answers]


async def test_pipelined_publishes_are_answered_in_their_order(start: Callable[..., Awaitable[Wire]]) -> None:
    wire = await start()
    request = wire.head() + BODY
    reader, writer = await wire.connect()
    writer.write(request)
    await answer(reader)
    look = f"GET /projects/p HTTP/1.1\r\nHost: 127.0.0.1:{wire.port}\r\n\r\n".encode()
    writer.write(request * 3 + look + request * 2)
    numbers = [int((await answer(reader))[1]["id"].rpartition("-")[2]) for _ in range(3)]
    await reader.readuntil(b'"connections"')
    await reader.readuntil(b"}\n")
    numbers += [int((await answer(reader))[1]["id"].rpartition("-")[2]) for _ in range(2)]
    assert [2, 3, 4, 5, 6] == numbers
    assert 3 == len(wire.lane)  # what stands behind another request waits for its answer
    writer.close()


async def test_bytes_sent_before_a_head_lend_it_no_meaning(start: Callable[..., Awaitable[Wire]]) -> None:
    """The lines of a request that ends another one's head must not be remembered as a head of their own."""
    wire = await start()
    await exchange(wire, wire.head(project="victim") + BODY)
    reader, writer = await wire.connect()
    writer.write(b"POST /projects/victim/events HTTP/1.1\r\nUser-Agent: ")  # one Host: two would be refused
    await asyncio.sleep(0.05)
    writer.write(wire.head("Accept: poison") + BODY)
    assert "victim" == (await answer(reader))[1]["project"]
    writer.close()
    before = len(wire.lane)
    [(_, receipt)] = await exchange(wire, wire.head("Accept: poison") + BODY)
    assert "p" == receipt["project"]
    assert before == len(wire.lane)


@pytest.mark.parametrize(
    "line",
    ["Idempotency-Key: k", "Origin: http://evil.example", "X-Anything: 1", "Expect: 100-continue", "Connection: close"],
)
async def test_a_line_that_is_not_plain_takes_the_ordinary_way(
    start: Callable[..., Awaitable[Wire]], line: str
) -> None:
    wire = await start()
    for _ in range(3):
        reader, writer = await wire.connect()
        writer.write(wire.head(line) + BODY)
        await reader.readuntil(b"\r\n\r\n")
        writer.close()
    assert [] == wire.lane


@pytest.mark.parametrize(
    "body", [b"{", b'{"data": 1, "more": 2}', b'{"type": "edge.x", "data": 1}', b'{"data": "\xff"}']
)
async def test_what_is_no_event_is_refused_by_the_ordinary_way(
    start: Callable[..., Awaitable[Wire]], body: bytes
) -> None:
    wire = await start()
    request, bad = wire.head() + BODY, wire.head(length=len(body)) + body
    answers = await exchange(wire, request, request, bad, request)
    assert b" 400 " in answers[2][0]
    assert "invalid_event" == answers[2][1]["code"]
    assert 3 == int(answers[3][1]["id"].rpartition("-")[2])
    assert 2 == len(wire.lane)


async def test_a_body_in_pieces_is_published_once(start: Callable[..., Awaitable[Wire]]) -> None:
    wire = await start()
    request = wire.head() + BODY
    reader, writer = await wire.connect()
    for numbers in range(1, 4):
        writer.write(request[:-10])
        await asyncio.sleep(0.02)
        writer.write(request[-10:])
        assert numbers == int((await answer(reader))[1]["id"].rpartition("-")[2])
    writer.write(request)
    assert 4 == int((await answer(reader))[1]["id"].rpartition("-")[2])
    assert 1 == len(wire.lane)
    writer.close()


async def test_the_door_is_asked_every_time(start: Callable[..., Awaitable[Wire]]) -> None:
    wire = await start(auth={"token": "a-token-of-some-length"})
    permission = wire.head("Authorization: Bearer a-token-of-some-length") + BODY
    wrong = wire.head("Authorization: Bearer another-token-of-the-like") + BODY
    answers = await exchange(wire, permission, permission, wrong, wrong, wire.head() + BODY, permission)
    assert [b"202", b"202", b"401", b"401", b"401", b"202"] == [head.split(b" ", 2)[1] for head, _ in answers]
    assert 2 == len(wire.lane)


async def test_a_foreign_host_is_refused_however_often_it_asks(start: Callable[..., Awaitable[Wire]]) -> None:
    wire = await start()
    foreign = wire.head().replace(f"127.0.0.1:{wire.port}".encode(), b"evil.example") + BODY
    answers = await exchange(wire, wire.head() + BODY, foreign, foreign)
    assert [b"202", b"421", b"421"] == [head.split(b" ", 2)[1] for head, _ in answers]
    assert [] == wire.lane


async def test_a_store_that_answers_later_has_no_lane(start: Callable[..., Awaitable[Wire]], tmp_path: Any) -> None:
    wire = await start(store={"url": f"sqlite:{tmp_path}/events.db", "durability": "commit"})
    request = wire.head() + BODY
    answers = await exchange(wire, request, request)
    assert [1, 2] == [int(receipt["id"].rpartition("-")[2]) for _, receipt in answers]
    assert [] == wire.lane


async def test_a_hub_with_an_access_log_has_no_lane(start: Callable[..., Awaitable[Wire]]) -> None:
    wire = await start(server={"access_log": True})
    request = wire.head() + BODY
    with capture_logs() as logged:
        await exchange(wire, request, request)
    assert [] == wire.lane
    assert ["/projects/p/events"] * 2 == [line["path"] for line in logged if line["event"] == "request"]


async def test_a_hub_that_leaves_says_so(start: Callable[..., Awaitable[Wire]]) -> None:
    wire = await start()
    request = wire.head() + BODY
    reader, writer = await wire.connect()
    for _ in range(2):
        writer.write(request)
        await answer(reader)
    wire.context.hub.draining = True
    writer.write(request)
    assert "draining" == (await answer(reader))[1]["code"]
    assert 1 == len(wire.lane)
    writer.close()


async def test_a_client_that_is_quicker_than_aiohttps_task_keeps_the_lane(
    start: Callable[..., Awaitable[Wire]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the end of a request and the wait for the next one lies a turn of the loop."""
    wire = await start()
    request = wire.head("Content-Type: application/json") + BODY
    handle = HubRequestHandler._handle_request

    async def handle_and_hear_more(self: HubRequestHandler, *arguments: Any) -> Any:
        done = await handle(self, *arguments)
        for piece in (request[:50], request[50:]):
            asyncio.get_running_loop().call_soon(self.data_received, piece)
        return done

    monkeypatch.setattr(HubRequestHandler, "_handle_request", handle_and_hear_more)
    reader, writer = await wire.connect()
    writer.write(request)
    first, second = [await answer(reader) for _ in range(2)]
    assert [1] == wire.lane
    assert [1, 2] == [int(receipt["id"].rpartition("-")[2]) for _, receipt in (first, second)]
    writer.close()


async def test_a_new_connection_takes_the_lane_with_its_first_request(start: Callable[..., Awaitable[Wire]]) -> None:
    wire = await start()
    request = wire.head("Content-Type: application/json") + BODY
    for _ in range(3):
        await exchange(wire, request)
    assert [1, 1] == wire.lane
