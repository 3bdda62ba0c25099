"""`GET /projects/{project}/events`: the handshake of a stream, then the hand-over.

Invariant: whatever is refused is refused before a byte of the stream is written; after that the reader is the hub's.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable

from aiohttp import HttpVersion11, web

from edge.core import resume
from edge.core.connection import NEVER
from edge.core.errors import EdgeError, InvalidRequest
from edge.core.project import Project
from edge.core.resume import Start
from edge.http import params
from edge.http.guard import expiry_of
from edge.http.handover import Handshake, Stream, TracedStream
from edge.http.problems import response as problem
from edge.http.service import SERVICE, Service
from edge.units import parse_duration

MEDIA_TYPE = "text/event-stream"
_LIFETIME_JITTER = 0.1
_random = secrets.SystemRandom()


async def subscribe(request: web.Request) -> web.StreamResponse:
    """Open a stream of a project's events."""
    service = request.app[SERVICE]
    name = params.project(request)
    if not params.accepts(request.headers.get("Accept"), MEDIA_TYPE):
        return problem("not_acceptable", f"Events come as {MEDIA_TYPE} only; ask for that or for */*.")
    start = _start(request, service.clock())
    ping_as_event = params.choice(request, "heartbeat", "comment", ("comment", "event")) == "event"
    if request.method == "HEAD":
        return web.Response(headers=Handshake().headers)
    address = service.client_addresses.of(request)
    if service.cluster is not None:
        await service.cluster.follow(name, _asked_id(request))
    service.hub.admit(name, address, service.clock())
    ends_at_seconds, ends_reason = _end_of_life(service, request)
    made = TracedStream if service.config.server.log_level == "debug" else Stream
    stream = made(
        service.hub,
        service.clock,
        secrets.token_hex(8),
        address,
        chunked=request.version >= HttpVersion11,
        ping_as_event=ping_as_event,
        ends_at_seconds=ends_at_seconds,
        ends_reason=ends_reason,
    )
    answer = Handshake(send_timeout=service.config.stream.dead_after_seconds)
    answer.force_close()
    # aiohttp-sse says keep-alive; but nothing comes after a stream, and a client that believed it would lose its next
    # request on a connection that is being closed.
    answer.headers["Connection"] = "close"
    await answer.prepare(request)
    if stream.take_over(request, answer.head()):
        # What was admitted above can be refused by now (the handshake may wait for its turn to write).
        try:
            if service.cluster is not None and not service.cluster.follows(name):
                await service.cluster.follow(name)
            service.hub.attach(name, stream, start, service.clock())
        except Exception as error:
            stream.release()
            stream.abort()
            if not isinstance(error, EdgeError):
                raise
        stream.release()
    return answer


def _start(request: web.Request, now: float) -> Callable[[Project], Start]:
    """Where the reader wants to start: the header wins, then `last_event_id`, then `since`."""
    since = _since(request.query.get("since", "missed"), now)
    asked_id = _asked_id(request)
    if asked_id:
        return lambda project: resume.after_id(project, asked_id)
    return since


def _asked_id(request: web.Request) -> str:
    """The event that the reader saw last; empty where it doesn't say."""
    last_id = request.headers.get("Last-Event-ID") or request.query.get("last_event_id") or ""
    return last_id.encode(errors="replace").decode()


def _since(since: str, now: float) -> Callable[[Project], Start]:
    fixed = {"missed": resume.missed, "all": resume.everything, "none": resume.nothing}.get(since)
    if fixed is not None:
        return fixed
    if resume.is_event_id(since):
        return lambda project: resume.after_id(project, since)
    try:
        seconds = parse_duration(since)
    except ValueError:
        raise InvalidRequest(
            "since must be missed, all, none, an event id or a duration such as 10m.",
            code="invalid_parameter",
            parameter="since",
        ) from None
    return lambda project: resume.younger_than(project, since, seconds, now)


def _end_of_life(service: Service, request: web.Request) -> tuple[float, str]:
    """When the stream is to end and why: the configured lifetime, or the end of the token if that comes first."""
    now = service.clock()
    lifetime = service.config.stream.max_lifetime_seconds
    ends = now + jittered(lifetime) if lifetime else NEVER
    expires = expiry_of(request, now)
    return (expires, "expired") if expires is not None and expires < ends else (ends, "lifetime")


def jittered(lifetime_seconds: float) -> float:
    """A lifetime within a tenth of the configured one, so that streams that began together don't end together."""
    return lifetime_seconds * _random.uniform(1 - _LIFETIME_JITTER, 1 + _LIFETIME_JITTER)
