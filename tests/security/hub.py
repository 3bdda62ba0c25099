"""A hub in this process, on a port of its own, as `edge serve` runs it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp

from edge.config.schema import AuthSettings, Config, CorsSettings, LimitsSettings, ServerSettings, StreamSettings
from edge.http.context import Context
from edge.server.aiohttp_server import HubRunner
from edge.server.assembly import assemble
from edge.server.listening import listen
from tests.security.wire import Wire

__all__ = ["AuthSettings", "Config", "CorsSettings", "LimitsSettings", "RunningHub", "ServerSettings", "StreamSettings"]


class RunningHub:
    """Where it listens, what it is made of, and a client to ask it with."""

    def __init__(
        self, host: str, port: int, context: Context, runner: HubRunner, client: aiohttp.ClientSession
    ) -> None:
        self.host = host
        self.port = port
        self.context = context
        self.runner = runner
        self.client = client
        self.wires: list[Wire] = []

    async def wire(self) -> Wire:
        """A TCP connection of its own, closed with the hub."""
        wire = await Wire.open(self.host, self.port)
        self.wires.append(wire)
        return wire

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"


@asynccontextmanager
async def running(config: Config | None = None) -> AsyncIterator[RunningHub]:
    """A hub with `config`; streams of a client that is still there are closed at the end."""
    app, context = await assemble(config or Config())
    runner = HubRunner(app, shutdown_timeout_seconds=0.25)
    await runner.setup()
    [sock] = listen("127.0.0.1", 0)
    await runner.listen_on(sock)
    port = sock.getsockname()[1]
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=20)) as client:
        try:
            hub = RunningHub("127.0.0.1", port, context, runner, client)
            try:
                yield hub
            finally:
                for wire in hub.wires:
                    await wire.close()
        finally:
            context.drain()
            await runner.cleanup()


async def code_of(response: aiohttp.ClientResponse) -> tuple[int, str | None]:
    """Status and problem code of an answer; the code is None where it is not a problem."""
    if response.content_type != "application/problem+json":
        return response.status, None
    document = await response.json(content_type=None)
    return response.status, document["code"]
