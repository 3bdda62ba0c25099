"""One thing goes wrong after another, and after each the books are right and nothing is left lying about."""

from __future__ import annotations

import asyncio
import signal
import socket
import time
from typing import Any

import pytest

from edge.config.schema import Config
from edge.core.event import Event
from tests.faults.cable import cable
from tests.faults.hub import LOOPS, serving, until
from tests.faults.inside import OPEN, hub_inside
from tests.faults.middle import between
from tests.faults.reader import open_stream, stopped_reader
from tests.ports import free_port
from tests.triggers.receiver import answer, receiving

pytestmark = pytest.mark.slow

QUICK: dict[str, Any] = {"stream__heartbeat_seconds": 0.5, "stream__dead_after_seconds": 1}


@pytest.mark.namespaces
async def test_a_cable_cut_in_the_middle_of_a_replay() -> None:
    count = 200
    with cable() as wire:
        async with serving(**QUICK) as hub:
            for number in range(count):
                await hub.publish("p", [number, "x" * 3000])
            reader = await stopped_reader((wire.here, hub.port), "p", wire.socket())
            received = reader.peek_events()
            wire.cut()
            metrics = await until(hub.metrics, lambda found: found["edge_connections"] == 0)
            assert received < count
            back = await open_stream(("127.0.0.1", hub.port), "p")
            rest = [number for number, _ in await back.events(int(metrics["edge_misses_pending"]))]
            # A replay goes out in large chunks: what was acknowledged of the last one is sent again.
            assert list(range(count - len(rest), count)) == rest
            assert count - len(rest) <= received + 40
            await back.close()
            reader.sock.close()
            await hub.at_rest()


@pytest.mark.namespaces
async def test_a_cable_cut_in_the_middle_of_a_request() -> None:
    with cable() as wire:
        async with serving(limits__idle_seconds=1, **QUICK) as hub:
            socks = []
            posting = b"POST /projects/p/events HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n{"
            for begun in (b"", b"GET /projects/p/ev", posting):
                sock = wire.socket()
                sock.connect((wire.here, hub.port))
                sock.sendall(begun)
                socks.append(sock)
            await until(hub.metrics, lambda found: found["process_open_fds"] >= hub.settled_descriptors + 3)
            wire.cut()
            await hub.at_rest()
            for sock in socks:
                sock.close()


@pytest.mark.namespaces
async def test_a_callers_cable_cut_while_its_trigger_is_dispatched() -> None:
    """The job is started once, and a repeated request with the same key gets the response."""
    gate = asyncio.Event()

    async def slowly(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await gate.wait()
        await answer(200, b'{"run": 1}')(reader, writer)

    with cable() as wire:
        async with (
            receiving(slowly) as target,
            serving(trigger__url=target.url, limits__idle_seconds=1, **QUICK) as hub,
        ):
            reader = await open_stream(("127.0.0.1", hub.port), "p")
            caller = wire.socket()
            caller.connect((wire.here, hub.port))
            body = b'{"name": "job"}'
            caller.sendall(
                b"POST /projects/p/trigger HTTP/1.1\r\nHost: a\r\nIdempotency-Key: k\r\nContent-Length: %d\r\n\r\n%b"
                % (len(body), body)
            )
            await target.requested.wait()
            wire.cut()
            again = asyncio.create_task(
                hub.ask(
                    "POST",
                    "/projects/p/trigger",
                    data=body,
                    headers={"Idempotency-Key": "k", "Content-Type": "application/json"},
                )
            )
            await asyncio.sleep(0.1)
            gate.set()
            status, receipt, headers = await again
            assert (202, "true") == (status, headers["Idempotency-Replayed"])
            assert {"run": 1} == receipt["target"]["answer"]
            assert 1 == len(target.requests)
            caller.close()
            await reader.close()
            metrics = await hub.at_rest()
            assert 1 == metrics['edge_triggers_total{outcome="dispatched"}']


async def test_one_byte_at_a_time_and_late() -> None:
    async with serving() as hub, between(hub.port) as middle:
        middle.slice_bytes = 1
        reader = await open_stream(middle.address, "p")
        await hub.publish("p", "été")
        assert ["été"] == await reader.events(1)
        middle.slice_bytes, middle.delay_seconds = 65536, 0.3
        await hub.publish("p", 2)
        assert ["été", 2] == await reader.events(2)
        status, _, _ = await hub.ask("GET", "/projects/p/ready?timeout=20s")
        assert 200 == status
        await reader.close()
        middle.reset()
        await hub.at_rest()


async def test_a_stall_a_break_and_the_return_with_the_last_id() -> None:
    count = 50
    async with serving() as hub, between(hub.port) as middle:
        reader = await open_stream(middle.address, "p")
        for number in range(10):
            await hub.publish("p", number)
        await reader.events(10)
        middle.flowing.clear()
        for number in range(10, count):
            await hub.publish("p", number)  # the middle acknowledges it, the reader never sees it
        middle.reset()
        await reader.to_the_end()
        assert list(range(10)) == reader.data
        middle.flowing.set()
        back = await open_stream(middle.address, "p", headers=f"Last-Event-ID: {reader.last_id}\r\n")
        assert list(range(10, count)) == await back.events(count - 10)
        assert not [frame for frame in back.frames if frame.type == "edge.gap"]
        for each in (reader, back):
            await each.close()
        middle.reset()
        await hub.at_rest()


@pytest.mark.parametrize("loop", LOOPS)
async def test_a_half_closed_reader_leaves(loop: str) -> None:
    async with serving(loop=loop) as hub:
        reader = await open_stream(("127.0.0.1", hub.port), "p")
        reader.sock.shutdown(socket.SHUT_WR)
        await hub.removed("client")
        await reader.to_the_end()
        await reader.close()
        await hub.at_rest()


async def test_the_clock_set_back_an_hour(monkeypatch: pytest.MonkeyPatch) -> None:
    real = time.time
    async with hub_inside(Config(auth=OPEN)) as (context, port):
        context.hub.publish("p", Event("message", b"1"), context.clock())
        monkeypatch.setattr(time, "time", lambda: real() - 3600)
        context.hub.publish("p", Event("message", b"2"), context.clock())
        reader = await open_stream(("127.0.0.1", port), "p", query="since=10m")
        context.hub.publish("p", Event("message", b"3"), context.clock())
        assert [1, 2, 3] == await reader.events(3)
        assert (await context.readiness.wait("p", 1, 20)).connections == 1
        seqs = [
            int(frame.id.rpartition("-")[2])
            for frame in reader.frames
            if frame.id and not frame.type.startswith("edge.")
        ]
        assert [1, 2, 3] == seqs
        first, last = context.iso_time(context.clock() - 1), context.iso_time(context.clock())
        assert first < last
        await reader.close()


async def test_a_gap_after_a_kill_and_a_restart() -> None:
    async with serving(port=free_port()) as hub:
        address = ("127.0.0.1", hub.port)
        reader = await open_stream(address, "p")
        await hub.publish("p", "before")
        await reader.events(1)
        hub.signal(signal.SIGKILL)
        await reader.to_the_end()
        assert -signal.SIGKILL == await hub.ended()
        async with serving(port=hub.port) as again:
            await again.publish("p", "after")
            back = await open_stream(address, "p", headers=f"Last-Event-ID: {reader.last_id}\r\n")
            gap = (await back.until("edge.gap")).json()
            assert (reader.last_id, "restart", None) == (gap["asked"], gap["reason"], gap["lost"])
            assert ["after"] == await back.events(1)
            await back.close()
            await again.at_rest()
        await reader.close()


async def test_a_publisher_that_dies_in_the_middle_of_a_line() -> None:
    async with serving() as hub:
        reader = await open_stream(("127.0.0.1", hub.port), "p")
        publisher = socket.create_connection(("127.0.0.1", hub.port))
        publisher.sendall(
            b"POST /projects/p/events HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-ndjson\r\n"
            b'Transfer-Encoding: chunked\r\n\r\n14\r\n{"data": 1}\n{"data":\r\n'
        )
        await reader.events(1)
        publisher.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        publisher.close()
        await hub.publish("p", 2)
        assert [1, 2] == await reader.events(2)
        await reader.close()
        await hub.at_rest()


async def test_the_logs_reader_goes_away() -> None:
    async with serving() as hub:
        assert hub.reading is not None
        hub.reading.cancel()
        await asyncio.gather(hub.reading, return_exceptions=True)
        hub.reading = None
        hub.process._transport.get_pipe_transport(2).close()  # type: ignore[attr-defined]
        reader = await open_stream(("127.0.0.1", hub.port), "p")
        await hub.publish("p", 1)
        assert [1] == await reader.events(1)
        await reader.close()
        assert (await hub.at_rest())["edge_log_lines_dropped_total"] > 0
        hub.signal(signal.SIGTERM)
        assert 0 == await hub.ended()
