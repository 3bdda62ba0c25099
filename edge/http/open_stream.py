"""What opening a stream takes beside HTTP: where it starts, how long it lives, the stream itself."""

from __future__ import annotations

import secrets
from collections.abc import Callable

from edge.config.units import parse_duration
from edge.core import resume
from edge.core.connection import NEVER
from edge.core.errors import InvalidRequest
from edge.core.project import Project
from edge.core.resume import Start
from edge.http.context import Context
from edge.transport.stream import Stream, TracedStream

_LIFETIME_JITTER = 0.1
_FIXED = {"missed": resume.missed, "all": resume.everything, "none": resume.nothing}
_random = secrets.SystemRandom()


def start_at(since: str, last_id: str | None, now: float) -> Callable[[Project], Start]:
    """Where a reader wants to start: behind the event it last saw, or where `since` says.

    Raises InvalidRequest (`invalid_parameter`) for a `since` that can't be read, whatever else is there.
    """
    start = _since(since, now)
    if last_id:
        asked_id = last_id.encode(errors="replace").decode()
        return lambda project: resume.after_id(project, asked_id)
    return start


def _since(since: str, now: float) -> Callable[[Project], Start]:
    fixed = _FIXED.get(since)
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


def new_stream(
    context: Context, address: str, *, chunked: bool, ping_as_event: bool, expires_at_seconds: float | None
) -> Stream:
    """A stream for a reader at `address`. It ends with its configured lifetime, or at `expires_at_seconds` of the hub's
    clock, when its token does, if that comes first.
    """
    config, now = context.config, context.clock()
    lifetime_seconds = config.stream.max_lifetime_seconds
    ends_at_seconds = now + jittered(lifetime_seconds) if lifetime_seconds else NEVER
    ends_reason = "lifetime"
    if expires_at_seconds is not None and expires_at_seconds < ends_at_seconds:
        ends_at_seconds, ends_reason = expires_at_seconds, "expired"
    made = TracedStream if config.server.log_level == "debug" else Stream
    return made(
        context.hub,
        context.clock,
        secrets.token_hex(8),
        address,
        chunked=chunked,
        ping_as_event=ping_as_event,
        ends_at_seconds=ends_at_seconds,
        ends_reason=ends_reason,
    )


def jittered(lifetime_seconds: float) -> float:
    """A lifetime within a tenth of the configured one, so that streams that began together don't end together."""
    return lifetime_seconds * _random.uniform(1 - _LIFETIME_JITTER, 1 + _LIFETIME_JITTER)
