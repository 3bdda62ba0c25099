"""Where the jobs of triggers go: a server that writes down each `webhook-id`, and is slow or in trouble at times."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from tests.faultcheck.records import History, Received
from tests.faultcheck.wire import token_of


class Target:
    def __init__(self, history: History, clock: Callable[[], float], dice: random.Random) -> None:
        self._history = history
        self._clock = clock
        self._dice = dice
        self.port = 0
        self.working = 0
        """Jobs that came whole and are not answered yet."""

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])}
            job = json.loads(await reader.readexactly(int(headers["content-length"])))
        except (OSError, asyncio.IncompleteReadError):
            writer.transport.abort()
            return
        self.working += 1
        at = self._clock()
        status = self._dice.choice([200, 200, 200, 202, 204, 503, 429])
        taken = 0
        try:
            await asyncio.sleep(self._dice.choice([0.0, 0.0, 0.0, 0.01, 0.01, 0.2, 0.5, 2.5]))
            if not reader.at_eof():
                writer.write(f"HTTP/1.1 {status} Done\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode())
                await writer.drain()
                taken = status
        except OSError:
            taken = 0
        finally:
            self.working -= 1
            # What came whole is at work, whether the hub waited for the answer or not.
            self._history.add(Received(at, job["project"], token_of(job["data"]), headers["webhook-id"], taken))
            writer.close()


@asynccontextmanager
async def target(history: History, clock: Callable[[], float], dice: random.Random) -> AsyncIterator[Target]:
    found = Target(history, clock, dice)
    server = await asyncio.start_server(found, "127.0.0.1", 0)
    found.port = server.sockets[0].getsockname()[1]
    try:
        yield found
    finally:
        server.close()
        await server.wait_closed()
