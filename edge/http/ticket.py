"""What a stream's client asks beside its stream: a ticket to open it with, and the answer to a probe.

A browser's EventSource can send no header, so it shows a ticket: `POST /projects/{project}/ticket` gives one. Where a
trigger asks for `confirm=client`, the client answers `edge.probe` with its data:
`POST /projects/{project}/connections/{connection}/ack`.
"""

from __future__ import annotations

import msgspec

from edge.auth.tickets import TICKET_SECONDS
from edge.core.errors import InvalidRequest
from edge.http import params
from edge.http.context import Context
from edge.http.message import JSON, NO_STORE, Request, Response, json_response
from edge.http.problems import response as problem
from edge.http.schemas import Ticket


class Ack(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """The body: the token of the probe. On a stream of several projects the probe names its project, too."""

    probe: str
    project: str | None = None


_decoder = msgspec.json.Decoder(Ack)


async def ticket(context: Context, request: Request) -> Response:
    """Give a ticket that opens one stream of the project."""
    given = await context.nodes.issue_ticket(request.project, request.identity)
    return json_response(Ticket(given, int(TICKET_SECONDS)), status=201, headers=NO_STORE)


async def ack(context: Context, request: Request) -> Response:
    """Take a client's answer to a probe: 204, or 404 and 409 where there is nothing to answer."""
    params.media_type(request, (JSON, params.FORM))
    try:
        answer = _decoder.decode(await params.read(context, request))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise InvalidRequest('Send the data of the edge.probe event unchanged: {"probe": "…"}.') from None
    expected = await context.nodes.answer_probe(request.project, request.connection, answer.probe)
    if expected is None:
        return problem(
            "unknown_connection", "There is no such connection, or it has closed; use the id from edge.hello."
        )
    if not expected:
        return problem("stale_probe", "This probe is no longer open; answer the latest edge.probe.")
    return Response(204)
