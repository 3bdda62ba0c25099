"""Webhooks about projects, from a real hub to a real receiver."""

from __future__ import annotations

import asyncio
import base64
import json
from typing import Any

import pytest
from standardwebhooks.webhooks import Webhook

from edge.triggers import hooks as hooks_module
from tests.observability.rig import Hub, running, until
from tests.triggers.receiver import Receiver, answer, hang, receiving

SECRETS = [f"whsec_{base64.b64encode(bytes([number]) * 32).decode()}" for number in (1, 2)]
GRACE_SECONDS = 0.3


def settings(receiver: Receiver, **more: Any) -> dict[str, Any]:
    return {"url": receiver.url, "grace_seconds": GRACE_SECONDS, **more}


def received(receiver: Receiver, project: str = "p") -> list[str]:
    """The names of its webhooks. One that was sent again, as on a busy machine, counts once, as its id has it."""
    by_id = {request.headers["webhook-id"]: json.loads(request.body) for request in receiver.requests}
    return [body["name"] for body in by_id.values() if body["project"] == project]


async def sent(hub: Hub, count: int) -> dict[str, float]:
    """Wait until so many webhooks were sent; returns the metrics then."""
    async with asyncio.timeout(60):
        while (metrics := await hub.metrics())['edge_hooks_total{outcome="sent"}'] < count:
            await asyncio.sleep(0.02)
    return metrics


async def test_a_project_is_occupied_once_and_vacated_after_the_grace_time() -> None:
    async with receiving(answer(200)) as receiver, running(hooks=settings(receiver, secret=SECRETS)) as hub:
        async with hub.subscriber("p"), hub.subscriber("p"):
            await sent(hub, 1)
            async with hub.subscriber("p"):
                pass
        await sent(hub, 2)
        async with hub.subscriber("p"):
            await sent(hub, 3)
    assert ["occupied", "vacated", "occupied"] == received(receiver)
    first = receiver.requests[0]
    body = json.loads(first.body)
    assert {"id", "name", "ts", "project", "data"} == body.keys()
    assert first.headers["webhook-id"].startswith(body["id"])
    for secret in SECRETS:
        Webhook(secret).verify(first.body, first.headers)


async def test_a_return_within_the_grace_time_reports_nothing() -> None:
    async with (
        receiving(answer(200)) as receiver,
        running(hooks={"url": receiver.url, "grace_seconds": 60}) as hub,
    ):
        for _ in range(5):
            async with hub.subscriber("p"):
                await sent(hub, 1)
            await hub.gone("p")
        async with hub.subscriber("q"):
            await sent(hub, 2)
    assert ["occupied"] == received(receiver)


async def test_the_first_miss_of_a_silence_and_losses_are_reported() -> None:
    async with (
        receiving(answer(200)) as receiver,
        running(hooks=settings(receiver), ring={"max_events": 2}) as hub,
    ):
        for number in range(5):
            await hub.publish("p", number)
        await until(lambda: 3 == lost_events(receiver))
        before = len(received(receiver))
        async with hub.subscriber("p"):
            await until(lambda: len(received(receiver)) > before)
        await hub.gone("p")
        await hub.publish("p")
        await until(lambda: len(received(receiver)) >= before + 3)
    assert "missed" == received(receiver)[0]
    assert {"lost"} == set(received(receiver)[1:before])
    assert "occupied" == received(receiver)[before]
    assert {"missed", "vacated"} == set(received(receiver)[before + 1 :])


def lost_events(receiver: Receiver) -> int:
    by_id = {request.headers["webhook-id"]: json.loads(request.body) for request in receiver.requests}
    return sum(body["data"]["events"] for body in by_id.values() if body["name"] == "lost")


async def test_what_is_refused_is_retried_and_keeps_its_place() -> None:
    async with receiving(answer(500), answer(500), answer(200)) as receiver, running(hooks=settings(receiver)) as hub:
        async with hub.subscriber("p"):
            await until(lambda: len(receiver.requests) >= 1)
        metrics = await sent(hub, 2)
    assert ["occupied", "vacated"] == received(receiver)
    assert 1 == len({request.headers["webhook-id"] for request in receiver.requests[:3]})
    assert 0 == metrics['edge_hooks_total{outcome="failed"}'] == metrics["edge_hooks_queued"]


async def test_a_receiver_that_hangs_holds_up_nothing_and_what_is_too_much_is_dropped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(hooks_module, "MAX_QUEUED", 20)
    async with receiving(hang()) as receiver, running(hooks=settings(receiver)) as hub:
        for number in range(30):
            assert 202 == await hub.publish(f"p{number}")
        metrics = await hub.metrics()
        assert (20, 10) == (metrics["edge_hooks_queued"], metrics['edge_hooks_total{outcome="dropped"}'])
        assert 202 == await hub.publish("other")
    assert b'\nedge_hooks_total{outcome="dropped"} 31.0\n' in hub.context.exposition("")[0]


async def test_without_hooks_nothing_is_watched() -> None:
    async with running() as hub:
        async with hub.subscriber("p"):
            pass
        assert 0 == (await hub.metrics())["edge_hooks_queued"]
