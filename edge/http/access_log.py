"""Around every request: its trace context, and its line in the access log where `server.access_log` asks for one.

A stream does not end with its handler: `edge.diagnose.observer` logs it when it closes. No line holds the query string,
which may have a ticket in it.
"""

from __future__ import annotations

import time

from aiohttp import web
from aiohttp.typedefs import Handler

from edge.http.context import CONTEXT
from edge.logs import trace
from edge.logs.setup import get_logger
from edge.transport.stream import Handshake

_log = get_logger("access")
GONE = 499
"""nginx's status for a client that went away before its answer."""


@web.middleware
async def carry_trace(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Run the request under the `traceparent` that came with it."""
    traceparent = request.headers.get(trace.HEADER)
    if traceparent is None:
        return await handler(request)
    with trace.carried(traceparent):
        return await handler(request)


@web.middleware
async def log_access(request: web.Request, handler: Handler) -> web.StreamResponse:
    """One line a request, once its answer is made."""
    began = time.monotonic()
    status, size_bytes = GONE, None
    try:
        response = await handler(request)
        status, size_bytes = response.status, response.content_length
    finally:
        if status == GONE or not isinstance(response, Handshake):
            _log.info(
                "request",
                method=request.method,
                path=request.path,
                status=status,
                duration_ms=round((time.monotonic() - began) * 1000, 3),
                bytes=size_bytes,
                address=request.app[CONTEXT].client_addresses.of(request),
            )
    return response
