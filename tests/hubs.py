"""The hub, served in this process as `edge serve` serves it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any, Protocol

import aiohttp
import msgspec
import pytest

from edge.config.schema import Config
from edge.http.routes import Application
from edge.server.aiohttp_server import HubRunner
from edge.server.assembly import assemble
from edge.server.listening import listen
from tests.http.client import Site


class StartHub(Protocol):
    def __call__(self, **sections: dict[str, Any]) -> Awaitable[Site]:
        """Start a hub with these settings, such as `ring={"max_events": 3}`."""


def configured(sections: dict[str, dict[str, Any]]) -> Config:
    return msgspec.convert(sections, Config)


Serve = Callable[[Application], Awaitable[str]]


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """Serves an application and says under which URL."""
    async with AsyncExitStack() as stack:

        async def serve(app: Application) -> str:
            runner = HubRunner(app, shutdown_timeout_seconds=0.25)
            await runner.setup()
            stack.push_async_callback(runner.cleanup)
            [sock] = listen("127.0.0.1", 0)
            await runner.listen_on(sock)
            return f"http://127.0.0.1:{sock.getsockname()[1]}"

        yield serve


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30)) as session:
        yield session


@pytest.fixture
async def start_hub(serve: Serve, session: aiohttp.ClientSession) -> StartHub:
    async def start(**sections: dict[str, Any]) -> Site:
        app, context = await assemble(configured(sections))
        return Site(await serve(app), context, session)

    return start


@pytest.fixture
async def site(start_hub: StartHub) -> Site:
    return await start_hub()
