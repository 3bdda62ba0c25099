"""`POST /projects/{project}/ticket`: what a browser's EventSource shows as `?ticket=`, since it can send no header."""

from __future__ import annotations

from aiohttp import web

from edge.auth.tickets import TICKET_SECONDS
from edge.http import params
from edge.http.access_control import identity_of
from edge.http.bodies import json_response
from edge.http.context import CONTEXT
from edge.http.schemas import Ticket


async def ticket(request: web.Request) -> web.StreamResponse:
    """Give a ticket that opens one stream of the project."""
    context = request.app[CONTEXT]
    name = params.project(request)
    if context.cluster is not None:
        given = await context.cluster.tickets.issue(name, identity_of(request))
    else:
        given = context.tickets.issue(name, identity_of(request), context.clock())
    return json_response(Ticket(given, int(TICKET_SECONDS)), status=201, headers={"Cache-Control": "no-store"})
