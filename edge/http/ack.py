"""`POST /projects/{project}/connections/{connection}/ack`: a client says that it has got a probe.

The body is the data of the `edge.probe` event as it came.
"""

from __future__ import annotations

import msgspec
from aiohttp import web

from edge.core.errors import InvalidRequest
from edge.http import bodies, params
from edge.http.context import CONTEXT
from edge.http.problems import response as problem


class Ack(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """The body: the token of the probe."""

    probe: str


_decoder = msgspec.json.Decoder(Ack)


async def ack(request: web.Request) -> web.StreamResponse:
    """Take a client's answer to a probe: 204, or 404 and 409 where there is nothing to answer."""
    context = request.app[CONTEXT]
    name = params.project(request)
    bodies.media_type(request, (bodies.JSON, bodies.FORM))
    try:
        answer = _decoder.decode(await bodies.read(request))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise InvalidRequest('Send the data of the edge.probe event as it came: {"probe": "…"}.') from None
    connection_id = request.match_info["connection"]
    connection = context.hub.connections.get(connection_id)
    if connection is None and context.cluster is not None:
        await context.cluster.pass_on(name, connection_id, answer.probe)
        return web.Response(status=204)
    if connection is None or connection.project is None or connection.project.name != name:
        return problem("unknown_connection", "This connection is not there (any more); take the id of edge.hello.")
    if not context.readiness.answer(name, connection_id, answer.probe):
        return problem("stale_probe", "Nobody waits for this answer (any more); answer the edge.probe that came last.")
    return web.Response(status=204)
