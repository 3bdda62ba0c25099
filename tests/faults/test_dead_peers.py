"""A peer that vanishes without a word is found out, and what it had not acknowledged is missed, counted and kept."""

from __future__ import annotations

import asyncio
import socket
import time
from typing import Any

import aiohttp_sse
import msgspec
import pytest

from edge.config.schema import Config, StreamSettings
from edge.core.connection import NEVER
from edge.core.counters import DETECTION_BOUNDS_SECONDS
from edge.core.event import Event
from edge.core.timers import Ticker
from edge.http.context import Context
from edge.transport import tcp
from edge.transport.stream import Stream
from tests.faults.cable import cable
from tests.faults.hub import LOOPS, assert_ledger, serving, until
from tests.faults.inside import OPEN, hub_inside
from tests.faults.reader import open_stream, stopped_reader

pytestmark = pytest.mark.slow

HEARTBEAT_SECONDS = 0.5
DEAD_AFTER_SECONDS = 1.0
SLACK_SECONDS = 6.0  # of a busy machine
CONFIG = Config(
    stream=StreamSettings(heartbeat_seconds=HEARTBEAT_SECONDS, dead_after_seconds=DEAD_AFTER_SECONDS), auth=OPEN
)


@pytest.mark.namespaces
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
            assert 2 == metrics["edge_dead_detection_seconds_count"]
            longest = 2 * (HEARTBEAT_SECONDS + DEAD_AFTER_SECONDS + SLACK_SECONDS)
            assert 2 * DEAD_AFTER_SECONDS < metrics["edge_dead_detection_seconds_sum"] < longest
            assert DETECTION_BOUNDS_SECONDS[0] <= DEAD_AFTER_SECONDS

            back = await open_stream(("127.0.0.1", hub.port), "busy")
            assert list(range(10, 20)) == await back.events(10)
            await back.close()
            for gone in (idle, busy):
                await gone.close()
            metrics = await hub.at_rest()
            assert 10 == metrics["edge_misses_recovered_total"]


@pytest.mark.namespaces
async def test_a_client_that_comes_back_before_its_dead_stream_is_found_out_misses_nothing() -> None:
    with cable() as wire:
        async with serving(
            stream__heartbeat_seconds=HEARTBEAT_SECONDS, stream__dead_after_seconds=DEAD_AFTER_SECONDS
        ) as hub:
            before = await open_stream((wire.here, hub.port), "p", sock=wire.socket())
            for number in range(5):
                await hub.publish("p", number)
            await before.events(5)
            wire.cut()
            for number in range(5, 10):
                await hub.publish("p", number)
            after = await open_stream(("127.0.0.1", hub.port), "p", query=f"last_event_id={before.last_id}")
            assert list(range(5, 10)) == await after.events(5)
            metrics = await hub.removed("dead")
            assert 0 == metrics["edge_misses_total"]
            await after.close()
            await before.close()
            await hub.at_rest()


async def dead_and_slow(context: Context) -> tuple[int, int]:
    removed = context.hub.counters.removed
    return removed["dead"], removed["slow"]


@pytest.mark.linux
@pytest.mark.namespaces
async def test_without_tcp_user_timeout_the_heartbeat_asks_what_has_moved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aiohttp_sse, "_TCP_USER_TIMEOUT", None)
    monkeypatch.setattr(tcp, "set_user_timeout", lambda sock, seconds: None)
    with cable() as idle_wire, cable() as busy_wire:
        async with hub_inside(CONFIG) as (context, port):
            idle = await open_stream((idle_wire.here, port), "idle", sock=idle_wire.socket())
            busy = await open_stream((busy_wire.here, port), "busy", sock=busy_wire.socket())
            stopped = await stopped_reader(("127.0.0.1", port), "stopped")
            streams: list[Any] = list(context.hub.connections.values())
            assert [0, 0, 0] == [each._sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) for each in streams]
            for cut in (idle_wire, busy_wire):
                cut.cut()
            began = time.monotonic()
            for _ in range(20):
                for project in ("busy", "stopped"):
                    context.hub.publish(project, Event("message", b"1" * 10_000), context.clock())
                await asyncio.sleep(0.01)
            await until(lambda: dead_and_slow(context), lambda seen: seen == (2, 1))
            assert HEARTBEAT_SECONDS + DEAD_AFTER_SECONDS + SLACK_SECONDS > time.monotonic() - began
            assert 2 == sum(context.hub.counters.dead_detection_seconds.counts)
            assert 40 == context.hub.counters.misses.misses
            for gone in (idle, busy):
                await gone.close()
            stopped.sock.close()


@pytest.mark.namespaces
async def test_dead_and_slow_differ_when_the_kernel_closes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    # Long enough for two probes of the shut window to go unanswered.
    config = msgspec.structs.replace(CONFIG, stream=StreamSettings(heartbeat_seconds=0.5, dead_after_seconds=2.5))
    monkeypatch.setattr(Ticker, "_stalls_at", lambda self, connection, now: NEVER)
    errors = []
    reason_of = Stream._reason

    def note(self: Stream, exc: BaseException | None) -> str:
        errors.append(type(exc))
        return reason_of(self, exc)

    monkeypatch.setattr(Stream, "_reason", note)
    with cable() as wire, cable() as shut_wire:
        async with hub_inside(config) as (context, port):
            dead = await open_stream((wire.here, port), "dead", sock=wire.socket())
            stopped = await stopped_reader(("127.0.0.1", port), "slow")
            shut = await stopped_reader((shut_wire.here, port), "shut", shut_wire.socket())
            for _ in range(20):
                for project in ("slow", "shut"):
                    context.hub.publish(project, Event("message", b"1" * 10_000), context.clock())
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.2)
            wire.cut()
            shut_wire.cut()
            await until(lambda: dead_and_slow(context), lambda seen: seen == (2, 1))
            assert [TimeoutError] * 3 == errors
            await dead.close()
            stopped.sock.close()
            shut.sock.close()
