"""A caller that has closed its sending side (RFC 9112, 9.6): what came whole is answered, what waits ends."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Sequence

import pytest

from tests.http.client import Site
from tests.hubs import StartHub

HOST = b"Host: localhost\r\n"
HEALTH = b"GET /healthz HTTP/1.1\r\n" + HOST + b"\r\n"
READY = b"GET /projects/p/ready?timeout=20s HTTP/1.1\r\n" + HOST + b"\r\n"


def post(path: bytes, body: bytes, head: bytes = b"") -> bytes:
    return b"POST %b HTTP/1.1\r\n%b%bContent-Length: %d\r\n\r\n%b" % (path, HOST, head, len(body), body)


def publish(number: int) -> bytes:
    return post(b"/projects/p/events", b'{"data":%d}' % number)


async def talk(site: Site, *pieces: bytes, pause_seconds: float = 0.0) -> bytes:
    """Send, close the sending side, read to the end."""
    reader, writer = await site.raw(pieces[0])
    for piece in pieces[1:]:
        await asyncio.sleep(pause_seconds)
        writer.write(piece)
    writer.write_eof()
    async with asyncio.timeout(20):
        heard = await reader.read()
    writer.close()
    await writer.wait_closed()
    return heard


def statuses(heard: bytes) -> Sequence[int]:
    return [int(status) for status in re.findall(rb"HTTP/1\.1 ([0-9]{3}) ", heard)]


@pytest.mark.parametrize("pause_seconds", [0.0, 0.02])
async def test_every_request_that_came_whole_is_answered(site: Site, pause_seconds: float) -> None:
    for count in (1, 2, 60, 200):  # a turn of the loop answers 32
        heard = await talk(site, HEALTH * count, b"", pause_seconds=pause_seconds)
        assert [200] * count == statuses(heard)


@pytest.mark.parametrize("count", [1, 60])
async def test_every_publish_is_taken(site: Site, count: int) -> None:
    heard = await talk(site, b"".join(map(publish, range(count))))
    assert [202] * count == statuses(heard)
    assert count == site.context.hub.counters.published


async def test_publishes_of_many_callers_at_once_are_all_taken(site: Site) -> None:
    heard = await asyncio.gather(*(talk(site, publish(number)) for number in range(60)))
    assert [[202]] * 60 == [statuses(each) for each in heard]
    assert 60 == site.context.hub.counters.published


async def test_a_body_that_comes_in_pieces_is_whole_at_its_end(site: Site) -> None:
    request = publish(1)
    assert [202] == statuses(await talk(site, request[:-3], request[-3:], pause_seconds=0.02))


async def test_a_body_that_has_ended_early_is_named(site: Site) -> None:
    for request in (publish(1)[:-3], post(b"/projects/p/events", b"x" * 70_000)[:-1]):
        heard = await talk(site, request)
        assert [400] == statuses(heard)
        assert b'"code":"malformed_http"' in heard
    assert 0 == site.context.hub.counters.published


async def test_lines_that_came_whole_stay_published(site: Site) -> None:
    head = b"Content-Type: application/x-ndjson\r\n"
    request = post(b"/projects/p/events", b'{"data":1}\n{"data":2}\n{"data":3}\n', head)
    assert [202] == statuses(await talk(site, request))
    assert 3 == site.context.hub.counters.published
    heard = await talk(site, request[:-11])
    assert [400] == statuses(heard)
    assert 5 == site.context.hub.counters.published


@pytest.mark.parametrize("pause_seconds", [0.0, 0.05])
@pytest.mark.parametrize(
    "request_bytes",
    [
        READY,
        post(b"/projects/p/trigger?timeout=20s", b'{"name":"job"}'),
        post(b"/projects/p/events?wait=20s", b'{"data":1}'),
        post(b"/projects/p/trigger?timeout=20s", b'{"name":"job"}', b"Idempotency-Key: k\r\n"),
    ],
    ids=["ready", "trigger", "publish", "key"],
)
async def test_a_request_that_waits_ends_and_nothing_is_done(
    site: Site, request_bytes: bytes, pause_seconds: float
) -> None:
    heard = await talk(site, request_bytes, b"", pause_seconds=pause_seconds)
    assert [400] == statuses(heard)
    assert "half_closed" == json.loads(heard.partition(b"\r\n\r\n")[2])["code"]
    assert (0, 0) == (site.context.readiness.waiting, site.context.hub.counters.published)
    assert 0 == site.context.triggers.outcomes["dispatched"]


async def test_what_has_begun_is_answered(start_hub: StartHub) -> None:
    site = await start_hub()
    async with site.stream():
        heard = await talk(site, publish(1), post(b"/projects/p/events?require=1", b'{"data":2}'))
        assert [201, 201] == statuses(heard)


async def test_no_stream_is_opened_for_it(site: Site) -> None:
    heard = await talk(site, b"GET /projects/p/events HTTP/1.1\r\n" + HOST + b"\r\n")
    assert [400] == statuses(heard)
    assert b'"code":"half_closed"' in heard
    assert ({}, 0) == (site.context.hub.connections, site.context.hub.counters.added)


async def test_http_1_0_is_answered_too(site: Site) -> None:
    assert [200] == statuses(await talk(site, b"GET /healthz HTTP/1.0\r\n\r\n"))


async def test_a_caller_that_sent_nothing_is_closed(site: Site) -> None:
    assert b"" == await talk(site, b"")
    assert b"" == await talk(site, b"GET /heal")
