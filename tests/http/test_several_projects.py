"""Several projects over one stream, and one event to several projects."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tests.http.client import Frame, Site, Stream
from tests.hubs import StartHub

AB = [("project", "a"), ("project", "b")]
TOKEN = "secret-token-secret-token"


@asynccontextmanager
async def opened(
    site: Site, *params: tuple[str, str], projects: Sequence[str] = "ab", last_id: str = "", token: str = ""
) -> AsyncIterator[Stream]:
    """A stream of several projects, nothing of it read."""
    query = [*(("project", name) for name in projects), *params]
    headers = {"Last-Event-ID": last_id} if last_id else {}
    headers |= {"Authorization": f"Bearer {token}"} if token else {}
    async with site.session.get(f"{site.url}/events", params=query, headers=headers) as response:
        assert 200 == response.status, await response.text()
        yield Stream(response)


def summary(frames: list[Frame]) -> list[tuple[str, Any]]:
    """What events say, and the projects of the hub's own."""
    return [
        (frame.event, frame.data if not frame.event.startswith("edge.") else frame.data["project"]) for frame in frames
    ]


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.01)


async def places(site: Site, *names: str) -> str:
    """The id of a client that has everything."""
    hub = site.context.hub
    return ",".join(f"{name}:{hub.projects[name].event_id(hub.projects[name].ring.newest)}" for name in names)


async def test_one_stream_has_the_events_of_all_and_ids_name_the_position_in_each(site: Site) -> None:
    await site.publish(1, project="a")
    async with opened(site) as stream:
        hellos = await stream.take(2)
        assert [("edge.hello", "a"), ("edge.hello", "b")] == summary(hellos)
        assert hellos[0].id == hellos[1].id
        replayed = await stream.next()
        await site.publish(2, "progress", project="b")
        live = await stream.next()
        assert [("message", 1), ("progress", 2)] == summary([replayed, live])
        assert await places(site, "a", "b") == live.id
        assert 1 == site.context.hub.connected("a") == site.context.hub.connected("b")
    assert hellos[0].id is not None
    async with opened(site, last_id=hellos[0].id) as stream:
        assert [("message", 1), ("message", 2)] == [("message", frame.data) for frame in (await stream.take(4))[2:]]
    async with opened(site, ("last_event_id", str(replayed.id))) as stream:
        assert [("progress", 2)] == summary((await stream.take(3))[2:])


async def test_types_are_prefixed_on_request(site: Site) -> None:
    async with opened(site, ("prefix", "true")) as stream:
        await stream.take(2)
        await site.publish(1, project="a")
        await site.publish(2, "progress", project="b")
        await site.publish(3, "a/b", project="b")
        assert [("a/message", 1), ("b/progress", 2), ("b/a/b", 3)] == summary(await stream.take(3))


async def test_gaps_and_the_end_name_their_project(start_hub: StartHub) -> None:
    site = await start_hub(ring={"max_events": 2})
    for number in range(4):
        await site.publish(number, project="b")
    async with opened(site, ("since", "all")) as stream:
        frames = await stream.take(5)
        assert [("edge.hello", "a"), ("edge.hello", "b"), ("edge.gap", "b"), ("message", 2), ("message", 3)] == summary(
            frames
        )
        assert ("evicted", 2) == (frames[2].data["reason"], frames[2].data["lost"])
        site.context.drain()
        closing = await stream.take(2)
        assert {("edge.closing", "a"), ("edge.closing", "b")} == set(summary(closing))
        assert {"shutdown"} == {frame.data["reason"] for frame in closing}
        assert await stream.ended()


async def test_a_finished_project_leaves_the_others_and_may_be_opened_again(site: Site) -> None:
    async with opened(site) as stream:
        await stream.take(2)
        await site.publish(1, project="a", final="true")
        event, closing = await stream.take(2)
        assert ([("message", 1), ("edge.closing", "a")], "finished") == (
            summary([event, closing]),
            closing.data["reason"],
        )
        await site.publish(2, project="b")
        await site.publish(3, project="a")
        assert [("message", 2), ("message", 3)] == summary(await stream.take(2))
        await site.publish(4, project="b", final="true")
        assert [("message", 4), ("edge.closing", "b")] == summary(await stream.take(2))
        await site.publish(5, project="a", final="true")
        assert [("message", 5), ("edge.closing", "a")] == summary(await stream.take(2))
        assert await stream.ended()
        last_id = await places(site, "a", "b")
    answer = await site.ask("GET", "/events", params=AB, headers={"Last-Event-ID": last_id})
    assert (204, b"") == (answer.status, answer.body)
    await site.publish(6, project="a")
    async with opened(site, last_id=last_id) as stream:
        frames = await stream.take(4)
        assert [("edge.hello", "a"), ("edge.hello", "b"), ("message", 6), ("edge.closing", "b")] == summary(frames)


async def test_deleting_one_project_ends_the_stream_and_says_why_for_each(site: Site) -> None:
    async with opened(site) as stream:
        await stream.take(2)
        await site.ask("DELETE", "/projects/b")
        closing = await stream.take(2)
        assert [("b", "deleted"), ("a", "restart")] == [(one.data["project"], one.data["reason"]) for one in closing]
        assert await stream.ended()


async def test_an_id_of_one_project_and_one_of_several_are_good_for_both_streams(site: Site) -> None:
    ids = [(await site.publish(number, project="b")).json["id"] for number in range(3)]
    await site.publish(7, project="a")
    for way in ([("last_event_id", ids[1])], [("since", ids[1])], [("since", f"b:{ids[1]}")]):
        async with opened(site, *way) as stream:
            frames = await stream.take(4)
            assert [("edge.hello", "a"), ("edge.hello", "b")] == summary(frames[:2])
            assert [7, 2] == [frame.data for frame in frames[2:]], way
            await site.ask("DELETE", "/projects/a")
            await site.publish(7, project="a")
    async with site.stream("b", last_event_id=f"a:e-1,b:{ids[1]}") as single:
        assert 2 == (await single.next()).data
    async with site.stream("b", last_event_id=f"a:{ids[1]}", since="last") as single:
        assert 2 == (await single.next()).data
    async with opened(site, last_id="nonsense") as stream:
        assert 2 == [frame.event for frame in await stream.take(4)].count("edge.gap")
    async with opened(site, last_id=f"b:{ids[2]},a:x-1") as stream:
        assert ["edge.gap"] == [frame.event for frame in await stream.take(3)][1:2]


async def test_a_duplicate_counts_once_and_too_many_or_none_are_refused(site: Site) -> None:
    async with opened(site, projects="aba") as stream:
        assert [("edge.hello", "a"), ("edge.hello", "b")] == summary(await stream.take(2))
    for method in ("GET", "HEAD", "POST"):
        for params in ([], [("project", f"p{number}") for number in range(33)]):
            answer = await site.ask(method, "/events", params=params, json={"data": 1})
            assert 400 == answer.status
            if method != "HEAD":
                assert ("invalid_parameter", "project") == (answer.problem["code"], answer.problem["parameter"])
    answer = await site.ask("GET", "/events", params=[("project", "a"), ("project", "/")])
    assert "invalid_project" == answer.problem["code"]
    answer = await site.ask("GET", "/events", params=[*AB, ("prefixes", "true")])
    assert "unknown_parameter" == answer.problem["code"]
    assert "unknown_parameter" == (await site.ask("GET", "/projects/p/events?prefix=true")).problem["code"]
    for method in ("GET", "POST"):
        problem = (await site.ask(method, "/events?projects=a&projects=b", json={"data": 1})).problem
        assert ("unknown_parameter", "projects") == (problem["code"], problem["parameter"])
        assert "the nearest is project." in problem["detail"]
    assert {} == site.context.hub.projects


async def test_32_projects_fit(site: Site) -> None:
    names = [f"{'p' * 126}{number:02}" for number in range(32)]
    async with opened(site, projects=names) as stream:
        hellos = await stream.take(32)
        assert names == [hello.data["project"] for hello in hellos]
        await site.publish(1, project=names[-1])
        last = await stream.next()
    async with opened(site, projects=names, last_id=str(last.id)) as stream:
        assert {0} == {hello.data["replayed"] for hello in await stream.take(32)}


async def test_head_opens_nothing_and_http_1_0_is_not_chunked(site: Site) -> None:
    answer = await site.ask("HEAD", "/events", params=AB)
    assert (200, "text/event-stream; charset=utf-8") == (answer.status, answer.headers["Content-Type"])
    assert {} == site.context.hub.projects
    reader, writer = await site.raw(b"GET /events?project=a&project=b HTTP/1.0\r\nHost: localhost\r\n\r\n")
    head = await reader.readuntil(b"\r\n\r\n")
    assert b"chunked" not in head
    assert (await reader.readuntil(b"\n\n")).startswith(b"retry: 1000\nevent: edge.hello\n")
    writer.close()


async def test_one_heartbeat_for_the_whole_stream_and_none_while_a_project_is_busy(start_hub: StartHub) -> None:
    site = await start_hub(stream={"heartbeat_seconds": 0.2})
    async with opened(site, ("heartbeat", "event")) as stream:
        await stream.take(2)
        before = site.context.hub.counters.heartbeats
        assert ["edge.ping"] * 3 == [frame.event for frame in await stream.take(3)]
        assert site.context.hub.counters.heartbeats - before in (2, 3, 4)
        assert "edge.ping" == (await stream.next()).event


async def test_observing_several_projects_counts_as_nothing(site: Site) -> None:
    async with opened(site, ("observe", "true")) as stream:
        await stream.take(2)
        assert 202 == (await site.publish(1, project="a")).status
        assert ("message", 1) == summary([await stream.next()])[0]
        assert 0 == site.context.hub.connected("a")
        assert 2 == len(site.context.hub.observers)


async def test_limits_count_a_connection_in_each_project(start_hub: StartHub) -> None:
    site = await start_hub(limits={"max_connections": 3, "max_connections_per_project": 2, "max_projects": 3})
    async with opened(site) as stream:
        await stream.take(2)
        answer = await site.ask("GET", "/events", params=AB)
        assert ("too_many_connections", 3) == (answer.problem["code"], answer.problem["limit"])
        async with site.stream("a"):
            assert "too_many_connections" == (await site.ask("GET", "/projects/b/events")).problem["code"]
    await until(lambda: not site.context.hub.connections)
    async with site.stream("a"), site.stream("a"):
        answer = await site.ask("GET", "/events", params=[("project", "a")])
        assert "too_many_project_connections" == answer.problem["code"]
    answer = await site.ask("GET", "/events", params=[("project", name) for name in "wxyz"])
    assert 503 == answer.status
    assert not {"w", "x", "y", "z"} & set(site.context.hub.projects)


async def test_limits_of_addresses_and_projects(start_hub: StartHub) -> None:
    site = await start_hub(limits={"max_connections_per_address": 2, "max_projects": 3})
    params = [("project", name) for name in "abc"]
    assert "too_many_address_connections" == (await site.ask("GET", "/events", params=params)).problem["code"]
    await site.publish(project="a")
    await site.publish(project="b")
    answer = await site.ask("POST", "/events", params=[("project", name) for name in "cd"], json={"data": 1})
    assert "too_many_projects" == answer.problem["code"]
    answer = await site.ask("GET", "/events", params=[("project", name) for name in "cd"])
    assert "too_many_projects" == answer.problem["code"]
    assert {"a", "b"} == set(site.context.hub.projects)
    async with site.stream("a") as stream:
        await stream.next()
        await site.connections(1, "a")
    await site.connections(0, "a")
    # Nothing is pending in `a` any more: it makes room, but not for a stream that names it.
    answer = await site.ask("GET", "/events", params=[("project", name) for name in "acd"])
    assert "too_many_address_connections" == answer.problem["code"]
    answer = await site.ask("POST", "/events", params=[("project", name) for name in "acd"], json={"data": 1})
    assert "too_many_projects" == answer.problem["code"]
    async with opened(site, projects="cd") as stream:
        await stream.take(2)
        assert {"b", "c", "d"} == set(site.context.hub.projects)


async def test_permissions_are_checked_for_each_project(start_hub: StartHub) -> None:
    site = await start_hub(auth={"token": [TOKEN]})
    params = [("project", "a"), ("project", "b")]
    assert "unauthenticated" == (await site.ask("GET", "/events", params=params)).problem["code"]
    headers = {"Authorization": f"Bearer {TOKEN}"}
    tickets = [
        (await site.ask("POST", f"/projects/{name}/ticket", headers=headers)).json["ticket"] for name in "ababaab"
    ]
    answer = await site.ask("GET", "/events", params=[*params, ("ticket", tickets[0])])
    assert "unauthenticated" == answer.problem["code"]
    answer = await site.ask("GET", "/events", params=[*params, ("ticket", tickets[1]), ("ticket", tickets[0])])
    assert "unauthenticated" == answer.problem["code"]
    async with opened(site, ("ticket", tickets[2]), ("ticket", tickets[3])) as stream:
        await stream.take(2)
    answer = await site.ask("GET", "/events", params=[*params, ("ticket", tickets[2]), ("ticket", tickets[3])])
    assert "unauthenticated" == answer.problem["code"]
    async with opened(site, *(("ticket", each) for each in tickets[4:]), projects="aab") as stream:
        assert [("edge.hello", "a"), ("edge.hello", "b")] == summary(await stream.take(2))


async def test_a_client_confirms_each_project_for_itself(site: Site) -> None:
    async with opened(site) as stream:
        hello = {frame.data["project"]: frame.data for frame in await stream.take(2)}
        waiting = asyncio.create_task(site.ask("GET", "/projects/b/ready?confirm=client&timeout=20s"))
        probe = (await stream.next()).data
        assert "b" == probe["project"]
        path = f"/projects/b/connections/{hello['b']['connection']}/ack"
        assert 204 == (await site.ask("POST", path, json={"probe": probe["probe"]})).status
        assert 200 == (await waiting).status
        assert 200 == (await site.ask("GET", "/projects/a/ready?timeout=20s")).status
        trigger = await site.ask("POST", "/projects/a/trigger?timeout=20s", json={"name": "job"})
        assert (202, 1) == (trigger.status, trigger.json["connections"])
        while "job" != (frame := await stream.next()).event:
            assert frame.raw.startswith(b":")


# --- publishing ---


async def test_one_event_to_each_and_a_receipt_for_each(site: Site) -> None:
    async with site.stream("a") as stream:
        answer = await site.ask("POST", "/events", params=[("project", "b"), ("project", "a")], json={"data": 5})
        assert 202 == answer.status
        assert [("b", 0, True), ("a", 1, False)] == [
            (one["project"], one["connections"], one["missed"]) for one in answer.json["receipts"]
        ]
        assert 5 == (await stream.next()).data
        async with site.stream("b"):
            answer = await site.ask(
                "POST", "/events", params=[*AB, ("type", "x")], data=b"text", headers={"Content-Type": "text/plain"}
            )
            assert 201 == answer.status
            assert "x" == (await stream.next()).event


async def test_what_a_request_to_several_requires_it_requires_of_each(site: Site) -> None:
    async with site.stream("a"):
        answer = await site.ask("POST", "/events", params=[*AB, ("require", "1")], json={"data": 1})
        assert ("no_connection", "b") == (answer.problem["code"], answer.problem["project"])
        answer = await site.ask("POST", "/events", params=[*AB, ("wait", "0.05s")], json={"data": 1})
        assert ("no_connection", "b") == (answer.problem["code"], answer.problem["project"])
        waiting = asyncio.create_task(site.ask("POST", "/events", params=[*AB, ("wait", "20s")], json={"data": 1}))
        async with site.stream("b") as stream:
            assert 201 == (await waiting).status
            while b"data: 1\n" not in (await stream.next()).raw:
                pass
    assert [1, 1] == [site.context.hub.projects[name].ring.newest for name in "ab"]


async def test_lines_and_bad_events_are_published_to_none(site: Site) -> None:
    answer = await site.ask("POST", "/events", params=AB, data=b"{}", headers={"Content-Type": "application/x-ndjson"})
    assert "unsupported_media_type" == answer.problem["code"]
    assert "invalid_event" == (await site.ask("POST", "/events", params=AB, json={"text": 1})).problem["code"]
    assert {} == site.context.hub.projects


async def test_a_final_event_finishes_each(site: Site) -> None:
    await site.ask("POST", "/events", params=[*AB, ("final", "true")], json={"data": 1})
    assert [True, True] == [site.context.hub.projects[name].finished for name in "ab"]


@pytest.mark.parametrize("store", ["memory", "async", "commit"])
async def test_a_key_publishes_once_to_all(start_hub: StartHub, store: str, tmp_path: Any) -> None:
    settings = {} if store == "memory" else {"url": f"sqlite:{tmp_path / 'h.db'}", "durability": store}
    site = await start_hub(store=settings)
    await until(lambda: site.context.store_problem is None)
    headers = {"Idempotency-Key": "k"}
    async with site.stream("b"):
        first = await site.ask("POST", "/events", params=AB, json={"data": 1}, headers=headers)
        assert [("a", 0), ("b", 1)] == [(one["project"], one["connections"]) for one in first.json["receipts"]]
    for params in (AB, AB[::-1]):
        again = await site.ask("POST", "/events", params=params, json={"data": 1}, headers=headers)
        assert (first.body, "true") == (again.body, again.headers["Idempotency-Replayed"])
    other = await site.ask("POST", "/events", params=AB, json={"data": 2}, headers=headers)
    assert "idempotency_mismatch" == other.problem["code"]
    assert 202 == (await site.ask("POST", "/projects/a/events", json={"data": 1}, headers=headers)).status
    assert [2, 1] == [site.context.hub.projects[name].ring.newest for name in "ab"]
