"""What is written to a subscriber that has reset its connection was not received, whenever the reset comes."""

from __future__ import annotations

import asyncio
import ctypes
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from edge.core.event import Event
from tests.faults.tls import Certificate
from tests.http.loops import LOOPS, SUBSCRIBE, Peer, Served, run, served

_LIBC = ctypes.CDLL(None, use_errno=True)
_UNSPECIFIED = socket.AF_UNSPEC.to_bytes(2, "little") + bytes(14)
pytestmark = pytest.mark.parametrize("loop", LOOPS)


def reset_now(peer: Peer) -> None:
    """Send a RST at once, without a turn of the event loop: what `connect` to no address does on Linux."""
    sock: socket.socket = peer.writer.get_extra_info("socket")
    if _LIBC.connect(sock.fileno(), _UNSPECIFIED, len(_UNSPECIFIED)):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def publish(hub: Served, data: bytes = b"1", *, final: bool = False) -> None:
    """Publish, and write to the subscribers at once."""
    core = hub.context.hub
    core.publish("p", Event("message", data, final=final), hub.context.clock())
    while core.flush(hub.context.clock()):
        pass


def misses(hub: Served) -> tuple[int, int, int]:
    """Misses, recovered, pending."""
    counted = hub.context.hub.counters.misses
    return counted.misses, counted.recovered, counted.pending


async def acknowledged(hub: Served) -> None:
    [stream] = await hub.streams(1)
    while stream.acked_bytes() < stream.written_bytes:
        await asyncio.sleep(0.005)


@asynccontextmanager
async def subscribed(tls: Certificate | None, **settings: Any) -> AsyncIterator[tuple[Served, Peer]]:
    """A hub, and a subscriber that has acknowledged its hello."""
    async with served(tls, **settings) as hub:
        peer = await hub.connect()
        await peer.hello()
        await acknowledged(hub)
        yield hub, peer


@asynccontextmanager
async def replayed(tls: Certificate | None) -> AsyncIterator[tuple[Served, Peer]]:
    """A hub with three missed events, and a subscriber that connects to it."""
    async with served(tls) as hub:
        for _ in range(3):
            publish(hub)
        yield hub, await hub.connect()


async def removed(hub: Served, peer: Peer) -> None:
    await hub.streams(0)
    assert 1 == hub.context.hub.counters.removed["client"]
    peer.writer.transport.abort()


def test_before_the_write(loop: str, tls: Certificate | None) -> None:
    async def main() -> None:
        async with subscribed(tls) as (hub, peer):
            reset_now(peer)
            for _ in range(3):
                publish(hub)
            await removed(hub, peer)
            assert (3, 0, 3) == misses(hub)

    run(loop, main)


def test_a_look_between_the_failed_write_and_the_end_changes_nothing(loop: str, tls: Certificate | None) -> None:
    async def main() -> None:
        async with subscribed(tls) as (hub, peer):
            reset_now(peer)
            publish(hub)
            [stream] = await hub.streams(1)
            assert stream.refresh()
            hub.context.hub.tick(hub.context.clock())
            await removed(hub, peer)
            assert (1, 0, 1) == misses(hub)

    run(loop, main)


def test_between_the_write_and_its_acknowledgement(loop: str, tls: Certificate | None) -> None:
    """Most of it waits in the hub's buffers, which are dropped with the connection."""

    async def main() -> None:
        async with subscribed(tls, ring={"max_bytes": 64 << 20}, limits={"max_event_bytes": 16 << 20}) as (hub, peer):
            peer.writer.transport.pause_reading()  # type: ignore[attr-defined] # a transport both ways
            publish(hub, b"x" * (16 << 20))
            publish(hub)
            reset_now(peer)
            publish(hub)
            await removed(hub, peer)
            assert (3, 0, 3) == misses(hub)

    run(loop, main)


def test_behind_the_acknowledgement(loop: str, tls: Certificate | None) -> None:
    async def main() -> None:
        async with subscribed(tls) as (hub, peer):
            publish(hub)
            await peer.reader.readuntil(b"-1\n\n")
            await acknowledged(hub)
            reset_now(peer)
            publish(hub)
            await removed(hub, peer)
            assert (1, 0, 1) == misses(hub)

    run(loop, main)


def test_a_replay_that_is_reset_unread_is_pending_again(loop: str, tls: Certificate | None) -> None:
    """A page that reloads at once: its kernel has acknowledged, the page has read nothing."""

    async def main() -> None:
        async with replayed(tls) as (hub, peer):
            await acknowledged(hub)
            assert (3, 3, 0) == misses(hub)
            reset_now(peer)
            await removed(hub, peer)
            assert (6, 3, 3) == misses(hub)

    run(loop, main)


def test_a_replay_that_was_read_before_a_fin_is_recovered(loop: str, tls: Certificate | None) -> None:
    async def main() -> None:
        async with replayed(tls) as (hub, peer):
            await peer.reader.readuntil(b"-3\n\n")
            await acknowledged(hub)
            await peer.close()
            await hub.streams(0)
            assert (3, 3, 0) == misses(hub)

    run(loop, main)


@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize("ends", ["finished", "shutdown"])
def test_what_was_read_when_the_hub_ends_a_stream_is_no_miss(loop: str, ends: str, version: str) -> None:
    async def main() -> None:
        async with served() as hub:
            connected = socket.create_connection(("127.0.0.1", hub.port))
            connected.setblocking(False)
            client = asyncio.get_running_loop()
            # On a connection that was used before, Linux keeps acknowledgements back for 40 ms.
            await client.sock_sendall(connected, b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
            await client.sock_recv(connected, 65536)
            publish(hub, final=ends == "finished")
            await client.sock_sendall(connected, SUBSCRIBE.replace(b"1.1", version.encode()))
            received = b""
            while b"data: 1\n" not in received:
                received += await client.sock_recv(connected, 65536)
            hub.context.drain()
            while b"event: edge.closing" not in received:
                received += await client.sock_recv(connected, 65536)
            await hub.streams(0)
            connected.close()
            assert (1, 1, 0) == misses(hub)

    run(loop, main)


@pytest.mark.parametrize("projects", ["p", "p&project=q"])
def test_a_stream_ends_in_one_write(loop: str, projects: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that closes before it has read all of the end sends a reset."""
    written: list[bytes] = []

    class Os:
        @staticmethod
        def write(fd: int, data: bytes) -> int:
            written.append(data)
            return os.write(fd, data)

    async def main() -> None:
        async with served() as hub:
            peer = await hub.connect(SUBSCRIBE.replace(b"/projects/p/events", b"/events?project=" + projects.encode()))
            await hub.streams(1 + projects.count("&"))
            hub.context.drain()
            assert (await peer.reader.read()).endswith(b"0\r\n\r\n")
            assert b"event: edge.closing" in written[-1]
            assert written[-1].endswith(b"\n\n\r\n0\r\n\r\n")
            await peer.close()

    monkeypatch.setattr("edge.transport.stream.os", Os)
    run(loop, main)
