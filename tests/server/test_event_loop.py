from __future__ import annotations

import asyncio

import pytest
from structlog.testing import capture_logs

from edge.config.schema import Config, StreamSettings
from edge.core.hub import Hub
from edge.server.aiohttp_server import HubRunner
from edge.server.assembly import assemble


async def test_a_beat_that_fails_is_logged_and_the_next_one_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    beaten = asyncio.Event()
    beats = 0

    def beat(_hub: Hub, _now: float) -> bool:
        nonlocal beats
        beats += 1
        if beats == 1:
            raise LookupError("once")
        beaten.set()
        return False

    monkeypatch.setattr(Hub, "beat", beat)
    with capture_logs() as logged:
        app, _ = await assemble(Config(stream=StreamSettings(heartbeat_seconds=0.05)))
        runner = HubRunner(app, shutdown_timeout_seconds=0)
        await runner.setup()
        await asyncio.wait_for(beaten.wait(), 10)
        await runner.cleanup()
    assert ["unexpected_error"] == [line["event"] for line in logged]


async def test_a_flush_that_fails_is_logged_and_the_next_one_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    flushed = asyncio.Event()
    flushes = 0

    def flush(_hub: Hub, _now: float) -> bool:
        nonlocal flushes
        flushes += 1
        if flushes == 1:
            raise LookupError("once")
        flushed.set()
        return False

    monkeypatch.setattr(Hub, "flush", flush)
    with capture_logs() as logged:
        app, service = await assemble(Config())
        runner = HubRunner(app, shutdown_timeout_seconds=0)
        await runner.setup()
        for _ in range(2):
            service.hub._outgoing._wake()
            await asyncio.sleep(0)
        await asyncio.wait_for(flushed.wait(), 10)
        await runner.cleanup()
    assert [("unexpected_error", "flush")] == [(line["event"], line["doing"]) for line in logged]
