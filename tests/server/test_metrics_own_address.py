"""`/metrics` on an address of its own, as a process."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
from aiohttp import web

from tests.observability import live

TOKEN = "a-token-of-some-length"


async def test_metrics_on_an_address_of_their_own_until_the_hub_has_ended(tmp_path: Path) -> None:
    log = tmp_path / "log"
    async with slow_target() as (target, called, answer):
        environ = {
            "EDGE_METRICS_PORT": "0",
            "EDGE_SERVER_LOG_FORMAT": "json",
            "EDGE_SERVER_DRAIN_SECONDS": "20s",
            "EDGE_TRIGGER_URL": target,
        }
        with log.open("w") as file:
            async with (
                live.process(sys.executable, "-m", "edge", "serve", "--port", "0", env=environ, stderr=file) as hub,
                aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=20)) as client,
            ):
                url = (await live.line_with(hub, r"listening on (http\S+)"))[1]
                lines = [json.loads(line) for line in log.read_text().splitlines()]
                [metrics] = [line["urls"][0] for line in lines if line["event"] == "metrics_listening"]
                async with client.get(f"{url}/metrics") as response:
                    assert 404 == response.status
                async with client.get(f"{metrics}/projects") as response:
                    assert 404 == response.status
                assert "edge_draining 0.0" in await text_of(client, f"{metrics}/metrics")

                # A job at its target keeps the hub from leaving.
                query = "timeout=0&on_timeout=dispatch"
                job = asyncio.create_task(client.post(f"{url}/projects/p/trigger?{query}", json={"name": "work"}))
                await called.wait()
                hub.terminate()
                async with asyncio.timeout(60):
                    while "edge_draining 1.0" not in await text_of(client, f"{metrics}/metrics"):
                        await asyncio.sleep(0.02)
                answer.set()
                assert 202 == (await job).status
                assert 0 == await hub.wait()


@asynccontextmanager
async def slow_target() -> AsyncIterator[tuple[str, asyncio.Event, asyncio.Event]]:
    """A target for jobs that answers on command: its URL, whether it was called, when to answer."""
    called, answer = asyncio.Event(), asyncio.Event()

    async def take(_request: web.Request) -> web.Response:
        called.set()
        await answer.wait()
        return web.Response()

    app = web.Application()
    app.router.add_post("/", take)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/", called, answer
    finally:
        answer.set()
        await runner.cleanup()


async def text_of(client: aiohttp.ClientSession, url: str) -> str:
    async with client.get(url) as response:
        return await response.text()


async def test_metrics_on_a_public_address_need_permissions() -> None:
    status, text = await live.output_of("serve", "--port", "0", EDGE_METRICS_HOST="0.0.0.0", EDGE_METRICS_PORT="0")

    assert 2 == status
    assert re.search(r"^edge: metrics\.host = 0\.0\.0\.0 ", text, re.MULTILINE)
