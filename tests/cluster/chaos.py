"""Three nodes as processes around a Redis at the other end of a cable, and what happens to them; who reads, who writes.

Each node knows Redis by an address of its own, so each can be cut off alone.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiohttp

from tests.cluster.conftest import RedisServer
from tests.cluster.nodes import Subscriber, numbers
from tests.ports import free_port


class Process:
    """One node that can be killed, started and cut off."""

    def __init__(self, redis: RedisServer, log: Path, ring_events: int) -> None:
        assert redis.cable is not None
        self._cable = redis.cable
        self._address = redis.cable.another_address()
        self._url = f"redis://{self._address}:{redis.port}/0"
        self._log = log
        self._ring_events = ring_events
        self._process: subprocess.Popen[str] | None = None
        self.port = free_port()

    async def start(self) -> None:
        """Until it listens: one that can't reach Redis ends, and is started once more."""
        while not await asyncio.to_thread(self._listens):
            await self.kill()

    def _listens(self) -> bool:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "edge", "serve", "--port", str(self.port)],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env={
                    **os.environ,
                    "EDGE_STORE_URL": self._url,
                    "EDGE_RING_MAX_EVENTS": str(self._ring_events),
                    "EDGE_STREAM_RETRY_MS": "50",
                    "EDGE_STREAM_HEARTBEAT_SECONDS": "0.5",
                    "EDGE_SERVER_LOG_LEVEL": "warning",
                },
            )
        assert self._process.stdout is not None
        with self._process.stdout as output:
            return "listening" in output.readline()

    async def kill(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            await asyncio.to_thread(self._process.wait)
            self._process = None

    async def cut_off(self, seconds: float) -> None:
        await asyncio.to_thread(self._cable.cut_address, self._address)
        await asyncio.sleep(seconds)
        await asyncio.to_thread(self._cable.mend_address, self._address)


class Storm:
    """What happens to nodes and cables at the same time, or to Redis.

    Not to all: what a node knew that ended with Redis can't be known, which is for the fault checker to judge.
    """

    def __init__(
        self, redis: RedisServer, nodes: list[Process], random: random.Random, longest_cut: float, *, of_redis: bool
    ) -> None:
        self._of_redis = of_redis
        self._redis = redis
        self._nodes = nodes
        self._random = random
        self._longest_cut = longest_cut
        self.kills = self.restarts = self.cuts = 0

    async def rage(self, seconds: float) -> None:
        """Everything is whole again at the end."""
        ends = asyncio.get_running_loop().time() + seconds
        faults = (self._restart,) if self._of_redis else (self._kill, self._cut)
        await asyncio.gather(*(self._again(ends, what) for what in faults))

    async def _again(self, ends: float, what: Callable[[], Any]) -> None:
        while True:
            await asyncio.sleep(self._random.uniform(0.2, 2.0))
            if asyncio.get_running_loop().time() > ends:
                return
            await what()

    async def _kill(self) -> None:
        node = self._random.choice(self._nodes)
        self.kills += 1
        await node.kill()
        await asyncio.sleep(self._random.uniform(0.0, 1.5))
        await node.start()

    async def _restart(self) -> None:
        self.restarts += 1
        await asyncio.to_thread(self._redis.stop)
        await asyncio.sleep(self._random.uniform(0.0, 1.0))
        await asyncio.to_thread(self._redis.start)

    async def _cut(self) -> None:
        nodes = self._random.choice([self._nodes, [self._random.choice(self._nodes)]])
        seconds = self._random.uniform(0.1, self._longest_cut)
        self.cuts += 1
        await asyncio.gather(*(node.cut_off(seconds) for node in nodes))


class Roamer(Subscriber):
    """Reads a project from its beginning, and goes to another node whenever it likes until it is to stay."""

    def __init__(self, ports: list[int], project: str, random: random.Random, *, restless: bool) -> None:
        super().__init__(ports[0], project, "?since=all", comes_back=True)
        self._ports = ports
        self._random = random
        self.restless = restless
        self._lost = 0
        """As in the last gap, that no event has followed yet."""
        self.unreported: list[str] = []
        """Events that did not follow on the one before, nor on a gap that covers them."""

    async def _take(self, fields: dict[str, str]) -> None:
        if fields.get("event") == "edge.gap":
            gap = json.loads(fields["data"])
            if gap["reason"] != "evicted":
                self.unreported.append(f"{gap} after {self.ids[-1:]}")
            self._lost = gap["lost"] or 0
        elif "id" in fields and not fields.get("event", "").startswith("edge."):
            before, now = numbers(self.ids[-1:] or ["-0"])[0], numbers([fields["id"]])[0]
            if now != before + 1 + self._lost:
                self.unreported.append(f"{fields['id']} after {self.ids[-1:]} and {self._lost} lost")
            self._lost = 0
        await super()._take(fields)

    async def _read_once(self, client: aiohttp.ClientSession) -> None:
        self.port = self._random.choice(self._ports)
        patience_seconds = self._random.uniform(0.1, 3.0) if self.restless else None
        async with asyncio.timeout(patience_seconds):
            await super()._read_once(client)


class Publisher:
    """Publishes one event after the other, on any node: with a key until it is acknowledged, without one once."""

    def __init__(self, name: str, ports: list[int], projects: list[str], random: random.Random) -> None:
        self._name = name
        self._ports = ports
        self._projects = projects
        self._random = random
        self.acknowledged: dict[str, dict[str, str | None]] = {project: {} for project in projects}
        """By project: the data of each, and the id of its receipt; a trigger has none."""
        self.unsure = 0
        """How many were refused, or never answered, and not sent again."""

    async def publish(self, storm: asyncio.Task[None], most: int) -> None:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30, sock_connect=2)) as client:
            for number in range(most):
                if storm.done():
                    return
                await self._publish(client, self._random.choice(self._projects), f"{self._name}-{number}")
                await asyncio.sleep(self._random.uniform(0.0, 0.03))

    async def _publish(self, client: aiohttp.ClientSession, project: str, data: str) -> None:
        way = self._random.choice(["once", "key", "key", "trigger"])
        while True:
            answer: dict[str, Any] = {}
            with suppress(aiohttp.ClientError, ConnectionError, TimeoutError):
                answer = await self._send(client, project, data, way)
            if answer.get("status") in {201, 202}:
                self.acknowledged[project][data] = None if way == "trigger" else answer["id"]
                return
            assert answer.get("status") in {None, 409, 503}, answer
            if way == "once":
                self.unsure += 1
                return
            await asyncio.sleep(self._random.uniform(0.05, 0.3))

    async def _send(self, client: aiohttp.ClientSession, project: str, data: str, way: str) -> dict[str, Any]:
        hub = f"http://127.0.0.1:{self._random.choice(self._ports)}/projects/{project}"
        if way == "trigger":
            url, body = f"{hub}/trigger?timeout=1s", {"name": "job", "id": data, "data": data}
        else:
            url, body = f"{hub}/events", {"data": data}
        headers = {"Idempotency-Key": data} if way == "key" else {}
        async with client.post(url, json=body, headers=headers) as answer:
            return {**(await answer.json(content_type=None)), "status": answer.status}
