"""A hub in the test's own loop: for what can't be seen or forced from outside."""

from __future__ import annotations

import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from edge.config.schema import AuthSettings, Config
from edge.http.context import Context
from edge.server.aiohttp_server import HubRunner
from edge.server.assembly import assemble

OPEN = AuthSettings(anonymous=("subscribe", "publish", "trigger", "status", "admin", "metrics"))
"""Everybody may do all, whatever name they call us by."""


@asynccontextmanager
async def hub_inside(
    config: Config, *, unix: Path | None = None, tls: ssl.SSLContext | None = None
) -> AsyncIterator[tuple[Context, int]]:
    """`(context, port)`, on every address of the machine; on a Unix socket too where that is asked for."""
    app, context = await assemble(config)
    runner = HubRunner(app, shutdown_timeout_seconds=0.2)
    await runner.setup()
    sock = socket.create_server(("0.0.0.0", 0), backlog=4096)
    try:
        await runner.listen_on(sock, tls=tls)
        if unix is not None:
            local = socket.socket(socket.AF_UNIX)
            local.bind(str(unix))
            await runner.listen_on(local)
        yield context, sock.getsockname()[1]
    finally:
        context.drain()
        await runner.cleanup()
        sock.close()
