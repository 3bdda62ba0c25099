from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.http.ndjson import Framing
from tests.http.client import Answer, Site, read_answer
from tests.hubs import StartHub

EVENTS = "/projects/p/events"
NDJSON = {"Content-Type": "application/x-ndjson"}
HEAD = f"POST {EVENTS} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-ndjson\r\nConnection: close\r\n"


@given(st.binary().map(lambda data: data.replace(b"x", b"\n")), st.data())
def test_lines_are_the_same_however_the_bytes_are_cut(body: bytes, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(body)))))
    framing = Framing(limit_bytes=1 << 20)
    lines = []
    for start, end in zip([0, *cuts], [*cuts, len(body)], strict=True):
        lines += framing.feed(body[start:end])
    assert body.split(b"\n") == [*lines, framing.end()]


async def send(site: Site, body: Any, headers: dict[str, str] | None = None, **params: str) -> Answer:
    return await site.ask("POST", EVENTS, data=body, headers=NDJSON | (headers or {}), params=params)


class Publisher:
    """A publisher that writes its chunks by hand."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def connected(cls, site: Site) -> Publisher:
        return cls(*await site.raw(f"{HEAD}Transfer-Encoding: chunked\r\n\r\n".encode()))

    async def write(self, data: bytes) -> None:
        self._writer.write(b"%x\r\n%b\r\n" % (len(data), data))
        await self._writer.drain()

    async def end(self) -> Answer:
        self._writer.write(b"0\r\n\r\n")
        return await self.answer()

    async def answer(self) -> Answer:
        answer = await read_answer(self._reader)
        await self.die()
        return answer

    async def die(self) -> None:
        self._writer.close()
        await self._writer.wait_closed()


async def test_each_line_is_published_as_it_arrives(site: Site) -> None:
    async with site.stream() as stream:
        publisher = await Publisher.connected(site)
        ids = []
        for number in range(3):
            await publisher.write(b'{"data": %d}\n' % number)
            frame = await stream.next()
            assert number == frame.data
            ids.append(frame.id)
        answer = await publisher.end()
    assert 201 == answer.status
    expected = {"published": 3, "first_id": ids[0], "last_id": ids[2], "connections": 1, "misses": 0}
    assert expected == answer.json


async def test_a_line_is_published_when_it_is_whole(site: Site) -> None:
    async with site.stream() as stream:
        publisher = await Publisher.connected(site)
        for part in (b'{"da', b'ta": "\xc3', b'\xa9"}', b'\n{"data"'):
            await publisher.write(part)
        assert "é" == (await stream.next()).data
        await publisher.write(b": 2}\n")
        assert 2 == (await stream.next()).data
        assert 2 == (await publisher.end()).json["published"]


@pytest.mark.parametrize(
    "body",
    [
        b'{"data": 1}\n{"data": 2}\n',
        b'{"data": 1}\n{"data": 2}',
        b'{"data": 1}\r\n{"data": 2}\r\n',
        b'\n\r\n{"data": 1}\n  \n{"data": 2}\n\n',
    ],
    ids=["line ends", "without the last one", "CRLF", "empty lines"],
)
async def test_line_ends(site: Site, body: bytes) -> None:
    answer = await send(site, body)
    assert (202, 2, 2) == (answer.status, answer.json["published"], answer.json["misses"])
    async with site.stream() as stream:
        assert [1, 2] == [frame.data for frame in await stream.take(2)]


async def test_an_empty_body_publishes_nothing(site: Site) -> None:
    answer = await send(site, b"")
    expected = {"published": 0, "first_id": None, "last_id": None, "connections": 0, "misses": 0}
    assert (202, expected) == (answer.status, answer.json)


@pytest.mark.parametrize("headers", [{}, {"Idempotency-Key": "k"}], ids=["arriving", "whole"])
async def test_a_type_in_the_query_is_refused(site: Site, headers: dict[str, str]) -> None:
    problem = (await send(site, b'{"data": 1}\n', headers, type="progress")).problem
    assert ("invalid_parameter", "type") == (problem["code"], problem["parameter"])
    assert {} == site.context.hub.projects


@pytest.mark.parametrize(
    ("bad", "code"),
    [
        (b'{"data": }', "invalid_event"),
        (b'{"data": 1, "type": "edge.x"}', "invalid_event"),
        (b'{"data": "\xff"}', "invalid_event"),
        (b'{"data": "' + b"x" * 1000 + b'"}', "event_too_large"),
    ],
)
async def test_a_bad_line_ends_it_and_undoes_nothing(start_hub: StartHub, bad: bytes, code: str) -> None:
    site = await start_hub(limits={"max_event_bytes": 100})
    answer = await send(site, b'{"data": 1}\n\n{"data": 2}\n' + bad + b'\n{"data": 3}\n')
    problem = answer.problem
    async with site.stream() as stream:
        frames = await stream.take(2)
        assert [1, 2] == [frame.data for frame in frames]
        assert 2 == stream.hello["replayed"]
    assert (code, 4, 2) == (problem["code"], problem["line"], problem["published"])
    assert (frames[0].id, frames[1].id, 2) == (problem["first_id"], problem["last_id"], problem["misses"])
    assert problem["detail"].endswith("Line 4 and what follows were not taken; 2 before it stay published.")


async def test_a_line_that_never_ends_is_refused_while_it_comes(start_hub: StartHub) -> None:
    site = await start_hub(limits={"max_event_bytes": 100, "max_body_bytes": 1000})
    publisher = await Publisher.connected(site)
    await publisher.write(b'{"data": 1}\n')
    await publisher.write(b'{"data": "' + b"x" * 1000)
    await publisher.write(b"x" * 10)
    problem = (await publisher.answer()).problem
    assert ("event_too_large", 2, 1) == (problem["code"], problem["line"], problem["published"])
    assert 1000 == problem["limit_bytes"]


async def test_a_long_request_is_not_bounded_as_a_whole(start_hub: StartHub) -> None:
    site = await start_hub(limits={"max_event_bytes": 100, "max_body_bytes": 1000})

    async def lines() -> AsyncIterator[bytes]:
        for number in range(1000):
            yield b'{"data": %d}\n' % number

    assert 1000 == (await send(site, lines())).json["published"]


async def test_a_publisher_that_dies_in_the_middle_of_a_line_leaves_whole_lines_only(site: Site) -> None:
    async with site.stream() as stream:
        publisher = await Publisher.connected(site)
        await publisher.write(b'{"data": 1}\n{"data": 2}')
        assert 1 == (await stream.next()).data
        await publisher.die()
        await site.publish("end")
        assert "end" == (await stream.next()).data


async def test_broken_chunks_end_it_with_one_answer(site: Site) -> None:
    async with site.stream() as stream:
        reader, writer = await site.raw(f"{HEAD}Transfer-Encoding: chunked\r\n\r\n".encode())
        writer.write(b'c\r\n{"data": 1}\n\r\n')
        assert 1 == (await stream.next()).data
        writer.write(b"nonsense\r\n")
        problem = (await read_answer(reader)).problem
        assert b"" == await reader.read()
        writer.close()
        await writer.wait_closed()
    assert "malformed_http" == problem["code"]


async def test_a_draining_hub_answers_with_what_was_published(site: Site) -> None:
    async with site.stream() as stream:
        publisher = await Publisher.connected(site)
        await publisher.write(b'{"data": 1}\n{"data": 2')
        event_id = (await stream.next()).id
        site.context.drain()
        answer = await publisher.answer()
    problem = answer.problem
    assert ("draining", 2, 1) == (problem["code"], problem["line"], problem["published"])
    assert (event_id, "1") == (problem["last_id"], answer.headers["Retry-After"])


async def test_require_is_checked_before_the_first_line(site: Site) -> None:
    assert "no_connection" == (await send(site, b'{"data": 1}\n', require="1")).problem["code"]
    assert {} == site.context.hub.projects


async def test_with_a_key_it_is_published_once(site: Site) -> None:
    body = b'{"data": 1}\n{"data": 2}\n'
    first, again = [await send(site, body, {"Idempotency-Key": "k"}) for _ in range(2)]
    assert (first.status, first.json) == (again.status, again.json)
    assert "true" == again.headers["Idempotency-Replayed"]
    assert 2 == site.context.hub.counters.published
    other = await send(site, body + body, {"Idempotency-Key": "k"})
    assert "idempotency_mismatch" == other.problem["code"]


async def test_with_a_key_all_lines_are_published_or_none(site: Site) -> None:
    problem = (await send(site, b'{"data": 1}\nx\n', {"Idempotency-Key": "k"})).problem
    assert ("invalid_event", 2, 0) == (problem["code"], problem["line"], problem["published"])
    assert {} == site.context.hub.projects
    answered = await send(site, b'{"data": 3}\n\n{"data": 4}', {"Idempotency-Key": "k"})
    assert (202, 2) == (answered.status, answered.json["published"])
    ids = [site.context.hub.projects["p"].event_id(seq) for seq in (1, 2)]
    assert ids == [answered.json["first_id"], answered.json["last_id"]]


async def test_a_burst_is_served_to_readers_while_it_comes(site: Site) -> None:
    body = b"".join(b'{"data": %d}\n' % number for number in range(2000))
    async with site.stream() as stream:
        sending = asyncio.create_task(send(site, body))
        assert list(range(2000)) == [frame.data for frame in await stream.take(2000)]
        answer = await sending
    assert (201, 2000, 0) == (answer.status, answer.json["published"], answer.json["misses"])
