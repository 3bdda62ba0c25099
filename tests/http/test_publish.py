from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from tests.http.client import Site
from tests.hubs import StartHub

EVENTS = "/projects/p/events"
JSON = {"Content-Type": "application/json"}


async def test_a_receipt_with_a_subscriber_is_201(site: Site) -> None:
    async with site.stream() as stream:
        answer = await site.publish(1)
        event_id = (await stream.next()).id
    assert 201 == answer.status
    assert "application/json" == answer.headers["Content-Type"]
    assert {"project": "p", "id": event_id, "connections": 1, "missed": False} == answer.json
    assert answer.body.endswith(b"}\n")


async def test_a_receipt_without_a_subscriber_is_202_and_the_event_is_held(site: Site) -> None:
    answer = await site.publish(1)
    assert 202 == answer.status
    expected = {"project": "p", "id": answer.json["id"], "connections": 0, "missed": True}
    assert expected == answer.json
    async with site.stream() as stream:
        assert answer.json["id"] == (await stream.next()).id


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Type": "application/json"},
        {"Content-Type": "Application/JSON; charset=UTF-8"},
        {"Content-Type": "application/x-www-form-urlencoded"},
        {},
    ],
    ids=["json", "json with a charset", "curl's default", "none"],
)
async def test_json_data_goes_out_as_the_text_that_came_in(site: Site, headers: dict[str, str]) -> None:
    data = '{"b" : 1e400,"a":[ 12345678901234567890, "\\u00e9", "é"],"b":null}'
    body = f'{{"data": {data} , "type": "t"}}'
    length = {"Content-Length": str(len(body.encode()))}
    head = "".join(f"{name}: {value}\r\n" for name, value in ({"Host": "localhost"} | length | headers).items())
    async with site.stream() as stream:
        reader, writer = await site.raw(f"POST {EVENTS} HTTP/1.1\r\n{head}\r\n{body}".encode())
        assert b"HTTP/1.1 201 Created\r\n" == await reader.readline()
        writer.close()
        frame = await stream.next()
    assert ("t", data) == (frame.event, frame.fields["data"])


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("plain", ["plain"]),
        ("", [""]),
        ("\n", ["", ""]),
        ("a\nb\r\nc\rd", ["a", "b", "c", "d"]),
        ("id: 7\nevent: edge.closing\n\ndata: x", ["id: 7", "event: edge.closing", "", "data: x"]),
        ("\ufeff ü\u2028\u0085\x0b\0", ["\ufeff ü\u2028\u0085\x0b\0"]),
    ],
)
async def test_text_is_the_data_as_it_is(site: Site, text: str, lines: list[str]) -> None:
    async with site.stream() as stream:
        options: dict[str, Any] = {"data": text.encode(), "headers": {"Content-Type": "text/plain"}}
        answer = await site.ask("POST", f"{EVENTS}?type=note", **options)
        data = "".join(f"data: {line}\n" for line in lines)
        expected = f"event: note\n{data}id: {answer.json['id']}\n\n"
        await site.publish("end")
        raw = b""
        while b'"end"' not in raw:
            raw += await stream.response.content.readany()
    assert raw.startswith(expected.encode())


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ("", "Send"),
        ("{", "Send"),
        ("[]", "Expected `object`"),
        ("{}", "required field `data`"),
        ('{"data": 1, "id": "x"}', "unknown field `id`"),
        ('{"data": 1, "type": 7}', "Expected `str`"),
        ('{"data": 1} {"data": 2}', "trailing"),
        ('{"data": nope}', "Send"),
        ('{"data": 1, "type": ""}', "empty"),
        ('{"data": 1, "type": "a\\nb"}', "CR, LF or NUL"),
        ('{"data": 1, "type": "a\\rb"}', "CR, LF or NUL"),
        ('{"data": 1, "type": "a\\u0000b"}', "CR, LF or NUL"),
        ('{"data": 1, "type": "edge.hello"}', "begin with `edge.`"),
        ('{"data": 1, "type": "' + "x" * 257 + '"}', "256 are allowed"),
        ('{"data": ' + "[" * 500_000 + "]" * 500_000 + "}", "nested too deeply"),
        (b'{"data": "\xff"}', "UTF-8"),
    ],
)
async def test_what_is_no_event_is_refused_and_leaves_no_project(site: Site, body: str, sentence: str) -> None:
    problem = (await site.ask("POST", EVENTS, data=body, headers=JSON)).problem
    assert "invalid_event" == problem["code"]
    assert sentence in problem["detail"]
    assert {} == site.context.hub.projects


@pytest.mark.parametrize(
    ("query", "body"), [("type=", b"x"), ("type=edge.x", b"x"), ("type=a%0Ab", b"x"), ("", b"\xff\xfe")]
)
async def test_text_is_checked_too(site: Site, query: str, body: bytes) -> None:
    answer = await site.ask("POST", f"{EVENTS}?{query}", data=body, headers={"Content-Type": "text/plain"})
    assert "invalid_event" == answer.problem["code"]


@pytest.mark.parametrize("target", [EVENTS + "?", "/events?project=p&"])
@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Type": "application/json"},
        {"Content-Type": "application/x-www-form-urlencoded"},
        {"Content-Type": "application/json", "Idempotency-Key": "k"},
    ],
    ids=["json", "curl's default", "with a key"],
)
async def test_a_type_in_the_query_is_refused_where_the_body_has_one(
    site: Site, target: str, headers: dict[str, str]
) -> None:
    problem = (await site.ask("POST", f"{target}type=progress", data=b'{"data": 1}', headers=headers)).problem
    assert (400, "invalid_parameter", "type") == (problem["status"], problem["code"], problem["parameter"])
    assert "put the type of a JSON event into the body" in problem["detail"]
    assert {} == site.context.hub.projects


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"Content-Type": "application/xml"}, "unsupported_media_type"),
        ({"Content-Type": "application/json; charset=latin-1"}, "unsupported_media_type"),
        ({"Content-Type": "rubbish"}, "unsupported_media_type"),
        ({"Content-Encoding": "gzip"}, "unsupported_encoding"),
    ],
)
async def test_bodies_that_arent_read(site: Site, headers: dict[str, str], code: str) -> None:
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    request = f"POST {EVENTS} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 11\r\n{lines}\r\n"
    assert code == (await site.exchange(request.encode() + b'{"data": 1}')).problem["code"]


async def test_bodies_and_events_are_bounded(start_hub: StartHub) -> None:
    site = await start_hub(limits={"max_event_bytes": 100, "max_body_bytes": 1000})
    assert 202 == (await site.publish("x" * 98)).status
    too_large = (await site.publish("x" * 99)).problem
    assert ("event_too_large", 100) == (too_large["code"], too_large["limit_bytes"])
    assert "body_too_large" == (await site.ask("POST", EVENTS, data=b" " * 1001, headers=JSON)).problem["code"]


async def test_the_event_stream_form_of_an_event_has_to_fit_the_ring(start_hub: StartHub) -> None:
    site = await start_hub(ring={"max_bytes": 1000}, limits={"max_event_bytes": 1000})
    answer = await site.ask("POST", EVENTS, data=b"\n" * 900, headers={"Content-Type": "text/plain"})
    assert "event_too_large" == answer.problem["code"]
    assert "ring.max_bytes allows 1000" in answer.problem["detail"]


async def test_require_refuses_an_event_that_too_few_would_get(site: Site) -> None:
    problem = (await site.publish(1, require="1")).problem
    assert ("no_connection", "p", 0) == (problem["code"], problem["project"], problem["connections"])
    async with site.stream() as stream:
        assert 0 == stream.hello["replayed"]
        assert 201 == (await site.publish(2, require="1")).status
        assert 409 == (await site.publish(3, require="2")).status
        await site.publish(4)
        assert [2, 4] == [frame.data for frame in await stream.take(2)]


async def test_wait_publishes_when_a_subscriber_is_there(site: Site) -> None:
    publishing = asyncio.create_task(site.publish("late", wait="20s"))
    async with site.stream() as stream:
        answer = await publishing
        assert (201, 1) == (answer.status, answer.json["connections"])
        assert b": probe\n" == (await stream.next()).raw
        assert "late" == (await stream.next()).data


async def test_wait_in_vain_stores_nothing(site: Site) -> None:
    problem = (await site.publish(1, wait="20ms")).problem
    assert ("no_connection", 0) == (problem["code"], problem["connections"])
    assert {} == site.context.hub.projects


async def test_wait_and_require_wait_for_that_many(site: Site) -> None:
    publishing = asyncio.create_task(site.publish("two", wait="20s", require="2"))
    async with site.stream():
        await asyncio.sleep(0.1)
        assert not publishing.done()
        async with site.stream():
            assert 2 == (await publishing).json["connections"]


@pytest.mark.parametrize(
    ("query", "parameter"),
    [
        ("require=x", "require"),
        ("require=-1", "require"),
        ("require=%D9%A1", "require"),
        ("wait=soon", "wait"),
        ("wait=61s", "wait"),
        ("wait=", "wait"),
    ],
)
async def test_parameters_that_cant_be_read(site: Site, query: str, parameter: str) -> None:
    problem = (await site.ask("POST", f"{EVENTS}?{query}", json={"data": 1})).problem
    assert ("invalid_parameter", parameter) == (problem["code"], problem["parameter"])


async def test_a_hub_that_leaves_takes_nothing(site: Site) -> None:
    site.context.drain()
    answer = await site.publish(1)
    assert ("draining", "1") == (answer.problem["code"], answer.headers["Retry-After"])


async def test_a_body_that_breaks_off_publishes_nothing(site: Site) -> None:
    head = f"POST {EVENTS} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n"
    _, writer = await site.raw(head.encode() + b'{"data": 1}')
    writer.close()
    await writer.wait_closed()
    async with site.stream() as stream:
        await site.publish("end")
        assert "end" == (await stream.next()).data


async def test_a_large_event_arrives_whole(site: Site) -> None:
    text = json.dumps("é" * 100_000, ensure_ascii=False)
    async with site.stream() as stream:
        assert 201 == (await site.ask("POST", EVENTS, data=f'{{"data": {text}}}', headers=JSON)).status
        raw = b""
        while not raw.endswith(b"\n\n"):
            raw += await stream.response.content.readany()
    assert raw.startswith(f"data: {text}\nid: ".encode())


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        (EVENTS, "application/json"),
        (EVENTS, "application/x-ndjson"),
        ("/events?project=p&project=q", "application/json"),
    ],
)
@pytest.mark.parametrize("key", ["", "Idempotency-Key: once\r\n"])
async def test_a_body_of_several_chunks_that_is_there_at_once_is_taken_once(
    site: Site, path: str, kind: str, key: str
) -> None:
    """It is several pieces in memory, and reading them takes them away."""
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (b'{"data', b'": "x"}\n', b"\n"))
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\n{key}Connection: close\r\n"
    answer = await site.exchange(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode() + chunks + b"0\r\n\r\n")
    assert 202 == answer.status
    history = (await site.ask("GET", "/projects/p/history?since=all")).json
    assert ['"x"'] == [event["data"] for event in history["events"]]
