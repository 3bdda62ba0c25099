"""A line between browser and hub that can be cut: nothing passes any more, and neither side is notified."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Line:
    """Forwards every connection to `port` as long as it is whole. What it had taken when it was cut is lost."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._whole = asyncio.Event()
        self._whole.set()
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        assert self._server is not None
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def lay(self) -> None:
        self._server = await asyncio.start_server(self._carry, "127.0.0.1", 0)

    async def remove(self) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def cut(self) -> None:
        self._whole.clear()

    def mend(self) -> None:
        """New connections pass again; those of before are dead, as after a change of network."""
        self._whole.set()

    async def _carry(self, near_reader: asyncio.StreamReader, near: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        far = None
        try:
            await self._whole.wait()
            far_reader, far = await asyncio.open_connection("127.0.0.1", self._port)
            async with asyncio.TaskGroup() as ways:
                ways.create_task(self._forward(near_reader, far))
                ways.create_task(self._forward(far_reader, near))
        except* OSError:
            pass  # an end has gone, and so goes the other
        finally:
            self._tasks.discard(task)
            near.close()
            if far is not None:
                far.close()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            if not self._whole.is_set():
                await asyncio.Event().wait()  # until the line is removed
            await self._may_pass(data)
            writer.write(data)
            await writer.drain()
        writer.close()
        raise ConnectionResetError

    async def _may_pass(self, data: bytes) -> None:
        """Wait until `data` may be forwarded."""


class Gate(Line):
    """Forwards everything while it is open, and holds what matches `held` while it is closed."""

    def __init__(self, port: int, held: bytes) -> None:
        super().__init__(port)
        self._held = re.compile(held)
        self._opened = asyncio.Event()
        self._opened.set()

    def close(self) -> None:
        self._opened.clear()

    def open(self) -> None:
        self._opened.set()

    async def _may_pass(self, data: bytes) -> None:
        if self._held.search(data):
            await self._opened.wait()


@asynccontextmanager
async def gate_to(port: int, held: bytes) -> AsyncIterator[Gate]:
    gate = Gate(port, held)
    await gate.lay()
    try:
        yield gate
    finally:
        await gate.remove()


@asynccontextmanager
async def line_to(port: int) -> AsyncIterator[Line]:
    line = Line(port)
    await line.lay()
    try:
        yield line
    finally:
        await line.remove()
