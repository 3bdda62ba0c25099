"""Mangled requests against a running hub: refusals only, never a failure of its own, never silence.

What is mangled are the requests of `corpus/http`: kept there are one of each kind, and whatever found something once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from edge.auth.tickets import Tickets
from edge.config.schema import AuthSettings, Config, CorsSettings, LimitsSettings, TriggerSettings
from tests.fuzz.mangling import mangle
from tests.security.hub import RunningHub, running
from tests.security.wire import Wire

CORPUS = sorted((Path(__file__).parent / "corpus" / "http").iterdir())
REQUESTS = [path.read_bytes() for path in CORPUS]
JUNK = [
    *(b"\0", b"\r\n", b"\n", b"\r", b"\r\n\r\n", b" ", b"\t", b":", b"\xff", b"%00", b"%0d%0a", b"\x1b[31m", b"?"),
    *(b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n", b"Host: evil\r\n", b"Connection: close\r\n"),
    *(b"Content-Encoding: gzip\r\n", b"Expect: 100-continue\r\n", b"Upgrade: h2c\r\n", b"9" * 30, b"-1", b"A" * 300),
]  # fmt: skip
# An answer to a good request, a refusal, or a version that isn't spoken.
FINE = {100, 200, 201, 202, 204, 304, 503, 505} | set(range(400, 500))


@st.composite
def mangled(draw: st.DrawFn) -> bytes:
    """A request of the corpus, changed at a few places, or two of them run into each other."""
    raw = bytearray(draw(st.sampled_from(REQUESTS)))
    if draw(st.booleans()):
        raw += draw(st.sampled_from(REQUESTS))
    junk = st.sampled_from(JUNK) | st.binary(min_size=1, max_size=3)
    return mangle(draw, raw, junk, least=1, cut=30)


CONFIG = Config(
    limits=LimitsSettings(
        max_body_bytes=4096, max_event_bytes=2048, max_projects=100, max_tickets=50, idle_seconds=5.0
    ),
    trigger=TriggerSettings(wait_seconds=0.01, max_wait_seconds=0.05),
    cors=CorsSettings(origins=("https://app.example.org",)),
)
AUTH = AuthSettings(token=("t",), anonymous=("subscribe",))
GUARDED = Config(limits=CONFIG.limits, trigger=CONFIG.trigger, auth=AUTH)


@pytest.fixture(scope="module", params=[CONFIG, GUARDED], ids=["open", "guarded"])
def on_loop(request: pytest.FixtureRequest) -> Iterator[tuple[asyncio.Runner, RunningHub]]:
    """A hub that lives on a loop of its own through all examples."""
    with asyncio.Runner() as runner:
        context = running(request.param)
        hub = runner.run(context.__aenter__())
        try:
            yield runner, hub
        finally:
            runner.run(context.__aexit__(None, None, None))


@asynccontextmanager
async def connected(hub: RunningHub) -> AsyncIterator[Wire]:
    wire = await Wire.open(hub.host, hub.port)
    try:
        yield wire
    finally:
        await wire.close()


async def send(hub: RunningHub, pieces: list[bytes]) -> None:
    async with connected(hub) as wire:
        for piece in pieces:
            wire.send(piece)
            await asyncio.sleep(0)
        # What is left unfinished waits for its deadline, and a stream goes on: both are fine.
        heard = await wire.heard(answers=1, patience_seconds=0.05)
        assert set(heard.statuses) <= FINE, heard
        assert b"Traceback" not in heard.raw
        assert b"aiohttp" not in heard.raw
    async with connected(hub) as wire:
        wire.send("GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert [200] == (await wire.heard(answers=1)).statuses, "the hub answers no more"


@settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(raw=mangled(), cuts=st.lists(st.integers(1, 200), max_size=3))
@example(raw=b"", cuts=[])
def test_a_mangled_request_is_refused_and_harms_no_other(
    on_loop: tuple[asyncio.Runner, RunningHub], caplog: pytest.LogCaptureFixture, raw: bytes, cuts: list[int]
) -> None:
    runner, hub = on_loop
    ends = sorted({min(cut, len(raw)) for cut in cuts} | {len(raw)})
    pieces = [raw[begin:end] for begin, end in zip([0, *ends], ends, strict=False)]
    caplog.clear()
    with caplog.at_level(logging.ERROR), capture_logs() as lines:
        runner.run(send(hub, pieces))
    assert [] == caplog.messages
    assert [] == [line for line in lines if line["log_level"] == "error"]


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.name)
def test_the_corpus(on_loop: tuple[asyncio.Runner, RunningHub], path: Path) -> None:
    runner, hub = on_loop
    raw = path.read_bytes()
    with capture_logs() as lines:
        runner.run(send(hub, [raw]))
        for at in range(1, len(raw), 7):
            runner.run(send_in_two(hub, raw[:at], raw[at:]))
    assert [] == [line for line in lines if line["log_level"] == "error"]


async def send_in_two(hub: RunningHub, first: bytes, second: bytes) -> None:
    async with connected(hub) as wire:
        wire.send(first)
        await asyncio.sleep(0)
        wire.send(second)
        heard = await wire.heard(answers=1, patience_seconds=2.0 if b"event-stream" not in first + second else 0.02)
        assert set(heard.statuses) <= FINE, heard


def test_nothing_is_left_of_it_all(on_loop: tuple[asyncio.Runner, RunningHub]) -> None:
    """Runs last: no stream, no task, no waiting caller, and no more of the rest than the limits allow."""
    runner, hub = on_loop

    async def settle() -> int:
        for _ in range(200):
            if not hub.context.hub.connections and len(asyncio.all_tasks()) <= 3:
                break
            await asyncio.sleep(0.05)
        return len(asyncio.all_tasks())

    assert runner.run(settle()) <= 3, "this one, the beat, and the watch of the loop"
    context = hub.context
    assert (0, 0, 0) == (len(context.hub.connections), context.readiness.waiting, len(context.running))
    assert len(context.hub.projects) <= 100
    assert isinstance(context.nodes.tickets, Tickets)
    assert len(context.nodes.tickets) <= 50
