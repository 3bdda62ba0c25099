"""Streams that are asked for on the express lane are those of the ordinary way: two hubs get the same bytes, one has no
lane.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from typing import Any, cast

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge.config.schema import AuthSettings, Config, CorsSettings, ServerSettings
from edge.core.event import Event
from edge.server.aiohttp_server import HubServer
from tests.security.hub import RunningHub, running

CONFIG = Config(
    auth=AuthSettings(token="right", anonymous=("status",)),
    cors=CorsSettings(origins=("https://app.example",)),
    server=ServerSettings(trusted_proxies=("127.0.0.1",)),
)
USUAL = ["Host: localhost", "Accept: text/event-stream", "Authorization: Bearer right"]
DECIDING = [
    *USUAL,
    *("Host: evil.example", "Accept: */*", "Accept: text/html", "accept: text/event-stream", "Connection: close"),
    *(
        "Authorization: Bearer wrong",
        "Authorization: Basic x",
        "authorization: bearer  right ",
        "Connection: keep-alive",
    ),
    *("Origin: https://app.example", "Origin: https://evil.example", "Sec-Fetch-Site: cross-site"),
    *("Sec-Fetch-Mode: navigate", "Forwarded: for=10.9.9.9", "Content-Length: 0", "Content-Length: 3", "Expect: x"),
    *("Transfer-Encoding: chunked", "Upgrade: websocket", "X: \x01", "X : y", " folded", "\tfolded", "no colon", "X:y"),
]
PLAIN = [
    *("User-Agent: a", "user-agent: b/1 (c)", "Referer: https://x/?y=z", "Cookie: a=b", "Last-Event-ID: %ID%"),
    *("X-Forwarded-For: 10.0.0.1", "Accept-Language: de", "Cache-Control: no-cache"),
]
PLAIN_QUERIES = [
    "",
    "?since=all",
    "?since=none",
    "?since=%ID%",
    "?since=10m",
    "?last_event_id=%ID%",
    "?heartbeat=event",
]
VARYING = [
    *("User-Agent: a", "User-Agent: b/1 (c)", "user-agent:d", "Referer: https://x/?y=z", "Cookie: a=b", "Cookie: "),
    *("Cookie: edge_token=right", "cookie: edge_token=wrong", "Last-Event-ID: boot-1", "Last-Event-ID: %ID%"),
    *("last-event-id: %ID% ", "Last-Event-ID:", "Last-Event-ID: \xff", "X-Forwarded-For: 10.0.0.1"),
    *("X-Forwarded-For: 10.0.0.2, 127.0.0.1", "x-forwarded-for: unknown", "Accept-Language: de", "Pragma: \t x"),
]
QUERIES = [
    *(
        "",
        "",
        "?since=all",
        "?since=none",
        "?since=%ID%",
        "?since=10m",
        "?since=never",
        "?since=",
        "?since=all&since=none",
    ),
    *(
        "?last_event_id=%ID%",
        "?heartbeat=event",
        "?heartbeat=x",
        "?ticket=x",
        "?since=a%6Cl",
        "?x",
        "?",
        "?since=all#y",
    ),
]


@st.composite
def heads(draw: st.DrawFn) -> bytes:
    """A request for a stream, as most are, or with something odd about it."""
    odd = draw(
        st.sampled_from(
            [None] * 8 + ["lines", "lines", "values", "values", "name", "end", "version", "before", "behind"]
        )
    )
    lines = draw(st.lists(st.sampled_from(DECIDING), max_size=5)) if odd == "lines" else list(USUAL)
    varying = st.sampled_from(VARYING if odd == "values" else PLAIN)
    for line in draw(st.lists(varying, max_size=3, unique_by=None if odd == "values" else _name)):
        lines.insert(draw(st.integers(0, len(lines))), line)
    name = draw(st.sampled_from(["%70", "-p", "p/"] if odd == "name" else ["p", "q"]))
    query = draw(st.sampled_from(QUERIES if odd == "values" else PLAIN_QUERIES))
    first = f"GET /projects/{name}/events{query} HTTP/{'1.0' if odd == 'version' else '1.1'}"
    head = ("\n" if odd == "end" else "\r\n").join([first, *lines, "", ""]).encode("latin-1")
    return (b"\r\n" if odd == "before" else b"") + head + (b"x" if odd == "behind" else b"")


def _name(line: str) -> str:
    return line.partition(":")[0].lower()


@pytest.fixture(scope="module")
def both() -> Iterator[tuple[asyncio.Runner, RunningHub, RunningHub]]:
    """A hub with the lane and one without, on one loop; each has three events of the project `p`."""
    with asyncio.Runner() as runner:
        contexts = running(CONFIG), running(CONFIG)
        quick, plain = (runner.run(context.__aenter__()) for context in contexts)
        cast(HubServer, plain.runner.server).lobby.lane = None
        lane = cast(Any, cast(HubServer, quick.runner.server).lobby.lane)
        ordinary, opened = lane.open, []

        def counted(transport: asyncio.Transport, head: bytes) -> bool:
            opened.append(ordinary(transport, head))
            return bool(opened[-1])

        lane.open = counted
        for hub in (quick, plain):
            for number in range(3):
                hub.context.hub.publish("p", Event("message", b"%d" % number), hub.context.clock())
        try:
            yield runner, quick, plain
            assert opened.count(True) > len(opened) // 4, "hardly anybody took the lane"
        finally:
            for context in contexts:
                runner.run(context.__aexit__(None, None, None))


async def ask(hub: RunningHub, head: bytes) -> tuple[list[str], Any, list[str]]:
    """The head of the answer; what the stream begins with, or the refusal; whose address the hub knows."""
    second = hub.context.hub.projects["p"].event_id(2)
    reader, writer = await asyncio.open_connection(hub.host, hub.port)
    writer.write(head.replace(b"%ID%", second.encode()))
    raw = b""
    try:
        async with asyncio.timeout(5):
            while not _whole(raw) and (data := await reader.read(65536)):
                raw += data
    except ConnectionError:
        pass
    addresses = [connection.address for connection in hub.context.hub.connections.values()]
    writer.close()
    await asyncio.gather(writer.wait_closed(), return_exceptions=True)
    while hub.context.hub.connections:  # noqa: ASYNC110 - the hub tells its log, not tests
        await asyncio.sleep(0.001)
    answer, _, body = raw.partition(b"\r\n\r\n")
    lines = [line for line in answer.decode("latin-1").split("\r\n") if not line.startswith("Date: ")]
    hello = re.search(rb"data: (\{.*\})\n", body)
    if hello is None:
        found = re.search(rb'"code":"(\w+)"', body)
        return [line for line in lines if not line.startswith("Content-Length")], found and found[1], addresses
    said: dict[str, Any] = msgspec.json.decode(hello[1])
    told = {name: str(said[name]).rpartition("-")[2] for name in said if name != "connection"}
    return lines, (told, re.findall(rb"id: \w+-(\d+)", body), b"chunked" in answer), addresses


def _whole(raw: bytes) -> bool:
    """Whether the beginning of a stream, which is one write, or all of a refusal has come."""
    head, end, body = raw.partition(b"\r\n\r\n")
    length = re.search(rb"Content-Length: (\d+)", head)
    return bool(end) and (len(body) >= int(length[1]) if length else b"\n\n" in body)


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(heads(), min_size=1, max_size=5))
def test_the_lane_changes_no_answer(both: tuple[asyncio.Runner, RunningHub, RunningHub], knocks: list[bytes]) -> None:
    runner, quick, plain = both
    for head in knocks:
        assert runner.run(ask(plain, head)) == runner.run(ask(quick, head)), head
