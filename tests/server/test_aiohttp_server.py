"""What edge/server/aiohttp_server.py relies on in aiohttp, and what it answers where aiohttp would."""

from __future__ import annotations

import asyncio
import errno

import pytest

from edge.http import routes
from edge.http.message import Request
from edge.http.routes import Application
from edge.server import connection
from edge.server.aiohttp_server import HttpServer
from tests.http.client import Site, read_answer
from tests.hubs import StartHub

HEAD = b"POST /projects/p/events HTTP/1.1\r\nHost: localhost\r\n"


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"nonsense\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nbad header\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nA: b\0c\r\n\r\n",
        HEAD + b"Content-Length: x\r\n\r\n",
        HEAD + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
    ids=["nonsense", "TLS", "no colon", "NUL", "length", "two lengths", "chunk"],
)
async def test_malformed_http_gets_a_problem_and_the_door(
    site: Site, request_bytes: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    answer = await site.exchange(request_bytes)
    assert "malformed_http" == answer.problem["code"]
    assert "edge" == answer.headers["Server"]
    printed = "".join(capfd.readouterr())
    assert '"level": "error"' not in printed
    assert '"level": "warning"' not in printed
    assert 1 == printed.count('"event": "malformed_http"')


class _Reset(asyncio.Transport):
    """A transport whose peer is gone, as asyncio's says it: the end can't be written any more."""

    closed = False

    def get_extra_info(self, name: str, default: object = None) -> object:
        return ("127.0.0.1", 1) if name == "peername" else default

    def write(self, data: object) -> None:
        """Lost."""

    def is_closing(self) -> bool:
        return self.closed

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        raise OSError(errno.ENOTCONN, "Transport endpoint is not connected")

    def close(self) -> None:
        self.closed = True


@pytest.mark.parametrize(
    "request_bytes",
    [b"nonsense\r\n\r\n", b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"],
    ids=["refused", "answered"],
)
async def test_a_peer_that_is_gone_when_its_connection_is_closed(
    site: Site, monkeypatch: pytest.MonkeyPatch, request_bytes: bytes
) -> None:
    monkeypatch.setattr(connection, "_LINGER_SECONDS", 0.0)
    transport, made = _Reset(), HttpServer(routes.build(site.context))()
    made.connection_made(transport)
    made.data_received(request_bytes)
    async with asyncio.timeout(20):
        while not transport.closed:
            await asyncio.sleep(0)


async def test_a_compressed_body_is_refused_whatever_its_coding(site: Site) -> None:
    for coding in (b"gzip", b"br", b"zstd", b"rot13"):
        request = HEAD + b"Connection: close\r\nContent-Length: 1\r\nContent-Encoding: " + coding + b"\r\n\r\nx"
        assert "unsupported_encoding" == (await site.exchange(request)).problem["code"]


async def test_many_requests_on_one_connection(site: Site) -> None:
    reader, writer = await site.raw(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n" * 3)
    assert [200] * 3 == [(await read_answer(reader)).status for _ in range(3)]
    writer.close()
    await writer.wait_closed()


async def test_pipelined_requests_leave_the_loop_its_turns(site: Site) -> None:
    """A caller with thousands of requests in one piece gets its answers in order, and doesn't hold up the others."""
    count = 1000
    turns = 0

    def turn() -> None:
        nonlocal turns
        turns += 1
        asyncio.get_running_loop().call_soon(turn)

    reader, writer = await site.raw(b"")
    turn()
    writer.write(b"".join(HEAD.replace(b"/p/", b"/p%d/" % n) + b"Content-Length: 0\r\n\r\n" for n in range(count)))
    before = turns
    answers = [await read_answer(reader) for _ in range(count)]
    assert {"invalid_event"} == {answer.problem["code"] for answer in answers}
    assert turns - before >= count // 64
    writer.close()
    await writer.wait_closed()


async def test_a_malformed_request_takes_no_earlier_one_with_it(site: Site) -> None:
    for earlier in (b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n", HEAD + b"Content-Length: 1\r\n\r\n1"):
        reader, writer = await site.raw(earlier * 3 + b"nonsense\r\n\r\n" + earlier)
        answers = [await read_answer(reader) for _ in range(4)]
        assert [400] == [answer.status for answer in answers[3:]]
        assert "malformed_http" not in b"".join(answer.body for answer in answers[:3]).decode()
        writer.close()
        await writer.wait_closed()


async def test_an_unexpected_error_is_a_problem_and_is_logged_once(
    start_hub: StartHub, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def broken(self: Application, request: Request) -> None:
        raise LookupError("a detail no client should see")

    monkeypatch.setattr(Application, "_find", broken)
    site = await start_hub()
    reader, writer = await site.raw(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
    answer = await read_answer(reader)
    writer.close()
    await writer.wait_closed()
    assert "internal" == answer.problem["code"]
    assert b"no client" not in answer.body
    printed = "".join(capfd.readouterr())
    assert 1 == printed.count('"event": "unexpected_error"')
    assert 1 == printed.count("LookupError: a detail no client should see")


async def test_a_handler_ends_with_its_caller(site: Site) -> None:
    reader, writer = await site.raw(b"GET /projects/p/ready?timeout=20s HTTP/1.1\r\nHost: localhost\r\n\r\n")
    while site.context.readiness.waiting != 1:
        await asyncio.sleep(0.005)
    writer.close()
    await writer.wait_closed()
    while site.context.readiness.waiting:
        await asyncio.sleep(0.005)
    assert b"" == await reader.read()
