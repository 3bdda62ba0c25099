"""A node in this process, on a real socket; and a subscriber that comes back by itself, as edge.js does."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Self

import aiohttp
import pytest

from edge.cluster.client import Call
from edge.cluster.store import RedisStore
from edge.config.schema import Config, RingSettings, StoreSettings, StreamSettings, TriggerSettings
from edge.core.errors import StoreUnavailable
from edge.http.context import Context
from edge.server.aiohttp_server import HubRunner
from edge.server.assembly import assemble
from edge.server.listening import listen
from tests.ports import free_port


class NodeClient:
    """An HTTP client of the node on a port."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.client = aiohttp.ClientSession(f"http://127.0.0.1:{port}", timeout=aiohttp.ClientTimeout(total=60))

    async def publish(self, data: object, project: str = "p", **headers: str) -> dict[str, Any]:
        async with self.client.post(f"/projects/{project}/events", json={"data": data}, headers=headers) as answer:
            return {**(await answer.json(content_type=None)), "status": answer.status}

    async def get(self, path: str) -> dict[str, Any]:
        async with self.client.get(path) as answer:
            return {**(await answer.json(content_type=None)), "status": answer.status}

    async def post(self, path: str, body: object) -> dict[str, Any]:
        async with self.client.post(path, json=body) as answer:
            text = await answer.text()
            return {**(json.loads(text) if text else {}), "status": answer.status}

    async def counts(self, connections: int, project: str = "p") -> None:
        """Wait until it counts so many connections of all nodes."""
        found = None
        for _ in range(1200):
            found = (await self.get(f"/projects/{project}")).get("connections_total", 0)
            if found == connections:
                return
            await asyncio.sleep(0.05)
        raise AssertionError(f"{found} connections count instead of {connections}")

    async def misses(self, project: str = "p") -> tuple[int, int, int, int]:
        misses = (await self.get(f"/projects/{project}"))["misses"]
        return misses["total"], misses["recovered"], misses["lost"], misses["pending"]


class Node(NodeClient):
    """One hub of several, in this process."""

    def __init__(self, runner: HubRunner, context: Context, port: int) -> None:
        super().__init__(port)
        self.runner = runner
        self.context = context

    @property
    def store(self) -> RedisStore:
        assert isinstance(self.context.store, RedisStore)
        return self.context.store

    async def metrics(self) -> dict[str, float]:
        """Those without labels."""
        async with self.client.get("/metrics") as answer:
            lines = (await answer.text()).splitlines()
        return {line.split()[0]: float(line.split()[1]) for line in lines if line[0] != "#" and "{" not in line}

    async def stop(self) -> None:
        await self.client.close()
        self.context.drain()
        await asyncio.sleep(0.05)
        await self.runner.cleanup()


async def start_node(
    url: str, *, max_events: int = 1000, max_age_seconds: float = 3600.0, target: str | None = None
) -> Node:
    return await serve(
        Config(
            store=StoreSettings(url=url),
            trigger=TriggerSettings(url=target),
            stream=StreamSettings(heartbeat_seconds=0.5, dead_after_seconds=2.0, retry_ms=50),
            ring=RingSettings(max_events=max_events, max_age_seconds=max_age_seconds),
        )
    )


async def serve(config: Config) -> Node:
    app, context = await assemble(config)
    runner = HubRunner(app, shutdown_timeout_seconds=0.1)
    await runner.setup()
    [sock] = listen("127.0.0.1", 0)
    await runner.listen_on(sock)
    return Node(runner, context, sock.getsockname()[1])


class Subscriber:
    """Keeps what it was sent; comes back with its last id until it is closed. `project` may be several, as `a,b`."""

    def __init__(self, port: int, project: str = "p", query: str = "", *, comes_back: bool = False) -> None:
        self.port = port
        self.project = project
        self.query = query
        self.comes_back = comes_back
        self.position = ""
        """The last id, `edge.hello`'s included: where it resumes."""
        self.ids: list[str] = []
        self.data: list[object] = []
        self.controls: list[tuple[str, dict[str, Any]]] = []
        self.comments = 0
        self.connected = asyncio.Event()
        self.changed = asyncio.Condition()
        self.task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self.task = asyncio.create_task(self._read())
        async with asyncio.timeout(60):
            await self.connected.wait()
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self.task is not None
        self.task.cancel()
        with suppress(asyncio.CancelledError):
            await self.task

    async def until(self, count: int) -> None:
        """Wait until `count` events have come."""
        await self._until(lambda: len(self.ids) >= count)

    async def until_id(self, event_id: str) -> None:
        await self._until(lambda: event_id in self.ids)

    async def until_comment(self) -> None:
        """Wait until one comes that has not come yet: a heartbeat."""
        so_far = self.comments
        await self._until(lambda: self.comments > so_far)

    async def until_control(self, name: str) -> dict[str, Any]:
        await self._until(lambda: any(name == known for known, _ in self.controls))
        return next(data for known, data in self.controls if known == name)

    async def _until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(60), self.changed:
            await self.changed.wait_for(condition)

    async def _read(self) -> None:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None, sock_connect=2)) as client:
            while True:
                with suppress(aiohttp.ClientError, ConnectionError, TimeoutError):
                    await self._read_once(client)
                if not self.comes_back:
                    return
                await asyncio.sleep(0.1)

    async def _read_once(self, client: aiohttp.ClientSession) -> None:
        position = self.position or (self.ids[-1] if self.ids else "")
        headers = {"Last-Event-ID": position} if position else {}
        path = f"/projects/{self.project}/events"
        if "," in self.project:
            path = f"/events?project={self.project.replace(',', '&project=')}"
        url = f"http://127.0.0.1:{self.port}{path}{self.query}"
        async with client.get(url, headers=headers) as answer:
            if answer.status != 200:
                return
            fields: dict[str, str] = {}
            async for raw in answer.content:
                line = raw.decode().rstrip("\n")
                if line.startswith(":"):
                    async with self.changed:
                        self.comments += 1
                        self.changed.notify_all()
                elif line:
                    name, _, value = line.partition(": ")
                    fields[name] = value
                elif fields:
                    await self._take(fields)
                    fields = {}

    async def _take(self, fields: dict[str, str]) -> None:
        async with self.changed:
            self.position = fields.get("id", self.position)
            if fields.get("event", "").startswith("edge."):
                self.controls.append((fields["event"], json.loads(fields["data"])))
                self.connected.set()
            elif "id" in fields:
                self.ids.append(fields["id"])
                self.data.append(json.loads(fields["data"]))
            self.changed.notify_all()


def unreported(store: RedisStore) -> bool:
    """Whether the node has something to tell Redis."""
    return store._sender is not None or store._presence._task is not None or bool(store._presence._changed)


def numbers(ids: list[str]) -> list[int]:
    return [int(event_id.rpartition("-")[2]) for event_id in ids]


def start_process(url: str, port: int, **settings: str) -> subprocess.Popen[str]:
    """A node that listens; `settings` are by the names of their variables, without EDGE_."""
    process = subprocess.Popen(
        [sys.executable, "-m", "edge", "serve", "--port", str(port)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={
            **os.environ,
            "EDGE_STORE_URL": url,
            "EDGE_STREAM_RETRY_MS": "50",
            **{f"EDGE_{name}": value for name, value in settings.items()},
        },
    )
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    return process


@contextmanager
def node_process(url: str, **settings: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    port = free_port()
    process = start_process(url, port, **settings)
    try:
        yield process, port
    finally:
        process.kill()
        process.wait()


def lose_answers(monkeypatch: pytest.MonkeyPatch, node: Node, script: str, *, once: bool = False) -> None:
    """Redis runs `script`, and the node never gets the answer."""
    cluster = node.store
    run_all, lost = cluster.redis.run_all, False

    async def lossy(calls: list[Call], **options: bool) -> list[Any]:
        nonlocal lost
        answers = await run_all(calls, **options)
        if any(script == called for called, _ in calls) and not (once and lost):
            lost = True
            raise StoreUnavailable("The answer was lost.")
        return answers

    monkeypatch.setattr(cluster.redis, "run_all", lossy)


async def presume_dead(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its last heartbeat was long ago, and no other arrives."""
    redis = node.store.redis
    run_all = redis.run_all

    async def hang(calls: list[Any], **options: bool) -> list[Any]:
        if any(script == "heartbeat" for script, _ in calls):
            await asyncio.Event().wait()
        return await run_all(calls, **options)

    monkeypatch.setattr(redis, "run_all", hang)
    await redis._client.zadd(redis.keys.nodes, {node.store.redis.node: 1})
