from __future__ import annotations

import asyncio

import pytest

from tests.http.client import Answer, Site
from tests.hubs import StartHub

EVENTS = "/projects/p/events"


async def publish(site: Site, data: object, key: str, project: str = "p", **params: str) -> Answer:
    path = f"/projects/{project}/events"
    return await site.ask("POST", path, json={"data": data}, headers={"Idempotency-Key": key}, params=params)


async def test_the_same_key_gives_the_first_receipt_again_and_publishes_nothing(site: Site) -> None:
    first = await publish(site, 1, "k")
    async with site.stream():
        again = await publish(site, 1, "k")
    assert "Idempotency-Replayed" not in first.headers
    assert "true" == again.headers["Idempotency-Replayed"]
    assert (202, first.body) == (again.status, again.body)
    assert first.headers["Content-Type"] == again.headers["Content-Type"]
    assert 1 == site.context.hub.counters.published


async def test_the_same_key_with_another_body_is_a_mismatch(site: Site) -> None:
    await publish(site, 1, "k")
    assert "idempotency_mismatch" == (await publish(site, 2, "k")).problem["code"]
    assert 1 == site.context.hub.counters.published


async def test_two_keys_are_refused(site: Site) -> None:
    head = f"POST {EVENTS} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 11\r\n"
    answer = await site.exchange(f'{head}Idempotency-Key: a\r\nIdempotency-Key: b\r\n\r\n{{"data": 1}}'.encode())
    assert "invalid_parameter" == answer.problem["code"]
    assert 0 == site.context.hub.counters.published


async def test_the_type_of_a_text_is_part_of_what_is_compared(site: Site) -> None:
    headers = {"Idempotency-Key": "k", "Content-Type": "text/plain"}
    await site.ask("POST", f"{EVENTS}?type=a", data=b"x", headers=headers)
    other = await site.ask("POST", f"{EVENTS}?type=b", data=b"x", headers=headers)
    assert "idempotency_mismatch" == other.problem["code"]


async def test_projects_and_actions_have_keys_of_their_own(site: Site) -> None:
    await publish(site, 1, "k")
    assert 202 == (await publish(site, 2, "k", project="q")).status
    assert 409 == (await site.trigger(headers={"Idempotency-Key": "k"}, timeout="20ms")).status


async def test_without_a_key_everything_is_done(site: Site) -> None:
    await site.publish(1)
    await site.publish(1)
    assert 2 == site.context.hub.counters.published


async def test_sent_twice_at_once_it_is_done_once(site: Site) -> None:
    publishing = [asyncio.create_task(publish(site, 1, "k", wait="20s")) for _ in range(10)]
    while site.context.readiness.waiting != 1:
        await asyncio.sleep(0.005)
    async with site.stream():
        answers = await asyncio.gather(*publishing)
    assert {answers[0].body} == {answer.body for answer in answers}
    assert 9 == sum("Idempotency-Replayed" in answer.headers for answer in answers)
    assert 1 == site.context.hub.counters.published


async def test_when_the_first_caller_goes_away_the_next_takes_its_place(site: Site) -> None:
    body = b'{"data": 1}'
    head = f"POST {EVENTS}?wait=20s HTTP/1.1\r\nHost: localhost\r\nIdempotency-Key: k\r\nContent-Length: 11\r\n\r\n"
    _, writer = await site.raw(head.encode() + body)
    while site.context.readiness.waiting != 1:
        await asyncio.sleep(0.005)
    # The same body byte for byte, or it would be another request.
    headers = {"Idempotency-Key": "k", "Content-Type": "application/json"}
    second = asyncio.create_task(site.ask("POST", f"{EVENTS}?wait=20s", data=body, headers=headers))
    await asyncio.sleep(0.05)
    writer.close()
    await writer.wait_closed()
    async with site.stream():
        answer = await second
    assert (201, None) == (answer.status, answer.headers.get("Idempotency-Replayed"))


async def test_a_refusal_is_not_remembered(site: Site) -> None:
    assert 409 == (await publish(site, 1, "k", require="1")).status
    async with site.stream():
        assert 201 == (await publish(site, 1, "k", require="1")).status


async def test_a_full_table_refuses_new_keys_and_keeps_its_promises(start_hub: StartHub) -> None:
    site = await start_hub(limits={"max_idempotency_keys": 2})
    first = await publish(site, 1, "a")
    await publish(site, 1, "b")
    refused = await publish(site, 1, "c")
    assert ("too_many_idempotency_keys", 2) == (refused.problem["code"], refused.problem["limit"])
    assert "Retry-After" in refused.headers
    assert first.body == (await publish(site, 1, "a")).body
    assert 202 == (await site.publish(1)).status


async def test_a_key_is_forgotten_after_its_time(start_hub: StartHub) -> None:
    site = await start_hub(limits={"idempotency_seconds": 1})
    first = await publish(site, 1, "k")
    await asyncio.sleep(1.1)
    assert first.json["id"] != (await publish(site, 1, "k")).json["id"]


@pytest.mark.parametrize("key", ["", "a b", "\u00e9", "x" * 256])
async def test_a_key_is_a_short_plain_word(site: Site, key: str) -> None:
    head = f"POST {EVENTS} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nIdempotency-Key: {key}\r\n"
    answer = await site.exchange(head.encode() + b'Content-Length: 11\r\n\r\n{"data": 1}')
    assert "invalid_parameter" == answer.problem["code"]
