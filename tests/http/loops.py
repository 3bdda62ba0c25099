"""The real server on each of the event loops, with and without TLS, for tests of what it relies on."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, cast

import msgspec
import uvloop

from edge.config.schema import Config
from edge.http.context import Context
from edge.server.aiohttp_server import HubRunner
from edge.server.assembly import assemble
from edge.server.listening import listen
from edge.transport.stream import Stream
from tests.faults.tls import TRUSTING, Certificate

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}
uvloop.new_event_loop().close()  # the first one opens a pipe that the process keeps: no test is to blame for it
SUBSCRIBE = b"GET /projects/p/events HTTP/1.1\r\nHost: localhost\r\n\r\n"
PATIENCE_SECONDS = 60.0


def run(loop: str, main: Callable[[], Awaitable[None]]) -> None:
    """Run `main`; afterwards no task may be left, and the loop must have had nothing to complain about."""
    complaints: list[dict[str, Any]] = []

    async def checked() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
        await asyncio.wait_for(main(), PATIENCE_SECONDS)
        left = asyncio.all_tasks() - {asyncio.current_task()}
        if left:
            _, left = await asyncio.wait(left, timeout=10)
        assert set() == left

    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        runner.run(checked())
    assert [] == complaints


@dataclass
class Served:
    context: Context
    runner: HubRunner
    port: int
    client_tls: ssl.SSLContext | None

    async def connect(self, request: bytes = SUBSCRIBE) -> Peer:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, ssl=self.client_tls)
        writer.write(request)
        return Peer(reader, writer)

    async def streams(self, count: int) -> list[Stream]:
        """The hub's side of the connections, once there are so many."""
        while len(self.context.hub.connections) != count:
            await asyncio.sleep(0.005)
        return [cast(Stream, connection) for connection in self.context.hub.connections.values()]


@dataclass
class Peer:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def hello(self) -> bytes:
        """The head of the answer."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        await self.reader.readuntil(b"\n\n\r\n")
        return head

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            await self.writer.wait_closed()

    def reset(self) -> None:
        sock: socket.socket = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


@asynccontextmanager
async def served(tls: Certificate | None = None, **sections: dict[str, Any]) -> AsyncIterator[Served]:
    """A hub on a free port, by TLS where there is a certificate, with settings such as `ring={"max_events": 3}`."""
    app, context = await assemble(msgspec.convert(sections, Config))
    runner = HubRunner(app, shutdown_timeout_seconds=0.25)
    await runner.setup()
    server_tls = client_tls = None
    if tls is not None:
        server_tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        server_tls.load_cert_chain(tls.cert, tls.key)
        client_tls = TRUSTING
    [sock] = listen("127.0.0.1", 0)
    try:
        await runner.listen_on(sock, tls=server_tls)
        yield Served(context, runner, sock.getsockname()[1], client_tls)
    finally:
        await runner.cleanup()
        sock.close()
