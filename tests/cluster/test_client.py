"""What the client relies on in redis-py beyond its documentation, and what it adds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from edge.cluster.client import RedisClient
from edge.config.texts import RedisAddress, parse_redis_url
from edge.core.errors import StoreUnavailable
from tests.cluster.conftest import RedisServer
from tests.http.loops import run


@pytest.fixture
async def client(redis_server: RedisServer) -> AsyncIterator[RedisClient]:
    made = RedisClient(parse_redis_url(redis_server.url))
    await made.open()
    yield made
    await made.close()


def test_uvloop_says_runtime_error_on_a_closed_connection(redis_server: RedisServer) -> None:
    """Which is none of redis-py's errors; the hub runs on uvloop, these tests do not."""

    async def close_and_ask() -> None:
        redis = RedisClient(parse_redis_url(redis_server.url))
        await redis.open()
        async with redis.use() as client:
            await client.ping()
        (connection,) = redis._client.connection_pool._available_connections
        assert isinstance(connection._writer, asyncio.StreamWriter)
        connection._writer.transport.abort()
        with pytest.raises(StoreUnavailable, match="RuntimeError"):
            await redis.run("view", "p")
        with pytest.raises(StoreUnavailable, match="RuntimeError"):
            redis.check()
        await redis.close()

    run("uvloop", close_and_ask)


async def test_lost_subscription_is_an_error_and_not_silence(client: RedisClient) -> None:
    """redis-py returns None for the kernel's ETIMEDOUT, and would do so again and again without waiting."""
    pubsub = client.subscription()
    await pubsub.subscribe("edge:asks")
    assert "subscribe" == (await client.next_message(pubsub))["type"]
    connection: Any = pubsub.connection
    connection._reader.set_exception(TimeoutError(110, "Connection timed out"))
    with pytest.raises(ConnectionError, match="gave the connection up"):
        await client.next_message(pubsub)
    await pubsub.aclose()  # type: ignore[no-untyped-call]


async def test_requests_wait_for_one_of_eight_connections(client: RedisClient) -> None:
    """redis-py's pool would raise; with Sentinel there is none that waits."""
    await asyncio.gather(*(client.run("view", "p") for _ in range(100)))
    async with client.use() as redis:
        assert 8 >= len(await redis.client_list()) - 1  # the fixture's own may still be there


async def test_request_whose_connections_are_dropped_is_refused_and_the_next_is_served(client: RedisClient) -> None:
    async def wait_long() -> None:
        async with client.use() as redis:
            await redis.blpop(["edge:nothing"], timeout=4)

    waiting = asyncio.create_task(wait_long())
    await asyncio.sleep(0.2)
    await client.start_over()
    with pytest.raises(StoreUnavailable):
        await waiting
    async with client.use(probing=True) as redis:
        await redis.ping()
    client.check()


async def test_scripts_are_loaded_again_when_redis_has_forgotten_them(client: RedisClient) -> None:
    await client.run("view", "p")
    async with client.use() as redis:
        await redis.script_flush()
    assert 0 == (await client.run("view", "p"))[0]


@pytest.mark.parametrize(
    ("database", "prefix", "channel"),
    [(0, "edge:", "edge:{p}"), (0, "a:", "a:{p}"), (3, "edge:", "edge:@3:{p}"), (3, "a:", "a:@3:{p}")],
)
async def test_channels_carry_the_database(database: int, prefix: str, channel: str) -> None:
    address = RedisAddress("redis", (("127.0.0.1", 1),), database=database, prefix=prefix)
    keys = RedisClient(address).keys
    assert (channel, "p") == (keys.channel("p"), keys.project(channel))
    assert f"{prefix}{{p}}:stream" == keys.of("p", "stream")[0]
