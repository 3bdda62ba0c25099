"""Looking at the hub: one project, all of them, readiness, life; and deleting a project."""

from __future__ import annotations

from itertools import islice
from typing import cast

from aiohttp import web

from edge.core.connection import Connection
from edge.core.project import Project
from edge.http import params, problems
from edge.http.bodies import json_response
from edge.http.handover import Stream
from edge.http.problems import response as problem
from edge.http.service import SERVICE, Service

_PAGE = 100
_MAX_PAGE = 1000
_MAX_SHOWN_CONNECTIONS = 100
"""A status shows this many connections and the number of all; asking the kernel about 20,000 would hold the loop."""
_MAX_CONNECTIONS = 1_000_000


def _json(document: object) -> web.Response:
    return json_response(document, headers={"Cache-Control": "no-store"})


async def ready(request: web.Request) -> web.StreamResponse:
    """Wait until a project has confirmed connections."""
    service = request.app[SERVICE]
    name = params.project(request)
    trigger = service.config.trigger
    timeout_seconds = params.seconds(request, "timeout", trigger.wait_seconds, highest=trigger.max_wait_seconds)
    count = params.integer(request, "connections", 1, lowest=1, highest=_MAX_CONNECTIONS)
    confirmation = await service.readiness.wait(name, count, timeout_seconds, params.confirm(request))
    return _json(
        {
            "ready": True,
            "waited_ms": confirmation.waited_ms,
            "connections": confirmation.connections,
            "confirmed": confirmation.confirmed,
        }
    )


async def project(request: web.Request) -> web.StreamResponse:
    """What the hub knows of one project."""
    service = request.app[SERVICE]
    name = params.project(request)
    known = service.hub.project(name, service.clock())
    if known is None:
        return _unknown(name)
    ledger = known.ledger
    left = known.last_disconnect
    return _json(
        {
            **_summary(known),
            "epoch": known.epoch,
            "connections": [
                _connection(service, connection)
                for connection in islice(reversed(known.connections), _MAX_SHOWN_CONNECTIONS)
            ],
            "connections_total": len(known.connections),
            "misses": {
                **_misses(known),
                "first": service.iso_time(ledger.first_miss_seconds),
                "last": service.iso_time(ledger.last_miss_seconds),
            },
            "last_connect": service.iso_time(known.last_connect_seconds),
            "last_disconnect": left and {"at": service.iso_time(left[0]), "reason": left[1]},
        }
    )


async def projects(request: web.Request) -> web.StreamResponse:
    """A page of projects, busiest first."""
    service = request.app[SERVICE]
    limit = params.integer(request, "limit", _PAGE, lowest=1, highest=_MAX_PAGE)
    offset = params.integer(request, "offset", 0, lowest=0, highest=999_999_999)
    page = list(islice(service.hub.busiest(), offset, offset + limit))
    total = len(service.hub.projects)
    return _json(
        {
            "projects": [{**_summary(one), "connections": len(one.connections)} for one in page],
            "total": total,
            "next_offset": offset + limit if offset + limit < total else None,
        }
    )


async def delete(request: web.Request) -> web.StreamResponse:
    """Close a project's streams and drop its history."""
    service = request.app[SERVICE]
    name = params.project(request)
    deleted = service.hub.delete(name, service.clock())
    if deleted is None:
        return _unknown(name)
    return _json({"project": name, "connections_closed": deleted[0], "events_dropped": deleted[1]})


async def healthz(_request: web.Request) -> web.StreamResponse:
    """The process lives and its loop turns."""
    return _json({"status": "ok"})


async def readyz(request: web.Request) -> web.StreamResponse:
    """Whether new work should come here."""
    if request.app[SERVICE].hub.draining:
        return problem("draining", "The hub is shutting down; send work elsewhere.", retry_after_seconds=1)
    if (unable := request.app[SERVICE].store.problem) is not None:
        return problems.from_error(unable)
    return _json({"status": "ready"})


async def metrics(request: web.Request) -> web.StreamResponse:
    """The numbers, for Prometheus."""
    body, content_type = request.app[SERVICE].exposition.text(request.headers.get("Accept", ""))
    return web.Response(body=body, headers={"Content-Type": content_type})


def _summary(known: Project) -> dict[str, object]:
    ring = known.ring
    return {
        "project": known.name,
        "ring": {
            "oldest": known.oldest_id,
            "newest": known.newest_id,
            "events": len(ring),
            "bytes": ring.size_bytes,
        },
        "misses": _misses(known),
    }


def _misses(known: Project) -> dict[str, int]:
    ledger = known.ledger
    return {
        "total": ledger.misses,
        "recovered": ledger.recovered,
        "lost": ledger.lost,
        "pending": len(ledger.pending),
    }


def _connection(service: Service, connection: Connection) -> dict[str, object]:
    stream = cast(Stream, connection)
    known = stream.project
    round_trip = stream.round_trip_seconds
    return {
        "id": stream.id,
        "since": service.iso_time(stream.connected_at_seconds),
        "address": stream.address,
        "last_event": known.event_id(stream.cursor) if known is not None and stream.cursor >= known.first_seq else None,
        "unacknowledged_bytes": stream.unacked_bytes,
        "round_trip_ms": None if round_trip is None else round(round_trip * 1000, 3),
        "paused": stream.paused,
    }


def _unknown(name: str) -> web.Response:
    return problem(
        "unknown_project",
        f"Nothing was published to {name} and nobody subscribes to it; check the id, it is case-sensitive.",
    )
