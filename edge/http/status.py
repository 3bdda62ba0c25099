"""Looking at a project and why it has no subscriber, at all projects and the hub; readiness, tickets; deletion."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from resource import getpagesize
from typing import cast

import msgspec

from edge import __version__
from edge.auth.tickets import TICKET_SECONDS
from edge.cluster.local import ORDERS, Order, View
from edge.config.schema import PERMISSIONS
from edge.core import resume
from edge.core.connection import Connection
from edge.core.errors import EdgeError, InvalidRequest
from edge.core.ledger import MissTotals
from edge.diagnose.explain import Situation, as_text
from edge.diagnose.explain import explain as explained
from edge.diagnose.observer import Fact
from edge.http import params, problems
from edge.http.context import Context
from edge.http.message import JSON, NO_STORE, Request, Response, json_response
from edge.http.problems import response as problem
from edge.http.subscribe import last_event_id, start_at
from edge.transport.stream import Stream

_PAGE = 100
_MAX_PAGE = 1000
_MAX_SHOWN_CONNECTIONS = 100
"""A status shows this many connections and the number of all; asking the kernel about 20,000 would hold the loop."""
_MAX_CONNECTIONS = 1_000_000
_CONFIRM_SECONDS = 0.5


class Ack(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """The answer to an `edge.probe`: its data. On a stream of several projects the probe names its project, too."""

    probe: str
    project: str | None = None


_ack_decoder = msgspec.json.Decoder(Ack)


def _json(document: object) -> Response:
    return json_response(document, headers=NO_STORE)


async def ready(context: Context, request: Request) -> Response:
    """Wait until a project has confirmed connections."""
    trigger = context.config.trigger
    timeout_seconds = params.seconds(request, "timeout", trigger.wait_seconds, highest=trigger.max_wait_seconds)
    count = params.integer(request, "connections", 1, lowest=1, highest=_MAX_CONNECTIONS)
    confirm = params.confirm(request)
    found = await request.while_open(context.readiness.wait(request.project, count, timeout_seconds, confirm))
    waited = {"waited_ms": found.waited_ms, "connections": found.connections, "confirmed": found.confirmed}
    return _json({"ready": True, **waited})


async def ack(context: Context, request: Request) -> Response:
    """Take a client's answer to a probe: 204, or 404 and 409 where there is nothing to answer."""
    params.media_type(request, (JSON, params.FORM))
    try:
        answer = _ack_decoder.decode(await params.read(context, request))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise InvalidRequest('Send the data of the edge.probe event unchanged: {"probe": "…"}.') from None
    expected = await context.readiness.answer_probe(request.project, request.connection, answer.probe)
    if expected is None:
        return problem(
            "unknown_connection", "There is no such connection, or it has closed; use the id from edge.hello."
        )
    if not expected:
        return problem("stale_probe", "This probe is no longer open; answer the latest edge.probe.")
    return Response(204)


async def ticket(context: Context, request: Request) -> Response:
    """Give a ticket that opens one stream of the project: a browser's EventSource can send no header."""
    given = await context.nodes.tickets.issue(request.project, request.identity)
    return json_response({"ticket": given, "expires_in": int(TICKET_SECONDS)}, status=201, headers=NO_STORE)


async def project(context: Context, request: Request) -> Response:
    """The status of one project: its connections on this node, everything else on all."""
    name, iso_time = request.project, context.iso_time
    view = await context.nodes.view(name)
    if view is None:
        return _unknown(name)
    here = context.hub.projects.get(name)
    left, confirmed = (None, None) if here is None else (here.last_disconnect, here.last_ready)
    shown = () if here is None else islice(reversed(here.connections), _MAX_SHOWN_CONNECTIONS)
    first_and_last = {"first": iso_time(view.first_miss_seconds), "last": iso_time(view.last_miss_seconds)}
    return _json(
        {
            "project": name,
            "ring": _ring(view),
            "misses": _misses(view) | first_and_last,
            "epoch": view.epoch,
            "connections": [_connection(context, connection) for connection in shown],
            "connections_total": view.connections,
            "last_connect": None if here is None else iso_time(here.last_connect_seconds),
            "last_disconnect": left and {"at": iso_time(left[0]), "reason": left[1]},
            "last_ready": confirmed
            and {"at": iso_time(confirmed[0]), "connections": confirmed[1], "confirmed": confirmed[2]},
            "finished": here is not None and here.finished,
        }
    )


async def history(context: Context, request: Request) -> Response:
    """What a project holds, as one document. It counts as nothing."""
    name, now = request.project, context.clock()
    limit = params.integer(request, "limit", _PAGE, lowest=1, highest=_MAX_PAGE)
    last_id, since = last_event_id(request), request.parameter("since")
    start = start_at("all" if since is None else since, last_id, now)
    if await context.nodes.view(name) is None:
        return _unknown(name)
    if (coming := context.nodes.follow((name,), last_id)) is not None:
        await coming
    known = context.hub.project(name, now)
    if known is None:
        return _unknown(name)
    place = start(known)
    held = resume.events_from(known.ring, place, limit)
    return _json(
        {
            "project": name,
            "oldest": known.oldest_id,
            "newest": known.newest_id,
            "gap": place.gap and place.gap.fields(known.oldest_id, known.newest_id),
            "events": [
                {"id": event_id, "type": event_type, "data": data, "time": context.iso_time(at)}
                for at, (event_id, event_type, data) in held
            ],
        }
    )


async def projects(context: Context, request: Request) -> Response:
    limit = params.integer(request, "limit", _PAGE, lowest=1, highest=_MAX_PAGE)
    offset = params.integer(request, "offset", 0, lowest=0, highest=999_999_999)
    order = cast(Order, params.choice(request, "sort", "busiest", ORDERS))
    found, total = await context.nodes.page(offset, limit, order, request.parameter("match") or "")
    page = [
        {"project": name, "ring": _ring(view), "misses": _misses(view), "connections": view.connections}
        for name, view in found
    ]
    next_offset = offset + limit if offset + limit < total else None
    return _json({"projects": page, "total": total, "next_offset": next_offset})


async def hub(context: Context, request: Request) -> Response:
    """The totals of this process."""
    hub, config = context.hub, context.config
    counters = hub.counters
    now, oldest = context.clock(), counters.oldest_miss.oldest()
    unable = context.store_problem
    return _json(
        {
            "version": __version__,
            "started": context.iso_time(context.began_seconds),
            "uptime_seconds": round(now - context.began_seconds, 3),
            "draining": hub.draining,
            "permissions": [each for each in PERMISSIONS if request.identity.permissions.allow(each, None)],
            "projects": len(hub.projects),
            "max_projects": config.limits.max_projects,
            "connections": len(hub.connections),
            "observers": len(hub.observers),
            "waiting": context.readiness.waiting,
            "published": counters.published,
            "delivered": counters.delivered,
            "ring": {
                "events": counters.ring_events,
                "bytes": counters.ring_memory_bytes,
                "max_bytes": config.ring.total_bytes,
            },
            "misses": _misses(counters.misses)
            | {"oldest_pending_seconds": None if oldest is None else round(max(0.0, now - oldest), 3)},
            "triggers": context.triggers.outcomes,
            "store": {"available": unable is None, "problem": unable and str(unable), "errors": context.store.errors},
            "memory_bytes": _resident_bytes(),
        }
    )


def _resident_bytes() -> int | None:
    """Resident memory of the process; None where there is no `/proc`, or no descriptor left to read it with."""
    try:
        return int(Path("/proc/self/statm").read_bytes().split()[1]) * getpagesize()
    except OSError:
        return None


async def delete(context: Context, request: Request) -> Response:
    """Close a project's streams and drop its history."""
    deleted = await context.nodes.delete(request.project)
    if deleted is None:
        return _unknown(request.project)
    await context.store.deleted(request.project)
    connections, events = deleted
    return _json({"project": request.project, "connections_closed": connections, "events_dropped": events})


async def explain(context: Context, request: Request) -> Response:
    """Why no subscriber was connected: the facts, and what the kernel says of each connection now."""
    situation = await _situation(context, request.project)
    explanation = explained(situation, context.iso_time)
    headers = {"Cache-Control": "no-store", "Vary": "Accept"}
    accept = request.listed("Accept") or ""
    if "json" in accept.lower() and params.accepts(accept, JSON):  # curl and browsers, which accept anything, get text
        return Response(200, msgspec.json.encode(explanation), JSON, headers)
    return Response(200, as_text(explanation).encode(), "text/plain; charset=utf-8", headers)


async def _situation(context: Context, name: str) -> Situation:
    now, view = context.clock(), await context.nodes.view(name)
    facts, here = context.history.facts(name), context.hub.projects.get(name)
    if view is not None and here is not None:
        if here.connections and here.last_connect_seconds is not None:
            facts.append(Fact("connected", "", here.last_connect_seconds))
        if len(here.ring):
            facts.append(Fact("published", "", here.ring.published_at(here.ring.newest)))
    return Situation(
        project=name,
        now=now,
        began_seconds=context.began_seconds,
        known=view is not None,
        connections=0 if view is None else view.connections,
        waiting=context.readiness.waiting_for(name),
        misses=_misses(MissTotals() if view is None else view),
        first_miss_seconds=None if view is None else view.first_miss_seconds,
        last_miss_seconds=None if view is None else view.last_miss_seconds,
        facts=facts,
        confirmed=await _confirmed(context, name) if view is not None and view.connections else None,
    )


async def _confirmed(context: Context, name: str) -> str | None:
    try:
        return (await context.readiness.wait(name, 1, _CONFIRM_SECONDS)).confirmed
    except EdgeError:  # no probe was answered, or none could be sent: either way none is confirmed
        return None


async def healthz(_context: Context, _request: Request) -> Response:
    """The process lives and its loop turns."""
    return _json({"status": "ok"})


async def readyz(context: Context, _request: Request) -> Response:
    """Whether new work should come here."""
    if context.hub.draining:
        return problem("draining", "The hub is shutting down; send work elsewhere.", retry_after_seconds=1)
    if (unable := context.store_problem) is not None:
        return problems.from_error(unable)
    return _json({"status": "ready"})


async def metrics(context: Context, request: Request) -> Response:
    """The numbers, for Prometheus."""
    body, content_type = context.exposition(request.listed("Accept") or "")
    return Response(200, body, content_type)


def _ring(view: View) -> dict[str, object]:
    oldest, newest = (view.oldest_id, view.newest_id) if view.events else (None, None)
    return {"oldest": oldest, "newest": newest, "events": view.events, "bytes": view.bytes}


def _misses(of: View | MissTotals) -> dict[str, int]:
    return {"total": of.misses, "recovered": of.recovered, "lost": of.lost, "pending": of.pending}


def _connection(context: Context, connection: Connection) -> dict[str, object]:
    stream = cast(Stream, connection)
    known = stream.project
    round_trip = stream.round_trip_seconds
    return {
        "id": stream.id,
        "since": context.iso_time(stream.connected_at_seconds),
        "address": stream.address,
        "last_event": known.event_id(stream.cursor) if known is not None and stream.cursor >= known.first_seq else None,
        "unacknowledged_bytes": stream.unacked_bytes,
        "round_trip_ms": None if round_trip is None else round(round_trip * 1000, 3),
        "paused": stream.paused,
        "confirmable": "acknowledged" if stream.confirmable else "written",
        "sub": stream.subject,
    }


def _unknown(name: str) -> Response:
    return problem(
        "unknown_project",
        f"Nothing was published to {name} and no subscriber is connected to it; check the id, which is case-sensitive.",
    )
