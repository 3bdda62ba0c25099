"""`GET /projects/{project}/explain`: gathers the facts, asks the kernel about each connection, and calls
`edge.diagnose.explain`.
"""

from __future__ import annotations

import msgspec

from edge.core.errors import EdgeError
from edge.diagnose.explain import Misses, Situation
from edge.diagnose.explain import explain as explain_situation
from edge.http import params
from edge.http.context import Context
from edge.http.message import JSON, Request, Response

_CONFIRM_SECONDS = 0.5


async def explain(context: Context, request: Request) -> Response:
    """Say why no subscriber was connected, as text, or as JSON if the client asks for it."""
    situation = await _situation(context, request.project)
    explanation = explain_situation(situation, context.iso_time)
    headers = {"Cache-Control": "no-store", "Vary": "Accept"}
    if _wants_json(request.headers.get("Accept") or ""):
        return Response(200, msgspec.json.encode(explanation), JSON, headers)
    return Response(200, explanation.text().encode(), "text/plain; charset=utf-8", headers)


async def _situation(context: Context, name: str) -> Situation:
    now, view = context.clock(), await context.nodes.view(name)
    here = None if view is None else context.hub.projects.get(name)
    return Situation(
        project=name,
        now=now,
        began_seconds=context.began_seconds,
        known=view is not None,
        connections=0 if view is None else view.connections,
        newest_connection_seconds=here.last_connect_seconds if here is not None and here.connections else None,
        newest_event_seconds=here.ring.published_at(here.ring.newest) if here is not None and len(here.ring) else None,
        waiting=context.readiness.waiting_for(name),
        misses=Misses()
        if view is None
        else Misses(
            view.misses, view.recovered, view.lost, view.pending, view.first_miss_seconds, view.last_miss_seconds
        ),
        facts=context.history.facts(name),
        confirmed=await _confirmed(context, name) if view is not None and view.connections else None,
    )


async def _confirmed(context: Context, name: str) -> str | None:
    try:
        return (await context.readiness.wait(name, 1, _CONFIRM_SECONDS)).confirmed
    except EdgeError:  # no probe was answered, or none could be sent: either way none is confirmed
        return None


def _wants_json(accept: str) -> bool:
    """A client that names JSON gets it; curl and browsers, which accept anything, get text."""
    return "json" in accept.lower() and params.accepts(accept, JSON)
