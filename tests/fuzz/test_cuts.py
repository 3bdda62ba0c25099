"""One meaning for the same bytes: however they are cut, pipelined or one by one, the answers are the same.

Four hubs with the same history get the same requests on one connection: whole, cut anywhere, each behind the answer to
the one before, and with the sending side closed behind the last. Answers are compared but for what names a moment
(dates, ids, tickets). `Expect` is left out: whether its body is waited for depends on when it comes.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from contextlib import AsyncExitStack

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from edge.config.schema import AuthSettings, Config, CorsSettings, LimitsSettings, ServerSettings, TriggerSettings
from tests.security.hub import RunningHub, running
from tests.security.wire import Wire

MAX_BODY_BYTES, MAX_EVENT_BYTES = 4096, 2048
CONFIG = Config(
    server=ServerSettings(trusted_proxies=("127.0.0.1",)),
    limits=LimitsSettings(max_body_bytes=MAX_BODY_BYTES, max_event_bytes=MAX_EVENT_BYTES, max_projects=3),
    trigger=TriggerSettings(wait_seconds=0.01, max_wait_seconds=0.02),
    cors=CorsSettings(origins=("https://app.example.org",)),
    auth=AuthSettings(token=("token",), anonymous=("subscribe", "publish", "status", "trigger")),
)
HEADERS = [
    *("Accept: */*", "Accept: text/html", "Accept: text/event-stream;q=0", "Accept-Encoding: gzip"),
    *(
        "Authorization: Bearer token",
        "Authorization: Bearer nonsense",
        "Authorization: Basic x",
        "Cookie: edge_token=token",
    ),
    *("Content-Type: application/json", "Content-Type: text/plain", "Content-Type: text/xml", "Content-Encoding: gzip"),
    *("Content-Type: application/x-ndjson", "content-type: APPLICATION/JSON; Charset=utf-8", "Idempotency-Key: k"),
    *("Origin: https://app.example.org", "Origin: https://evil.example", "Sec-Fetch-Site: cross-site", "X: \xff"),
    *("X-Forwarded-For: 203.0.113.9", "Forwarded: for=203.0.113.9", "Last-Event-ID: x-1", "If-None-Match: *"),
    *("Connection: close", "Connection: keep-alive", "Host: evil.example"),
    *("traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "Upgrade: h2c", "Upgrade: websocket"),
]
TARGETS = [
    *("/healthz", "/projects", "/status", "/projects/p", "/projects/p/ready", "/projects/-", "/nothing"),
    *("/projects/p?sinse=1", "/projects/p?_=1", "/projects?limit=2&offset=1", "/%70rojects/p", "*", "/edge.js", "/"),
]
BODIES = [b'{"data":1}', b'{"type":"x","data":[1]}', b"", b"hello", b"{", b'{"data":1}\n{"data":2}\n', b'{"name":"j"}']
LAST = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
UPGRADE = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
_VARIES = re.compile(
    rb'\r\n(?:Date|Content-Length): [^\r]*|"waited_ms":[0-9.e-]+|\{"version":"[^\r\n]*|'
    rb'"(?:id|first_id|last_id|oldest|newest|epoch|ticket|first|last)":"[^"]*"'
)


@st.composite
def heads(draw: st.DrawFn) -> list[str]:
    lines = draw(st.lists(st.sampled_from(HEADERS), max_size=5))
    return [*lines, *draw(st.sampled_from([[], lines[:1]]))]  # now and then one comes twice


@st.composite
def bodies(draw: st.DrawFn) -> bytes:
    size = draw(st.sampled_from([0, 1, MAX_EVENT_BYTES - 12, MAX_EVENT_BYTES, MAX_BODY_BYTES - 12, MAX_BODY_BYTES]))
    return draw(st.sampled_from(BODIES) | st.just(b'{"data":"%b"}' % (b"x" * size)))


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """A request that ends where it says, so that another may follow."""
    lines = draw(heads())
    version = draw(st.sampled_from(["1.1", "1.1", "1.1", "1.0"]))
    if draw(st.booleans()):
        path = draw(
            st.sampled_from(
                ["events", "trigger?timeout=0", "events?type=x", "events?require=1", "ticket", "events?a=b"]
            )
        )
        body = draw(bodies())
        if version == "1.1" and draw(st.booleans()):
            lines.append("Transfer-Encoding: chunked")
            cuts = sorted(draw(st.lists(st.integers(0, len(body)), max_size=2)))
            pieces = [body[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(body)], strict=True)]
            body = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces if piece) + b"0\r\n\r\n"
        else:
            lines.append(f"Content-Length: {len(body)}")
        method, target = "POST", f"/projects/p/{path}"
    else:
        method, body = draw(st.sampled_from(["GET", "HEAD", "OPTIONS", "DELETE", "PUT"])), b""
        target = draw(st.sampled_from(TARGETS))
    text = "\r\n".join([f"{method} {target} HTTP/{version}", "Host: localhost", *lines])
    return text.encode("latin-1") + b"\r\n\r\n" + body


@pytest.fixture(scope="module")
def on_loop() -> Iterator[tuple[asyncio.Runner, list[RunningHub]]]:
    """A hub for each way to send, all with the same history, on a loop of their own through all examples."""
    with asyncio.Runner() as runner:
        stack = AsyncExitStack()

        async def start() -> list[RunningHub]:
            return [await stack.enter_async_context(running(CONFIG)) for _ in range(4)]

        try:
            yield runner, runner.run(start())
        finally:
            runner.run(stack.aclose())


async def exchange(hub: RunningHub, pieces: list[bytes], *, end: bool = False) -> bytes:
    """Send the pieces; all that comes until the hub closes."""
    wire = await Wire.open(hub.host, hub.port)
    for piece in pieces:
        wire.send(piece)
        await asyncio.sleep(0)
    if end:
        wire._writer.write_eof()
    heard = await wire.heard(patience_seconds=20)
    await wire.close()
    while hub.runner.server.connections:
        await asyncio.sleep(0.001)
    assert heard.closed, (pieces, heard.raw)
    return heard.raw


async def one_by_one(hub: RunningHub, sent: list[bytes]) -> bytes:
    """Send each request when the one before it has been answered."""
    wire = await Wire.open(hub.host, hub.port)
    raw = b""
    for request in sent:
        wire.send(request)
        heard = await wire.heard(answers=1, patience_seconds=20, bodies=not request.startswith(b"HEAD"))
        raw += heard.raw
        if heard.closed:
            break
    raw += (await wire.heard(patience_seconds=20)).raw
    await wire.close()
    while hub.runner.server.connections:
        await asyncio.sleep(0.001)
    return raw


@settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(sent=st.lists(requests(), min_size=1, max_size=4), cuts=st.lists(st.integers(1, 6000), max_size=6))
@example(sent=[UPGRADE] * 3, cuts=[7])
@example(sent=[UPGRADE.replace(b"websocket", b"h2c")] * 3, cuts=[7])
@example(sent=[LAST.replace(b"Connection: close\r\n", b"")] * 70, cuts=[])
def test_the_same_bytes_get_the_same_answers(
    on_loop: tuple[asyncio.Runner, list[RunningHub]], sent: list[bytes], cuts: list[int]
) -> None:
    runner, hubs = on_loop
    whole, cut, alone, ended = hubs
    before = [hub.context.hub.counters.published for hub in hubs]
    sent = [*sent, LAST]
    raw = b"".join(sent)
    ends = sorted({min(each, len(raw)) for each in cuts} | {len(raw)})
    pieces = [raw[begin:end] for begin, end in zip([0, *ends], ends, strict=False)]
    waits = b"/trigger" in raw or b"/ready" in raw  # what waits ends with its caller, and otherwise
    ways = {
        "whole": exchange(whole, [raw]),
        "cut": exchange(cut, pieces),
        "one by one": one_by_one(alone, sent),
        "half-closed": exchange(ended, [raw], end=not waits),
    }
    # All of them before the first comparison: the hubs are to have the same history in the next example.
    heard = {way: _VARIES.sub(b"", runner.run(exchanging)) for way, exchanging in ways.items()}
    published = [hub.context.hub.counters.published - count for hub, count in zip(hubs, before, strict=True)]
    assert [published[0]] * 4 == published, sent
    for way, answers in heard.items():
        assert heard["whole"].split(b"\r\n") == answers.split(b"\r\n"), (way, sent)
