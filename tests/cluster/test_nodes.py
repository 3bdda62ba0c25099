"""Three nodes around one Redis: one order, one count of who is there, one ledger."""

from __future__ import annotations

import asyncio
import time

import pytest
from redis import Redis

from edge.cluster import presence
from edge.cluster.client import Call
from edge.transport.stream import Stream
from tests.cluster.conftest import RedisServer
from tests.cluster.nodes import Node, Subscriber, lose_answers, numbers, start_node, unreported
from tests.faults.reader import open_stream


async def test_a_project_that_is_finished_on_one_node_is_finished_on_all(nodes: list[Node]) -> None:
    async with Subscriber(nodes[0].port) as a, Subscriber(nodes[1].port) as b:
        await nodes[2].publish("first")
        async with nodes[2].client.post("/projects/p/events?final=true", json={"data": "last"}) as answer:
            assert 201 == answer.status
        for subscriber in (a, b):
            await subscriber.until(2)
            assert "finished" == (await subscriber.until_control("edge.closing"))["reason"]
        for node in nodes:
            assert 204 == (await node.client.get(f"/projects/p/events?last_event_id={a.ids[-1]}")).status


async def test_all_nodes_see_one_order(nodes: list[Node]) -> None:
    async with Subscriber(nodes[0].port) as a, Subscriber(nodes[1].port) as b, Subscriber(nodes[2].port) as c:

        async def publish(node: Node, who: int) -> None:
            for number in range(60):
                receipt = await node.publish([who, number])
                assert receipt["status"] == 201

        await asyncio.gather(*(publish(node, who) for who, node in enumerate(nodes)))
        for subscriber in (a, b, c):
            await subscriber.until(180)
        assert a.ids == b.ids == c.ids
        assert a.data == b.data == c.data
        assert list(range(1, 181)) == numbers(a.ids)
        assert all(a.data.index([who, n]) < a.data.index([who, n + 1]) for who in range(3) for n in range(59))


async def test_client_resumes_on_another_node_without_a_gap(nodes: list[Node]) -> None:
    async with Subscriber(nodes[0].port) as first:
        for number in range(5):
            await nodes[1].publish(number)
        await first.until(5)
    await nodes[1].publish("while away")
    second = Subscriber(nodes[2].port)
    second.ids = first.ids[:3]
    async with second:
        await second.until(6)
        assert [3, 4, "while away"] == second.data
        assert ["edge.hello"] == [name for name, _ in second.controls]


async def test_client_that_is_ahead_of_its_new_node_gets_no_gap_and_no_duplicate(
    nodes: list[Node], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Subscriber(nodes[0].port) as first, Subscriber(nodes[1].port) as slow:
        await nodes[2].publish("seen by both")
        await slow.until(1)
        monkeypatch.setattr(nodes[1].store._replicator, "receive", lambda *_: None)
        await nodes[2].publish("not heard yet")
        await first.until(2)
        second = Subscriber(nodes[1].port)
        second.ids = first.ids.copy()
        async with second:
            await slow.until(2)
            monkeypatch.undo()
            await nodes[2].publish("next")
            await second.until(3)
            assert ["next"] == second.data
            assert ["edge.hello"] == [name for name, _ in second.controls]
            await slow.until(3)
            assert first.ids[:2] == slow.ids[:2]


async def test_more_requests_at_once_than_connections_to_redis_are_all_served(nodes: list[Node]) -> None:
    answers = await asyncio.gather(
        *(nodes[0].publish(number, **{"Idempotency-Key": f"k{number}"}) for number in range(50))
    )
    assert [202] * 50 == [answer["status"] for answer in answers]


async def test_what_was_missed_anywhere_is_recovered_on_any_node(nodes: list[Node]) -> None:
    for number in range(3):
        receipt = await nodes[0].publish(number)
        assert (202, 0, True) == (receipt["status"], receipt["connections"], receipt["missed"])
    assert (3, 0, 0, 3) == await nodes[2].misses()
    async with Subscriber(nodes[1].port) as subscriber:
        await subscriber.until(3)
        await _eventually(nodes[2], (3, 3, 0, 0))
        receipt = await nodes[0].publish("live")
        assert (201, 1, False) == (receipt["status"], receipt["connections"], receipt["missed"])
        await subscriber.until(4)
    await _eventually(nodes[0], (3, 3, 0, 0))
    await _totals(nodes, (3, 3, 0, 0))


async def test_eviction_without_subscribers_is_lost_and_reported_once(redis_server: RedisServer) -> None:
    nodes = [await start_node(redis_server.url, max_events=3) for _ in range(2)]
    for number in range(5):
        await nodes[0].publish(number)
    assert (5, 0, 2, 3) == await nodes[1].misses()
    async with Subscriber(nodes[1].port) as subscriber:
        gap = await subscriber.until_control("edge.gap")
        assert (2, "evicted") == (gap["lost"], gap["reason"])
        await subscriber.until(3)
        await _eventually(nodes[0], (5, 3, 2, 0))
    await nodes[0].counts(0)
    async with Subscriber(nodes[0].port) as later:
        assert ["edge.hello"] == [name for name, _ in later.controls]
    for node in nodes:
        await node.stop()


async def test_connections_of_all_nodes_are_counted(nodes: list[Node]) -> None:
    async with Subscriber(nodes[0].port), Subscriber(nodes[1].port), Subscriber(nodes[1].port):
        await nodes[2].counts(3)
        assert 3 == (await nodes[2].publish("x"))["connections"]
        listed = (await nodes[2].get("/projects"))["projects"]
        assert [("p", 3)] == [(one["project"], one["connections"]) for one in listed]
        answer = await nodes[2].post("/projects/p/events?require=4", {"data": 1})
        assert (409, "no_connection", 3) == (answer["status"], answer["code"], answer["connections"])
        assert 201 == (await nodes[2].post("/projects/p/events?require=3", {"data": 1}))["status"]
    await nodes[2].counts(0)
    assert 0 == (await nodes[2].publish("x"))["connections"]


async def test_trigger_is_released_by_a_connection_on_another_node(nodes: list[Node]) -> None:
    triggered = asyncio.create_task(nodes[0].post("/projects/p/trigger?timeout=10s", {"name": "go", "data": 7}))
    await asyncio.sleep(0.3)
    assert not triggered.done()
    async with Subscriber(nodes[1].port) as subscriber:
        answer = await triggered
        assert (202, 1, "acknowledged") == (answer["status"], answer["connections"], answer["confirmed"])
        await subscriber.until(1)
        assert [7] == subscriber.data


async def test_connections_of_several_nodes_make_a_project_ready(nodes: list[Node]) -> None:
    async with Subscriber(nodes[0].port), Subscriber(nodes[1].port), Subscriber(nodes[1].port):
        answer = await nodes[2].get("/projects/p/ready?connections=3&timeout=5s")
        assert (200, True, "acknowledged") == (answer["status"], answer["ready"], answer["confirmed"])
        assert 3 <= answer["connections"]
        short = await nodes[2].get("/projects/p/ready?connections=4&timeout=300ms")
        assert (409, "no_connection") == (short["status"], short["code"])
    assert all(not node.context.readiness.waiting for node in nodes)


async def test_a_client_may_confirm_through_any_node(nodes: list[Node]) -> None:
    async with Subscriber(nodes[1].port) as subscriber:
        hello = await subscriber.until_control("edge.hello")
        waiting = asyncio.create_task(nodes[0].get("/projects/p/ready?confirm=client&timeout=10s"))
        probe = await subscriber.until_control("edge.probe")
        ack = await nodes[2].post(f"/projects/p/connections/{hello['connection']}/ack", {"probe": probe["probe"]})
        assert 204 == ack["status"]
        answer = await waiting
        assert (200, "client") == (answer["status"], answer["confirmed"])


async def test_deleting_on_one_node_ends_the_streams_of_all(nodes: list[Node]) -> None:
    async with Subscriber(nodes[1].port) as subscriber:
        await nodes[0].publish("x")
        await subscriber.until(1)
        async with nodes[2].client.delete("/projects/p") as answer:
            assert 200 == answer.status
            assert {"project": "p", "connections_closed": 1, "events_dropped": 1} == await answer.json()
        closing = await subscriber.until_control("edge.closing")
        assert "deleted" == closing["reason"]
    await nodes[0].counts(0)
    assert 404 == (await nodes[0].get("/projects/p"))["status"]


async def test_subscriber_gets_an_answer_although_its_project_is_deleted_meanwhile(nodes: list[Node]) -> None:
    """With an unknown id the node loads the project anew, and the load may find it deleted."""
    stop = asyncio.Event()

    async def delete() -> None:
        while not stop.is_set():
            await nodes[0].publish("x")
            async with nodes[0].client.delete("/projects/p") as answer:
                assert answer.status in {200, 404}

    async def subscribe(number: int) -> None:
        headers = {"Last-Event-ID": f"unknown-{number}"}
        async with nodes[1].client.get("/projects/p/events", headers=headers) as answer:
            assert answer.status in {200, 503}
            assert await answer.content.readline()

    deleting = asyncio.create_task(delete())
    try:
        async with asyncio.timeout(60):
            for _ in range(20):
                await asyncio.gather(*map(subscribe, range(8)))
    finally:
        stop.set()
        await deleting


async def test_unacknowledged_events_are_missed_unless_a_connection_elsewhere_has_them(
    nodes: list[Node], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Stream, "acked_bytes", lambda _self: 0)
    async with Subscriber(nodes[1].port) as there:
        async with Subscriber(nodes[0].port) as here:
            await nodes[2].counts(2)
            await nodes[2].publish("x")
            await here.until(1)
            await there.until(1)
        await nodes[2].counts(1)
        assert (0, 0, 0, 0) == await nodes[2].misses()
    await _eventually(nodes[2], (1, 0, 0, 1))
    async with Subscriber(nodes[2].port) as back:
        await back.until(1)
        assert there.ids == back.ids
        await _eventually(nodes[1], (1, 1, 0, 0))


async def test_node_follows_only_projects_with_connections(nodes: list[Node], redis_server: RedisServer) -> None:
    for number in range(50):
        await nodes[0].publish("x", project=f"p{number}")
    assert 0 == len(nodes[1].context.hub.projects)
    async with Subscriber(nodes[1].port, "p7"):
        assert ["p7"] == list(nodes[1].context.hub.projects)
    for _ in range(1200):
        if not nodes[1].context.hub.projects:
            break
        await asyncio.sleep(0.05)
    assert {} == nodes[1].context.hub.projects


async def _eventually(node: Node, misses: tuple[int, int, int, int]) -> None:
    for _ in range(1200):
        if await node.misses() == misses:
            break
        await asyncio.sleep(0.05)
    assert misses == await node.misses()


async def test_one_node_reports_the_totals_of_all(nodes: list[Node], redis_server: RedisServer) -> None:
    for number in range(3):
        await nodes[0].publish(number)
    await nodes[1].publish("elsewhere", project="q")
    await _totals(nodes, (4, 0, 0, 4))
    async with Subscriber(nodes[2].port) as subscriber:
        await subscriber.until(3)
        await _totals(nodes, (4, 3, 0, 1))
    async with nodes[1].client.delete("/projects/q") as answer:
        assert 200 == answer.status
    await _totals(nodes, (4, 3, 1, 0))
    later = await start_node(redis_server.url)
    for node in nodes:
        await node.stop()
    nodes.clear()
    await _totals([later], (4, 3, 1, 0))
    await later.stop()


async def test_totals_are_even_though_an_answer_of_redis_was_lost(
    nodes: list[Node], monkeypatch: pytest.MonkeyPatch
) -> None:
    lose_answers(monkeypatch, nodes[0], "append")
    assert 503 == (await nodes[0].publish("stored all the same"))["status"]
    lose_answers(monkeypatch, nodes[1], "recovered", once=True)
    async with Subscriber(nodes[1].port) as subscriber:
        await subscriber.until(1)
        await _totals(nodes, (1, 1, 0, 0))


async def test_counters_never_fall_when_redis_comes_back_empty(nodes: list[Node], redis_server: RedisServer) -> None:
    for number in range(3):
        await nodes[0].publish(number)
    async with Subscriber(nodes[2].port) as subscriber:
        await subscriber.until(3)
    await nodes[0].counts(0)
    await nodes[0].publish("pending")
    await _totals(nodes, (4, 3, 0, 1))
    redis_server.empty()
    await _totals(nodes, (4, 3, 1, 0))
    await nodes[0].publish("in the new epoch")
    await _totals(nodes, (5, 3, 1, 1))


async def test_node_that_has_heard_less_does_not_report_in_place_of_the_one_that_did(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redis comes back empty, and the first heartbeat is that of another node."""
    reporter = await start_node(redis_server.url)
    await _totals([reporter], (0, 0, 0, 0))
    other = await start_node(redis_server.url)
    heartbeats = {node: node.store._heartbeat for node in (reporter, other)}
    for node in heartbeats:
        monkeypatch.setattr(node.store, "_heartbeat", lambda: asyncio.sleep(0))
    await asyncio.sleep(0.1)
    for number in range(3):
        await reporter.publish(number)
    await heartbeats[reporter]()
    before = (await reporter.metrics())["edge_misses_total"]
    redis_server.empty()
    await heartbeats[other]()
    assert "edge_misses_total" not in await other.metrics()
    await heartbeats[reporter]()
    assert before == (await reporter.metrics())["edge_misses_total"] == 3
    await _totals([reporter, other], (3, 0, 3, 0))
    for node in heartbeats:
        monkeypatch.undo()
        await node.stop()


async def test_pending_misses_over_age_are_lost_and_reported(redis_server: RedisServer) -> None:
    nodes = [await start_node(redis_server.url, max_age_seconds=1.0) for _ in range(2)]
    for number in range(3):
        await nodes[0].publish(number)
    await _totals(nodes, (3, 0, 3, 0))
    assert (3, 0, 3, 0) == await nodes[1].misses()
    # What was written to a connection that was reset at once may not have been read.
    reader = await open_stream(("127.0.0.1", nodes[0].port), "p")
    assert "edge.gap" == (await reader.frame()).type
    await nodes[1].counts(1)
    reader.reset()
    await nodes[1].counts(0)
    while unreported(nodes[0].store):
        await asyncio.sleep(0.02)
    async with Subscriber(nodes[1].port) as subscriber:
        gap = await subscriber.until_control("edge.gap")
        assert (3, "evicted") == (gap["lost"], gap["reason"])
    for node in nodes:
        await node.stop()


async def _totals(nodes: list[Node], misses: tuple[int, int, int, int]) -> None:
    """One node's counters are soon `misses`: all, recovered, lost, pending. They are even at every moment."""
    names = ("edge_misses_total", "edge_misses_recovered_total", "edge_misses_lost_total", "edge_misses_pending")
    found: list[list[float]] = []
    for _ in range(1200):
        metrics = [await node.metrics() for node in nodes]
        found = [[one[name] for name in names] for one in metrics if names[0] in one]
        assert all(total == recovered + lost + pending for total, recovered, lost, pending in found), found
        if found == [list(misses)]:
            return
        await asyncio.sleep(0.1)
    raise AssertionError(f"{found} instead of {misses}")


async def test_overrun_events_are_lost_unless_a_connection_elsewhere_has_them(
    redis_server: RedisServer,
) -> None:
    nodes = [await start_node(redis_server.url, max_events=3) for _ in range(2)]
    async with Subscriber(nodes[0].port) as slow:
        for evenly in (False, True):
            hub = nodes[0].context.hub
            (connection,) = hub.connections.values()
            await nodes[1].publish("before")
            await slow.until(5 if evenly else 1)
            hub.paused(connection, nodes[0].context.clock())
            if evenly:
                async with Subscriber(nodes[1].port, query="?since=none") as beside:
                    await nodes[1].counts(2)
                    for number in range(5):
                        await nodes[1].publish(number)
                    await beside.until(5)
                    await _newest(nodes[0], nodes[1])
            else:
                for number in range(5):
                    await nodes[1].publish(number)
                await _newest(nodes[0], nodes[1])
            hub.drained(connection, nodes[0].context.clock())
            await slow.until(8 if evenly else 4)
            assert [2, 3, 4] == slow.data[-3:]
            assert 2 == slow.controls[-1][1]["lost"]
            await _eventually(nodes[1], (2, 0, 2, 0))
    await _totals(nodes, (2, 0, 2, 0))
    for node in nodes:
        await node.stop()


async def _newest(node: Node, source: Node) -> None:
    """Wait until `node` has heard of all there is."""
    newest = (await source.get("/projects/p"))["ring"]["newest"]
    for _ in range(1200):
        if node.context.hub.projects["p"].newest_id == newest:
            return
        await asyncio.sleep(0.05)
    raise AssertionError("the node doesn't hear")


async def test_project_of_version_0_1_is_read_and_goes_on(redis_server: RedisServer) -> None:
    client = Redis(host=redis_server.host, port=redis_server.port)
    for seq in range(1, 4):
        client.xadd("edge:{p}:stream", {"t": str(time.time()), "e": f"event: old\ndata: {seq}\n\n"}, id=f"{seq}-0")
    client.hset(
        "edge:{p}:meta", mapping={"epoch": "abc", "seq": 3, "bytes": 60, "misses": 2, "recovered": 0, "lost": 0}
    )
    client.zadd("edge:{p}:pending", {"2": 2, "3": 3})
    client.hset("edge:pending", mapping={"": 2, "p": 2})
    client.zadd("edge:aging", {"p": time.time()})
    client.zadd("edge:projects", {"p": time.time()})
    client.close()
    node = await start_node(redis_server.url)
    try:
        await _totals([node], (2, 0, 0, 2))
        async with Subscriber(node.port, query="?since=all") as subscriber:
            await node.publish("new")
            await subscriber.until(4)
            assert [1, 2, 3, "new"] == subscriber.data
            assert [f"abc-{seq}" for seq in range(1, 5)] == subscriber.ids
        await _totals([node], (2, 2, 0, 0))
    finally:
        await node.stop()


async def test_project_finished_on_one_node_is_finished_on_all(nodes: list[Node]) -> None:
    async with Subscriber(nodes[1].port) as subscriber:
        await nodes[0].publish("first")
        last = await nodes[0].post("/projects/p/events?final=true", {"data": "last"})
        assert 201 == last["status"]
        closing = await subscriber.until_control("edge.closing")
        assert ("finished", ["first", "last"]) == (closing["reason"], subscriber.data)
    for node in nodes:
        async with node.client.get("/projects/p/events", headers={"Last-Event-ID": last["id"]}) as answer:
            assert 204 == answer.status
    await nodes[2].publish("open again")
    async with Subscriber(nodes[1].port, query="?since=all") as again:
        await again.until(3)
        assert ["first", "last", "open again"] == again.data


async def test_observers_and_history_count_as_nothing_on_any_node(nodes: list[Node]) -> None:
    async with Subscriber(nodes[1].port, query="?observe=true") as observer:
        receipt = await nodes[0].publish("x")
        assert (202, 0, True) == (receipt["status"], receipt["connections"], receipt["missed"])
        await observer.until(1)
        history = await nodes[2].get("/projects/p/history")
        assert (200, [receipt["id"]]) == (history["status"], [event["id"] for event in history["events"]])
        for node in nodes:
            await _totals(nodes, (1, 0, 0, 1))
            assert 0 == (await node.get("/projects/p"))["connections_total"]
        ready = await nodes[0].get("/projects/p/ready?timeout=300ms")
        assert 409 == ready["status"]
    async with Subscriber(nodes[2].port) as subscriber:
        await subscriber.until(1)
    await _totals(nodes, (1, 1, 0, 0))


async def test_no_turn_reports_on_all_projects(nodes: list[Node], monkeypatch: pytest.MonkeyPatch) -> None:
    """After a restart of Redis a node has all its projects to report. Counts work, never time."""
    reporter, made = nodes[0].store._presence, [0]
    presence_of = reporter._presence

    def counted(name: str) -> Call:
        made[-1] += 1
        return presence_of(name)

    monkeypatch.setattr(reporter, "_presence", counted)
    projects = 3 * presence._PROJECTS_AT_ONCE
    for number in range(projects):
        reporter.changed(f"p{number}")
    while unreported(nodes[0].store):
        made.append(0)
        await asyncio.sleep(0)
    assert (projects, presence._PROJECTS_AT_ONCE) == (sum(made), max(made))
