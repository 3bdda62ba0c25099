"""A reader of one stream, down to the socket: it can stop reading, vanish, reset, and stand in another namespace."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl as tls
import struct
from dataclasses import dataclass, field
from typing import Any

PATIENCE_SECONDS = 60.0


@dataclass
class Frame:
    """One event as it came: `id` and `type` are "" where there was no such line."""

    id: str = ""
    type: str = ""
    data: str = ""
    retry: str = ""

    def json(self) -> Any:
        return json.loads(self.data)


@dataclass
class Reader:
    """An open stream. `frames` are those read so far, comments are counted."""

    sock: socket.socket
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    frames: list[Frame] = field(default_factory=list)
    comments: list[str] = field(default_factory=list)
    _text: bytes = b""
    _chunked: bool = False

    @property
    def hello(self) -> dict[str, Any]:
        found = next(frame.json() for frame in self.frames if frame.type == "edge.hello")
        assert isinstance(found, dict)
        return found

    @property
    def data(self) -> list[Any]:
        """The data of every event of the project so far."""
        return [frame.json() for frame in self.frames if not frame.type.startswith("edge.")]

    @property
    def last_id(self) -> str:
        return next(frame.id for frame in reversed(self.frames) if frame.id)

    async def frame(self) -> Frame:
        """The next event. Raises EOFError at the end of the stream, ConnectionError when it is reset."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while b"\n\n" not in self._text:
                self._text += await self._read()
        block, _, self._text = self._text.partition(b"\n\n")
        frame, data = Frame(), []
        for line in block.decode().split("\n"):
            name, _, value = line.partition(": ")
            if line.startswith(":"):
                self.comments.append(line)
            elif name == "data":
                data.append(value)
            elif name == "event":
                frame.type = value
            else:
                assert name in {"id", "retry"}, line
                setattr(frame, name, value)
        if not data:
            return await self.frame()
        frame.data = "\n".join(data)
        self.frames.append(frame)
        return frame

    async def until(self, kind: str) -> Frame:
        """The next event of type `kind`."""
        while True:
            frame = await self.frame()
            if frame.type == kind:
                return frame

    async def events(self, count: int) -> list[Any]:
        """Read until `count` events of the project have come in all; returns their data."""
        while len(self.data) < count:
            await self.frame()
        return self.data

    async def to_the_end(self) -> list[Any]:
        """Read until the stream ends, however it does; returns the data of the project's events."""
        try:
            while True:
                await self.frame()
        except (EOFError, ConnectionError):
            return self.data

    async def _read(self) -> bytes:
        if not self._chunked:
            some = await self.reader.read(65536)
            if not some:
                raise EOFError
            return some
        size = int(await self.reader.readuntil(b"\r\n"), 16)
        some = await self.reader.readexactly(size + 2)
        if not size:
            raise EOFError
        return some[:-2]

    def stop(self) -> None:
        """Read nothing more: the window closes when the kernel's buffer is full."""
        self.writer.transport.pause_reading()  # type: ignore[attr-defined]

    def go_on(self) -> None:
        self.writer.transport.resume_reading()  # type: ignore[attr-defined]

    def reset(self) -> None:
        """Close with RST."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    async def close(self) -> None:
        self.writer.transport.abort()
        try:
            await self.writer.wait_closed()
        except OSError:
            return


async def open_stream(
    address: tuple[str, int],
    project: str,
    *,
    query: str = "",
    sock: socket.socket | None = None,
    version: str = "1.1",
    headers: str = "",
    ssl: tls.SSLContext | None = None,
    host: str = "localhost",
    receive_buffer_bytes: int | None = None,
    greeted: bool = True,
) -> Reader:
    """Subscribe; with `greeted` the hello has been read when it returns."""
    if sock is None:
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    sock.setblocking(False)
    if receive_buffer_bytes is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
    try:
        await asyncio.get_running_loop().sock_connect(sock, address)
    except OSError:
        sock.close()
        raise
    stream_reader, writer = await asyncio.open_connection(
        sock=sock, ssl=ssl, server_hostname=host if ssl is not None else None, limit=1 << 16
    )
    writer.write(
        f"GET /projects/{project}/events?{query} HTTP/{version}\r\nHost: {host}:{address[1]}\r\n{headers}\r\n".encode()
    )
    found = Reader(sock, stream_reader, writer)
    async with asyncio.timeout(PATIENCE_SECONDS):
        head = (await stream_reader.readuntil(b"\r\n\r\n")).decode()
    line, *lines = head.strip().split("\r\n")
    found.status = int(line.split()[1])
    found.headers = {name.lower(): value.strip() for name, _, value in (each.partition(":") for each in lines)}
    found._chunked = found.headers.get("transfer-encoding") == "chunked"
    if greeted:
        await found.until("edge.hello")
    return found


class StoppedReader:
    """A reader that reads its hello and then nothing more, until it is resumed."""

    def __init__(self, address: tuple[str, int], project: str, sock: socket.socket, buffer_bytes: int = 4096) -> None:
        self.sock = sock
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer_bytes)
        sock.settimeout(PATIENCE_SECONDS)
        sock.connect(address)
        sock.sendall(f"GET /projects/{project}/events HTTP/1.1\r\nHost: {address[0]}\r\n\r\n".encode())
        head = b""
        while not (b"edge.hello" in head and head.endswith(b"\n\n\r\n")):
            head += sock.recv(1)

    def peek(self) -> bytes:
        """What its kernel has acknowledged and no program has read; it stays there."""
        try:
            return self.sock.recv(1 << 20, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return b""

    def peek_events(self) -> int:
        """How many whole chunks that is; the hub makes one of each event that it flushes alone."""
        return self.peek().count(b"\n\n\r\n")

    def reset(self) -> None:
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()


async def stopped_reader(
    address: tuple[str, int], project: str, sock: socket.socket | None = None, buffer_bytes: int = 4096
) -> StoppedReader:
    """Subscribe and stop."""
    return await asyncio.to_thread(
        StoppedReader, address, project, sock or socket.socket(socket.AF_INET, socket.SOCK_STREAM), buffer_bytes
    )
