"""The cable to Redis is cut: nothing is refused, and nothing is answered."""

from __future__ import annotations

import asyncio
import errno
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from edge.cluster.client import ANSWER_SECONDS
from tests.cluster.conftest import RedisServer
from tests.cluster.nodes import Node, Subscriber, numbers, start_node
from tests.faults.cable import Cable

SLACK_SECONDS = 3.0


@pytest.fixture
async def two(far_redis: RedisServer) -> AsyncIterator[list[Node]]:
    started = [await start_node(far_redis.url) for _ in range(2)]
    yield started
    for node in started:
        await node.stop()


@pytest.mark.parametrize(
    ("part", "join"), [(Cable.cut, Cable.mend), (Cable.pull_out, Cable.plug_in)], ids=["cut", "unplugged"]
)
async def test_nodes_that_are_cut_off_keep_their_streams_and_recover(
    two: list[Node], far_redis: RedisServer, part: Callable[[Cable], None], join: Callable[[Cable], None]
) -> None:
    cable = far_redis.cable
    assert cable is not None
    async with Subscriber(two[0].port) as a, Subscriber(two[1].port) as b:
        promised = [(await two[number % 2].publish(number))["id"] for number in range(4)]
        await a.until(4)
        await b.until(4)
        part(cable)
        heard = a.comments
        # The first finds out, the second waits behind it: neither waits for longer than Redis may take.
        first = asyncio.create_task(_refused(two[0], "refused 1", ANSWER_SECONDS + SLACK_SECONDS))
        await asyncio.sleep(0.2)
        await asyncio.gather(
            first,
            _refused(two[0], "refused 2", ANSWER_SECONDS + SLACK_SECONDS),
            _refused(two[1], "refused 3", ANSWER_SECONDS + SLACK_SECONDS),
        )
        # Now it is known, and no request waits.
        await _refused(two[0], "refused 4", SLACK_SECONDS)
        for path in ("/readyz", "/projects/p", "/projects/p/events", "/projects/other/events"):
            answer = await two[0].get(path)
            assert (503, "store_unavailable") == (answer["status"], answer["code"])
        trigger = await two[0].post("/projects/p/trigger", {"name": "go", "id": "one"})
        assert (503, "store_unavailable") == (trigger["status"], trigger["code"])
        assert 0 == (await two[0].metrics())["edge_store_available"]
        assert 1 <= (await two[0].metrics())["edge_store_errors_total"]
        assert heard < a.comments
        assert [["edge.hello"], ["edge.hello"]] == [[name for name, _ in subscriber.controls] for subscriber in (a, b)]
        join(cable)
        promised += [await _eventually_taken(node) for node in two]
        for subscriber in (a, b):
            await subscriber.until_id(promised[-1])
            assert list(range(1, len(subscriber.ids) + 1)) == numbers(subscriber.ids)
            assert set(promised) <= set(subscriber.ids)
            assert len(subscriber.data) == len({str(data) for data in subscriber.data})
            assert ["edge.hello"] == [name for name, _ in subscriber.controls]
        assert a.ids == b.ids
        assert 200 == (await two[0].get("/readyz"))["status"]
        assert 1 == (await two[0].metrics())["edge_store_available"]
        await two[0].counts(2)


async def test_silent_subscription_is_noticed(far_redis: RedisServer) -> None:
    """What a firewall does that forgets a connection: its packets are dropped, and new connections work."""
    cable = far_redis.cable
    assert cable is not None
    node = await start_node(far_redis.url)
    async with Subscriber(node.port) as subscriber:
        await node.publish("before")
        await subscriber.until(1)
        pubsub = node.store._replicator.subscription._pubsub
        assert pubsub is not None
        connection: Any = pubsub.connection
        cable.cut_connection(connection._writer.get_extra_info("sockname")[1])
        for number in range(3):
            assert 1 == (await node.publish(number))["connections"]
        await subscriber.until(4)
        assert ["before", 0, 1, 2] == subscriber.data
        assert ["edge.hello"] == [name for name, _ in subscriber.controls]
    await node.stop()


async def test_subscription_that_the_kernel_gave_up_is_made_again(far_redis: RedisServer) -> None:
    node = await start_node(far_redis.url)
    async with Subscriber(node.port) as subscriber:
        await node.publish("before")
        await subscriber.until(1)
        pubsub = node.store._replicator.subscription._pubsub
        assert pubsub is not None
        connection: Any = pubsub.connection
        connection._reader.set_exception(TimeoutError(errno.ETIMEDOUT, "Connection timed out"))
        await asyncio.sleep(0)
        await node.publish("after")
        await subscriber.until(2)
        assert ["before", "after"] == subscriber.data
    await node.stop()


async def _refused(node: Node, data: str, within_seconds: float) -> None:
    began = time.monotonic()
    async with node.client.post("/projects/p/events", json={"data": data}) as answer:
        assert 503 == answer.status
        assert "store_unavailable" == (await answer.json(content_type=None))["code"]
        assert "1" == answer.headers["Retry-After"]
    assert within_seconds > time.monotonic() - began


async def _eventually_taken(node: Node) -> str:
    for attempt in range(600):
        answer = await node.publish(f"after {node.port} {attempt}")
        if "id" in answer:
            return str(answer["id"])
        await asyncio.sleep(0.1)
    raise AssertionError("the cable is mended and nothing is taken")
