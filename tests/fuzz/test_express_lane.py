"""Publishes on the express lane mean what they do on the ordinary way: two hubs get the same bytes, one has no lane."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import cast

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge.config.schema import AuthSettings, Config, LimitsSettings
from edge.server.aiohttp_server import HubServer
from tests.security.hub import RunningHub, running
from tests.security.wire import Heard

CONFIG = Config(
    limits=LimitsSettings(max_body_bytes=4096, max_event_bytes=200),
    auth=AuthSettings(token="right", anonymous=("status",)),
)
# It ends the conversation, whatever became of what came before it: no body told below swallows it whole.
LAST = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nX-Padding: " + b"x" * 100 + b"\r\n\r\n"
LINES = [
    *("Host: localhost", "Host: evil.example", "User-Agent: a", "Accept: */*", "Content-Type: application/json"),
    *("Content-Type: text/plain", "Authorization: Bearer right", "Authorization: Bearer wrong", "Idempotency-Key: k"),
    *("Connection: keep-alive", "Connection: close", "Transfer-Encoding: chunked", "Content-Length: 10", "Expect: x"),
    *("X: \x00", "X : y", " folded", "Content-Encoding: gzip", "authorization: bearer right", "Origin: http://evil"),
]
USUAL = ["Host: localhost", "Authorization: Bearer right"]
BODIES = [
    *(b'{"data":1}', b'{"data":"x","type":"t"}', b'{"data":1,"x":2}', b"{", b""),
    *(b'{"data":"\xff"}', b'{"data":"%s"}' % (b"y" * 300)),
]


@st.composite
def publishes(draw: st.DrawFn) -> bytes:
    """A publish, as most are or with something odd about it."""
    body = draw(st.sampled_from(BODIES[:2]) | st.sampled_from(BODIES))
    lines = list(USUAL)
    if draw(st.booleans()):
        lines = draw(st.lists(st.sampled_from(LINES), max_size=5))
    told_bytes = len(body) + draw(st.sampled_from([0, 0, 0, 0, 1, 5, 20, -1, -len(body)]))
    lines.insert(
        draw(st.integers(0, len(lines))), f"{draw(st.sampled_from(['Content-Length', 'content-length']))}: {told_bytes}"
    )
    project = draw(st.sampled_from(["p1", "p1", "p2", "p%31", "p1/", "../p1"]))
    ends = draw(st.sampled_from(["\r\n", "\r\n", "\r\n", "\n"]))
    version = draw(st.sampled_from(["1.1", "1.1", "1.1", "1.0"]))
    head = ends.join([f"POST /projects/{project}/events HTTP/{version}", *lines, "", ""])
    return draw(st.sampled_from([b"", b"", b"\r\n", b"x"])) + head.encode() + body


@pytest.fixture(scope="module")
def both() -> Iterator[tuple[asyncio.Runner, RunningHub, RunningHub]]:
    """A hub with the lane and one without, on one loop."""
    with asyncio.Runner() as runner:
        contexts = running(CONFIG), running(CONFIG)
        quick, plain = (runner.run(context.__aenter__()) for context in contexts)
        cast(HubServer, plain.runner.server).express._open = False
        try:
            yield runner, quick, plain
        finally:
            for context in contexts:
                runner.run(context.__aexit__(None, None, None))


async def ask(hub: RunningHub, pieces: list[bytes]) -> tuple[Heard, int]:
    """What was heard, and how many events the hub has taken."""
    before = hub.context.hub.counters.published
    wire = await hub.wire()
    for piece in pieces:
        wire.send(piece)
        await asyncio.sleep(0.001)
    heard = await wire.heard()
    await wire.close()
    hub.wires.remove(wire)
    return heard, hub.context.hub.counters.published - before


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(publishes(), min_size=1, max_size=6), st.lists(st.integers(1, 900), max_size=4))
def test_the_lane_changes_no_answer(
    both: tuple[asyncio.Runner, RunningHub, RunningHub], requests: list[bytes], cuts: list[int]
) -> None:
    runner, quick, plain = both
    raw = b"".join(requests) + LAST
    ends = sorted({min(cut, len(raw)) for cut in cuts} | {len(raw)})
    pieces = [raw[begin:end] for begin, end in zip([0, *ends], ends, strict=False)]
    by_lane, taken_by_lane = runner.run(ask(quick, pieces))
    ordinary, taken = runner.run(ask(plain, pieces))
    assert ordinary.closed
    assert by_lane.closed
    if "malformed_http" not in ordinary.codes + by_lane.codes:
        assert (ordinary.statuses, ordinary.codes, taken) == (by_lane.statuses, by_lane.codes, taken_by_lane)
        return
    # Behind a malformed request nothing is taken. aiohttp also drops what came before it in the same segment, where the
    # lane has answered already; and an answer may be lost to a client that is still sending when the hub closes.
    assert taken <= taken_by_lane <= len(requests)
    fewer, more = sorted((_good(by_lane), _good(ordinary)), key=len)
    assert more[: len(fewer)] == fewer


def _good(heard: Heard) -> list[int]:
    return heard.statuses[:-1] if "malformed_http" in heard.codes else heard.statuses
