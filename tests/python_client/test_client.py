"""What a client asks and what it gets: the same of a hub and of the fake, for asyncio and without."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from edge_hub_client import AsyncClient, EdgeError, NewEvent, NoConnection, Receipt, Unreachable, _models

from edge.config.schema import Config
from edge.http.openapi import document
from tests.python_client.conftest import Connect


async def test_an_event_is_published_held_and_received(client: Any, project: str) -> None:
    receipt = await client.publish(project, {"percent": 50, "text": "Grüße"}, type="progress")
    assert Receipt(project, receipt.id, connections=0, missed=True) == receipt
    async with client.subscribe(project) as events:
        assert "open" == events.state
        event = await anext(events)
        assert (project, receipt.id, "progress") == (event.project, event.id, event.type)
        assert {"percent": 50, "text": "Grüße"} == event.json()
        assert not (await client.publish(project, None)).missed
        assert "null" == (await anext(events)).data
    assert "closed" == events.state


async def test_a_finished_project_ends_the_iteration(client: Any, project: str) -> None:
    async with client.subscribe(project) as events:
        await client.publish(project, 1)
        await client.publish(project, 2, final=True)
        assert [1, 2] == [event.json() async for event in events]
    assert [] == [event async for event in client.subscribe(project, last_event_id=events.last_event_id)]
    assert [1, 2] == [event.json() async for event in client.subscribe(project, since="all")]


async def test_many_events_over_one_request(client: Any, connect: Connect, project: str) -> None:
    sent: list[NewEvent] = [{"type": "token", "data": number} for number in range(300)]
    receipt = await client.publish_many(project, iter(sent), final=True)
    assert (300, 300) == (receipt.published, receipt.misses)
    got = [event async for event in client.subscribe(project)]
    assert list(range(300)) == [event.json() for event in got]
    assert (receipt.first_id, receipt.last_id) == (got[0].id, got[-1].id)


async def test_a_key_publishes_once(client: Any, project: str) -> None:
    first = await client.publish(project, 1, key="order-17")
    assert first == await client.publish(project, 1, key="order-17")
    with pytest.raises(EdgeError) as refused:
        await client.publish(project, 2, key="order-17")
    assert ("idempotency_mismatch", 422) == (refused.value.code, refused.value.status)
    assert 1 == len((await client.history(project)).events)


async def test_without_a_subscriber_nothing_is_stored_or_started(client: Any, project: str) -> None:
    for call in (
        client.publish(project, 1, require=1),
        client.publish(project, 1, wait=0.1),
        client.trigger(project, "render", timeout=0.1),
        client.ready(project, timeout=0.1),
    ):
        with pytest.raises(NoConnection):
            await call
    with pytest.raises(EdgeError, match="unknown_project"):
        await client.status(project)


async def test_a_trigger_waits_for_its_subscriber_and_starts_once(client: Any, project: str) -> None:
    waiting = asyncio.create_task(client.trigger(project, "render", {"prompt": "a house"}, timeout=30, id="job-1"))
    async with client.subscribe(project) as events:
        job = await anext(events)
        receipt = await waiting
        assert ("render", {"prompt": "a house"}) == (job.type, job.json())
        assert ("job-1", 1, "stream") == (receipt.id, receipt.connections, receipt.target["kind"])
        again = await client.trigger(project, "render", {"prompt": "a house"}, timeout=30, id="job-1")
        assert receipt == again
        assert 1 == (await client.ready(project)).connections
    assert 1 == len((await client.history(project)).events)


async def test_status_history_ticket_delete(client: Any, project: str) -> None:
    for number in range(5):
        await client.publish(project, number)
    history = await client.history(project, since="last:2")
    assert [3, 4] == [event.json() for event in history.events]
    later = await client.history(project, last_event_id=history.events[0].id)
    assert ([4], history.newest) == ([event.json() for event in later.events], later.events[0].id)
    assert [0] == [event.json() for event in (await client.history(project, limit=1)).events]
    status = await client.status(project)
    assert (5, 5) == (status["ring"]["events"], status["misses"]["pending"])
    ticket = await client.ticket(project)
    assert (True, 60) == (bool(ticket.ticket), ticket.expires_in)
    await client.delete(project)
    with pytest.raises(EdgeError, match="unknown_project"):
        await client.status(project)


@pytest.mark.parametrize(
    ("start", "expected"), [("all", [1, 2, 3]), ("none", []), ("last", [3]), ("last:2", [2, 3]), ("10m", [1, 2, 3])]
)
async def test_where_a_stream_starts(client: Any, project: str, start: str, expected: list[int]) -> None:
    for number in (1, 2, 3):
        await client.publish(project, number)
    async with client.subscribe(project, since=start) as events:
        await client.publish(project, 4, final=True)
        assert [*expected, 4] == [event.json() async for event in events]


async def test_an_unknown_position_is_a_gap(client: Any, project: str) -> None:
    await client.publish(project, 1, final=True)
    events = [event async for event in client.subscribe(project, last_event_id="0longago0000-7")]
    assert ["edge.gap", "message"] == [event.type for event in events]
    gap = events[0].gap
    assert gap is not None
    assert ("0longago0000-7", None) == (gap.asked, gap.lost)
    assert gap.reason in {"restart", "unknown"}


async def test_the_events_of_a_job(client: Any, project: str) -> None:
    with pytest.raises(ZeroDivisionError):
        await run(client.job(project, "job-1", prompt="a house"), lambda: 1 / 0)
    await run(client.job(project, "job-2", final=True), lambda: None)
    events = [(event.type, event.json()) async for event in client.subscribe(project)]
    assert [
        ("started", {"job": "job-1", "prompt": "a house"}),
        ("progress", {"job": "job-1", "percent": 40}),
        ("failed", {"job": "job-1", "error": "internal error"}),
        ("started", {"job": "job-2"}),
        ("progress", {"job": "job-2", "percent": 40}),
        ("complete", {"job": "job-2"}),
    ] == events


async def run(made: Any, work: Any) -> None:
    """Do a job, of either kind."""
    if hasattr(made, "__aenter__"):
        async with made as job:
            await job.progress(percent=40)
            work()
        return

    def in_a_thread(job: Any) -> None:
        with job:
            job.progress(percent=40)
            work()

    await asyncio.to_thread(in_a_thread, await made)


async def test_a_hub_that_is_not_there(connect: Connect) -> None:
    client = connect("http://127.0.0.1:1", retries=1)
    with pytest.raises(Unreachable) as unreachable:
        await client.publish("p", 1)
    assert "network" == unreachable.value.code
    with pytest.raises(Unreachable):
        await anext(client.subscribe("p", max_failures=0))


async def test_what_an_iterator_raises_is_raised(hub_url: str, connect: Connect, project: str) -> None:
    def broken() -> Iterator[NewEvent]:
        yield {"data": 1}
        raise LookupError("no more")

    with pytest.raises(LookupError, match="no more"):
        await connect(hub_url).publish_many(project, broken())


async def test_an_asynchronous_iterator_goes_at_its_own_pace(hub_url: str, project: str) -> None:
    async with AsyncClient(hub_url) as client, client.subscribe(project) as events:

        async def echoed() -> AsyncIterator[NewEvent]:
            for number in range(3):
                yield {"data": number}
                assert number == (await anext(events)).json()  # published before the next one is asked for

        assert 3 == (await client.publish_many(project, echoed())).published


async def test_a_bad_event_says_how_many_came_before(hub_url: str, connect: Connect, project: str) -> None:
    events: list[NewEvent] = [{"data": 1}, {"data": 2}, {"type": "edge.mine"}, {"data": 4}]
    with pytest.raises(EdgeError) as refused:
        await connect(hub_url).publish_many(project, events)
    assert ("invalid_event", 3, 2) == (
        refused.value.code,
        refused.value.problem["line"],
        refused.value.problem["published"],
    )


@pytest.mark.parametrize("data", [float("nan"), object()])
async def test_data_that_json_has_not_got(hub_url: str, connect: Connect, data: object) -> None:
    with pytest.raises((TypeError, ValueError)):
        await connect(hub_url).publish("p", data)


def test_the_status_has_the_fields_that_the_hub_sends() -> None:
    described = document(Config())["components"]["schemas"]
    for name, model in (
        ("ProjectStatus", _models.ProjectStatus),
        ("ConnectionStatus", _models.ConnectionStatus),
        ("MissesInTime", _models.MissStatus),
        ("Ring", _models.RingStatus),
    ):
        assert set(described[name]["properties"]) == set(model.__annotations__)


async def test_several_projects_over_one_stream(client: Any, project: str) -> None:
    names = [f"{project}-a", f"{project}-b"]
    first = await client.publish_to(names, {"run": 7}, type="started")
    assert names == [receipt.project for receipt in first]
    async with client.subscribe(*names, since="all") as events:
        got = [await anext(events) for _ in names]
        assert {(name, "started") for name in names} == {(event.project, event.type) for event in got}
        await client.publish(names[1], 1)
        event = await anext(events)
        assert (names[1], "message", 1) == (event.project, event.type, event.json())
    await client.publish(names[0], 2, final=True)
    await client.publish(names[1], 3, final=True)
    rest = [event async for event in client.subscribe(*names, last_event_id=events.last_event_id)]
    assert {(names[0], 2), (names[1], 3)} == {(event.project, event.json()) for event in rest}
