from __future__ import annotations

import asyncio
import time
from datetime import datetime

import pytest

from edge.core.errors import Draining
from tests.hubs import StartHub


async def test_a_request_that_runs_out_of_time_does_not_disturb_the_drain(start_hub: StartHub) -> None:
    context = (await start_hub()).context

    async def slow() -> None:
        async with context.until_drain(0, "Too slow."):
            await asyncio.Event().wait()

    reading = asyncio.create_task(slow())
    while not any(leash.expired() for leash in context._leashes):
        await asyncio.sleep(0)
    context.drain()
    with pytest.raises(Draining):
        await reading


async def test_times_shown_follow_the_clock_of_the_machine(
    start_hub: StartHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What happened before the clock was set is shown as what it was in the right time."""
    context = (await start_hub()).context
    moment, wall = context.clock(), time.time
    before = datetime.fromisoformat(context.iso_time(moment))
    monkeypatch.setattr(time, "time", lambda: wall() + 3 * 3600)
    after = datetime.fromisoformat(context.iso_time(moment))
    assert 3 * 3600 == pytest.approx((after - before).total_seconds(), abs=30)
