"""What edge/transport/stream.py relies on in the event loops."""

from __future__ import annotations

import asyncio
import contextlib
import gc

import pytest

from edge.core.event import Event
from edge.core.hub import Hub
from edge.server.connection import HttpConnection
from edge.server.reader import Received
from edge.transport import tcp
from edge.transport.stream import Stream
from tests.faults.tls import Certificate
from tests.http.loops import LOOPS, SUBSCRIBE, Served, run, served

pytestmark = pytest.mark.parametrize("loop", LOOPS)


def publish(hub: Served, data: bytes) -> None:
    hub.context.hub.publish("p", Event("message", data), hub.context.clock())


def living(kind: type) -> int:
    gc.collect()
    return sum(isinstance(each, kind) for each in gc.get_objects())


def test_the_transport_belongs_to_the_stream_and_the_request_is_freed(loop: str, tls: Certificate | None) -> None:
    async def main() -> None:
        async with served(tls) as hub:
            before = (living(HttpConnection), living(Received))
            others = asyncio.all_tasks()
            peer = await hub.connect()
            await peer.hello()
            [stream] = await hub.streams(1)
            assert stream._transport is not None
            assert stream is stream._transport.get_protocol()
            assert hub.runner.server is not None
            while hub.runner.server.connections or asyncio.all_tasks() != others:
                await asyncio.sleep(0)
            assert before == (living(HttpConnection), living(Received))
            await peer.close()
            await hub.streams(0)

    run(loop, main)


def test_events_go_out_in_whole_chunks_until_the_last_one(loop: str, tls: Certificate | None) -> None:
    async def main() -> None:
        async with served(tls) as hub:
            peer = await hub.connect()
            assert b"Transfer-Encoding: chunked\r\n" in await peer.hello()
            publish(hub, b"x" * 100_000)
            size = int(await peer.reader.readline(), 16)
            assert (await peer.reader.readexactly(size)).startswith(b"data: " + b"x" * 100_000 + b"\nid: ")
            hub.context.drain()
            rest = await peer.reader.read()
            assert b"event: edge.closing\n" in rest
            assert rest.endswith(b"\r\n0\r\n\r\n")
            await peer.close()

    run(loop, main)


def test_bytes_behind_the_request_are_dropped(loop: str, tls: Certificate | None) -> None:
    async def main() -> None:
        async with served(tls) as hub:
            peer = await hub.connect(SUBSCRIBE + b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n" * 50)
            await peer.hello()
            peer.writer.write(SUBSCRIBE + b"\0\xff" * 100_000)
            await peer.writer.drain()
            await hub.streams(1)
            publish(hub, b"1")
            line = await peer.reader.readline()
            assert (await peer.reader.readexactly(int(line, 16))).startswith(b"data: 1\nid: ")
            await peer.close()
            await hub.streams(0)

    run(loop, main)


def test_what_the_connection_carried_before_is_not_counted(loop: str, tls: Certificate | None) -> None:
    async def main() -> None:
        async with served(tls) as hub:
            peer = await hub.connect(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
            head = (await peer.reader.readuntil(b"\r\n\r\n")).decode()
            await peer.reader.readexactly(int(head.partition("Content-Length: ")[2].partition("\r\n")[0]))
            peer.writer.write(SUBSCRIBE)
            await peer.hello()
            [stream] = await hub.streams(1)
            publish(hub, b"x" * 50_000)
            await peer.reader.readuntil(b"-1\n\n\r\n")
            while stream.unacked_bytes:
                await asyncio.sleep(0.005)
            assert stream.written_bytes == stream.acked_bytes() > 50_000
            await peer.close()
            await hub.streams(0)

    run(loop, main)


def test_a_client_that_is_gone_before_the_hand_over(
    loop: str, tls: Certificate | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    take_over = Stream.take_over_transport

    def gone(self: Stream, protocol: HttpConnection, head: bytes) -> bool:
        assert protocol.transport is not None
        protocol.transport.abort()
        return take_over(self, protocol, head)

    async def main() -> None:
        async with served(tls) as hub:
            peer = await hub.connect()
            assert b"" == await peer.reader.read()
            await peer.close()
            assert ({}, 0) == (hub.context.hub.connections, hub.context.hub.counters.added)

    monkeypatch.setattr(Stream, "take_over_transport", gone)
    run(loop, main)


@pytest.mark.parametrize("counted", [True, False])
def test_a_gap_that_was_read_is_not_reported_again(
    loop: str, tls: Certificate | None, counted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither over TLS nor over what has no acknowledgements, where a lost transport says nothing any more."""
    if not counted:
        monkeypatch.setattr(tcp, "supported", lambda _: False)

    async def main() -> None:
        async with served(tls) as hub:
            publish(hub, b"x")
            hub.context.hub.shrink(0, 1, hub.context.clock())
            reported = []
            for _ in range(2):
                peer = await hub.connect()
                await peer.reader.readuntil(b"\r\n\r\n")
                reported.append(b"edge.gap" in await peer.reader.readuntil(b"\n\n\r\n"))
                [stream] = await hub.streams(1)
                while stream in hub.context.hub._ticker.pending_acks:
                    await asyncio.sleep(0.005)
                await peer.close()
                await hub.streams(0)
            assert [True, False] == reported

    run(loop, main)


def test_clients_that_reset_at_any_moment_leave_nothing(loop: str, tls: Certificate | None) -> None:
    async def main() -> None:
        async with served(tls) as hub:
            for turns in range(40):
                peer = await hub.connect()
                for _ in range(turns // 4):
                    await asyncio.sleep(0)
                peer.reset()
            await asyncio.sleep(0.1)
            await hub.streams(0)
            assert hub.runner.server is not None
            assert set() == hub.runner.server.connections

    run(loop, main)


def test_a_reader_whom_the_hub_fails_to_take_in_is_not_left_hanging(
    loop: str, tls: Certificate | None, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object) -> None:
        raise LookupError("a bug")

    async def main() -> None:
        async with served(tls) as hub:
            peer = await hub.connect()
            with contextlib.suppress(ConnectionError):
                assert b"edge.hello" not in await peer.reader.read()
            await peer.close()
            assert {} == hub.context.hub.connections

    monkeypatch.setattr(Hub, "attach", broken)
    run(loop, main)
    assert 1 == "".join(capfd.readouterr()).count('"event": "unexpected_error"')


def test_shutting_down_does_not_wait_for_streams_and_closes_them(loop: str, tls: Certificate | None) -> None:
    async def main() -> None:
        async with served(tls) as hub:
            peers = [await hub.connect() for _ in range(3)]
            for peer in peers:
                await peer.hello()
            await hub.streams(3)
            await hub.runner.cleanup()
            for peer in peers:
                await peer.reader.read()
                await peer.close()
            assert {} == hub.context.hub.connections

    run(loop, main)


def test_a_reader_that_half_closes_leaves(loop: str) -> None:
    async def main() -> None:
        async with served() as hub:
            peer = await hub.connect()
            await peer.hello()
            peer.writer.write_eof()
            await peer.reader.read()
            await hub.streams(0)
            await peer.close()
            assert 1 == hub.context.hub.counters.removed["client"]

    run(loop, main)
