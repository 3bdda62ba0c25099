"""`edge selftest` through what stands between: proxies that buffer, cut off, or take headers away."""

from __future__ import annotations

import asyncio
import re
import sys
import zlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace

import aiohttp
import pytest

from edge.cli import selftest
from edge.cli.hub import Hub as Address
from edge.cli.selftest import SelfTest, Step
from tests.observability import live
from tests.observability.rig import Hub, running
from tests.ports import free_port

FAST = {"heartbeat_seconds": 0.3}


async def outcome(url: str, token: str | None = None) -> dict[str, Step]:
    steps = await asyncio.to_thread(list, SelfTest(Address(url, token, verify=True)).run())
    return {step.name: step for step in steps}


Change = Callable[[bytes], bytes]


@asynccontextmanager
async def between(
    hub: Hub, *, request: Change = lambda data: data, lump_seconds: float = 0.0, idle_seconds: float | None = None
) -> AsyncIterator[str]:
    """A TCP proxy in front of `hub` that changes requests, collects what comes back, or cuts what keeps quiet."""
    port = int(hub.url.rpartition(":")[2])
    handlers: set[asyncio.Task[None]] = set()

    async def back(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            async with asyncio.timeout(idle_seconds):
                data = await reader.read(65536)
            if not data:
                return
            if lump_seconds and b"event-stream" not in data and b"HTTP/1.1 20" not in data:
                await asyncio.sleep(lump_seconds)
            writer.write(data)

    async def forth(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(request(data))

    async def serve(client_reader: asyncio.StreamReader, client_writer: asyncio.StreamWriter) -> None:
        current = asyncio.current_task()
        assert current is not None
        handlers.add(current)
        hub_reader, hub_writer = await asyncio.open_connection("127.0.0.1", port)
        ways = [
            asyncio.create_task(forth(client_reader, hub_writer)),
            asyncio.create_task(back(hub_reader, client_writer)),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            for writer in (client_writer, hub_writer):
                writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        if handlers:
            await asyncio.wait(handlers, timeout=10)


async def test_all_is_well_and_the_project_is_gone_afterwards() -> None:
    async with running(stream=FAST) as hub:
        steps = await outcome(hub.url)
        assert {} == hub.context.hub.projects

    assert list(selftest.STEPS) == list(steps)
    assert [] == [step.line() for step in steps.values() if not step.ok]
    assert re.fullmatch(r"ok    publish +[\d.]+ ms  5 events arrived one by one", steps["publish"].line())
    assert steps["idle"].seconds is not None


async def test_all_is_well_with_a_token() -> None:
    async with running(stream=FAST, auth={"token": ["a-token-of-some-length"]}) as hub:
        steps = await outcome(hub.url, "a-token-of-some-length")

    assert [True] * len(selftest.STEPS) == [step.ok for step in steps.values()]


async def test_no_process_listens() -> None:
    steps = await outcome("http://127.0.0.1:1")

    assert ["reach"] == list(steps)
    assert steps["reach"].text.endswith("connection refused: no process accepts connections there")


async def test_refused_by_the_hub_with_its_own_words() -> None:
    async with running(auth={"token": ["a-token-of-some-length"]}) as hub:
        steps = await outcome(hub.url)

    assert not steps["subscribe"].ok
    assert "refused: subscribing got 401, unauthenticated: " in steps["subscribe"].text


async def test_another_server_responds() -> None:
    async with running() as hub:
        steps = await outcome(f"{hub.url}/elsewhere")

    assert "not a hub" in steps["reach"].text


def test_a_compressed_stream_is_read_as_it_arrives() -> None:
    compressor = zlib.compressobj(wbits=31)
    parts = [compressor.compress(line) + compressor.flush(zlib.Z_SYNC_FLUSH) for line in (b"data: 1\nda", b"ta: 2\n")]
    response = SimpleNamespace(read1=lambda _: parts.pop(0) if parts else b"")

    lines = selftest._unzipped(response)  # type: ignore[arg-type]

    assert (b"data: 1\n", 1) == (next(lines), len(parts))
    assert [b"data: 2\n"] == list(lines)


async def test_a_proxy_that_buffers_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selftest, "_ANSWER_SECONDS", 2.0)
    async with running(stream=FAST) as hub, between(hub, lump_seconds=30) as url:
        steps = await outcome(url)

    last = list(steps.values())[-1]
    assert not last.ok
    assert "held back" in last.text
    assert "proxy_buffering off" in last.text


async def test_a_proxy_that_batches() -> None:
    async with running(stream=FAST) as hub, between(hub, lump_seconds=2) as url:
        steps = await outcome(url)

    assert ["reach", "subscribe", "publish"] == list(steps)
    assert re.match(r"buffered: events arrive in batches, up to \d\.\d s late", steps["publish"].text)


async def test_a_proxy_with_an_idle_timeout() -> None:
    async with running(stream={"heartbeat_seconds": 8}) as hub, between(hub, idle_seconds=4) as url:
        steps = await outcome(url)

    assert ["idle"] == [step.name for step in steps.values() if not step.ok]
    assert re.match(r"cut off: the stream ended after \d\.\d s of silence", steps["idle"].text)
    assert "stream.heartbeat_seconds" in steps["idle"].text


async def test_a_proxy_that_removes_last_event_id(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selftest, "_ANSWER_SECONDS", 2.0)

    def without(data: bytes) -> bytes:
        return re.sub(rb"Last-Event-ID: \S+\r\n", b"", data)

    async with running(stream=FAST) as hub, between(hub, request=without) as url:
        steps = await outcome(url)

    assert not steps["resume"].ok
    assert "no resume: 0 events were replayed" in steps["resume"].text
    assert "Last-Event-ID" in steps["resume"].text


async def test_another_hub_responds_the_second_time() -> None:
    def renamed(data: bytes) -> bytes:
        return re.sub(rb"Last-Event-ID: \S+-(\d+)\r\n", rb"Last-Event-ID: another-\1\r\n", data)

    async with running(stream=FAST) as hub, between(hub, request=renamed) as url:
        steps = await outcome(url)

    assert not steps["resume"].ok
    assert "leads to several hubs" in steps["resume"].text


@pytest.mark.proxies
async def test_nginx_with_buffering_is_found_and_without_it_is_fine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(selftest, "_ANSWER_SECONDS", 4.0)
    async with running(stream=FAST) as hub:
        found = {}
        for buffers in (True, False):
            async with nginx(tmp_path, hub.url, buffers=buffers) as url:
                found[buffers] = await outcome(url)

    assert [True] * len(selftest.STEPS) == [step.ok for step in found[False].values()]
    last = list(found[True].values())[-1]
    assert not last.ok
    assert "proxy_buffering off" in last.text


@asynccontextmanager
async def nginx(folder: Path, upstream: str, *, buffers: bool) -> AsyncIterator[str]:
    ignore = "proxy_ignore_headers X-Accel-Buffering;" if buffers else ""
    port = free_port()
    (folder / "nginx.conf").write_text(
        f"""
        daemon off; master_process off; pid {folder}/nginx.pid; error_log stderr warn;
        events {{ worker_connections 64; }}
        http {{
            access_log off; client_body_temp_path {folder}; proxy_temp_path {folder}; fastcgi_temp_path {folder};
            uwsgi_temp_path {folder}; scgi_temp_path {folder};
            server {{
                listen 127.0.0.1:{port};
                location / {{ proxy_pass {upstream}; {ignore} }}
            }}
        }}
        """
    )
    async with live.process("nginx", "-c", str(folder / "nginx.conf"), "-p", str(folder)):
        async with asyncio.timeout(60), aiohttp.ClientSession() as client:
            while not await answers(client, f"http://127.0.0.1:{port}/healthz"):
                await asyncio.sleep(0.02)
        yield f"http://127.0.0.1:{port}"


async def answers(client: aiohttp.ClientSession, url: str) -> bool:
    try:
        async with client.get(url) as response:
            return response.status == 200
    except aiohttp.ClientConnectorError:
        return False


# --- the command ---


async def test_the_command_says_each_step_and_exits_with_0_or_1() -> None:
    command = (sys.executable, "-m", "edge", "selftest", "--quick", "--url")
    async with running(stream=FAST) as hub, live.process(*command, hub.url) as well:
        assert well.stdout is not None
        output = (await well.stdout.read()).decode()
        assert 0 == await well.wait(), output
    async with live.process(*command, "http://127.0.0.1:1") as refused:
        assert 1 == await refused.wait()

    assert ["reach", "subscribe", "publish", "trigger", "resume"] == [line.split()[1] for line in output.splitlines()]
