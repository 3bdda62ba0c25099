"""A peer that vanishes without a word is found out, and what it had not acknowledged is missed, counted and kept."""

from __future__ import annotations

import asyncio
import time

import pytest

from tests.faults.cable import cable
from tests.faults.hub import LOOPS, assert_ledger, serving
from tests.faults.reader import open_stream

HEARTBEAT_SECONDS = 0.5
DEAD_AFTER_SECONDS = 1.0
SLACK_SECONDS = 2.0  # of a busy machine


@pytest.mark.parametrize("loop", LOOPS)
async def test_a_vanished_peer_is_dead_within_dead_after_and_a_heartbeat_idle_or_busy(loop: str) -> None:
    with cable() as wire:
        async with serving(
            loop=loop, stream__heartbeat_seconds=HEARTBEAT_SECONDS, stream__dead_after_seconds=DEAD_AFTER_SECONDS
        ) as hub:
            idle = await open_stream((wire.here, hub.port), "idle", sock=wire.socket())
            busy = await open_stream((wire.here, hub.port), "busy", sock=wire.socket())
            for number in range(10):
                await hub.publish("busy", number)
            await busy.events(10)
            wire.cut()
            cut = time.monotonic()
            for number in range(10, 20):
                await hub.publish("busy", number)
                await asyncio.sleep(0.02)
            metrics = await hub.removed("dead", 2)
            took = time.monotonic() - cut

            assert HEARTBEAT_SECONDS + DEAD_AFTER_SECONDS + SLACK_SECONDS > took
            assert_ledger(metrics)
            assert 10 == metrics["edge_misses_total"] == metrics["edge_misses_pending"]
            back = await open_stream(("127.0.0.1", hub.port), "busy")
            assert list(range(10, 20)) == await back.events(10)
            await back.close()
            for gone in (idle, busy):
                await gone.close()
            metrics = await hub.at_rest()
            assert 10 == metrics["edge_misses_recovered_total"]
