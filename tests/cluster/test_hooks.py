"""Webhooks about projects whose connections and misses are on several nodes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any

from edge.config.schema import Config, HooksSettings, RingSettings, StoreSettings, StreamSettings
from tests.cluster.conftest import RedisServer
from tests.cluster.nodes import Node, Subscriber, node_process, serve
from tests.triggers.receiver import Receiver, Reply, answer, receiving

GRACE_SECONDS = 0.4


class Hooked:
    """Nodes that report to one receiver."""

    def __init__(self, server: RedisServer, *replies: Reply, grace_seconds: float = GRACE_SECONDS) -> None:
        self._server = server
        self._replies = replies
        self._grace_seconds = grace_seconds
        self._stack = AsyncExitStack()
        self.nodes: list[Node] = []

    async def __aenter__(self) -> Hooked:
        self.receiver: Receiver = await self._stack.enter_async_context(receiving(*self._replies))
        for _ in range(3):
            config = Config(
                store=StoreSettings(url=self._server.url),
                hooks=HooksSettings(url=self.receiver.url, grace_seconds=self._grace_seconds),
                stream=StreamSettings(heartbeat_seconds=0.5, dead_after_seconds=2.0, retry_ms=50),
                ring=RingSettings(max_events=2),
            )
            self.nodes.append(await serve(config))
        redis = self.nodes[0].store.redis
        async with asyncio.timeout(60):
            while not await redis._client.exists(f"{redis.keys.hooks}:sender"):
                await asyncio.sleep(0.02)
        return self

    async def __aexit__(self, *_: object) -> None:
        for node in self.nodes:
            await node.stop()
        await self._stack.aclose()

    def received(self, project: str = "p") -> list[tuple[str, dict[str, Any]]]:
        bodies = [json.loads(request.body) for request in self.receiver.requests]
        return [(body["name"], body["data"]) for body in bodies if body["project"] == project]

    def names(self, project: str = "p") -> list[str]:
        return [name for name, _ in self.received(project)]

    async def connections(self, count: int) -> None:
        await self.nodes[0].counts(count)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.02)


async def test_a_project_is_occupied_once_and_vacated_when_the_last_subscriber_of_all_nodes_has_left(
    redis_server: RedisServer,
) -> None:
    async with Hooked(redis_server, answer(200)) as hub:
        async with Subscriber(hub.nodes[1].port):
            await until(lambda: hub.names() == ["occupied"])
            async with Subscriber(hub.nodes[2].port), Subscriber(hub.nodes[0].port):
                await hub.connections(3)
            await hub.connections(1)
            await asyncio.sleep(3 * GRACE_SECONDS)
            assert ["occupied"] == hub.names()
        await until(lambda: hub.names() == ["occupied", "vacated"])
        async with Subscriber(hub.nodes[0].port):
            await until(lambda: hub.names() == ["occupied", "vacated", "occupied"])
    assert [{"connections": 1}, {"connections": 0}, {"connections": 1}] == [data for _, data in hub.received()]


async def test_a_return_on_another_node_within_the_grace_time_reports_nothing(redis_server: RedisServer) -> None:
    async with Hooked(redis_server, answer(200), grace_seconds=60.0) as hub:
        for node in hub.nodes:
            async with Subscriber(node.port):
                await until(lambda: hub.names() == ["occupied"])
                await hub.connections(1)
            await hub.connections(0)
        assert ["occupied"] == hub.names()


async def test_misses_and_losses_are_reported_once_for_all_nodes(redis_server: RedisServer) -> None:
    async with Hooked(redis_server, answer(200)) as hub:
        ids = [(await hub.nodes[number % 3].publish(number))["id"] for number in range(5)]
        await until(lambda: len(hub.names()) == 4)
        assert [("missed", {"event_id": ids[0]}), *[("lost", {"events": 1})] * 3] == hub.received()
        async with Subscriber(hub.nodes[1].port) as subscriber:
            await subscriber.until(2)
            await until(lambda: hub.names()[4:] == ["occupied"])
        await hub.connections(0)
        later = await hub.nodes[2].publish("later")
        await until(lambda: sorted(hub.names()[5:]) == ["missed", "vacated"])
        assert ("missed", {"event_id": later["id"]}) in hub.received()
        async with hub.nodes[0].client.delete("/projects/p") as response:
            assert 200 == response.status
        await until(lambda: hub.received()[-1] == ("lost", {"events": 1}))


async def test_what_the_sender_had_not_finished_is_sent_by_another_node(redis_server: RedisServer) -> None:
    async with Hooked(redis_server, answer(500)) as hub:
        await hub.nodes[0].publish(1)
        await until(lambda: len(hub.receiver.requests) >= 1)
        redis = hub.nodes[0].store.redis
        sender = await redis._client.get(f"{redis.keys.hooks}:sender")
        assert isinstance(sender, bytes)
        [first] = [node for node in hub.nodes if node.store.redis.node == sender.decode()]
        await first.stop()
        hub.nodes.remove(first)
        hub.receiver.replies[:] = [answer(200)]
        before = len(hub.receiver.requests)
        await until(lambda: len(hub.receiver.requests) > before)
        assert 1 == len({request.headers["webhook-id"] for request in hub.receiver.requests})
        await hub.nodes[0].publish(2, project="q")
        await until(lambda: hub.names("q") == ["missed"])


async def test_a_node_that_is_killed_vacates_what_only_it_had(redis_server: RedisServer) -> None:
    async with Hooked(redis_server, answer(200)) as hub:
        settings = {"HOOKS_URL": hub.receiver.url, "HOOKS_GRACE_SECONDS": str(GRACE_SECONDS)}
        with node_process(redis_server.url, **settings) as (process, port):
            async with Subscriber(port):
                await until(lambda: hub.names() == ["occupied"])
                redis = hub.nodes[0].store.redis
                while await redis._client.llen(f"{redis.keys.hooks}:queue"):
                    await asyncio.sleep(0.02)
                process.kill()
                await until(lambda: hub.names() == ["occupied", "vacated"])
