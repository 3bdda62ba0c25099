"""An idempotency key is good on every node, whatever happens to the node that it was used on, and to Redis."""

from __future__ import annotations

import asyncio
import signal

import aiohttp
import pytest

from edge.core.errors import StoreUnavailable
from edge.core.event import Event
from edge.core.idempotency import Answer
from edge.http import publish
from edge.store.base import Keyed
from tests.cluster.conftest import RedisServer
from tests.cluster.nodes import Node, NodeClient, Subscriber, lose_answers, node_process, presume_dead, start_node


async def test_a_key_used_on_one_node_is_known_on_all(nodes: list[Node]) -> None:
    key = {"Idempotency-Key": "once"}
    first = await nodes[0].publish("x", **key)
    assert first == await nodes[1].publish("x", **key)
    assert 422 == (await nodes[2].publish("y", **key))["status"]
    at_once = await asyncio.gather(*(node.publish("z", **{"Idempotency-Key": "race"}) for node in nodes))
    assert 1 == len({answer["id"] for answer in at_once})
    assert 2 == (await nodes[0].get("/projects/p"))["ring"]["events"]


async def test_keys_are_remembered_for_as_long_as_the_node_is_configured_by_now(nodes: list[Node]) -> None:
    node, kept = nodes[0], nodes[0].context.receipts
    idempotency, redis = node.store.idempotency, node.store.redis
    for longest_ms, number in ((1_000, 1), (60_000, 2)):
        kept.keep_seconds = longest_ms / 1000
        for settled in (True, False):
            keyed = Keyed(("publish", "p", f"{number} {settled}"), b"print", publish.published)
            assert await idempotency.claim(keyed) is None
            if settled:
                await idempotency.settle(keyed.key, Answer(200, b"done"))
            else:
                await node.store.publish("p", Event("message", b"1"), 0.0, keyed)
            async with redis.use() as client:
                assert longest_ms - 1_000 < await client.pttl(idempotency._receipt(keyed.key)) <= longest_ms


async def test_a_job_on_its_way_when_its_node_died_is_not_sent_by_another(
    nodes: list[Node], monkeypatch: pytest.MonkeyPatch
) -> None:
    key = ("trigger", "p", "k")
    keyed = Keyed(key, b"print", publish.published)
    first, second = nodes[0].store, nodes[1].store
    assert await first.idempotency.claim(keyed) is None
    await first.idempotency.record_intent(key, "job-1")
    with pytest.raises(TimeoutError):  # its node lives: the repeated request waits for its answer
        await asyncio.wait_for(second.idempotency.claim(keyed), 0.5)
    await presume_dead(nodes[0], monkeypatch)
    answer = await second.idempotency.claim(keyed)
    assert isinstance(answer, Answer)
    assert 502 == answer.status
    assert b'"id":"job-1"' in answer.body
    assert b'"may_have_started":true' in answer.body


async def test_a_key_whose_node_died_before_anything_began_is_free_again(
    nodes: list[Node], monkeypatch: pytest.MonkeyPatch
) -> None:
    key = ("trigger", "p", "k")
    keyed = Keyed(key, b"print", publish.published)
    first, second = nodes[0].store, nodes[1].store
    assert await first.idempotency.claim(keyed) is None
    await presume_dead(nodes[0], monkeypatch)
    assert await second.idempotency.claim(keyed) is None
    with pytest.raises(StoreUnavailable, match="no heartbeat of this node"):
        await first.idempotency.record_intent(key, "job-1")
    await second.idempotency.record_intent(key, "job-2")


async def test_an_event_whose_receipt_was_lost_on_its_way_is_not_published_again(
    nodes: list[Node], monkeypatch: pytest.MonkeyPatch
) -> None:
    key = {"Idempotency-Key": "once"}
    lose_answers(monkeypatch, nodes[0], "append")
    assert 503 == (await nodes[0].publish("x", **key))["status"]
    monkeypatch.undo()
    there = await nodes[1].publish("x", **key)
    here = await nodes[0].publish("x", **key)
    assert (202, 0, True) == (there["status"], there["connections"], there["missed"])
    assert there == here
    assert 1 == (await nodes[2].get("/projects/p"))["ring"]["events"]


async def test_a_job_of_the_stream_whose_receipt_was_lost_is_not_started_again(
    nodes: list[Node], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Subscriber(nodes[2].port) as subscriber:
        lose_answers(monkeypatch, nodes[0], "append")
        order = {"name": "go", "data": 7, "id": "one"}
        assert 503 == (await nodes[0].post("/projects/p/trigger?timeout=10s", order))["status"]
        monkeypatch.undo()
        answer = await nodes[1].post("/projects/p/trigger?timeout=10s", order)
        assert (202, "one", True, "stream") == (
            answer["status"],
            answer["id"],
            answer["dispatched"],
            answer["target"]["kind"],
        )
        await nodes[1].publish("end")
        await subscriber.until(2)
        assert [7, "end"] == subscriber.data


async def test_repeated_trigger_gets_the_answer_of_the_job_that_was_published(
    nodes: list[Node], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Subscriber(nodes[2].port):
        path, order = "/projects/p/trigger?timeout=10s", {"name": "go", "data": 7}
        lose_answers(monkeypatch, nodes[0], "append")
        key = {"Idempotency-Key": "once"}
        async with nodes[0].client.post(path, json=order, headers=key) as lost:
            assert 503 == lost.status
        monkeypatch.undo()
        answers = []
        for node in nodes:
            async with node.client.post(path, json=order, headers=key) as answer:
                assert (202, "true") == (answer.status, answer.headers["Idempotency-Replayed"])
                answers.append(await answer.json())
        assert [answers[0]] * 3 == answers
        assert (1, "acknowledged") == (answers[0]["connections"], answers[0]["confirmed"])


async def test_a_claim_whose_answer_was_lost_is_given_back(nodes: list[Node], monkeypatch: pytest.MonkeyPatch) -> None:
    key = {"Idempotency-Key": "once"}
    lose_answers(monkeypatch, nodes[0], "claim")
    assert 503 == (await nodes[0].publish("x", **key))["status"]
    monkeypatch.undo()
    assert 202 == (await nodes[1].publish("x", **key))["status"]  # with this node's next beat


async def test_answer_that_redis_did_not_confirm_is_recorded_later(
    nodes: list[Node], redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = ("trigger", "p", "k")
    keyed = Keyed(key, b"print", publish.published)
    first, second = nodes[0].store, nodes[1].store
    assert await first.idempotency.claim(keyed) is None
    redis_server.stop()
    await first.idempotency.settle(key, Answer(200, b"done"))
    redis_server.start()
    assert Answer(200, b"done") == await second.idempotency.claim(keyed)


async def test_event_of_a_claim_that_another_node_holds_is_left_out(
    nodes: list[Node], monkeypatch: pytest.MonkeyPatch
) -> None:
    keyed = Keyed(("publish", "p", "k"), b"print", publish.published)
    first, second = nodes[0].store, nodes[1].store
    assert await first.idempotency.claim(keyed) is None
    await presume_dead(nodes[0], monkeypatch)
    assert await second.idempotency.claim(keyed) is None
    late = first.publish("p", Event("message", b"late"), 0.0, keyed)
    beside = first.publish("p", Event("message", b"beside"), 0.0)
    with pytest.raises(StoreUnavailable, match="no heartbeat of this node"):
        await late
    assert 1 == int((await beside).id.rpartition("-")[2])
    receipt = await second.publish("p", Event("message", b"in time"), 0.0, keyed)
    assert 2 == int(receipt.id.rpartition("-")[2])


async def test_a_claim_that_comes_too_late_takes_nothing(nodes: list[Node]) -> None:
    keyed = Keyed(("publish", "p", "k"), b"print", publish.published)
    first, second = nodes[0].store, nodes[1].store
    first.redis.ahead_seconds -= 1000.0  # so this claim seems to have been made long ago
    with pytest.raises(StoreUnavailable, match="took too long"):
        await first.idempotency.claim(keyed)
    assert await second.idempotency.claim(keyed) is None


async def test_all_lines_of_a_key_are_published_or_none(nodes: list[Node], monkeypatch: pytest.MonkeyPatch) -> None:
    """More than one script would take."""
    body = "".join(f'{{"data": {number}}}\n' for number in range(1200))
    headers = {"Content-Type": "application/x-ndjson", "Idempotency-Key": "lines"}
    answers = []
    for node in nodes:
        async with node.client.post("/projects/p/events", data=body, headers=headers) as answer:
            answers.append((answer.status, await answer.json()))
    assert [answers[0]] * 3 == answers
    epoch, _, last = answers[0][1]["last_id"].rpartition("-")
    assert (202, 1200, f"{epoch}-1", "1200") == (
        answers[0][0],
        answers[0][1]["published"],
        answers[0][1]["first_id"],
        last,
    )
    keyed = Keyed(("publish", "q", "k"), b"print", lambda _receipt, _besides: Answer(200, b""), events=1000)
    first, second = nodes[0].store, nodes[1].store
    assert await first.idempotency.claim(keyed) is None
    await presume_dead(nodes[0], monkeypatch)
    assert await second.idempotency.claim(keyed) is None
    event = Event("message", b"x")
    promised = [first.publish("q", event, 0.0, keyed if number == 999 else None) for number in range(1000)]
    beside = first.publish("q", event, 0.0)
    refused = await asyncio.gather(*promised, return_exceptions=True)
    assert [StoreUnavailable] * 1000 == [type(error) for error in refused]
    assert 1 == int((await beside).id.rpartition("-")[2])


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGKILL], ids=["SIGTERM", "SIGKILL"])
async def test_job_whose_node_ends_while_the_target_works_is_not_sent_again(
    redis_server: RedisServer, ending: signal.Signals
) -> None:
    received: list[bytes] = []
    arrived = asyncio.Event()

    async def work(subscriber: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received.append(await subscriber.readuntil(b"\r\n\r\n"))
        arrived.set()
        await subscriber.read()  # until the node is gone
        writer.close()

    server = await asyncio.start_server(work, "127.0.0.1", 0)
    target = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/job"
    other = await start_node(redis_server.url, target=target)
    path, order = "/projects/p/trigger?on_timeout=dispatch&timeout=0s", {"name": "go", "id": "one"}
    try:
        with node_process(redis_server.url, TRIGGER_URL=target, SERVER_DRAIN_SECONDS="0.2") as (process, port):
            client = NodeClient(port)
            first = asyncio.create_task(client.post(path, order))
            async with asyncio.timeout(60):
                await arrived.wait()
            process.send_signal(ending)
            if ending is signal.SIGTERM:
                answer = await first
                assert (503, True) == (answer["status"], answer["may_have_started"])
            else:
                with pytest.raises(aiohttp.ClientError):
                    await first
            await client.client.close()
            await asyncio.to_thread(process.wait)
            repeated = await other.post(path, order)
        assert (502, True, "one") == (repeated["status"], repeated["may_have_started"], repeated["id"])
        assert 1 == len(received)
    finally:
        await other.stop()
        server.close()
        await server.wait_closed()
