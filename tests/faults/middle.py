"""A TCP proxy between client and hub that is a bad network: slow, stalled, one byte at a time, gone."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

_RESET = struct.pack("ii", 1, 0)


class Middle:
    """Carries what comes, as its attributes say at that moment."""

    def __init__(self, hub_port: int) -> None:
        self._hub_port = hub_port
        self.delay_seconds = 0.0
        self.slice_bytes = 65536
        """So many bytes go out at once, each a packet of its own."""
        self.flowing = asyncio.Event()
        """Cleared: nothing is carried, and both sides still acknowledge."""
        self.flowing.set()
        self.address = ("127.0.0.1", 0)
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        hub_reader, hub_writer = await asyncio.open_connection("127.0.0.1", self._hub_port)
        for each in (writer, hub_writer):
            sock: socket.socket = each.get_extra_info("socket")
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._writers.add(each)
        for one, other in ((reader, hub_writer), (hub_reader, writer)):
            task = asyncio.create_task(self._carry(one, other))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(65536):
                for at in range(0, len(data), self.slice_bytes):
                    await self.flowing.wait()
                    if self.delay_seconds:
                        await asyncio.sleep(self.delay_seconds)
                    writer.write(data[at : at + self.slice_bytes])
                    await writer.drain()
            writer.write_eof()

    def reset(self) -> None:
        """Break every connection, both ways, with RST."""
        for writer in self._writers:
            sock: socket.socket = writer.get_extra_info("socket")
            with suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            writer.transport.abort()
        self._writers.clear()


@asynccontextmanager
async def between(hub_port: int) -> AsyncIterator[Middle]:
    middle = Middle(hub_port)
    server = await asyncio.start_server(middle, "127.0.0.1", 0)
    middle.address = server.sockets[0].getsockname()
    try:
        yield middle
    finally:
        server.close()
        middle.flowing.set()
        middle.reset()
        for task in list(middle._tasks):
            task.cancel()
        await asyncio.gather(*middle._tasks, return_exceptions=True)
        await server.wait_closed()
