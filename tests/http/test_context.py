from __future__ import annotations

import asyncio

import pytest

from edge.core.errors import Draining
from tests.hubs import StartHub


async def test_a_request_that_runs_out_of_time_does_not_disturb_the_drain(start_hub: StartHub) -> None:
    context = (await start_hub()).context

    async def slow() -> None:
        async with context.until_drain(0, "Too slow."):
            await asyncio.Event().wait()

    reading = asyncio.create_task(slow())
    while not any(leash.expired() for leash in context._leashes):  # noqa: ASYNC110 - it tells nobody
        await asyncio.sleep(0)
    context.drain()
    with pytest.raises(Draining):
        await reading
