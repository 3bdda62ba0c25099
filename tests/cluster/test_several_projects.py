"""Streams of several projects, and one event to several projects, over nodes around one Redis."""

from __future__ import annotations

import asyncio
from collections import Counter
from itertools import pairwise
from typing import Any

import pytest

from edge.core.errors import StoreUnavailable
from edge.core.event import Event
from edge.http import publish
from edge.store.base import Keyed
from tests.cluster.conftest import RedisServer
from tests.cluster.nodes import Node, Subscriber, lose_answers, presume_dead, unreported

PATH = "/events?project=a&project=b"


def spread(subscriber: Subscriber) -> Counter[str]:
    """How many events came of each project: those whose position moved."""
    positions = [dict(place.split(":") for place in one.split(",")) for one in subscriber.ids]
    moved: Counter[str] = Counter()
    for before, after in pairwise(positions):
        [name] = [name for name in after if before[name] != after[name]]
        moved[name] += 1
    return moved


async def test_a_stream_roams_over_the_nodes_and_misses_nothing(nodes: list[Node]) -> None:
    async with Subscriber(nodes[0].port, "a,b", comes_back=True) as subscriber:
        expected = 0
        for turn in range(6):
            for number, node in enumerate(nodes):
                await node.publish([turn, number], "ab"[number % 2])
                answer = await node.post(PATH, {"data": [turn, number, "both"]})
                assert (201, [1, 1]) == (answer["status"], [one["connections"] for one in answer["receipts"]])
                expected += 3
            if turn % 2:
                await subscriber.until(expected)
            subscriber.port = nodes[turn % 3].port
            [part, *_] = [one for node in nodes for one in node.context.hub.connections.values()]
            subscriber.connected.clear()
            part.abort()
            await asyncio.wait_for(subscriber.connected.wait(), 20)
            while any(unreported(node.store) for node in nodes):
                await asyncio.sleep(0.01)
            assert {1} == {(await nodes[0].get(f"/projects/{name}"))["connections_total"] for name in "ab"}
        await subscriber.until(expected)
        assert expected == len(set(subscriber.ids)) == len(subscriber.ids)
        assert {"edge.hello"} == {name for name, _ in subscriber.controls}
        assert expected - 1 == sum(spread(subscriber).values())


async def test_an_event_goes_to_all_projects_or_to_none(nodes: list[Node], redis_server: RedisServer) -> None:
    first = await nodes[0].post(PATH, {"data": 1})
    assert (202, [True, True]) == (first["status"], [one["missed"] for one in first["receipts"]])
    redis_server.stop()
    assert 503 == (await nodes[0].post(PATH, {"data": 2}))["status"]
    redis_server.start()
    while 202 != (await nodes[1].post(PATH, {"data": 3}))["status"]:
        await asyncio.sleep(0.05)
    for name in "ab":
        history = await nodes[2].get(f"/projects/{name}/history")
        assert ["1", "3"] == [event["data"] for event in history["events"]]


async def ask(node: Node, data: object, key: str) -> dict[str, Any]:
    async with node.client.post(PATH, json={"data": data}, headers={"Idempotency-Key": key}) as answer:
        return {**(await answer.json()), "status": answer.status}


async def test_a_key_is_good_on_every_node_though_the_receipt_was_lost(
    nodes: list[Node], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = await ask(nodes[0], 1, "k")
    assert first == await ask(nodes[1], 1, "k")
    assert 422 == (await ask(nodes[1], 2, "k"))["status"]
    lose_answers(monkeypatch, nodes[0], "append", once=True)
    assert 503 == (await ask(nodes[0], 3, "lost"))["status"]
    again = await ask(nodes[1], 3, "lost")
    assert [("a", False), ("b", False)] != [(one["project"], one["missed"]) for one in again["receipts"]]
    assert ["a", "b"] == [one["project"] for one in again["receipts"]]
    for receipt in again["receipts"]:
        assert "2" == receipt["id"].rpartition("-")[2]
        assert 2 == (await nodes[2].get(f"/projects/{receipt['project']}"))["ring"]["events"]


async def test_the_event_of_a_claim_that_another_node_holds_goes_nowhere(
    nodes: list[Node], monkeypatch: pytest.MonkeyPatch
) -> None:
    keyed = Keyed(("publish-each", "a,b", "k"), b"print", publish.published)
    first, second = nodes[0].store, nodes[1].store
    assert await first.idempotency.claim(keyed) is None
    await presume_dead(nodes[0], monkeypatch)
    assert await second.idempotency.claim(keyed) is None
    event = Event("message", b"x")
    with pytest.raises(StoreUnavailable, match="no heartbeat of this node"):
        await first.publish_each(["a", "b"], event, 0.0, keyed)
    receipts = await second.publish_each(["a", "b"], event, 0.0, keyed)
    assert ["1", "1"] == [receipt.id.rpartition("-")[2] for receipt in receipts]


async def test_the_node_that_lost_its_project_closes_the_whole_stream(nodes: list[Node]) -> None:
    async with Subscriber(nodes[0].port, "a,b", comes_back=True) as subscriber:
        await nodes[1].post(PATH, {"data": 1})
        await subscriber.until(2)
        async with nodes[2].client.delete("/projects/b") as answer:
            assert 200 == answer.status
        closing = await subscriber.until_control("edge.closing")
        assert ("b", "deleted") == (closing["project"], closing["reason"])
        gap = await subscriber.until_control("edge.gap")
        assert ("b", "restart") == (gap["project"], gap["reason"])
        await nodes[1].post(PATH, {"data": 2})
        await subscriber.until(4)
        assert [1, 1, 2, 2] == subscriber.data
