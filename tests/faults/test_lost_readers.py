"""Written is not received: what a lost reader had not acknowledged is missed, counted, held, and got by the next."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import ssl
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import pytest

from edge.config.schema import Config
from edge.core.event import Event
from edge.transport import tcp
from edge.transport.stream import Stream
from tests.faults.cable import cable
from tests.faults.hub import LOOPS, HubProcess, serving, until
from tests.faults.inside import OPEN, hub_inside
from tests.faults.reader import StoppedReader, open_stream, stopped_reader
from tests.faults.tls import TRUSTING, Certificate, self_signed

pytestmark = pytest.mark.slow

COUNT = 60
FILLER = "x" * 2000
"""So long that a stopped reader's buffer holds a few dozen events and no more."""
SLOW: dict[str, Any] = {"stream__heartbeat_seconds": 0.5, "stream__dead_after_seconds": 1}
certificate = pytest.fixture(scope="module")(self_signed)


async def publish_numbers(hub: HubProcess, project: str, count: int = COUNT) -> None:
    for number in range(count):
        await hub.publish(project, [number, FILLER])


def numbers(events: list[list[object]]) -> list[object]:
    return [number for number, _ in events]


async def settled_peek(reader: StoppedReader) -> int:
    """How many whole events its kernel holds, when no more come."""
    before = -1
    while before != (now := len(reader.peek())):
        before = now
        await asyncio.sleep(0.3)
    return reader.peek_events()


@pytest.mark.parametrize(("loop", "comes_back"), [("uvloop", False), ("uvloop", True), ("asyncio", False)])
async def test_after_a_reset_exactly_what_was_not_acknowledged_is_missed_and_got(loop: str, comes_back: bool) -> None:
    async with serving(loop=loop) as hub:
        address = ("127.0.0.1", hub.port)
        reader = await stopped_reader(address, "p")
        await publish_numbers(hub, "p")
        received = await settled_peek(reader)
        epoch = (await hub.project("p"))["epoch"]
        assert 0 < received < COUNT
        reader.reset()
        metrics = await hub.removed("client")
        assert COUNT - received == metrics["edge_misses_total"] == metrics["edge_misses_pending"]

        query = f"last_event_id={epoch}-{received}" if comes_back else ""
        back = await open_stream(address, "p", query=query)
        assert list(range(received, COUNT)) == numbers(await back.events(COUNT - received))
        await back.close()
        metrics = await hub.at_rest()
        assert COUNT - received == metrics["edge_misses_recovered_total"]
        assert 0 == metrics["edge_misses_pending"]


@pytest.mark.parametrize("loop", LOOPS)
async def test_a_slow_reader_is_removed_as_slow_and_what_it_left_is_missed(loop: str) -> None:
    async with serving(loop=loop, **SLOW) as hub:
        address = ("127.0.0.1", hub.port)
        reader = await stopped_reader(address, "p")
        other = await open_stream(address, "p")
        await publish_numbers(hub, "p")
        assert COUNT == len(await other.events(COUNT))  # and none waits for the slow one
        await other.close()
        received = await settled_peek(reader)
        metrics = await hub.removed("slow")
        assert 0 == metrics["edge_misses_total"]  # the other one had all
        reader.sock.close()

        reader = await stopped_reader(address, "q")
        await publish_numbers(hub, "q")
        received = await settled_peek(reader)
        metrics = await hub.removed("slow", 2)
        assert COUNT - received == metrics["edge_misses_total"]
        back = await open_stream(address, "q")
        assert list(range(received, COUNT)) == numbers(await back.events(COUNT - received))
        await back.close()
        reader.sock.close()
        await hub.at_rest()


@pytest.mark.parametrize("loop", LOOPS)
async def test_a_few_events_that_a_stopped_reader_does_not_take_make_it_slow_not_dead(loop: str) -> None:
    """The hub's own buffer is empty then: what it doesn't take waits in the kernel."""
    async with serving(loop=loop, **SLOW) as hub:
        reader = await stopped_reader(("127.0.0.1", hub.port), "p", buffer_bytes=1)
        lines = {
            "data": "\n".join([json.dumps({"data": FILLER})] * 8),
            "headers": {"Content-Type": "application/x-ndjson"},
        }
        assert 201 == (await hub.ask("POST", "/projects/p/events", **lines))[0]
        shown = (await hub.project("p"))["connections"][0]
        assert not shown["paused"]
        assert 0 < shown["unacknowledged_bytes"]
        await hub.removed("slow")
        reader.sock.close()
        await hub.at_rest()


async def test_a_slow_subscriber_that_goes_on_gets_a_gap() -> None:
    async with serving(ring__max_events=20) as hub:
        address = ("127.0.0.1", hub.port)
        reader = await open_stream(address, "p", receive_buffer_bytes=4096)
        reader.stop()
        await publish_numbers(hub, "p", 200)
        assert (await hub.project("p"))["connections"][0]["paused"]
        reader.go_on()
        gap = (await reader.until("edge.gap")).json()
        before = len(reader.data)
        assert "evicted" == gap["reason"]
        assert gap["asked"].endswith(f"-{before}")
        rest = numbers(await reader.events(before + 20))
        assert list(range(before)) + list(range(180, 200)) == rest
        assert 180 - before == gap["lost"]
        await reader.close()
        metrics = await hub.at_rest()
        assert 180 - before == metrics["edge_misses_lost_total"]
        assert 1 == metrics['edge_gaps_total{reason="evicted"}']


@pytest.mark.curl
async def test_a_killed_client_leaves_a_ledger_that_adds_up() -> None:
    async with serving() as hub:
        unread, standard_output = os.pipe()
        client = await asyncio.create_subprocess_exec(
            "curl", "--silent", "--no-buffer", f"{hub.url}/projects/p/events", stdout=standard_output
        )
        os.close(standard_output)
        await until(hub.metrics, lambda found: found["edge_connections"] == 1)
        await publish_numbers(hub, "p", 300)
        client.send_signal(signal.SIGKILL)
        await client.wait()
        os.close(unread)
        metrics = await hub.removed("client")
        missed = int(metrics["edge_misses_total"])
        assert missed > 0
        back = await open_stream(("127.0.0.1", hub.port), "p")
        assert list(range(300 - missed, 300)) == numbers(await back.events(missed))
        await back.close()
        metrics = await hub.at_rest()
        assert missed == metrics["edge_misses_recovered_total"]


@pytest.mark.namespaces
@pytest.mark.parametrize("loop", LOOPS)
async def test_over_tls_what_came_after_the_last_quiet_moment_is_missed(loop: str, certificate: Certificate) -> None:
    with cable() as wire:
        async with serving(
            loop=loop, server__tls_cert=certificate.cert, server__tls_key=certificate.key, **SLOW
        ) as hub:
            far = await open_stream((wire.here, hub.port), "p", sock=wire.socket(), ssl=TRUSTING)
            idle = await open_stream((wire.here, hub.port), "idle", sock=wire.socket(), ssl=TRUSTING)
            near = await open_stream(("127.0.0.1", hub.port), "q", ssl=TRUSTING)
            for number in range(10):
                await hub.publish("p", number)
                await hub.publish("q", number)
            await far.events(10)
            await near.events(10)
            for project in ("p", "q"):  # the hub asks, and then knows that they have it all
                assert 200 == (await hub.ask("GET", f"/projects/{project}/ready?timeout=20s"))[0]
            await near.close()
            await hub.removed("client")
            wire.cut()
            for number in range(10, 20):
                await hub.publish("p", number)
            metrics = await hub.removed("dead", 2)
            assert 10 == metrics["edge_misses_total"] == metrics["edge_misses_pending"]
            back = await open_stream(("127.0.0.1", hub.port), "p", ssl=TRUSTING)
            assert list(range(10, 20)) == await back.events(10)
            await back.close()
            await far.close()
            await idle.close()
            await hub.at_rest()


@pytest.mark.parametrize(("loop", "count"), [("uvloop", 160), ("asyncio", 300)])
async def test_over_tls_a_stopped_reader_is_slow(loop: str, count: int, certificate: Certificate) -> None:
    """Its TLS takes 256 KiB. What comes then waits in a buffer that the hub can't see, and what is more pauses it."""
    async with serving(loop=loop, server__tls_cert=certificate.cert, server__tls_key=certificate.key, **SLOW) as hub:
        reader = await open_stream(("127.0.0.1", hub.port), "p", ssl=TRUSTING, receive_buffer_bytes=1)
        reader.stop()
        await publish_numbers(hub, "p", count)
        await hub.removed("slow")
        await reader.close()
        await hub.at_rest()


async def test_what_tls_adds_is_known_to_the_byte(certificate: Certificate) -> None:
    """So that "all is acknowledged" is known although a second buffer, below TLS, can't be seen."""
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(certificate.cert, certificate.key)
    async with hub_inside(Config(auth=OPEN), tls=tls) as (context, port):
        reader = await open_stream(("127.0.0.1", port), "p", ssl=TRUSTING)
        assert "TLSv1.3" == reader.writer.get_extra_info("ssl_object").version()
        for size_bytes in (10, 16_300, 16_384, 100_000):
            context.hub.publish("p", Event("message", b'"' + b"x" * size_bytes + b'"'), context.clock())
            context.hub.flush(context.clock())
        await reader.events(4)
        [connection] = context.hub.connections.values()
        stream = cast(Stream, connection)
        assert stream._sock is not None

        async def acked_bytes() -> int:
            return tcp.acked_bytes(cast(tcp.Socket, stream._sock))

        await until(acked_bytes, lambda acked: acked == stream._target_bytes)
        assert stream.written_bytes == stream.acked_bytes()
        await reader.close()


async def test_a_thousand_stopped_subscribers_cost_their_buffers_and_delay_no_other() -> None:
    """4 MB of kernel memory each, as it is without TCP_NOTSENT_LOWAT, would be 4 GB."""
    count, events, size_bytes = 1000, 100, 10_000
    async with serving(ring__max_bytes=8 << 20) as hub:
        address = ("127.0.0.1", hub.port)
        with ThreadPoolExecutor(8) as pool:
            loop = asyncio.get_running_loop()
            connecting = [
                loop.run_in_executor(pool, StoppedReader, address, "p", socket.socket()) for _ in range(count)
            ]
            stopped = await asyncio.gather(*connecting)
        other = await open_stream(address, "p")
        before_bytes, kernel_before_bytes = hub.resident_bytes(), kernel_bytes()
        for number in range(events):
            await hub.publish("p", [number, "x" * size_bytes])
            await other.events(number + 1)  # at once, not after the others
        shown = (await hub.project("p"))["connections"]
        assert [False] + [True] * (len(shown) - 1) == [each["paused"] for each in shown]  # newest first
        assert 256 * 1024 > max(each["unacknowledged_bytes"] for each in shown)
        per_reader_bytes = (hub.resident_bytes() - before_bytes) / count
        assert 100 * 1024 > per_reader_bytes  # measured: 8
        assert 500 * 1024 > (kernel_bytes() - kernel_before_bytes) / count  # 35
        for reader in stopped:
            reader.reset()
        await other.close()
        await hub.at_rest()


def kernel_bytes() -> int:
    """What all TCP sockets of this machine's namespace hold in buffers, both ends of ours among them."""
    [line] = [line for line in Path("/proc/net/sockstat").read_text().splitlines() if line.startswith("TCP:")]
    return int(line.split()[-1]) * os.sysconf("SC_PAGE_SIZE")
