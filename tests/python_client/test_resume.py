"""Connections that are cut, refused and lost: each event once and in order, and what is lost is a gap."""

from __future__ import annotations

import asyncio
import signal
from contextlib import AsyncExitStack
from typing import Any

import httpx
import pytest
from edge_hub_client import AsyncClient, EdgeError
from edge_hub_client.testing import FakeHub

from tests.browser.line import line_to
from tests.clients.cutter import cutting
from tests.faults.hub import serving, until
from tests.python_client.conftest import Connect

FAST: dict[str, Any] = {"stream__retry_ms": 50, "server__host": "127.0.0.1", "auth__anonymous": None}
CUTS = [rb"\n\n.*?\n\nevent: no", rb"data: [^\n]*\nid: \w+-\d", rb"id: \w+-\d+\n", rb"\n\n.*?\n\n"]


def port_of(url: str) -> int:
    return int(url.rpartition(":")[2])


async def test_cut_in_the_middle_of_events(connect: Connect, hub_url: str, project: str) -> None:
    publisher = connect(hub_url)
    for number in range(20):
        await publisher.publish(project, number, type="note")
    async with cutting(port_of(hub_url), CUTS) as line:
        events = connect(line.url).subscribe(project, since="all")
        assert list(range(20)) == [(await anext(events)).json() for _ in range(20)]
        assert 0 == line.cuts_left
        line.cut_all()
        await publisher.publish(project, 20, final=True)
        assert [20] == [event.json() async for event in events]


async def test_a_hub_that_is_killed_is_a_gap(connect: Connect) -> None:
    async with serving(**FAST) as hub:
        events = connect(hub.url).subscribe("p")
        await hub.publish("p", 1)
        assert 1 == (await anext(events)).json()
        hub.signal(signal.SIGKILL)
        await hub.ended()
        async with serving(**FAST | {"port": hub.port}) as again:
            await again.ask("POST", "/projects/p/events?final=true", json={"data": 2})
            rest = [event async for event in events]
        assert ("edge.gap", "restart") == (rest[0].type, rest[0].gap and rest[0].gap.reason)
        assert 2 == rest[1].json()


async def test_a_line_that_goes_silent_is_noticed(connect: Connect, hub_url: str, project: str) -> None:
    publisher = connect(hub_url)
    async with AsyncExitStack() as stack:
        line = await stack.enter_async_context(line_to(port_of(hub_url)))
        cutter = await stack.enter_async_context(cutting(port_of(line.url)))
        events = await stack.enter_async_context(connect(cutter.url).subscribe(project))
        cutter.cut_all()
        await publisher.publish(project, 1)
        assert 1 == (await anext(events)).json()  # on the second connection, which knows how long a heartbeat is
        line.cut()

        async def state() -> str:
            return str(events.state)

        waiting = asyncio.create_task(anext(events))
        await until(state, lambda state: state == "reconnecting")
        assert "network" == events.error.code
        line.mend()
        await publisher.publish(project, 2)
        assert 2 == (await waiting).json()


@pytest.mark.parametrize(("status", "goes_on"), [(503, True), (429, True), (502, True), (401, False), (404, False)])
async def test_a_refusal_ends_it_where_trying_again_cannot_help(
    connect: Connect, hub_url: str, project: str, status: int, goes_on: bool
) -> None:
    async with cutting(port_of(hub_url)) as line:
        line.refusals = [refusal(status)] * 2
        await connect(hub_url).publish(project, 1, final=True)
        events = connect(line.url).subscribe(project)
        if goes_on:
            assert [1] == [event.json() async for event in events]
            assert [] == line.refusals
        else:
            with pytest.raises(EdgeError) as refused:
                await anext(events)
            assert (f"http_{status}", 1) == (refused.value.code, len(line.refusals))
            assert "closed" == events.state


def refusal(status: int) -> bytes:
    return f"HTTP/1.1 {status} No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode()


async def test_a_token_is_asked_for_anew_once(connect: Connect, hub_url: str, project: str) -> None:
    tokens = iter(["a", "b", "c", "d"])
    async with cutting(port_of(hub_url)) as line:
        line.refusals = [refusal(401)]
        client = connect(line.url, token=lambda: next(tokens))
        async with client.subscribe(project):
            assert "c" == next(tokens)
        line.refusals = [refusal(401)] * 3
        with pytest.raises(EdgeError, match="http_401"):
            await anext(connect(line.url, token=lambda: "expired").subscribe(project))
        with pytest.raises(EdgeError, match="http_401"):
            await connect(line.url, token="wrong").publish(project, 1)


async def test_a_token_may_be_a_coroutine() -> None:
    sent = []

    async def token() -> str:
        return "good-token"

    def answer(request: httpx.Request) -> httpx.Response:
        sent.append(request.headers["Authorization"])
        return httpx.Response(201, json={"ticket": "t", "expires_in": 60})

    async with AsyncClient(token=token, transport=httpx.MockTransport(answer)) as client:
        assert "t" == (await client.ticket("p")).ticket
    assert ["Bearer good-token"] == sent


async def test_a_wait_that_is_cancelled_ends_and_the_subscription_goes_on(hub_url: str, project: str) -> None:
    async with AsyncClient(hub_url) as client:
        events = client.subscribe(project)
        for number in range(2):
            waiting = asyncio.create_task(anext(events))
            await client.ready(project, timeout=10)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            await client.publish(project, number)
            assert number == (await anext(events)).json()
        await events.close()
        with pytest.raises(StopAsyncIteration):
            await anext(events)


async def test_the_fake_is_cut_restarted_and_refuses(connect: Connect) -> None:
    hub = FakeHub()
    client = connect(transport=hub, retries=0)
    hub.publish("p", 1)
    async with client.subscribe("p", since="all") as events:
        assert (1, 1) == ((await anext(events)).json(), hub.connections("p"))
        hub.cut("p")
        hub.publish("p", 2)
        assert 2 == (await anext(events)).json()
        hub.restart()
        hub.publish("p", 3)
        assert ["edge.gap", "message"] == [(await anext(events)).type for _ in range(2)]
        hub.refuse(503, "draining")
        with pytest.raises(EdgeError, match="draining"):
            await client.publish("p", 4)
        hub.refuse(None)
        await client.publish("p", 5)
        assert [3, 5] == [event.json() for event in hub.events("p")]
    assert 0 == hub.connections("p")


async def test_the_fake_hands_jobs_to_a_target(connect: Connect) -> None:
    jobs: list[dict[str, object]] = []
    hub = FakeHub(on_job=jobs.append)
    client = connect(transport=hub)
    async with client.subscribe("p"):
        receipt = await client.trigger("p", "render", {"prompt": "a house"})
    assert jobs == hub.jobs
    assert (receipt.id, "render", "p", {"prompt": "a house"}) == tuple(
        jobs[0][field] for field in ("id", "name", "project", "data")
    )
    assert [] == hub.events("p")
