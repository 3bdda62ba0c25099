from __future__ import annotations

import asyncio

import pytest
from structlog.testing import capture_logs

from edge.config.schema import Config, StreamSettings
from edge.core.hub import Hub
from edge.core.turns import FlushQueue
from edge.server.aiohttp_server import HubRunner
from edge.server.assembly import assemble


async def test_a_tick_that_fails_is_logged_and_the_next_one_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    ticked = asyncio.Event()
    ticks = 0

    def tick(_hub: Hub, _now: float) -> bool:
        nonlocal ticks
        ticks += 1
        if ticks == 1:
            raise LookupError("once")
        ticked.set()
        return False

    monkeypatch.setattr(Hub, "tick", tick)
    with capture_logs() as logged:
        app, _ = await assemble(Config(stream=StreamSettings(heartbeat_seconds=0.05)))
        runner = HubRunner(app, shutdown_timeout_seconds=0)
        await runner.setup()
        await asyncio.wait_for(ticked.wait(), 60)
        await runner.cleanup()
    assert [("background_task_failed", "tick")] == [(line["event"], line["task"]) for line in logged]


async def test_a_flush_that_fails_is_logged_and_the_next_one_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    flushed = asyncio.Event()
    flushes = 0

    def flush(_queue: FlushQueue, _now: float) -> None:
        nonlocal flushes
        flushes += 1
        if flushes == 1:
            raise LookupError("once")
        flushed.set()

    monkeypatch.setattr(FlushQueue, "flush", flush)
    with capture_logs() as logged:
        app, context = await assemble(Config())
        runner = HubRunner(app, shutdown_timeout_seconds=0)
        await runner.setup()
        try:
            for _ in range(2):
                context.hub._turn.want()
                await asyncio.sleep(0)
                await asyncio.sleep(0)
            await asyncio.wait_for(flushed.wait(), 60)
        finally:
            await runner.cleanup()
    assert [("background_task_failed", "flush")] == [(line["event"], line["task"]) for line in logged]
