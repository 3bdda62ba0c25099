from __future__ import annotations

import asyncio
import json
import re
from typing import Any

import pytest

from tests.http.client import Answer, Site, Stream
from tests.hubs import StartHub
from tests.triggers.receiver import Receiver, Reply, answer, receiving

TRIGGER = "/projects/p/trigger"


async def event(stream: Stream) -> tuple[str, Any]:
    """The next event that isn't one of the hub's own comments."""
    while True:
        frame = await stream.next()
        if frame.id is not None:
            return frame.event, frame.data


async def abandoned(site: Site, *, key: str | None = None) -> asyncio.StreamWriter:
    """A caller that has sent its trigger and will never read the answer."""
    body = b'{"name": "job", "data": 1}'
    line = "" if key is None else f"Idempotency-Key: {key}\r\n"
    head = f"POST {TRIGGER}?timeout=20s HTTP/1.1\r\nHost: localhost\r\n{line}Content-Length: {len(body)}\r\n\r\n"
    _, writer = await site.raw(head.encode() + body)
    return writer


async def goes_away(writer: asyncio.StreamWriter) -> None:
    writer.close()
    await writer.wait_closed()


async def until_waiting(site: Site, count: int) -> None:
    while site.context.readiness.waiting != count:
        await asyncio.sleep(0.005)


def outcomes(site: Site) -> dict[str, int]:
    return {outcome: count for outcome, count in site.context.triggers.outcomes.items() if count}


@pytest.mark.linux
async def test_it_blocks_until_a_subscriber_is_there_and_then_starts_the_job(site: Site) -> None:
    triggering = asyncio.create_task(site.trigger({"name": "api/iterate", "data": {"a": 1}}, timeout="20s"))
    await until_waiting(site, 1)
    async with site.stream() as stream:
        assert ("api/iterate", {"a": 1}) == await event(stream)
        answered = await triggering
    assert 202 == answered.status
    document = answered.json
    receipt = document["target"].pop("answer")
    expected = {
        "project": "p",
        "id": document["id"],
        "name": "api/iterate",
        "waited_ms": document["waited_ms"],
        "connections": 1,
        "confirmed": "acknowledged",
        "dispatched": True,
        "target": {"kind": "stream", "status": 201, "attempts": 1},
    }
    assert expected == document
    assert re.fullmatch(r"trg_[0-9a-f]{24}", document["id"])
    assert ("p", 1) == (receipt["project"], receipt["connections"])
    assert {"dispatched": 1} == outcomes(site)


async def test_it_starts_at_once_with_a_subscriber(site: Site) -> None:
    async with site.stream() as stream:
        assert 202 == (await site.trigger()).status
        assert ("job", None) == await event(stream)


async def test_without_a_subscriber_in_time_nothing_starts(site: Site) -> None:
    answered = await site.trigger(timeout="20ms")
    problem = answered.problem
    assert ("no_connection", "p", 0) == (problem["code"], problem["project"], problem["connections"])
    assert "1" == answered.headers["Retry-After"]
    assert "GET /projects/p/events" in problem["detail"]
    assert ({"no_connection": 1}, {}) == (outcomes(site), site.context.hub.projects)


async def test_a_job_that_is_no_event_of_the_stream_does_not_wait_for_a_subscriber(start_hub: StartHub) -> None:
    site = await start_hub(limits={"max_event_bytes": 10})
    answered = await site.ask("POST", TRIGGER, json={"name": "job", "data": "x" * 9}, params={"timeout": "60s"})
    assert (413, "event_too_large", 10) == (answered.status, answered.problem["code"], answered.problem["limit_bytes"])
    assert {} == outcomes(site)


async def test_the_default_time_out_is_configured(start_hub: StartHub) -> None:
    site = await start_hub(trigger={"wait_seconds": 0.02})
    assert "within 0.02 s" in (await site.trigger()).problem["detail"]


async def test_on_timeout_dispatch_starts_the_job_without_a_subscriber(site: Site) -> None:
    answered = await site.trigger(timeout="20ms", on_timeout="dispatch")
    document = answered.json
    assert (202, 0, None, True) == (
        answered.status,
        document["connections"],
        document["confirmed"],
        document["dispatched"],
    )
    assert 202 == document["target"]["status"]
    assert document["waited_ms"] >= 20
    async with site.stream() as stream:
        assert ("job", None) == await event(stream)


async def test_connections_asks_for_that_many(site: Site) -> None:
    async with site.stream():
        assert 409 == (await site.trigger(connections="2", timeout="100ms")).status
        triggering = asyncio.create_task(site.trigger(connections="2", timeout="20s"))
        await until_waiting(site, 1)
        async with site.stream():
            assert 2 == (await triggering).json["connections"]


async def test_many_wait_for_one_reader(site: Site) -> None:
    triggering = [asyncio.create_task(site.trigger({"name": f"job{n}"}, timeout="20s")) for n in range(20)]
    await until_waiting(site, 20)
    async with site.stream() as stream:
        assert {f"job{n}" for n in range(20)} == {(await event(stream))[0] for _ in range(20)}
        assert [202] * 20 == [(await each).status for each in triggering]


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ("", "Send"),
        ("{}", "required field `name`"),
        ('{"name": ""}', "name the job"),
        ('{"name": "edge.x"}', "are reserved"),
        ('{"name": "a\\nb"}', "CR, LF or NUL"),
        ('{"name": "j", "extra": 1}', "unknown field"),
        ('{"name": "j", "id": ""}', "id must have"),
        ('{"name": "j", "id": "a.b"}', "id must have"),
        ('{"name": "j", "id": "' + "x" * 129 + '"}', "id must have"),
        ('{"name": "j", "data": ' + "[" * 500_000 + "]" * 500_000 + "}", "nested too deeply"),
        (b'{"name": "j", "data": "\xff"}', "UTF-8"),
    ],
)
async def test_what_is_no_trigger_is_refused_at_once(site: Site, body: str, sentence: str) -> None:
    problem = (await site.ask("POST", TRIGGER, data=body, headers={"Content-Type": "application/json"})).problem
    assert "invalid_trigger" == problem["code"]
    assert sentence in problem["detail"]


@pytest.mark.parametrize(
    ("params", "parameter"),
    [
        ({"timeout": "61s"}, "timeout"),
        ({"timeout": "soon"}, "timeout"),
        ({"connections": "0"}, "connections"),
        ({"connections": "many"}, "connections"),
        ({"on_timeout": "hope"}, "on_timeout"),
    ],
)
async def test_parameters_that_cant_be_read(site: Site, params: Any, parameter: str) -> None:
    problem = (await site.trigger(**params)).problem
    assert ("invalid_parameter", parameter) == (problem["code"], problem["parameter"])


async def test_a_caller_that_goes_away_while_waiting_leaves_nothing_behind(site: Site) -> None:
    writer = await abandoned(site)
    await until_waiting(site, 1)
    await goes_away(writer)
    await until_waiting(site, 0)
    async with site.stream() as stream:
        await site.publish("end")
        assert ("message", "end") == await event(stream)
    assert {"cancelled": 1} == outcomes(site)


class Gate:
    """A target that answers on command."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.reply: Reply = answer(202, b'{"queued": true}')

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self.open.wait()
        await self.reply(reader, writer)


def to(receiver: Receiver) -> dict[str, Any]:
    return {"url": receiver.url, "retries": 0}


async def test_a_caller_that_goes_away_during_the_dispatch_does_not_stop_it(start_hub: StartHub) -> None:
    gate = Gate()
    async with receiving(gate) as receiver:
        site = await start_hub(trigger=to(receiver))
        async with site.stream():
            writer = await abandoned(site, key="k")
            await receiver.requested.wait()
            await goes_away(writer)
            again = asyncio.create_task(site.trigger({"name": "job", "data": 1}, headers={"Idempotency-Key": "k"}))
            await asyncio.sleep(0.05)
            assert not again.done()
            gate.open.set()
            answered = await again
    assert (202, "true") == (answered.status, answered.headers["Idempotency-Replayed"])
    assert {"queued": True} == answered.json["target"]["answer"]
    assert 1 == len(receiver.requests)
    assert {"dispatched": 1, "replayed": 1} == outcomes(site)


async def test_a_webhook_gets_the_job(start_hub: StartHub) -> None:
    async with receiving(answer(201, b"thanks")) as receiver:
        site = await start_hub(trigger=to(receiver))
        async with site.stream():
            body = {"name": "api/iterate", "id": "job-1", "data": {"a": [1]}}
            document = (await site.trigger(body)).json
    expected = {"kind": "webhook", "status": 201, "attempts": 1, "answer": "thanks"}
    assert ("job-1", expected) == (document["id"], document["target"])
    [request] = receiver.requests
    sent = json.loads(request.body)
    assert {"id": "job-1", "name": "api/iterate", "ts": sent["ts"], "project": "p", "data": {"a": [1]}} == sent


async def test_a_job_that_may_have_started_is_not_sent_again(start_hub: StartHub) -> None:
    async with receiving(answer(500), answer(200)) as receiver:
        site = await start_hub(trigger=to(receiver))
        async with site.stream():
            first = await site.trigger({"name": "job", "id": "1"})
            again = await site.trigger({"name": "job", "id": "1"})
    expected = {"code": "dispatch_failed", "attempts": 1, "last_status": 500, "may_have_started": True}
    assert expected == {name: first.problem[name] for name in expected}
    assert (502, first.problem) == (again.status, again.problem)
    assert "true" == again.headers["Idempotency-Replayed"]
    assert 1 == len(receiver.requests)
    assert {"failed": 1, "replayed": 1} == outcomes(site)


async def test_a_refused_job_is_sent_again(start_hub: StartHub) -> None:
    async with receiving(answer(401), answer(200)) as receiver:
        site = await start_hub(trigger=to(receiver))
        async with site.stream():
            refused = await site.trigger({"name": "job", "id": "1"})
            again = await site.trigger({"name": "job", "id": "1"})
    assert (502, False) == (refused.status, refused.problem["may_have_started"])
    assert 202 == again.status
    assert "Idempotency-Replayed" not in again.headers
    assert {"failed": 1, "dispatched": 1} == outcomes(site)


async def test_a_webhook_is_not_named_to_the_caller(start_hub: StartHub) -> None:
    async with receiving(answer(500)) as receiver:
        site = await start_hub(trigger=to(receiver))
        async with site.stream():
            failed = await site.trigger()
    assert str(receiver.port).encode() not in failed.body


async def test_a_busy_webhook_hands_its_retry_after_on(start_hub: StartHub) -> None:
    async with receiving(answer(429, Retry_After="60")) as receiver:
        site = await start_hub(trigger=to(receiver))
        async with site.stream():
            answered = await site.trigger()
    assert ("dispatch_failed", "60") == (answered.problem["code"], answered.headers["Retry-After"])


async def test_a_hub_that_leaves_answers_those_who_wait(site: Site) -> None:
    triggering = asyncio.create_task(site.trigger(timeout="20s"))
    await until_waiting(site, 1)
    site.context.drain()
    answered = await triggering
    assert ("draining", "1") == (answered.problem["code"], answered.headers["Retry-After"])
    assert "draining" == (await site.trigger()).problem["code"]


async def test_a_hub_that_can_wait_no_longer_says_so(start_hub: StartHub) -> None:
    gate = Gate()
    async with receiving(gate) as receiver:
        site = await start_hub(trigger=to(receiver))
        async with site.stream():
            triggering = asyncio.create_task(site.trigger({"name": "job", "id": "1"}))
            await receiver.requested.wait()
            for task in site.context.running:
                task.cancel()
            problem = (await triggering).problem
            gate.open.set()
    assert ("draining", True) == (problem["code"], problem["may_have_started"])


async def twice(site: Site, first: dict[str, Any], second: dict[str, Any]) -> tuple[Answer, Answer]:
    async with site.stream():
        return await site.trigger(**first), await site.trigger(**second)


@pytest.mark.parametrize(
    "request_of_both",
    [
        {"body": {"name": "job", "id": "1"}},
        {"body": {"name": "job"}, "headers": {"Idempotency-Key": "k"}},
        {"body": {"name": "job", "id": "1"}, "headers": {"Idempotency-Key": "k"}},
    ],
    ids=["id", "key", "both"],
)
async def test_sent_twice_it_is_done_once(site: Site, request_of_both: dict[str, Any]) -> None:
    first, second = await twice(site, request_of_both, request_of_both)
    assert (first.status, first.body) == (second.status, second.body)
    assert (None, "true") == (
        first.headers.get("Idempotency-Replayed"),
        second.headers.get("Idempotency-Replayed"),
    )
    assert {"dispatched": 1, "replayed": 1} == outcomes(site)
    assert 1 == site.context.hub.counters.published


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"body": {"name": "a", "id": "1"}}, {"body": {"name": "b", "id": "1"}}),
        ({"body": {"name": "a", "id": "1"}}, {"body": {"name": "a", "id": "1", "data": 2}}),
        (
            {"body": {"name": "a"}, "headers": {"Idempotency-Key": "k"}},
            {"body": {"name": "a", "id": "1"}, "headers": {"Idempotency-Key": "k"}},
        ),
    ],
)
async def test_a_key_belongs_to_one_body(site: Site, first: dict[str, Any], second: dict[str, Any]) -> None:
    _, refused = await twice(site, first, second)
    assert "idempotency_mismatch" == refused.problem["code"]


async def test_a_wait_in_vain_is_not_remembered(site: Site) -> None:
    assert 409 == (await site.trigger({"name": "job", "id": "1"}, timeout="20ms")).status
    async with site.stream():
        assert 202 == (await site.trigger({"name": "job", "id": "1"})).status
