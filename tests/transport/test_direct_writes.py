"""A stream's bytes go straight to its descriptor: only while the transport holds none, and never to a closed one."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from collections.abc import Callable
from typing import Any, cast

import msgspec
import pytest
import uvloop

from edge.config.schema import Config
from edge.core.event import Event
from edge.http.context import Context
from edge.server.aiohttp_server import HubRunner
from edge.server.assembly import assemble
from edge.server.listening import listen
from edge.transport import stream as stream_module
from edge.transport.stream import Stream

pytestmark = pytest.mark.linux

uvloop.new_event_loop().close()  # with its first loop a process makes a pipe for signals, and keeps it
EVENT = Event("message", b"x" * 10_000)


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def runner(request: pytest.FixtureRequest) -> Any:
    with asyncio.Runner(loop_factory=request.param) as runner:
        yield runner


class Watched:
    """Notes each direct write, and looks at the descriptor when the stream lets it go."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.streams: dict[int, Stream] = {}
        self.lost = 0
        self.direct = 0
        connection_lost, attach_transport = Stream.connection_lost, Stream.attach_transport

        def lost(stream: Stream, exc: BaseException | None) -> None:
            [fd] = [fd for fd, each in self.streams.items() if each is stream]
            os.fstat(fd)  # raises OSError on a closed one
            connection_lost(stream, exc)
            assert stream_module.NOT_DIRECTLY == stream._fd
            self.lost += 1
            del self.streams[fd]  # from here on it may be anybody's

        def owned(stream: Stream, transport: asyncio.Transport, head: bytes, before_bytes: int = 0) -> None:
            attach_transport(stream, transport, head, before_bytes)
            assert stream._sock is not None
            self.streams[stream._sock.fileno()] = stream

        class Os:
            @staticmethod
            def write(fd: int, data: bytes) -> int:
                stream = self.streams[fd]
                assert stream._transport is not None
                assert 0 == stream._transport.get_write_buffer_size()
                self.direct += 1
                return os.write(fd, data)

        monkeypatch.setattr(Stream, "connection_lost", lost)
        monkeypatch.setattr(Stream, "attach_transport", owned)
        monkeypatch.setattr(stream_module, "os", Os)


async def served() -> tuple[Context, HubRunner, int]:
    app, context = await assemble(msgspec.convert({"server": {"log_level": "error"}}, Config))
    runner = HubRunner(app, shutdown_timeout_seconds=0.25)
    await runner.setup()
    [sock] = listen("127.0.0.1", 0)
    await runner.listen_on(sock)
    return context, runner, sock.getsockname()[1]


async def reader(port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 26)
    writer.write(f"GET /projects/p/events HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode())
    await reader.readuntil(b"edge.hello")
    await reader.readuntil(b"\n\n")
    return reader, writer


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.005)


def close(writer: asyncio.StreamWriter, _service: Context) -> None:
    writer.close()


def reset(writer: asyncio.StreamWriter, _service: Context) -> None:
    sock: socket.socket = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


def half_close(writer: asyncio.StreamWriter, _service: Context) -> None:
    writer.write_eof()


def delete(_writer: asyncio.StreamWriter, context: Context) -> None:
    context.hub.delete("p", context.clock())


def abort(_writer: asyncio.StreamWriter, context: Context) -> None:
    [connection] = context.hub.connections.values()
    connection.abort()


@pytest.mark.parametrize("ending", [close, reset, half_close, delete, abort])
def test_a_closed_descriptor_is_never_written_to(
    runner: asyncio.Runner, monkeypatch: pytest.MonkeyPatch, ending: Callable[..., None]
) -> None:
    async def scene() -> None:
        watched = Watched(monkeypatch)
        context, hub_runner, port = await served()
        _, writer = await reader(port)
        ending(writer, context)
        # Publish all the time, at every stage of the ending, while others come and may get the same descriptor.
        for _ in range(20):
            context.hub.publish("p", EVENT, context.clock())
            await asyncio.sleep(0)
        await until(lambda: watched.lost)
        _, late = await reader(port)
        context.hub.publish("p", EVENT, context.clock())
        await asyncio.sleep(0.01)
        for each in (writer, late):
            each.close()
        await until(lambda: not context.hub.connections)
        assert watched.direct > 0
        await hub_runner.cleanup()

    runner.run(scene())


def test_what_a_slow_reader_gets_is_whole_and_in_order(runner: asyncio.Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene() -> None:
        watched = Watched(monkeypatch)
        context, hub_runner, port = await served()
        stream_reader, writer = await reader(port)
        [stream] = context.hub.connections.values()
        writer.transport.pause_reading()  # type: ignore[attr-defined] # a transport both ways
        published = 0
        while not stream.paused:
            published += 1
            context.hub.publish("p", EVENT, context.clock())
            await asyncio.sleep(0)
        for _ in range(10):
            published += 1
            context.hub.publish("p", EVENT, context.clock())
        writer.transport.resume_reading()  # type: ignore[attr-defined]
        for number in range(1, published + 1):
            got = await stream_reader.readuntil(b"\n\n")
            assert f"-{number}\n".encode() in got
            assert b"data: " + EVENT.data in got
        assert [False] == [each.paused for each in context.hub.connections.values()]
        assert watched.direct > 1
        writer.close()
        await until(lambda: not context.hub.connections)
        await hub_runner.cleanup()

    runner.run(scene())


def test_of_many_written_to_at_once_each_gets_all_of_it(
    runner: asyncio.Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One kernel takes a part, one nothing: those before and behind them notice nothing, and they get the rest."""

    async def scene() -> None:
        context, hub_runner, port = await served()
        readers = [await reader(port) for _ in range(6)]
        streams = [cast(Stream, connection) for connection in context.hub.connections.values()]
        part, nothing, other = (streams[at]._fd for at in (1, 3, 4))
        written: list[int] = []

        class Os:
            @staticmethod
            def write(fd: int, data: bytes) -> int:
                written.append(fd)
                if fd == nothing:
                    raise BlockingIOError
                return os.write(fd, data[:10] if fd == part else data)

        monkeypatch.setattr(stream_module, "os", Os)
        streams[4]._fd = stream_module.NOT_DIRECTLY  # as one whose transport holds something
        context.hub.publish("p", EVENT, context.clock())
        context.hub.flush(context.clock())
        monkeypatch.undo()
        assert [stream.written_bytes for stream in streams[:1]] * 6 == [stream.written_bytes for stream in streams]
        for stream_reader, _ in readers:
            assert EVENT.data in await stream_reader.readuntil(b"\n\n")
        assert other not in written
        assert 5 == len(written)
        for _, writer in readers:
            writer.close()
        await until(lambda: not context.hub.connections)
        await hub_runner.cleanup()

    runner.run(scene())


def test_a_list_keeps_what_an_iterator_gave_before_it_failed() -> None:
    """`Stream.write_each` counts on it: so it knows where to go on."""

    def failing(number: int) -> int:
        if number == 3:
            raise BlockingIOError
        return number

    got: list[int] = []
    with pytest.raises(BlockingIOError):
        got.extend(map(failing, [1, 2, 3, 4]))
    assert [1, 2] == got
