"""Readers and publishers on three nodes while nodes are killed and cables are cut, or Redis is restarted."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.cluster.chaos import Process, Publisher, Roamer, Storm
from tests.cluster.conftest import RedisServer
from tests.cluster.nodes import NodeClient, Subscriber, numbers

pytestmark = pytest.mark.slow

ROUNDS = int(os.environ.get("CLUSTER_ROUNDS", "1"))
"""For an hour: `CLUSTER_ROUNDS=200`; see docs/scaling.md."""
FIRST_ROUND = int(os.environ.get("CLUSTER_FIRST_ROUND", "0"))
STORM_SECONDS = 5.0
LONGEST_CUT_SECONDS = 2.5 if ROUNDS == 1 else 8.0
SETTLE_SECONDS = 60.0
PUBLISHERS = 6
MOST_EVENTS = 300
"""Of one publisher."""
AMPLE, SCANT = 2000, 12
"""Events a ring holds: more than all publishers together have, or so few that who is away for long misses some."""


@pytest.fixture(params=[AMPLE, SCANT], ids=["ample", "scant"])
def ring_events(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture
async def processes(far_redis: RedisServer, tmp_path: Path, ring_events: int) -> AsyncIterator[list[Process]]:
    started = [Process(far_redis, tmp_path / f"node{number}.log", ring_events) for number in range(3)]
    await asyncio.gather(*(node.start() for node in started))
    yield started
    for node in started:
        await node.kill()
    log = "".join((tmp_path / f"node{number}.log").read_text() for number in range(3))
    foreseen = ("store_error", "trigger_failed", "node_gone", "edge: store.url", "store_recovered")
    assert [] == [line for line in log.splitlines() if line and not any(word in line for word in foreseen)]


@pytest.mark.timeout(600 + 120 * ROUNDS)
@pytest.mark.parametrize("of_redis", [False, True], ids=["nodes", "redis"])
async def test_order_receipts_and_ledger_hold_whatever_happens(
    processes: list[Process], far_redis: RedisServer, ring_events: int, of_redis: bool
) -> None:
    for number in range(FIRST_ROUND, FIRST_ROUND + ROUNDS):
        storm = Storm(far_redis, processes, random.Random(number), LONGEST_CUT_SECONDS, of_redis=of_redis)
        await _round(number, processes, storm, whole=ring_events == AMPLE)


async def _round(number: int, processes: list[Process], storm: Storm, *, whole: bool) -> None:
    dice = random.Random(number)
    ports = [node.port for node in processes]
    projects = [f"{name}{number}" for name in ("a", "b", "c")]
    subscribers = [
        Roamer(ports, project, random.Random(dice.random()), restless=restless)
        for project in projects
        for restless in (True, True, False)
    ]
    publishers = [
        Publisher(f"{number}-{who}", ports, projects, random.Random(dice.random())) for who in range(PUBLISHERS)
    ]
    async with AsyncExitStack() as stack:
        for subscriber in subscribers:
            await stack.enter_async_context(subscriber)
        raging = asyncio.create_task(storm.rage(STORM_SECONDS))
        await asyncio.gather(raging, *(one.publish(raging, MOST_EVENTS) for one in publishers))
        for subscriber in subscribers:
            subscriber.restless = False
        for project in projects:
            here = [subscriber for subscriber in subscribers if subscriber.project == project]
            last = await _published(ports[0], project)
            for subscriber in here:
                await subscriber.until_id(last)
                assert [] == subscriber.unreported
            for port in ports:
                await _count(port, project, len(here))
            _check(here, project, publishers)
            if whole:
                history = await _history(ports[1], project, last)
                assert [history] * len(here) == [
                    list(zip(subscriber.ids, subscriber.data, strict=True)) for subscriber in here
                ]
                assert numbers([last]) == [len(history)]
    for project in projects:
        await _count(ports[1], project, 0)
        await _check_ledger(ports[2], project, whole=whole)
    print(  # noqa: T201 - shown by pytest -s, in long runs
        f"round {number}: {storm.kills} kills, {storm.restarts} restarts of Redis, {storm.cuts} cuts, "
        f"{sum(len(one) for each in publishers for one in each.acknowledged.values())} acknowledged, "
        f"{sum(each.unsure for each in publishers)} refused, "
        f"{sum(name == 'edge.gap' for subscriber in subscribers for name, _ in subscriber.controls)} gaps"
    )


def _check(subscribers: list[Roamer], project: str, publishers: list[Publisher]) -> None:
    """All subscribers agree on which event is which, none came twice, and each that was promised is what was published.

    With a ring that holds all of them, each promised one was seen.
    """
    seen: dict[str, object] = {}
    for subscriber in subscribers:
        assert len(subscriber.ids) == len(set(subscriber.ids))
        for event_id, data in zip(subscriber.ids, subscriber.data, strict=True):
            assert data == seen.setdefault(event_id, data)
    ids = {str(data): event_id for event_id, data in seen.items()}
    assert len(seen) == len(ids)
    assert len({event_id.rpartition("-")[0] for event_id in seen}) == 1
    any_gap = any(name == "edge.gap" for subscriber in subscribers for name, _ in subscriber.controls)
    for publisher in publishers:
        for text, receipt_id in publisher.acknowledged[project].items():
            assert any_gap or text in ids
            assert (receipt_id or ids.get(text)) == ids.get(text, receipt_id)


async def _check_ledger(port: int, project: str, *, whole: bool) -> None:
    """What is still pending goes to the next subscriber; then the ledger is even."""
    node = NodeClient(port)
    try:
        async with Subscriber(port, project) as subscriber:
            pending = lost = -1
            for _ in range(1200):
                total, recovered, lost, pending = await node.misses(project)
                assert total == recovered + lost + pending
                if not pending:
                    break
                await asyncio.sleep(0.05)
            assert (0, len(subscriber.ids)) == (pending, len(set(subscriber.ids)))
            assert lost == 0 or not whole
    finally:
        await node.client.close()


async def _count(port: int, project: str, connections: int) -> None:
    """Every node knows of all subscribers who are there."""
    node = NodeClient(port)
    try:
        await node.counts(connections, project)
    finally:
        await node.client.close()


async def _published(port: int, project: str) -> str:
    node = NodeClient(port)
    try:
        async with asyncio.timeout(SETTLE_SECONDS):
            while True:
                answer = await node.publish("last", project)
                if "id" in answer:
                    return str(answer["id"])
                await asyncio.sleep(0.2)
    finally:
        await node.client.close()


async def _history(port: int, project: str, last: str) -> list[tuple[str, object]]:
    async with Subscriber(port, project, "?since=all") as subscriber:
        await subscriber.until_id(last)
        return list(zip(subscriber.ids, subscriber.data, strict=True))
