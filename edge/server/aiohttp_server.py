"""The HTTP server of an application: makes its connections, listens, and ends them."""

from __future__ import annotations

import asyncio
import socket
import ssl
from contextlib import AsyncExitStack

from edge.http.routes import Application
from edge.server.accept import Acceptor, ConnectionThrottle
from edge.server.connection import HttpConnection
from edge.transport import tcp


class HttpServer:
    """What the connections of one application share; called, it makes one."""

    def __init__(self, app: Application) -> None:
        self.app = app
        self.loop = asyncio.get_running_loop()
        self.connections: set[HttpConnection] = set()
        self.throttle = ConnectionThrottle(self.loop)
        self.acceptor = Acceptor(app)

    @property
    def idle_seconds(self) -> float:
        """How long a connection may be idle, and a head take to come."""
        return self.app.context.config.limits.idle_seconds

    def __call__(self) -> HttpConnection:
        return HttpConnection(self)

    async def shut_down(self, timeout_seconds: float) -> None:
        """End the connections: requests at hand get so long to be answered, and as long again to be cancelled."""
        tasks = [task for each in list(self.connections) if (task := each.shut_down()) is not None]
        if tasks:
            await asyncio.wait(tasks, timeout=timeout_seconds)
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks, timeout=timeout_seconds)
        for connection in list(self.connections):
            connection.abort()


class HubRunner:
    """Serves an application on sockets: its lifespan begins with `setup` and ends with `cleanup`."""

    server: HttpServer

    def __init__(self, app: Application, *, shutdown_timeout_seconds: float) -> None:
        self._app = app
        self._shutdown_timeout_seconds = shutdown_timeout_seconds
        self._lifespan = AsyncExitStack()
        self._listening: list[asyncio.Server] = []

    async def setup(self) -> None:
        await self._lifespan.enter_async_context(self._app.lifespan())
        self.server = HttpServer(self._app)

    async def listen_on(self, sock: socket.socket, *, backlog: int = 128, tls: ssl.SSLContext | None = None) -> None:
        """Serve who comes to a bound socket. On Linux a connection inherits the options that are set here."""
        if tcp.is_tcp(sock):
            tcp.prepare(sock, self._app.context.config.stream.dead_after_seconds)
        loop = asyncio.get_running_loop()
        serve = loop.create_unix_server if sock.family == socket.AF_UNIX else loop.create_server
        self._listening.append(await serve(self.server, sock=sock, backlog=backlog, ssl=tls))

    async def stop_listening(self) -> None:
        """Accept no one any more; the connections that are there stay."""
        for listening in self._listening:
            listening.close()

    async def cleanup(self) -> None:
        """End the connections: handlers at work get the shutdown time-out to finish."""
        await self.stop_listening()
        await asyncio.sleep(0)
        await self.server.shut_down(self._shutdown_timeout_seconds)
        await self._lifespan.aclose()
