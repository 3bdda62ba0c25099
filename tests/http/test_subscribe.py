from __future__ import annotations

import asyncio
import re
import socket
from typing import Any

import pytest

from edge.core.event import Event
from tests.http.client import Site, Stream
from tests.hubs import StartHub


async def publish_numbers(site: Site, first: int, last: int) -> list[str]:
    return [(await site.publish(number)).json["id"] for number in range(first, last + 1)]


async def data_of(stream: Stream, count: int) -> list[Any]:
    return [frame.data for frame in await stream.take(count)]


async def nothing_more(stream: Stream, site: Site) -> None:
    """What is published next is what comes next."""
    await site.publish("end")
    assert "end" == (await stream.next()).data


async def test_the_headers_are_those_of_an_event_stream_that_no_proxy_holds_back(site: Site) -> None:
    async with site.stream() as stream:
        headers = stream.response.headers
        assert "text/event-stream; charset=utf-8" == headers["Content-Type"]
        assert "no-cache, no-transform" == headers["Cache-Control"]
        assert "no" == headers["X-Accel-Buffering"]
        assert "nosniff" == headers["X-Content-Type-Options"]
        assert "edge" == headers["Server"]


async def test_the_first_frame_is_hello(site: Site) -> None:
    async with site.session.get(f"{site.url}/projects/p/events") as response:
        hello = await response.content.readuntil(b"\n\n")
    expected = (
        rb'retry: 1000\nevent: edge\.hello\ndata: \{"project":"p","connection":"[0-9a-f]{16}",'
        rb'"heartbeat_seconds":15\.0,"oldest":null,"newest":null,"replayed":0\}\nid: [0-9a-z]+-0\n\n'
    )
    assert re.fullmatch(expected, hello)


async def test_hello_says_what_is_held_and_what_follows_at_once(site: Site) -> None:
    ids = await publish_numbers(site, 1, 3)
    async with site.stream() as stream:
        assert (ids[0], ids[2], 3) == (stream.hello["oldest"], stream.hello["newest"], stream.hello["replayed"])
        assert ids == [frame.id for frame in await stream.take(3)]


async def test_an_event_on_the_wire(site: Site) -> None:
    async with site.stream() as stream:
        plain = (await site.publish({"a": [1, 2.50]})).json["id"]
        typed = (await site.publish("x", "progress")).json["id"]
        assert f'data: {{"a": [1, 2.5]}}\nid: {plain}\n\n'.encode() == (await stream.next()).raw
        assert f'event: progress\ndata: "x"\nid: {typed}\n\n'.encode() == (await stream.next()).raw
    epoch, seq = typed.split("-")
    assert plain == f"{epoch}-{int(seq) - 1}"


async def test_projects_do_not_hear_each_other(site: Site) -> None:
    async with site.stream("a") as a, site.stream("b") as b:
        await site.publish(1, project="a")
        await site.publish(2, project="b")
        assert [1, 2] == [(await a.next()).data, (await b.next()).data]


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ({}, [3, 4]),
        ({"since": "missed"}, [3, 4]),
        ({"since": "all"}, [1, 2, 3, 4]),
        ({"since": "none"}, []),
        ({"since": "last"}, [4]),
        ({"since": "last:3"}, [2, 3, 4]),
    ],
)
async def test_since(site: Site, params: Any, expected: list[int]) -> None:
    async with site.stream() as first:
        await publish_numbers(site, 1, 2)
        await first.take(2)
    await site.connections(0)
    await publish_numbers(site, 3, 4)

    async with site.stream(**params) as stream:
        assert len(expected) == stream.hello["replayed"]
        assert expected == await data_of(stream, len(expected))
        await nothing_more(stream, site)


async def test_since_a_duration_replays_what_is_younger(site: Site) -> None:
    site.context.hub.publish("p", Event("message", b"1"), site.context.clock() - 300)
    await publish_numbers(site, 2, 2)
    async with site.stream(since="10m") as stream:
        assert [1, 2] == await data_of(stream, 2)
    async with site.stream(since="4m") as stream:
        assert [2] == await data_of(stream, 1)
        await nothing_more(stream, site)


@pytest.mark.parametrize(
    "ask",
    [
        lambda event_id: {"headers": {"Last-Event-ID": event_id}},
        lambda event_id: {"last_event_id": event_id},
        lambda event_id: {"lastEventId": event_id, "since": "none"},
        lambda event_id: {"lastEventID": event_id},
        lambda event_id: {"Last-Event-ID": event_id},
        lambda event_id: {"since": event_id},
        lambda event_id: {"headers": {"Last-Event-ID": event_id}, "last_event_id": "gone-7", "since": "none"},
        lambda event_id: {"headers": {"Last-Event-ID": ""}, "last_event_id": event_id, "since": "none"},
        lambda event_id: {"last_event_id": "gone-7", "lastEventId": event_id},
        lambda event_id: {"lastEventId": "gone-7", "last_event_id": event_id},
        lambda event_id: {"lastEventId": ["gone-7", "gone-8", event_id]},
    ],
    ids=[
        *("header", "query", "polyfill", "other hubs", "the header in the query", "since"),
        *("the header wins", "an empty header says nothing"),
        *("a polyfill reconnects", "the last name wins", "the last value wins"),
    ],
)
async def test_continuing_behind_an_id(site: Site, ask: Any) -> None:
    ids = await publish_numbers(site, 1, 4)
    async with site.stream(**ask(ids[1])) as stream:
        assert 2 == stream.hello["replayed"]
        assert ids[2:] == [frame.id for frame in await stream.take(2)]
        await nothing_more(stream, site)


async def test_evicted_history_is_a_gap_with_the_number_lost(start_hub: StartHub) -> None:
    site = await start_hub(ring={"max_events": 3})
    ids = await publish_numbers(site, 1, 6)
    async with site.stream(last_event_id=ids[0]) as stream:
        gap = await stream.next()
        expected = {"asked": ids[0], "oldest": ids[3], "newest": ids[5], "lost": 2, "reason": "evicted"}
        assert ("edge.gap", expected, None) == (gap.event, gap.data, gap.id)
        assert [4, 5, 6] == await data_of(stream, 3)


async def test_lost_misses_are_reported_to_the_next_subscriber(start_hub: StartHub) -> None:
    site = await start_hub(ring={"max_events": 3})
    ids = await publish_numbers(site, 1, 5)
    async with site.stream() as stream:
        expected = {"asked": "missed", "oldest": ids[2], "newest": ids[4], "lost": 2, "reason": "evicted"}
        assert expected == (await stream.next()).data
        assert [3, 4, 5] == await data_of(stream, 3)


@pytest.mark.parametrize(
    ("asked", "reason"),
    [("0thepast-3", "restart"), ("nonsense", "unknown"), ("a\u00e9-1", "unknown"), ("EPOCH-99", "unknown")],
)
async def test_an_id_of_another_life_or_of_none_is_a_gap_and_then_all_that_is_held(
    site: Site, asked: str, reason: str
) -> None:
    ids = await publish_numbers(site, 1, 2)
    asked = asked.replace("EPOCH", ids[0].partition("-")[0])
    async with site.stream(last_event_id=asked) as stream:
        expected = {"asked": asked, "oldest": ids[0], "newest": ids[1], "lost": None, "reason": reason}
        assert expected == (await stream.next()).data
        assert [1, 2] == await data_of(stream, 2)


async def test_a_header_that_is_no_utf8_is_an_unknown_id(site: Site) -> None:
    request = b"GET /projects/p/events HTTP/1.1\r\nHost: localhost\r\nLast-Event-ID: \xff\xfe\r\n\r\n"
    reader, writer = await site.raw(request)
    head_and_gap = await reader.readuntil(b'"reason":"unknown"}')
    writer.close()
    assert b" 200 " in head_and_gap


async def test_there_is_no_seam_between_replay_and_live(site: Site) -> None:
    async def read(after_seconds: float) -> list[int]:
        await asyncio.sleep(after_seconds)
        async with site.stream(since="all") as stream:
            return [frame.seq for frame in await stream.take(200)]

    *read_by, _ = await asyncio.gather(*(read(0.02 * each) for each in range(10)), publish_numbers(site, 1, 200))
    assert [list(range(1, 201))] * 10 == read_by


async def test_a_slow_subscriber_beyond_the_ring_gets_a_gap_while_connected(start_hub: StartHub) -> None:
    site = await start_hub(ring={"max_events": 10, "max_bytes": 2_000_000}, limits={"max_event_bytes": 100_000})
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(sock, ("127.0.0.1", site.port))
        await loop.sock_sendall(sock, b"GET /projects/p/events HTTP/1.0\r\nHost: localhost\r\n\r\n")
        await site.connections(1)
        ids = [(await site.publish(f"{number:05}" + "x" * 90_000)).json["id"] for number in range(60)]
        received = b""
        while f"id: {ids[-1]}".encode() not in received:
            received += await loop.sock_recv(sock, 1 << 20)
    got = [int(seq) for seq in re.findall(rb"^id: \w+-(\d+)$", received.partition(b"\n\n")[2], re.MULTILINE)]
    [(at, lost)] = [
        (int(asked), int(lost))
        for asked, lost in re.findall(rb'"asked":"\w+-(\d+)".*"lost":(\d+),"reason":"evicted"', received)
    ]
    assert [*range(1, at + 1), *range(at + lost + 1, 61)] == got


async def test_a_quiet_stream_gets_a_comment_as_heartbeat(start_hub: StartHub) -> None:
    site = await start_hub(stream={"heartbeat_seconds": 0.1})
    async with site.stream() as stream:
        assert [b": ping\n"] * 2 == [frame.raw for frame in await stream.take(2)]


async def test_a_quiet_stream_gets_an_event_as_heartbeat_where_it_asks_for_one(start_hub: StartHub) -> None:
    site = await start_hub(stream={"heartbeat_seconds": 0.1})
    async with site.stream(heartbeat="event") as stream:
        assert [b"event: edge.ping\ndata: {}\n\n"] * 2 == [frame.raw for frame in await stream.take(2)]


async def closing(stream: Stream) -> str:
    """Why the server says it closes; checks the whole farewell."""
    frame = await stream.next()
    retry_ms = frame.data["retry_ms"]
    reason: str = frame.data["reason"]
    expected = f'retry: {retry_ms}\nevent: edge.closing\ndata: {{"reason":"{reason}","retry_ms":{retry_ms}}}\n\n'
    assert expected.encode() == frame.raw
    assert 1000 <= retry_ms <= 3000
    assert await stream.ended()
    return reason


async def test_closing_names_the_shutdown(site: Site) -> None:
    async with site.stream() as stream:
        site.context.drain()
        assert "shutdown" == await closing(stream)


async def test_closing_names_the_deleted_project(site: Site) -> None:
    async with site.stream() as stream:
        await site.ask("DELETE", "/projects/p")
        assert "deleted" == await closing(stream)


async def test_closing_names_the_lifetime(start_hub: StartHub) -> None:
    site = await start_hub(stream={"max_lifetime_seconds": 0.2, "heartbeat_seconds": 0.5})
    async with site.stream() as stream:
        assert "lifetime" == await closing(stream)


async def test_head_gets_the_headers_and_opens_nothing(site: Site) -> None:
    answer = await site.exchange(b"HEAD /projects/p/events HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    assert (200, b"") == (answer.status, answer.body)
    assert "text/event-stream; charset=utf-8" == answer.headers["Content-Type"]
    assert "no" == answer.headers["X-Accel-Buffering"]
    assert "Content-Length" not in answer.headers  # which GET has not either (RFC 9110, section 8.6)
    assert {} == site.context.hub.projects


async def test_a_connection_goes_on_behind_a_head_request(site: Site) -> None:
    request = b"HEAD /projects/p/events HTTP/1.1\r\nHost: localhost\r\n\r\n"
    reader, writer = await site.raw(request * 2)
    for _ in range(2):
        head = await reader.readuntil(b"\r\n\r\n")
        assert b"\r\nConnection:" not in head
    writer.close()


async def test_http_1_0_gets_the_stream_unchunked(site: Site) -> None:
    reader, writer = await site.raw(b"GET /projects/p/events HTTP/1.0\r\nHost: localhost\r\n\r\n")
    head = await reader.readuntil(b"\r\n\r\n")
    assert b"transfer-encoding" not in head.lower()
    assert (await reader.readuntil(b"\n\n")).startswith(b"retry: 1000\nevent: edge.hello\n")
    event_id = (await site.publish(1)).json["id"]
    assert f"data: 1\nid: {event_id}\n\n".encode() == await reader.readuntil(b"\n\n")
    site.context.drain()
    rest = await reader.read()
    assert rest.startswith(b"retry: ")
    assert rest.endswith(b"}\n\n")
    writer.close()


async def test_http_1_1_gets_whole_chunks_and_the_last_one(site: Site) -> None:
    reader, writer = await site.raw(b"GET /projects/p/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert b"Transfer-Encoding: chunked\r\n" in await reader.readuntil(b"\r\n\r\n")
    await site.connections(1)
    site.context.drain()
    chunks = []
    while size := int(await reader.readline(), 16):
        chunks.append(await reader.readexactly(size))
        assert b"\r\n" == await reader.readexactly(2)
    assert b"\r\n" == await reader.read()
    assert [True, True] == [chunk.endswith(b"\n\n") for chunk in chunks]
    writer.close()


@pytest.mark.parametrize(
    "accept",
    [None, "", "*/*", "text/event-stream", "text/*;q=0.1", "text/html, */*;q=0.5", "text/event-stream;q=1, */*;q=0"],
)
async def test_accept_with_event_streams_gets_one(site: Site, accept: str | None) -> None:
    line = "" if accept is None else f"Accept: {accept}\r\n"
    reader, writer = await site.raw(f"GET /projects/p/events HTTP/1.1\r\nHost: localhost\r\n{line}\r\n".encode())
    assert b"HTTP/1.1 200 OK\r\n" == await reader.readline()
    writer.close()


@pytest.mark.parametrize("accept", ["application/json", "text/html", "*/*, text/event-stream;q=0", "*/*;q=0"])
async def test_accept_without_event_streams_gets_406(site: Site, accept: str) -> None:
    answer = await site.ask("GET", "/projects/p/events", headers={"Accept": accept})
    assert "not_acceptable" == answer.problem["code"]
    assert {} == site.context.hub.projects


@pytest.mark.parametrize(
    ("query", "parameter"),
    [
        ("since=yesterday", "since"),
        ("since=", "since"),
        ("since=-1s", "since"),
        ("since=last:0", "since"),
        ("since=last:-1", "since"),
        ("since=1795874000", "since"),
        ("since=3653d", "since"),
        ("heartbeat=loud", "heartbeat"),
    ],
)
async def test_what_cant_be_read_is_refused_before_the_stream(site: Site, query: str, parameter: str) -> None:
    problem = (await site.ask("GET", f"/projects/p/events?{query}")).problem
    assert ("invalid_parameter", parameter) == (problem["code"], problem["parameter"])
    assert {} == site.context.hub.projects


@pytest.mark.parametrize(
    "header", ["Accept: text/html\r\nAccept: text/event-stream", "accept: */*\r\nACCEPT: text/html"]
)
async def test_accept_may_take_several_lines(site: Site, header: str) -> None:
    head = f"HEAD /projects/p/events HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{header}\r\n\r\n"
    assert 200 == (await site.exchange(head.encode())).status


@pytest.mark.parametrize("name", ["-a", "a%20b", "a%2Fb", "a%0Ab", "a" * 129, "%C3%A9"])
async def test_a_project_is_a_short_plain_name(site: Site, name: str) -> None:
    path = f"/projects/{name}/events"
    answer = await site.exchange(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
    assert "invalid_project" == answer.problem["code"]


@pytest.mark.parametrize("name", ["a", "0", "A.b_c~d-e", "a" * 128])
async def test_a_projects_name_may_be(site: Site, name: str) -> None:
    async with site.stream(name) as stream:
        assert name == stream.hello["project"]


async def test_a_reader_who_leaves_is_forgotten_and_its_project_with_it(site: Site) -> None:
    async with site.stream():
        await site.connections(1)
    await site.connections(0)
    assert ({}, {}) == (site.context.hub.connections, site.context.hub.projects)
    assert 1 == site.context.hub.counters.removed["client"]
