"""`GET /projects/{project}/explain`: gathers the facts, asks the kernel about each connection, and calls
`edge.diagnose.explain`.
"""

from __future__ import annotations

import msgspec

from edge.core.errors import EdgeError
from edge.core.project import Project
from edge.diagnose.explain import Misses, Situation
from edge.diagnose.explain import explain as explain_situation
from edge.http import params
from edge.http.context import Context
from edge.http.request import Request
from edge.http.response import JSON, Response

_CONFIRM_SECONDS = 0.5


async def explain(context: Context, request: Request) -> Response:
    """Say why nobody was connected, as text, or as JSON if the client asks for it."""
    situation = await _situation(context, request.project)
    explanation = explain_situation(situation, context.iso_time)
    headers = {"Cache-Control": "no-store", "Vary": "Accept"}
    if _wants_json(request.headers.get("Accept") or ""):
        return Response(200, msgspec.json.encode(explanation), JSON, headers)
    return Response(200, explanation.text().encode(), "text/plain; charset=utf-8", headers)


async def _situation(context: Context, name: str) -> Situation:
    confirmed = await _confirmed(context, name)
    now = context.clock()
    project = context.hub.project(name, now)
    known = Situation(
        project=name,
        now=now,
        began_seconds=context.began_seconds,
        known=project is not None,
        waiting=context.readiness.waiting_for(name),
        facts=context.history.facts(name),
    )
    if context.cluster is not None and (view := await context.cluster.status.view(name)) is not None:
        # Facts are this node's; connections and misses are those of all nodes.
        return msgspec.structs.replace(
            known,
            known=True,
            connections=view.connections,
            confirmed=await _confirmed_anywhere(context, name) if view.connections else None,
            misses=Misses(view.misses, view.recovered, view.lost, view.pending, None, None),
        )
    if project is None:
        return known
    return msgspec.structs.replace(
        known,
        connections=len(project.connections),
        confirmed=confirmed if project.connections else None,
        newest_connection_seconds=max((one.connected_at_seconds for one in project.connections), default=None),
        newest_event_seconds=project.ring.published_at(project.ring.newest) if len(project.ring) else None,
        misses=_misses(project),
    )


def _misses(project: Project) -> Misses:
    ledger = project.ledger
    return Misses(
        ledger.misses,
        ledger.recovered,
        ledger.lost,
        len(ledger.pending),
        ledger.first_miss_seconds,
        ledger.last_miss_seconds,
    )


async def _confirmed_anywhere(context: Context, name: str) -> str | None:
    try:
        return (await context.readiness.wait(name, 1, _CONFIRM_SECONDS)).confirmed
    except EdgeError:
        return None


async def _confirmed(context: Context, name: str) -> str | None:
    project = context.hub.projects.get(name)
    if project is None or not project.connections:
        return None
    try:
        return (await context.readiness.wait(name, 1, _CONFIRM_SECONDS)).confirmed
    except EdgeError:  # no probe was answered, or none could be sent: either way none is confirmed
        return None


def _wants_json(accept: str) -> bool:
    """A client that names JSON gets it; curl and browsers, which accept anything, get text."""
    return "json" in accept.lower() and params.accepts(accept, JSON)
