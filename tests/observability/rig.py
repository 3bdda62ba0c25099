"""A hub as `edge serve` runs it, in this process and on a port of its own, and readers to come and go."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import msgspec

from edge.config.schema import Config
from edge.http.context import Context
from edge.server.aiohttp_server import HubRunner
from edge.server.assembly import assemble
from edge.server.listening import listen


async def until(so: Callable[[], bool]) -> None:
    """Wait for something that the hub does by itself."""
    async with asyncio.timeout(60):
        while not so():
            await asyncio.sleep(0.005)


class Hub:
    """Where it listens, what it is made of, a client to ask it with."""

    def __init__(self, url: str, context: Context, client: aiohttp.ClientSession) -> None:
        self.url = url
        self.context = context
        self.client = client

    def path(self, project: str, rest: str = "") -> str:
        return f"{self.url}/projects/{project}{rest}"

    @asynccontextmanager
    async def subscriber(self, project: str, query: str = "", **headers: str) -> AsyncIterator[aiohttp.ClientResponse]:
        """A subscriber of `project` that has received its hello."""
        before = self.context.hub.counters.added
        async with self.client.get(self.path(project, f"/events{query}"), headers=headers) as response:
            if response.status == 200:
                await response.content.readuntil(b"\n\n")
                assert self.context.hub.counters.added > before
            yield response

    async def gone(self, project: str) -> None:
        """Until the hub knows that `project` has no subscriber any more."""
        projects = self.context.hub.projects
        await until(lambda: project not in projects or not projects[project].connections)

    async def publish(self, project: str, data: object = 1, **options: Any) -> int:
        async with self.client.post(self.path(project, "/events"), json={"data": data}, **options) as response:
            return response.status

    async def trigger(self, project: str, query: str = "", **options: Any) -> int:
        url = self.path(project, f"/trigger{query}")
        async with self.client.post(url, json={"name": "api/iterate"}, **options) as response:
            return response.status

    async def explain(self, project: str) -> dict[str, Any]:
        headers = {"Accept": "application/json"}
        async with self.client.get(self.path(project, "/explain"), headers=headers) as response:
            assert response.status == 200
            document: dict[str, Any] = await response.json()
            return document

    async def metrics(self) -> dict[str, float]:
        """Every sample by its name and labels as they are written."""
        async with self.client.get(f"{self.url}/metrics") as response:
            text = await response.text()
        lines = (line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
        return {name: float(value) for name, value in lines}


@asynccontextmanager
async def running(**sections: dict[str, Any]) -> AsyncIterator[Hub]:
    """A hub with these settings, such as `ring={"max_events": 3}`."""
    app, context = await assemble(msgspec.convert(sections, Config))
    runner = HubRunner(app, shutdown_timeout_seconds=0.25)
    await runner.setup()
    [sock] = listen("127.0.0.1", 0)
    try:
        await runner.listen_on(sock)
        url = f"http://127.0.0.1:{sock.getsockname()[1]}"
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=20)) as client:
            yield Hub(url, context, client)
    finally:
        context.drain()
        await runner.cleanup()
