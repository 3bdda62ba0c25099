"""The Python client, against a hub and against the fake: what is tested of one holds for the other."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from itertools import count
from typing import Any

import pytest
from edge_hub_client import AsyncClient, Client, Event
from edge_hub_client.testing import FakeHub

_numbers = count(1)
_END = object()


class Threaded:
    """A `Client` with the methods of an `AsyncClient`: each call in a thread, so that one test serves both."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._client, name)
        if name == "subscribe":
            return lambda *args, **options: ThreadedSubscription(method(*args, **options))
        return lambda *args, **options: asyncio.to_thread(method, *args, **options)

    async def __aenter__(self) -> Threaded:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


class ThreadedSubscription:
    def __init__(self, subscription: Any) -> None:
        self._subscription = subscription

    def __getattr__(self, name: str) -> Any:
        return getattr(self._subscription, name)

    def __aiter__(self) -> ThreadedSubscription:
        return self

    async def __anext__(self) -> Event:
        event = await asyncio.to_thread(next, self._subscription, _END)
        if event is _END:
            raise StopAsyncIteration
        assert isinstance(event, Event)
        return event

    async def __aenter__(self) -> ThreadedSubscription:
        await asyncio.to_thread(self._subscription.__enter__)
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.to_thread(self._subscription.close)


@pytest.fixture(scope="session")
def hub_url() -> Iterator[str]:
    """A hub for the tests, on a free port."""
    command = [sys.executable, "-m", "edge", "serve", "--port", "0"]
    quick = {"EDGE_STREAM_RETRY_MS": "50", "EDGE_STREAM_HEARTBEAT_SECONDS": "0.3"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=os.environ | quick
    ) as process:
        assert process.stdout is not None
        yield process.stdout.readline().split()[-1]  # edge: listening on http://127.0.0.1:43121
        process.terminate()


@pytest.fixture
def project() -> str:
    return f"p{next(_numbers)}"


Connect = Callable[..., Any]


@pytest.fixture(params=["async", "sync"])
async def connect(request: pytest.FixtureRequest) -> AsyncIterator[Connect]:
    """Makes clients of either kind, with the methods of the one for asyncio; they are closed at the end."""
    made: list[Callable[[], Awaitable[object]]] = []

    def connect(*args: Any, **options: Any) -> Any:
        client: Any = AsyncClient(*args, **options) if request.param == "async" else Threaded(Client(*args, **options))
        made.append(client.close)
        return client

    yield connect
    for close in made:
        await close()


@pytest.fixture(params=["hub", "fake"])
def client(request: pytest.FixtureRequest, hub_url: str, connect: Connect) -> Any:
    """A client of a hub, or of the fake."""
    return connect(hub_url) if request.param == "hub" else connect(transport=FakeHub())
