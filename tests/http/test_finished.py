"""Projects that are finished, streams that only look, and history as one document."""

from __future__ import annotations

import asyncio

import pytest

from tests.http.client import Site
from tests.hubs import StartHub

EVENTS = "/projects/p/events"


async def counted(site: Site) -> list[str]:
    text = (await site.ask("GET", "/metrics")).body.decode()
    names = ("edge_connections", "edge_events_delivered", "edge_misses", "edge_gaps", "edge_events_replayed")
    ignored = ("_created", "_oldest_pending_seconds")
    return [line for line in text.splitlines() if line.startswith(names) and not any(part in line for part in ignored)]


async def test_streams_end_once_they_have_the_last_event_and_do_not_come_back(site: Site) -> None:
    async with site.stream() as stream:
        assert 201 == (await site.publish("last", final="true")).status
        last, closing = await stream.take(2)
        assert ("last", "edge.closing", "finished") == (last.data, closing.event, closing.data["reason"])
        assert await stream.ended()
    for params in ({}, {"last_event_id": last.id}, {"since": "none"}, {"observe": "true"}):
        answer = await site.ask("GET", EVENTS, params=params)
        assert (204, b"") == (answer.status, answer.body)
    assert (await site.ask("GET", "/projects/p")).json["finished"]
    async with site.stream(since="all") as late:
        assert ["message", "edge.closing"] == [frame.event for frame in await late.take(2)]
        assert await late.ended()


async def test_publishing_opens_it_again(site: Site) -> None:
    await site.publish(1, final="true")
    await site.publish(2, final="false")
    assert not (await site.ask("GET", "/projects/p")).json["finished"]
    async with site.stream() as stream:
        assert [[b"data: 1"], [b"data: 2"]] == [frame.raw.splitlines()[:1] for frame in await stream.take(2)]
        await site.publish(3)
        assert 3 == (await stream.next()).data


@pytest.mark.parametrize("key", [{}, {"Idempotency-Key": "k"}], ids=["arriving", "whole"])
@pytest.mark.parametrize("text", ["1\n2\n3", "1\n2\n3\n", "\n1\n\n2\n\n3\n\n\n"])
async def test_the_last_line_is_the_last_event(site: Site, key: dict[str, str], text: str) -> None:
    headers = {"Content-Type": "application/x-ndjson", **key}
    lines = "".join(f'{{"data": {line}}}\n' if line else "\n" for line in text.split("\n"))
    async with site.stream() as stream:
        answer = await site.ask("POST", f"{EVENTS}?final=true", data=lines.encode(), headers=headers)
        assert (201, 3) == (answer.status, answer.json["published"])
        assert [1, 2, 3] == [frame.data for frame in await stream.take(3)]
        assert "finished" == (await stream.next()).data["reason"]
    assert (await site.ask("GET", "/projects/p")).json["finished"]


async def test_a_bad_last_line_finishes_nothing(site: Site) -> None:
    headers = {"Content-Type": "application/x-ndjson"}
    answer = await site.ask("POST", f"{EVENTS}?final=true", data=b'{"data": 1}\n\n{"data"', headers=headers)
    assert (400, 3, 1) == (answer.status, answer.problem["line"], answer.problem["published"])
    assert not (await site.ask("GET", "/projects/p")).json["finished"]


@pytest.mark.parametrize("key", [{}, {"Idempotency-Key": "k"}], ids=["arriving", "whole"])
@pytest.mark.parametrize("body", [b"", b"\n \n"])
async def test_lines_without_an_event_finish_nothing_and_say_so(site: Site, key: dict[str, str], body: bytes) -> None:
    headers = {"Content-Type": "application/x-ndjson", **key}
    problem = (await site.ask("POST", f"{EVENTS}?final=true", data=body, headers=headers)).problem
    assert ("invalid_event", 0) == (problem["code"], problem["published"])
    assert "there is no line" in problem["detail"]


async def test_final_is_true_or_false(site: Site) -> None:
    assert 400 == (await site.ask("POST", f"{EVENTS}?final=yes", json={"data": 1})).status
    assert {} == site.context.hub.projects


async def test_a_final_event_and_another_are_not_the_same_to_an_idempotency_key(site: Site) -> None:
    headers = {"Idempotency-Key": "k"}
    assert 202 == (await site.ask("POST", f"{EVENTS}?final=true", json={"data": 1}, headers=headers)).status
    assert 422 == (await site.ask("POST", EVENTS, json={"data": 1}, headers=headers)).status


async def test_an_observer_sees_everything_and_changes_nothing(site: Site) -> None:
    await site.publish(1)
    before = await counted(site)
    async with site.stream(observe="true") as looker:
        assert 1 == looker.hello["replayed"]
        assert 1 == (await looker.next()).data
        assert before == await counted(site)
        receipt = await site.publish(2)
        assert (202, 0, True) == (receipt.status, receipt.json["connections"], receipt.json["missed"])
        assert 2 == (await looker.next()).data
        assert 409 == (await site.ask("GET", "/projects/p/ready?timeout=0.1s")).status
        status = (await site.ask("GET", "/projects/p")).json
        assert (0, [], 2) == (status["connections_total"], status["connections"], status["misses"]["pending"])
        assert b"edge_observers 1.0" in (await site.ask("GET", "/metrics")).body
    async with asyncio.timeout(10):
        while site.context.hub.observers:
            await asyncio.sleep(0.01)
    async with site.stream() as reader:
        assert [1, 2] == [frame.data for frame in await reader.take(2)]


async def test_observing_requires_the_permission_status(start_hub: StartHub) -> None:
    site = await start_hub(auth={"token": ["secret-token-secret-token"], "anonymous": ["subscribe"]})
    assert 401 == (await site.ask("GET", f"{EVENTS}?observe=true")).status
    async with site.stream():
        pass


async def test_history_is_a_document_and_no_delivery(start_hub: StartHub) -> None:
    site = await start_hub(ring={"max_events": 3})
    assert "unknown_project" == (await site.ask("GET", "/projects/p/history")).problem["code"]
    ids = [(await site.publish(number, "tick" if number == 4 else None)).json["id"] for number in range(5)]
    before = await counted(site)
    found = (await site.ask("GET", "/projects/p/history")).json
    assert [(ids[2], "message", "2"), (ids[3], "message", "3"), (ids[4], "tick", "4")] == [
        (event["id"], event["type"], event["data"]) for event in found["events"]
    ]
    assert found["events"][0]["time"].endswith("Z")
    gap = {"asked": "all", "oldest": ids[2], "newest": ids[4], "lost": 2, "reason": "evicted"}
    assert (gap, ids[2], ids[4]) == (found["gap"], found["oldest"], found["newest"])
    assert before == await counted(site)


@pytest.mark.parametrize(
    ("query", "seqs"),
    [
        ("limit=2", [1, 2]),
        ("since=last", [5]),
        ("since=last:2", [4, 5]),
        ("since=10m&limit=1", [1]),
        ("since=none", []),
        ("last_event_id=%ID3%", [4, 5]),
        ("since=%ID4%", [5]),
    ],
)
async def test_history_from_anywhere(site: Site, query: str, seqs: list[int]) -> None:
    ids = [(await site.publish(number)).json["id"] for number in range(5)]
    query = query.replace("%ID3%", ids[2]).replace("%ID4%", ids[3])
    found = (await site.ask("GET", f"/projects/p/history?{query}")).json
    assert seqs == [int(event["id"].rpartition("-")[2]) for event in found["events"]]
    assert None is found["gap"]
