"""`GET /projects/{project}/explain`: gathers the facts, asks the kernel about each connection, and calls
`edge.diagnose.explain`.

Invariant: it costs nothing until somebody asks, and then it holds the loop for no more than `_NAMES_A_TURN` names.
"""

from __future__ import annotations

import asyncio
import string
from collections.abc import Callable, Iterator
from itertools import islice

import msgspec
from aiohttp import web

from edge.core.errors import EdgeError
from edge.core.project import Project
from edge.diagnose.explain import LookAlike, Misses, Situation
from edge.diagnose.explain import explain as explain_situation
from edge.http import params
from edge.http.access_control import identity_of
from edge.http.context import CONTEXT, Context

_CONFIRM_SECONDS = 0.5
_NAMES_A_TURN = 2_000
_MAX_LOOK_ALIKES = 5
_NO_MARKS = str.maketrans("", "", string.punctuation + string.whitespace)


async def explain(request: web.Request) -> web.StreamResponse:
    """Say why nobody was connected: text for people, JSON for who asks for it."""
    context = request.app[CONTEXT]
    permissions = identity_of(request).permissions
    situation = await _situation(context, params.project(request), lambda other: permissions.allow("status", other))
    explanation = explain_situation(situation, context.iso_time)
    headers = {"Cache-Control": "no-store", "Vary": "Accept"}
    if _wants_json(request.headers.get("Accept", "")):
        return web.Response(body=msgspec.json.encode(explanation), content_type="application/json", headers=headers)
    return web.Response(text=explanation.text(), headers=headers)


async def _situation(context: Context, name: str, may_see: Callable[[str], bool]) -> Situation:
    confirmed = await _confirmed(context, name)
    look_alikes = await _look_alikes(context, name, may_see)
    now = context.clock()
    project = context.hub.project(name, now)
    known = Situation(
        project=name,
        now=now,
        began_seconds=context.began_seconds,
        known=project is not None,
        waiting=context.readiness.waiting_for(name),
        facts=context.history.facts(name),
        look_alikes=look_alikes[:_MAX_LOOK_ALIKES],
    )
    if context.cluster is not None and (view := await context.cluster.overview.view(name)) is not None:
        # The facts are this node's; who is there and what was missed is everybody's.
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
    except EdgeError:  # nobody answered the probe, or the hub may not ask: either way none is confirmed
        return None


async def _look_alikes(context: Context, name: str, may_see: Callable[[str], bool]) -> list[LookAlike]:
    """Ids that differ from `name` in case, spaces, dashes and the like only; those with most readers first.

    Of those that whoever asks may look at: an answer about one project gives away no other.
    """
    bare = _bare(name)
    found: dict[str, LookAlike] = {}
    names = _names(context)
    while part := list(islice(names, _NAMES_A_TURN)):
        for other in part:
            if other != name and _bare(other) == bare and may_see(other):
                found[other] = _look_alike(context, name, other)
        await asyncio.sleep(0)
    return sorted(found.values(), key=lambda other: (-other.connections, -other.events, other.project))


def _names(context: Context) -> Iterator[str]:
    yield from list(context.hub.projects)
    yield from context.history.names()


def _look_alike(context: Context, name: str, other: str) -> LookAlike:
    project = context.hub.projects.get(other)
    if name.lower() == other.lower():
        differs = "upper and lower case"
    elif name.lower() == "".join(other.split()).lower():
        differs = "spaces"
    elif name.lower().replace("-", "") == other.lower().replace("-", ""):
        differs = "dashes"
    else:
        differs = "punctuation"
    return LookAlike(
        project=other,
        connections=len(project.connections) if project is not None else 0,
        events=len(project.ring) if project is not None else 0,
        refused=any(fact.kind == "refused" for fact in context.history.facts(other)),
        differs=differs,
    )


def _bare(name: str) -> str:
    return name.translate(_NO_MARKS).casefold()


def _wants_json(accept: str) -> bool:
    """Who names JSON gets it; curl and browsers, who take anything, get text."""
    return "json" in accept.lower() and params.accepts(accept, "application/json")
