"""A real Redis, and nodes around it."""

from __future__ import annotations

import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from redis import Redis
from redis.exceptions import RedisError

from tests.cluster.nodes import Node, start_node
from tests.faults.cable import Cable, cable
from tests.ports import free_port

START_SECONDS = 60.0


class RedisServer:
    """One redis-server process that can be stopped and started again, with its data or without; where there is a
    `cable`, at its other end.
    """

    def __init__(self, folder: Path, cable: Cable | None = None) -> None:
        self.host = "127.0.0.1" if cable is None else cable.there
        self.port = free_port() if cable is None else 6379
        self.folder = folder
        self.cable = cable
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://{self.host}:{self.port}/0"

    def start(self) -> None:
        self.process = subprocess.Popen(
            [
                *(() if self.cable is None else ("ip", "netns", "exec", self.cable.name)),
                *("redis-server", "--port", str(self.port), "--save", ""),
                *("--bind", "127.0.0.1" if self.cable is None else "0.0.0.0"),
                *("--protected-mode", "no"),
                *("--appendonly", "yes", "--appendfsync", "always", "--dir", str(self.folder)),
            ],
            stdout=subprocess.DEVNULL,
        )
        client = Redis(self.host, self.port)
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                client.ping()
                break
            except RedisError:
                assert self.process.poll() is None
                assert time.monotonic() < deadline, "redis-server doesn't answer"
                time.sleep(0.02)
        client.close()

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def empty(self) -> None:
        client = Redis(self.host, self.port)
        client.flushall()
        client.close()


@pytest.fixture(scope="session")
def _redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def redis_server(_redis: RedisServer) -> Iterator[RedisServer]:
    if _redis.process is None:
        _redis.start()
    _redis.empty()
    yield _redis
    if _redis.process is None:
        _redis.start()


@pytest.fixture
def far_redis(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis at the other end of a cable that can be cut."""
    with cable() as redis:
        server = RedisServer(tmp_path, redis)
        server.start()
        yield server
        server.stop()


@pytest.fixture
async def nodes(redis_server: RedisServer) -> AsyncIterator[list[Node]]:
    started = [await start_node(redis_server.url) for _ in range(3)]
    yield started
    for node in started:
        await node.stop()
