"""A ticket from one node opens a stream on any other, once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from edge.config.schema import AuthSettings, Config, LimitsSettings, StoreSettings
from tests.cluster.conftest import RedisServer
from tests.cluster.nodes import Node, serve

TOKEN = "a token that is long enough to be one"
BEARER = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture
async def guarded(redis_server: RedisServer) -> AsyncIterator[list[Node]]:
    config = Config(
        store=StoreSettings(url=redis_server.url),
        auth=AuthSettings(token=(TOKEN,)),
        limits=LimitsSettings(max_tickets=2),
    )
    started = [await serve(config) for _ in range(2)]
    yield started
    for node in started:
        await node.stop()


async def test_a_ticket_from_one_node_opens_a_stream_on_another_once(guarded: list[Node]) -> None:
    ticket = await _ticket(guarded[0])
    assert sorted([200, 401, 401, 401]) == sorted(
        await asyncio.gather(*(_opens(node, "p", ticket) for node in (*guarded, *guarded)))
    )


async def test_a_ticket_is_for_its_project_on_every_node(guarded: list[Node]) -> None:
    ticket = await _ticket(guarded[0])
    assert 401 == await _opens(guarded[1], "q", ticket)
    assert 401 == await _opens(guarded[1], "p", ticket)


async def test_a_ticket_opens_a_stream_and_nothing_else(
    guarded: list[Node],
) -> None:
    async with guarded[1].client.get("/projects", params={"ticket": await _ticket(guarded[0])}) as answer:
        assert 401 == answer.status
    async with guarded[1].client.delete("/projects/p", params={"ticket": await _ticket(guarded[0])}) as answer:
        assert answer.status in (401, 403)


async def test_tickets_are_bounded_over_all_nodes(guarded: list[Node]) -> None:
    first = await _ticket(guarded[0])
    await _ticket(guarded[1])
    async with guarded[0].client.post("/projects/p/ticket", headers=BEARER) as answer:
        assert (503, "too_many_tickets") == (answer.status, (await answer.json(content_type=None))["code"])
    assert 200 == await _opens(guarded[1], "p", first)
    await _ticket(guarded[0])


async def test_redis_holds_no_usable_ticket(guarded: list[Node]) -> None:
    ticket = await _ticket(guarded[0])
    cluster = guarded[0].store
    (key,) = [str(key, "ascii") for key in await cluster.redis._client.keys("edge:ticket:*") if isinstance(key, bytes)]
    held = await cluster.redis._client.get(key)
    assert isinstance(held, bytes)
    assert ticket not in key + held.decode()
    assert 401 == await _opens(guarded[1], "p", key.rpartition(":")[2])


async def _ticket(node: Node) -> str:
    async with node.client.post("/projects/p/ticket", headers=BEARER) as answer:
        assert 201 == answer.status
        return str((await answer.json())["ticket"])


async def _opens(node: Node, project: str, ticket: str) -> int:
    async with node.client.get(f"/projects/{project}/events", params={"ticket": ticket}) as answer:
        return answer.status
