"""`GET /projects/{project}/events` and `GET /events`: what opening a stream takes, up to the moment the hub has it.

Invariant: whatever is refused is refused before a byte of the stream is written. From the admission to the hub's
`attach` nothing waits, so what was admitted can't be refused any more.
"""

from __future__ import annotations

import os
import random
import re
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple

from edge.config.units import parse_duration
from edge.core import resume
from edge.core.connection import NEVER, Connection
from edge.core.errors import InvalidRequest
from edge.core.hub import Hub
from edge.core.project import Project
from edge.core.resume import Start
from edge.http import params
from edge.http.access_control import expiry_of
from edge.http.context import Context
from edge.http.message import HTTP_1_1, Request, Response, TakenOver, date_line, half_closed
from edge.http.problems import response as problem
from edge.transport.carrier import Carrier, Part, TracedPart
from edge.transport.stream import HEADERS, Stream, TracedStream, stream_head

MEDIA_TYPE = "text/event-stream"
_LAST = re.compile(r"last(?::([1-9][0-9]{0,5}))?", re.ASCII)
_LONGEST_SPAN_SECONDS = 10 * 365.25 * 86_400
"""Ten years. A longer span is a mistake, most often a Unix time."""
_LIFETIME_JITTER = 0.1
_FIXED = {"missed": resume.missed, "all": resume.everything, "none": resume.nothing}
_random = random.SystemRandom()


class Wanted(NamedTuple):
    """What a subscriber asks for in its query."""

    since: str = "missed"
    observes: bool = False
    prefixes: bool = False
    ping_as_event: bool = False


def subscribe(context: Context, request: Request) -> Response | Awaitable[Response]:
    """Open a stream of the events of one project, or of several."""
    names = request.projects or (request.project,)
    if not params.accepts(request.listed("Accept"), MEDIA_TYPE):
        return problem("not_acceptable", f"Events come as {MEDIA_TYPE} only; ask for that or for */*.")
    last_id, wanted = last_event_id(request), _DEFAULTS
    if request.query_string:
        wanted = Wanted(
            params.text(request, "since", "missed"),
            params.flag(request, "observe"),
            params.flag(request, "prefix"),
            params.choice(request, "heartbeat", "comment", ("comment", "event")) == "event",
        )
    start = start_at(wanted.since, last_id, context.clock())
    if request.method == "HEAD":
        head = Response(200, content_type=HEADERS["Content-Type"], headers=_ONLY_STREAMS)
        head.endless = True
        return head
    coming = context.nodes.follow(names, last_id)
    if coming is None:
        return _open(context, request, names, wanted, last_id, start)
    return _open_after(coming, context, request, names, wanted, last_id, start)


async def _open_after(coming: Awaitable[None], *arguments: Any) -> Response:
    await coming
    return _open(*arguments)


def _open(
    context: Context,
    request: Request,
    names: Sequence[str],
    wanted: Wanted,
    last_id: str,
    start: Callable[[Project], Start],
) -> Response:
    hub = context.hub
    if request.projects:
        since, last_id = _of_its_project(hub, names, wanted.since), _of_its_project(hub, names, last_id)
        start = start_at(since, last_id, context.clock())
    for name in names:
        if not hub.is_over(name, start):
            break
    else:
        return Response(204)
    if request.half_closed:
        raise half_closed("A stream requires both directions of its connection")
    now = context.clock()
    address = context.client_addresses.of(request)
    for name in names:
        hub.admit(name, address, now, len(names) - 1)
    chunked = request.version >= HTTP_1_1
    options: dict[str, Any] = {
        "ping_as_event": wanted.ping_as_event,
        "observes": wanted.observes,
        "subject": request.identity.subject,
    }
    if context.config.stream.max_lifetime_seconds or request.identity.expires_at_seconds is not None:
        options |= _end(context, expiry_of(request, now), now)
    traced = context.config.server.log_level == "debug"
    stream: Stream
    connections: list[Connection]
    if request.projects:
        hub.check_room(names, address, now)
        stream = carrier = Carrier(hub, context.clock, address, chunked=chunked, prefixes=wanted.prefixes)
        part = TracedPart if traced else Part
        connections = [part(carrier, name, _new_id(), now, **options) for name in names]
    else:
        made = TracedStream if traced else Stream
        stream = made(hub, context.clock, _new_id(), address, chunked=chunked, **options)
        connections = [stream]
    head = stream_head(chunked=chunked) + date_line() + request.shared + b"\r\n"
    if stream.take_over_transport(request.protocol, head):
        try:
            for name, connection in zip(names, connections, strict=True):
                hub.attach(name, connection, start, now, admitted=True)
            stream.begin()
        except Exception:
            stream.abort()
            raise
    return _TAKEN_OVER


_DEFAULTS = Wanted()
_TAKEN_OVER = TakenOver()
_ONLY_STREAMS = {name: HEADERS[name] for name in ("Cache-Control", "X-Accel-Buffering")}


def last_event_id(request: Request) -> str:
    """The id that the client saw last; empty without one.

    The header wins over the query. In the query the last one wins: a polyfill that reconnects appends its own to the
    one that the page began with.
    """
    asked = request.headers.get("Last-Event-ID") or ""
    if not asked and request.query_string:
        named = [values[-1] for name, values in request.query.items() if name in params.LAST_ID_PARAMETERS]
        asked = next(filter(None, reversed(named)), "")
    return asked if asked.isascii() else asked.encode(errors="replace").decode()


def start_at(since: str, last_id: str, now: float) -> Callable[[Project], Start]:
    """Where a stream starts: behind the event its client saw last (which wins), or where `since` says.

    Raises InvalidRequest (`invalid_parameter`) for a `since` that can't be read, whatever else is there.
    """
    start = _FIXED.get(since) or _since(since, now)
    return _behind(last_id, start) if last_id else start


def _behind(last_id: str, otherwise: Callable[[Project], Start]) -> Callable[[Project], Start]:
    """Behind the event `last_id`; for a project that an id of several doesn't name, as `otherwise` says."""

    def start(project: Project) -> Start:
        own = resume.id_in(project.name, last_id)
        return resume.after_id(project, own) if own else otherwise(project)

    return start


def _of_its_project(hub: Hub, names: Sequence[str], last_id: str) -> str:
    """The id of an event of one project as a stream of several names it, if one of `names` has issued it."""
    if resume.is_event_id(last_id):
        epoch = last_id.rpartition("-")[0]
        for name in names:
            known = hub.projects.get(name) or hub.dropped.get(name)
            if known is not None and epoch in (known.epoch, *(past.epoch for past in known.earlier)):
                return f"{name}:{last_id}"
    return last_id


def _since(since: str, now: float) -> Callable[[Project], Start]:
    if resume.is_event_id(since) or resume.is_stream_id(since):
        return _behind(since, resume.missed)
    if (last := _LAST.fullmatch(since)) is not None:
        count = int(last[1] or 1)
        return lambda project: resume.newest(project, since, count)
    try:
        seconds = parse_duration(since)
    except ValueError:
        raise _unreadable("missed, all, none, last, last:20, an event id or a duration such as 10m") from None
    if seconds > _LONGEST_SPAN_SECONDS:
        raise _unreadable("a duration of at most ten years, such as 10m, not a point in time")
    return lambda project: resume.younger_than(project, since, seconds, now)


def _unreadable(allowed: str) -> InvalidRequest:
    return InvalidRequest(f"since must be {allowed}.", code="invalid_parameter", parameter="since")


def _new_id() -> str:
    return os.urandom(8).hex()


def _end(context: Context, expires_at_seconds: float | None, now: float) -> dict[str, Any]:
    """A stream ends with its configured lifetime, or when its token does, if that comes first."""
    lifetime_seconds = context.config.stream.max_lifetime_seconds
    ends_at_seconds = now + jittered(lifetime_seconds) if lifetime_seconds else NEVER
    if expires_at_seconds is not None and expires_at_seconds < ends_at_seconds:
        return {"ends_at_seconds": expires_at_seconds, "ends_reason": "expired"}
    return {"ends_at_seconds": ends_at_seconds}


def jittered(lifetime_seconds: float) -> float:
    """A lifetime within a tenth of the configured one, so that streams that began together don't end together."""
    return lifetime_seconds * _random.uniform(1 - _LIFETIME_JITTER, 1 + _LIFETIME_JITTER)
