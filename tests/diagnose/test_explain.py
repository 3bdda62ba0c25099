"""The three causes of the first bug report (timing, drop, silence), as they happen, and the expected answer."""

from __future__ import annotations

import asyncio
import re

import pytest

from edge.diagnose.observer import Fact
from tests.observability.rig import running, until

TOKEN = "a-token-of-some-length"
UUID = "8b4aaa39-aa0f-431e-8d36-84407bf862de"


@pytest.mark.linux
async def test_connected_in_time() -> None:
    async with running() as hub, hub.subscriber("p"):
        assert await hub.publish("p") == 201
        answer = await hub.explain("p")

    assert "connected" == answer["cause"]
    assert (1, "acknowledged") == (answer["connections"], answer["confirmed"])
    assert [] == answer["todo"]


async def test_timing_events_before_the_first_subscriber() -> None:
    async with running() as hub:
        for _ in range(3):
            assert await hub.publish(UUID) == 202
        await asyncio.sleep(0.15)
        async with hub.subscriber(UUID):
            answer = await hub.explain(UUID)

    assert "timing" == answer["cause"]
    late = re.search(r"The first subscriber connected [\d.]+ m?s ago, ([\d.]+) s after the first event", answer["why"])
    assert late is not None
    assert float(late[1]) >= 0.14
    assert "3 missed events recovered on arrival" in answer["why"]
    assert f"POST /projects/{UUID}/trigger" in answer["todo"][0]
    assert {"total": 3, "recovered": 3, "lost": 0, "pending": 0} == answer["misses"]


async def test_timing_trigger_timed_out_before_the_first_subscriber() -> None:
    async with running() as hub:
        assert await hub.trigger("p", "?timeout=50ms") == 409
        async with hub.subscriber("p"):
            answer = await hub.explain("p")

    assert "timing" == answer["cause"]
    assert "after a trigger began to wait; the trigger had timed out" in answer["why"]
    kinds = [(fact["kind"], fact["reason"]) for fact in answer["facts"]]
    assert ("trigger", "no_connection") in kinds
    assert ("late", "trigger") in kinds


async def test_a_trigger_that_waited_says_how_long() -> None:
    async with running() as hub:
        waiting = asyncio.create_task(hub.trigger("p", "?timeout=10s"))
        await until(lambda: hub.context.readiness.waiting_for("p") == 1)
        assert "1 request waiting for a subscriber." in (await hub.explain("p"))["answer"]
        await asyncio.sleep(0.1)
        async with hub.subscriber("p"):
            assert await waiting == 202
            answer = await hub.explain("p")

    assert ("trigger", "waited") in [(fact["kind"], fact["reason"]) for fact in answer["facts"]]
    assert any(re.match(r"A trigger waited [\d.]+ s for a subscriber", fact["text"]) for fact in answer["facts"])


async def test_dropped_before_the_events() -> None:
    async with running() as hub:
        async with hub.subscriber("p"):
            pass
        await hub.gone("p")
        assert await hub.publish("p") == 202
        gone = await hub.explain("p")
        async with hub.subscriber("p"):
            back = await hub.explain("p")

    assert "dropped" == gone["cause"]
    assert "its client closed the stream" in gone["why"]
    assert "1 event kept for the next one." in gone["why"]
    assert "dropped" == back["cause"]
    assert "One reconnected" in back["why"]
    assert "1 missed event recovered on arrival" in back["why"]


async def test_dropped_for_the_counted_reason() -> None:
    async with running(stream={"max_lifetime_seconds": 0.2, "heartbeat_seconds": 0.1}) as hub, hub.subscriber("p"):
        await hub.gone("p")
        answer = await hub.explain("p")
        counted = await hub.metrics()

    assert "stream.max_lifetime_seconds" in answer["why"]
    assert counted['edge_connections_removed_total{reason="lifetime"}'] == 1


async def test_never_connected() -> None:
    async with running() as hub:
        assert await hub.publish("p") == 202
        answer = await hub.explain("p")

    assert "never_connected" == answer["cause"]
    assert "No subscriber has connected to this project" in answer["why"]
    assert "GET /projects/p/events" in answer["todo"][0]


@pytest.mark.parametrize(
    ("headers", "code", "part"),
    [
        ({}, "unauthenticated", "(401)"),
        ({"Authorization": "Bearer no-such-token-at-all"}, "unauthenticated", "(401)"),
    ],
)
async def test_refused_without_a_token(headers: dict[str, str], code: str, part: str) -> None:
    auth = {"token": [TOKEN]}
    mine = {"Authorization": f"Bearer {TOKEN}"}
    async with running(auth=auth) as hub:
        assert await hub.publish("p", headers=mine) == 202
        for _ in range(2):
            async with hub.subscriber("p", **headers) as refused:
                assert 401 == refused.status
        async with hub.client.get(
            hub.path("p", "/explain"), headers={**mine, "Accept": "application/json"}
        ) as response:
            answer = await response.json()
        async with hub.client.get(f"{hub.url}/metrics", headers=mine) as response:
            assert f'edge_connections_rejected_total{{reason="{code}"}} 2.0' in await response.text()

    assert "refused" == answer["cause"]
    assert part in answer["why"]
    assert "2 times in all" in answer["why"]
    assert "ticket" in answer["todo"][0]
    assert TOKEN not in str(answer)


@pytest.mark.parametrize(("method", "query", "counted"), [("GET", "?observe=true", 1), ("HEAD", "", 0)])
async def test_what_would_be_no_subscriber_is_no_refused_one(method: str, query: str, counted: int) -> None:
    async with running(auth={"token": [TOKEN]}) as hub:
        async with hub.client.request(method, hub.path("p", f"/events{query}")) as refused:
            assert 401 == refused.status
        assert [] == hub.context.history.facts("p")
        assert counted == hub.context.hub.counters.rejected["unauthenticated"]


async def test_refused_for_the_host_name() -> None:
    async with running() as hub:
        assert await hub.publish("p") == 202
        async with hub.subscriber("p", Host="edge.example.org") as refused:
            assert 421 == refused.status
        answer = await hub.explain("p")

    assert "refused" == answer["cause"]
    assert "server.allowed_hosts" in answer["todo"][0]


async def test_refused_by_a_limit() -> None:
    async with running(limits={"max_connections": 1}) as hub, hub.subscriber("other"):
        assert await hub.publish("p") == 202
        async with hub.subscriber("p") as refused:
            assert 503 == refused.status
        answer = await hub.explain("p")

    assert "refused" == answer["cause"]
    assert "limits.max_connections" in answer["todo"][0]


async def test_a_dropped_project_is_still_explained() -> None:
    async with running(ring={"max_age_seconds": 0.05}, stream={"heartbeat_seconds": 0.1}) as hub:
        assert await hub.publish("p") == 202
        await until(lambda: "p" not in hub.context.hub.projects)
        answer = await hub.explain("p")

    assert "never_connected" == answer["cause"]
    [fact] = answer["facts"]
    assert "forgotten" == fact["kind"]
    assert "0 recovered, 1 lost" in fact["text"]


async def test_facts_are_newest_first() -> None:
    async with running() as hub:
        await hub.publish("p")
        await hub.trigger("p", "?timeout=20ms")
        async with hub.subscriber("p"):
            await asyncio.sleep(0.02)
        await hub.gone("p")
        answer = await hub.explain("p")

    times = [fact["at"] for fact in answer["facts"]]
    assert sorted(times, reverse=True) == times
    assert {"published", "missed", "trigger", "late", "left"} == {fact["kind"] for fact in answer["facts"]}


async def test_text_for_curl_and_browsers_json_on_request() -> None:
    browser = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"
    kinds = {}
    async with running() as hub:
        for accept in ("*/*", browser, "application/json", "application/json, text/plain;q=0.5", "text/plain"):
            async with hub.client.get(hub.path("p", "/explain"), headers={"Accept": accept}) as response:
                kinds[accept] = response.content_type
                assert "Accept" == response.headers["Vary"].split(",")[0]
                assert (await response.text()).startswith(
                    "{" if "json" in accept else "p: no subscriber is connected.\n"
                )

    assert {
        "*/*": "text/plain",
        browser: "text/plain",
        "application/json": "application/json",
        "application/json, text/plain;q=0.5": "application/json",
        "text/plain": "text/plain",
    } == kinds


async def test_an_answer_costs_no_look_at_other_projects(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running() as hub:
        for number in range(50):
            assert await hub.publish(f"other-{number}") == 202
        seen: list[str] = []
        facts = hub.context.history.facts

        def counted(name: str) -> list[Fact]:
            seen.append(name)
            return facts(name)

        monkeypatch.setattr(hub.context.history, "facts", counted)
        answer = await hub.explain("p")

    assert ["p"] == seen
    assert "other-" not in str(answer)
