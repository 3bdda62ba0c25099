"""`GET /projects/{project}/events`: the handshake of a stream, then the hand-over.

Invariant: whatever is refused is refused before a byte of the stream is written; after that the reader is the hub's.
"""

from __future__ import annotations

from aiohttp import HttpVersion11, web

from edge.core.errors import EdgeError
from edge.http import params
from edge.http.access_control import expiry_of
from edge.http.context import CONTEXT
from edge.http.open_stream import new_stream, start_at
from edge.http.problems import response as problem
from edge.http.stream_lane import StreamLane
from edge.transport.stream import Handshake

MEDIA_TYPE = "text/event-stream"
LANE = web.AppKey("lane", StreamLane)
"""Where what was asked here is remembered."""


async def subscribe(request: web.Request) -> web.StreamResponse:
    """Open a stream of a project's events."""
    context = request.app[CONTEXT]
    name = params.project(request)
    if not params.accepts(request.headers.get("Accept"), MEDIA_TYPE):
        return problem("not_acceptable", f"Events come as {MEDIA_TYPE} only; ask for that or for */*.")
    # The header wins over `last_event_id`, both over `since`.
    last_id = request.headers.get("Last-Event-ID") or request.query.get("last_event_id") or ""
    start = start_at(request.query.get("since", "missed"), last_id, context.clock())
    ping_as_event = params.choice(request, "heartbeat", "comment", ("comment", "event")) == "event"
    if request.method == "HEAD":
        return web.Response(headers=Handshake().headers)
    address = context.client_addresses.of(request)
    if context.cluster is not None:
        await context.cluster.follow(name, last_id.encode(errors="replace").decode())
    context.hub.admit(name, address, context.clock())
    stream = new_stream(
        context,
        address,
        chunked=request.version >= HttpVersion11,
        ping_as_event=ping_as_event,
        expires_at_seconds=expiry_of(request, context.clock()),
    )
    answer = Handshake(send_timeout=context.config.stream.dead_after_seconds)
    answer.force_close()
    # aiohttp-sse says keep-alive; but nothing comes after a stream, and a client that believed it would lose its next
    # request on a connection that is being closed.
    answer.headers["Connection"] = "close"
    await answer.prepare(request)
    head = answer.head()
    if stream.take_over_transport(request, head):
        # What was admitted above can be refused by now (the handshake may wait for its turn to write).
        try:
            if context.cluster is not None and not context.cluster.follows(name):
                await context.cluster.follow(name)
            context.hub.attach(name, stream, start, context.clock())
            request.app[LANE].learn(request, head)
        except Exception as error:
            stream.uncork()
            stream.abort()
            if not isinstance(error, EdgeError):
                raise
        stream.uncork()
    return answer
