"""A TCP proxy in front of the hub that carries streams in small pieces, resets them where asked to, and refuses."""

from __future__ import annotations

import asyncio
import re
import socket
import struct
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

_RESET = struct.pack("ii", 1, 0)


class Cutter:
    """`cuts`: behind what each of these patterns matches, a connection is cut with RST; one each, then none is."""

    def __init__(self, hub_port: int, cuts: Iterable[bytes], slice_bytes: int) -> None:
        self._hub_port = hub_port
        self._cuts = [re.compile(cut, re.DOTALL) for cut in cuts]
        self._slice_bytes = slice_bytes
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self.refusals: list[bytes] = []
        """Answers to the next connections, in place of the hub's."""
        self.opened = asyncio.Event()
        """Cleared: connections are taken, and nothing is asked of the hub."""
        self.opened.set()

    @property
    def url(self) -> str:
        assert self._server is not None
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    @property
    def cuts_left(self) -> int:
        return len(self._cuts)

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        tasks = self.cut_all()
        await asyncio.gather(*tasks, return_exceptions=True)

    def cut_all(self) -> list[asyncio.Task[None]]:
        """Reset every connection now."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        return tasks

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        hub_writer = None
        try:
            request = await reader.readuntil(b"\r\n\r\n")
            await self.opened.wait()
            if self.refusals:
                return await self._end(writer, self.refusals.pop(0))
            hub_reader, hub_writer = await asyncio.open_connection("127.0.0.1", self._hub_port)
            hub_writer.write(request)
            answering = asyncio.create_task(self._answer(hub_reader, writer))
            leaving = asyncio.create_task(reader.read(1))
            try:
                await asyncio.wait((answering, leaving), return_when=asyncio.FIRST_COMPLETED)
            finally:
                for one in (answering, leaving):
                    one.cancel()
                await asyncio.gather(answering, leaving, return_exceptions=True)
        except (asyncio.IncompleteReadError, OSError, asyncio.CancelledError):
            pass  # one side has gone, or the line is cut: so the other goes
        finally:
            self._tasks.discard(task)
            _reset(writer, hub_writer)

    async def _answer(self, hub: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        client.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        hello = await hub.readuntil(b"\n\n")
        await self._write(client, hello)
        seen = b"\n\n"
        written = len(seen)
        while data := await hub.read(65536):
            seen += data
            found = self._cuts[0].search(seen) if self._cuts else None
            end = found.end() if found else len(seen)
            await self._write(client, seen[written:end])
            written = end
            if found:
                self._cuts.pop(0)
                await _is_read(client)
                return
        await self._end(client, b"")

    @staticmethod
    async def _end(client: asyncio.StreamWriter, data: bytes) -> None:
        client.write(data)
        client.close()
        await client.wait_closed()

    async def _write(self, writer: asyncio.StreamWriter, data: bytes) -> None:
        for at in range(0, len(data), self._slice_bytes):
            writer.write(data[at : at + self._slice_bytes])
            await writer.drain()
            await asyncio.sleep(0)  # each slice a packet of its own


async def _is_read(client: asyncio.StreamWriter) -> None:
    """Wait until the client's program has read what was sent: a reset takes away what its kernel still holds."""
    await client.drain()
    ends = [f":{client.get_extra_info(end)[1]:04X}" for end in ("peername", "sockname")]
    async with asyncio.timeout(60):
        while _unread(*ends):
            await asyncio.sleep(0.005)


def _unread(client_port: str, our_port: str) -> bool:
    """Whether the sockets between two ports hold something: written and not sent, or received and not read."""
    table = Path("/proc/net/tcp")
    if not table.exists():
        return False
    ports = {client_port, our_port}
    rows = [line.split() for line in table.read_text().splitlines()[1:]]
    queues = [row[4] for row in rows if {row[1][-5:], row[2][-5:]} == ports]
    return any(queue != "00000000:00000000" for queue in queues)


def _reset(*writers: asyncio.StreamWriter | None) -> None:
    for writer in writers:
        if writer is not None and not writer.is_closing():
            sock: Any = writer.get_extra_info("socket")
            with suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            writer.transport.abort()


@asynccontextmanager
async def cutting(hub_port: int, cuts: Iterable[bytes] = (), slice_bytes: int = 65536) -> AsyncIterator[Cutter]:
    cutter = Cutter(hub_port, cuts, slice_bytes)
    await cutter.start()
    try:
        yield cutter
    finally:
        await cutter.stop()
