"""What edge/server/aiohttp_server.py relies on in aiohttp, and what it answers where aiohttp would."""

from __future__ import annotations

import asyncio

import pytest

from edge.config.schema import Config
from edge.http.request import Request
from edge.http.response import Response
from edge.http.routes import Application
from edge.server.accept import PendingConnection
from edge.server.aiohttp_server import HubRunner, HubServer
from edge.server.assembly import assemble
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


async def test_a_compressed_body_is_refused_whatever_its_coding(site: Site) -> None:
    for coding in (b"gzip", b"br", b"zstd", b"rot13"):
        request = HEAD + b"Connection: close\r\nContent-Length: 1\r\nContent-Encoding: " + coding + b"\r\n\r\nx"
        assert "unsupported_encoding" == (await site.exchange(request)).problem["code"]


async def test_many_requests_on_one_connection(site: Site) -> None:
    reader, writer = await site.raw(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n" * 3)
    assert [200] * 3 == [(await read_answer(reader)).status for _ in range(3)]
    writer.close()
    await writer.wait_closed()


async def test_every_connection_is_served_by_our_handler_with_all_options() -> None:
    app, _ = await assemble(Config())
    runner = HubRunner(app, shutdown_timeout_seconds=0.25)
    await runner.setup()
    server = runner.server
    assert isinstance(server, HubServer)
    assert isinstance(server(), PendingConnection)
    handler = server.handler(None)
    assert (True, None) == (server.handler_cancellation, handler.access_logger)
    assert vars(server)["request_handler"] == app.answer
    handler.connection_lost(None)
    await runner.cleanup()


async def test_an_error_outside_every_handler_is_a_problem_and_is_logged_once(
    start_hub: StartHub, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    async def broken(self: Application, request: Request) -> Response:
        raise LookupError("a detail nobody should see")

    monkeypatch.setattr(Application, "answer", broken)
    site = await start_hub()
    answer = await site.exchange(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert "internal" == answer.problem["code"]
    assert b"nobody" not in answer.body
    printed = "".join(capfd.readouterr())
    assert 1 == printed.count('"event": "unexpected_error"')
    assert 1 == printed.count("LookupError: a detail nobody should see")


async def test_a_handler_ends_with_its_caller(site: Site) -> None:
    reader, writer = await site.raw(b"GET /projects/p/ready?timeout=20s HTTP/1.1\r\nHost: localhost\r\n\r\n")
    while site.context.readiness.waiting != 1:  # noqa: ASYNC110 - it tells nobody
        await asyncio.sleep(0.005)
    writer.close()
    await writer.wait_closed()
    while site.context.readiness.waiting:  # noqa: ASYNC110 - it tells nobody
        await asyncio.sleep(0.005)
    assert b"" == await reader.read()
