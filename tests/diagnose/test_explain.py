"""The three causes of the seed (timing, drop, silence), each as it happens, and the answer that must come."""

from __future__ import annotations

import asyncio
import re
import time

import jwt
import pytest

from tests.observability.rig import running, until

TOKEN = "a-token-of-some-length"
UUID = "8b4aaa39-aa0f-431e-8d36-84407bf862de"


async def test_nothing_is_amiss_where_the_reader_was_there_in_time() -> None:
    async with running() as hub, hub.reader("p"):
        assert await hub.publish("p") == 201
        answer = await hub.explain("p")

    assert "connected" == answer["cause"]
    assert (1, "acknowledged") == (answer["connections"], answer["confirmed"])
    assert [] == answer["todo"]


async def test_timing_events_came_before_the_first_reader() -> None:
    async with running() as hub:
        for _ in range(3):
            assert await hub.publish(UUID) == 202
        await asyncio.sleep(0.15)
        async with hub.reader(UUID):
            answer = await hub.explain(UUID)

    assert "timing" == answer["cause"]
    late = re.search(r"The first reader came [\d.]+ s ago, ([\d.]+) s after the first event", answer["why"])
    assert late is not None
    assert float(late[1]) >= 0.14
    assert "it missed 3 events and got them all on arrival" in answer["why"]
    assert f"POST /projects/{UUID}/trigger" in answer["todo"][0]
    assert {"total": 3, "recovered": 3, "lost": 0, "pending": 0} == answer["misses"]


async def test_timing_a_trigger_gave_up_before_the_first_reader() -> None:
    async with running() as hub:
        assert await hub.trigger("p", "?timeout=50ms") == 409
        async with hub.reader("p"):
            answer = await hub.explain("p")

    assert "timing" == answer["cause"]
    assert "after a trigger had begun to wait for it; the trigger gave up before" in answer["why"]
    kinds = [(fact["kind"], fact["reason"]) for fact in answer["facts"]]
    assert ("trigger", "no_connection") in kinds
    assert ("late", "trigger") in kinds


async def test_a_trigger_that_waited_and_found_its_reader_says_how_long_it_waited() -> None:
    async with running() as hub:
        waiting = asyncio.create_task(hub.trigger("p", "?timeout=10s"))
        await until(lambda: hub.context.readiness.waiting_for("p") == 1)
        assert "Waiting for a reader: 1 request." in (await hub.explain("p"))["answer"]
        await asyncio.sleep(0.1)
        async with hub.reader("p"):
            assert await waiting == 202
            answer = await hub.explain("p")

    assert ("trigger", "waited") in [(fact["kind"], fact["reason"]) for fact in answer["facts"]]
    assert any(re.match(r"A trigger waited 0\.\d\d s for its reader", fact["text"]) for fact in answer["facts"])


async def test_drop_the_reader_left_before_the_events_came() -> None:
    async with running() as hub:
        async with hub.reader("p"):
            pass
        await hub.gone("p")
        assert await hub.publish("p") == 202
        gone = await hub.explain("p")
        async with hub.reader("p"):
            back = await hub.explain("p")

    assert "dropped" == gone["cause"]
    assert "its client closed the stream" in gone["why"]
    assert "Held for the next one: 1 event." in gone["why"]
    assert "dropped" == back["cause"]
    assert "one came back" in back["why"]
    assert "it missed 1 event and got them all on arrival" in back["why"]


async def test_drop_the_reason_is_the_one_that_was_counted() -> None:
    async with running(stream={"max_lifetime_seconds": 0.2, "heartbeat_seconds": 0.1}) as hub, hub.reader("p"):
        await hub.gone("p")
        answer = await hub.explain("p")
        counted = await hub.metrics()

    assert "stream.max_lifetime_seconds" in answer["why"]
    assert counted['edge_connections_removed_total{reason="lifetime"}'] == 1


async def test_silence_nobody_ever_asked() -> None:
    async with running() as hub:
        assert await hub.publish("p") == 202
        answer = await hub.explain("p")

    assert "never_connected" == answer["cause"]
    assert "Nobody has asked for this project's events" in answer["why"]
    assert "GET /projects/p/events" in answer["todo"][0]


@pytest.mark.parametrize(
    ("headers", "code", "said"),
    [
        ({}, "unauthenticated", "(401)"),
        ({"Authorization": "Bearer no-such-token-at-all"}, "unauthenticated", "(401)"),
    ],
)
async def test_silence_the_reader_was_refused_at_the_door(headers: dict[str, str], code: str, said: str) -> None:
    auth = {"token": TOKEN}
    mine = {"Authorization": f"Bearer {TOKEN}"}
    async with running(auth=auth) as hub:
        assert await hub.publish("p", headers=mine) == 202
        for _ in range(2):
            async with hub.reader("p", **headers) as refused:
                assert 401 == refused.status
        async with hub.client.get(
            hub.path("p", "/explain"), headers={**mine, "Accept": "application/json"}
        ) as response:
            answer = await response.json()
        async with hub.client.get(f"{hub.url}/metrics", headers=mine) as response:
            assert f'edge_connections_rejected_total{{reason="{code}"}} 2.0' in await response.text()

    assert "refused" == answer["cause"]
    assert said in answer["why"]
    assert "2 times in all" in answer["why"]
    assert "ticket" in answer["todo"][0]
    assert TOKEN not in str(answer)


async def test_silence_the_reader_asked_under_a_host_name_that_is_not_the_hubs() -> None:
    async with running() as hub:
        assert await hub.publish("p") == 202
        async with hub.reader("p", Host="edge.example.org") as refused:
            assert 421 == refused.status
        answer = await hub.explain("p")

    assert "refused" == answer["cause"]
    assert "server.allowed_hosts" in answer["todo"][0]


async def test_silence_a_limit_stood_in_the_way() -> None:
    async with running(limits={"max_connections": 1}) as hub, hub.reader("other"):
        assert await hub.publish("p") == 202
        async with hub.reader("p") as refused:
            assert 503 == refused.status
        answer = await hub.explain("p")

    assert "refused" == answer["cause"]
    assert "limits.max_connections" in answer["todo"][0]


@pytest.mark.parametrize(
    ("other", "differs"),
    [(UUID.upper(), "upper and lower case"), (UUID.replace("-", ""), "dashes"), (f"{UUID}~", "punctuation")],
)
async def test_silence_the_reader_listens_under_an_id_that_looks_alike(other: str, differs: str) -> None:
    async with running() as hub, hub.reader(other):
        assert await hub.publish(UUID) == 202
        answer = await hub.explain(UUID)

    assert "look_alike" == answer["cause"]
    assert f"1 reader connected to {other!r}" in answer["why"]
    assert f"differs in {differs} only" in answer["why"]
    assert [other] == [found["project"] for found in answer["look_alikes"]]


async def test_silence_the_reader_asked_for_an_id_with_a_space() -> None:
    async with running() as hub:
        assert await hub.publish(UUID) == 202
        async with hub.reader(f"{UUID}%20") as refused:
            assert 400 == refused.status
        answer = await hub.explain(UUID)

    assert "look_alike" == answer["cause"]
    assert f"somebody wanted to read {UUID + ' '!r}" in answer["why"]
    assert "differs in spaces only" in answer["why"]


async def test_a_project_that_the_hub_has_forgotten_is_still_explained() -> None:
    async with running(ring={"max_age_seconds": 0.05}, stream={"heartbeat_seconds": 0.1}) as hub:
        assert await hub.publish("p") == 202
        await until(lambda: "p" not in hub.context.hub.projects)
        answer = await hub.explain("p")

    assert "never_connected" == answer["cause"]
    [fact] = answer["facts"]
    assert "forgotten" == fact["kind"]
    assert "0 got to a later reader, 1 lost" in fact["text"]


async def test_facts_come_newest_first() -> None:
    async with running() as hub:
        await hub.publish("p")
        await hub.trigger("p", "?timeout=20ms")
        async with hub.reader("p"):
            await asyncio.sleep(0.02)
        await hub.gone("p")
        answer = await hub.explain("p")

    times = [fact["at"] for fact in answer["facts"]]
    assert sorted(times, reverse=True) == times
    assert {"published", "missed", "trigger", "late", "left"} == {fact["kind"] for fact in answer["facts"]}


async def test_curl_and_browsers_get_text_and_who_asks_for_json_gets_json() -> None:
    browser = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"
    kinds = {}
    async with running() as hub:
        for accept in ("*/*", browser, "application/json", "application/json, text/plain;q=0.5", "text/plain"):
            async with hub.client.get(hub.path("p", "/explain"), headers={"Accept": accept}) as response:
                kinds[accept] = response.content_type
                assert "Accept" == response.headers["Vary"].split(",")[0]
                assert (await response.text()).startswith("{" if "json" in accept else "p: nobody is connected.\n")

    assert {
        "*/*": "text/plain",
        browser: "text/plain",
        "application/json": "application/json",
        "application/json, text/plain;q=0.5": "application/json",
        "text/plain": "text/plain",
    } == kinds


async def test_an_answer_about_one_project_gives_away_no_other() -> None:
    key = "a-shared-secret-of-32-bytes-or-more!"
    token = jwt.encode({"exp": time.time() + 60, "edge": {"status": ["p", "q"], "publish": ["*"]}}, key, "HS256")
    mine = {"Authorization": f"Bearer {token}", "Accept": "application/json"}
    async with running(auth={"jwt_key": key}) as hub:
        for project in ("p", "P", "q", "Q"):
            assert await hub.publish(project, headers=mine) == 202
        async with hub.client.get(hub.path("p", "/explain"), headers=mine) as response:
            answer = await response.json()
        async with hub.client.get(hub.path("P", "/explain"), headers=mine) as response:
            assert 403 == response.status

    assert [] == answer["look_alikes"]
    assert "'P'" not in str(answer)


async def test_a_refused_id_can_not_forge_a_line_of_the_text() -> None:
    async with running() as hub:
        async with hub.reader("p%0A2026-01-01T00:00:00Z%20%20All%20is%20well") as refused:
            assert 400 == refused.status
        async with hub.reader("p%0A") as refused:
            assert 400 == refused.status
        async with hub.client.get(hub.path("p", "/explain")) as response:
            text = await response.text()

    assert r"'p\n'" in text
    assert "All is well" not in text
