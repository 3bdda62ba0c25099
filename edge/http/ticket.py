"""`POST /projects/{project}/ticket`: what a browser's EventSource shows as `?ticket=`, since it can send no header."""

from __future__ import annotations

import msgspec
from aiohttp import web

from edge.auth.tickets import TICKET_SECONDS
from edge.http import params
from edge.http.guard import identity_of
from edge.http.service import SERVICE


class Ticket(msgspec.Struct, frozen=True):
    """The answer: the ticket, and for how many seconds it is good."""

    ticket: str
    expires_in: int


async def ticket(request: web.Request) -> web.StreamResponse:
    """Give a ticket that opens one stream of the project."""
    service = request.app[SERVICE]
    name = params.project(request)
    given = service.tickets.give(name, identity_of(request), service.clock())
    return web.Response(
        status=201,
        body=msgspec.json.encode(Ticket(given, int(TICKET_SECONDS))),
        content_type="application/json",
        headers={"Cache-Control": "no-store"},
    )
