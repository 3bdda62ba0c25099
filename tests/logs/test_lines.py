"""What is logged: one line a fact, the names of metrics and API, no secret."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import aiohttp.web
import pytest

from edge.diagnose.observer import BURST_LINES
from tests.observability import live

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class LoggedHub:
    """A hub in a process of its own, and its log."""

    def __init__(self, url: str, file: Path, client: aiohttp.ClientSession) -> None:
        self.url = url
        self.file = file
        self.client = client

    def lines(self, event: str) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in self.file.read_text().splitlines()]
        return [line for line in lines if line["event"] == event]

    async def line(self, event: str) -> dict[str, Any]:
        """The first of them, once it is there."""
        return (await self.first_lines(event, 1))[0]

    async def first_lines(self, event: str, count: int) -> list[dict[str, Any]]:
        """All of them, once so many are there. That of a request is written after its response was."""
        async with asyncio.timeout(60):
            while len(found := self.lines(event)) < count:
                await asyncio.sleep(0.02)
        return found


@asynccontextmanager
async def logged(tmp_path: Path, **environ: str) -> AsyncIterator[LoggedHub]:
    file = tmp_path / "log"
    with file.open("w") as log:
        async with (
            live.hub({"EDGE_SERVER_LOG_FORMAT": "json", **environ}, log) as url,
            aiohttp.ClientSession() as client,
        ):
            yield LoggedHub(url, file, client)


STAYED_SECONDS = 0.05


async def read_for(hub: LoggedHub, path: str, events: int) -> None:
    """Read a stream until so many events have come, stay a moment, and leave."""
    async with hub.client.get(hub.url + path) as response:
        seen = -1  # hello has an id, too
        async for line in response.content:
            seen += line.startswith(b"id:")
            if seen == events:
                await asyncio.sleep(STAYED_SECONDS)
                return


async def test_a_stream_is_logged_at_its_end_and_a_request_at_its_response(tmp_path: Path) -> None:
    async with logged(tmp_path, EDGE_SERVER_ACCESS_LOG="true") as hub:
        for _ in range(3):
            async with hub.client.post(f"{hub.url}/projects/p/events", json={"data": "secret-of-the-event"}):
                pass
        await read_for(hub, "/projects/p/events?since=all&ticket=secret-ticket", 3)
        left = await hub.line("last_connection_removed")
        async with hub.client.get(f"{hub.url}/projects/unknown?_x=secret") as response:
            assert 404 == response.status
        requests = await hub.first_lines("request", 5)
        text = hub.file.read_text()

    assert [
        ("POST", "/projects/p/events", 202),
        ("POST", "/projects/p/events", 202),
        ("POST", "/projects/p/events", 201 if requests[2]["status"] == 201 else 202),
        ("GET", "/projects/p/events", 200),
        ("GET", "/projects/unknown", 404),
    ] == [(line["method"], line["path"], line["status"]) for line in requests]
    stream = requests[3]
    assert (3, left["connection"], "127.0.0.1") == (stream["events"], stream["connection"], stream["address"])
    assert stream["duration_ms"] >= STAYED_SECONDS * 900  # a clock of whole milliseconds
    assert 3 == left["events"]
    assert "secret" not in text


async def test_without_the_access_log_no_request_has_a_line(tmp_path: Path) -> None:
    async with logged(tmp_path) as hub:
        async with hub.client.post(f"{hub.url}/projects/p/events", json={"data": 1}):
            pass
        await read_for(hub, "/projects/p/events", 1)
        await hub.line("last_connection_removed")

        assert [] == hub.lines("request")
        assert [] == hub.lines("delivered")


async def test_debug_shows_every_delivery(tmp_path: Path) -> None:
    async with logged(tmp_path, EDGE_SERVER_LOG_LEVEL="debug") as hub:
        ids = []
        for _ in range(2):
            async with hub.client.post(f"{hub.url}/projects/p/events", json={"data": 1}) as response:
                ids.append((await response.json())["id"])
        await read_for(hub, "/projects/p/events", 2)
        delivered = await hub.line("delivered")
        added = await hub.line("connection_added")

    assert ("debug", "p", 2, ids[-1]) == tuple(delivered[key] for key in ("level", "project", "events", "id"))
    assert added["connection"] == delivered["connection"]


async def test_the_trace_of_a_request_is_in_its_lines_and_goes_to_the_target(tmp_path: Path) -> None:
    got: list[str | None] = []

    async def target(request: aiohttp.web.Request) -> aiohttp.web.Response:
        got.append(request.headers.get("traceparent"))
        return aiohttp.web.Response(status=500 if len(got) == 1 else 200)

    app = aiohttp.web.Application()
    app.router.add_post("/", target)
    runner = aiohttp.web.AppRunner(app)
    await runner.setup()
    site = aiohttp.web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    environ = {"EDGE_TRIGGER_URL": f"http://127.0.0.1:{runner.addresses[0][1]}/", "EDGE_SERVER_ACCESS_LOG": "true"}
    try:
        async with logged(tmp_path, **environ) as hub, hub.client.get(f"{hub.url}/projects/p/events"):
            for headers in ({"traceparent": TRACE}, {"traceparent": TRACE.upper()}, {}):
                async with hub.client.post(
                    f"{hub.url}/projects/p/trigger", json={"name": "work"}, headers=headers
                ) as response:
                    assert 202 == response.status
            async with hub.client.post(
                f"{hub.url}/projects/unknown/events", json={"data": 1}, headers={"traceparent": TRACE}
            ):
                pass
            await hub.first_lines("request", 4)
            named = {
                event: [line.get("traceparent") for line in hub.lines(event)]
                for event in ("trigger_dispatched", "webhook_retry", "event_missed", "request")
            }
    finally:
        await runner.cleanup()

    assert [TRACE, TRACE, None, None] == got
    assert {
        "trigger_dispatched": [TRACE, None, None],
        "webhook_retry": [TRACE],
        "event_missed": [TRACE],
        "request": [TRACE, None, None, TRACE],
    } == named


@pytest.mark.parametrize("pipelined", [True, False])
@pytest.mark.parametrize(
    "body",
    [b'{"name": "work"}', b'{"name": "work", "data": "%b"}' % (b"x" * 200_000)],
    ids=["waits", "waits and was read in pieces"],
)
async def test_the_trace_of_a_request_ends_with_it(tmp_path: Path, body: bytes, pipelined: bool) -> None:
    """The next request of the connection is served by the task of this one, or by a reader that it resumed."""

    def post(target: str, body: bytes, header: str = "") -> bytes:
        head = f"POST /projects/{target} HTTP/1.1\r\nHost: localhost\r\n{header}Content-Length: {len(body)}\r\n\r\n"
        return head.encode() + body

    traced = post("p/trigger?timeout=0.05", body, f"traceparent: {TRACE}\r\n")
    plain = post("p/events", b'{"data": 1}')
    async with logged(tmp_path) as hub:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(hub.url.rpartition(":")[2]))
        writer.write(traced + plain if pipelined else traced)
        await reader.readuntil(b'"no_connection"')
        if not pipelined:
            writer.write(plain)
        line = await hub.line("event_missed")
        writer.close()
        await writer.wait_closed()

    assert "traceparent" not in line


async def test_a_malformed_request_is_a_line_at_debug_without_a_traceback(tmp_path: Path) -> None:
    async with logged(tmp_path, EDGE_SERVER_LOG_LEVEL="debug") as hub:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(hub.url.rpartition(":")[2]))
        writer.write(b"not http at all\r\n\r\n")
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
        line = await hub.line("malformed_http")
        text = hub.file.read_text()

    assert b" 400 " in answer.partition(b"\r\n")[0]
    assert "debug" == line["level"]
    assert '"trace"' not in text


async def test_floods_of_connections_are_folded_and_each_is_counted(tmp_path: Path) -> None:
    visits = 2 * BURST_LINES
    async with logged(tmp_path) as hub:
        async with hub.client.get(f"{hub.url}/projects/p/events"):
            pass

        async def visit() -> None:
            async with hub.client.get(f"{hub.url}/projects/p/events"):
                pass

        hub.client.connector._limit = 0  # type: ignore[union-attr]  # as many at once as there are
        await asyncio.gather(*(visit() for _ in range(visits)))

        def counted(*events: str) -> int:
            lines = [line for event in events for line in hub.lines(event)]
            return sum(("connection" in line) + int(line.get("suppressed", 0)) for line in lines)

        async with asyncio.timeout(60):
            while counted("connection_added") < visits + 1:
                await asyncio.sleep(0.05)
            while counted("connection_removed", "last_connection_removed") < visits + 1:
                await asyncio.sleep(0.05)
        assert visits + 1 == counted("connection_added")
        assert len(hub.lines("connection_added")) < visits


async def test_a_stream_closes_its_connection(tmp_path: Path) -> None:
    """aiohttp-sse would promise keep-alive, and a client that pools would lose its next request."""
    async with logged(tmp_path) as hub, hub.client.get(f"{hub.url}/projects/p/events") as response:
        assert "close" == response.headers["Connection"]
