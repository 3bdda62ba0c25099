"""What callers write into paths, queries, headers and bodies, read in one place; whatever can't be read is refused with
a sentence that says why.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from difflib import get_close_matches
from typing import cast

from edge.config.units import parse_duration
from edge.core.errors import InvalidRequest, LimitReached
from edge.http.context import Context
from edge.http.message import HTTP_1_1, Request
from edge.logs.text import one_line, shorten
from edge.triggers.readiness import CONFIRMS, Confirm

FORM = "application/x-www-form-urlencoded"
"""curl's default; such bodies are parsed as JSON."""
TEXT = "text/plain"
NDJSON = "application/x-ndjson"
LAST_ID_PARAMETERS = ("last_event_id", "lastEventId", "lastEventID", "Last-Event-ID")
"""For clients that can't set headers; the first is ours, the others are what polyfills and other hubs call it."""
_REPEATABLE = frozenset({"project", "ticket", *LAST_ID_PARAMETERS})
MAX_PROJECTS = 32
"""Projects of one stream, and of one request to publish."""
_PROJECT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._~-]{0,127}", re.ASCII)
_INTEGER = re.compile(r"[0-9]{1,9}", re.ASCII)
_IDEMPOTENCY_KEY = re.compile(r"[!-~]{1,255}", re.ASCII)


def check_project(name: str) -> None:
    """Raise InvalidRequest (`invalid_project`) unless `name` is a project id."""
    if _PROJECT.fullmatch(name) is None:
        raise InvalidRequest(
            "A project id has 1 to 128 letters, digits, dots, underscores, tildes or hyphens, "
            "and begins with a letter or digit.",
            code="invalid_project",
        )


def check_projects(names: Sequence[str]) -> None:
    """Raise InvalidRequest (`invalid_parameter`, `invalid_project`) unless `names` are from 1 to 32 project ids."""
    if not 1 <= len(names) <= MAX_PROJECTS:
        raise InvalidRequest(
            f"Name from 1 to {MAX_PROJECTS} projects, as in ?project=a&project=b; this request names {len(names)}.",
            code="invalid_parameter",
            parameter="project",
        )
    for name in names:
        check_project(name)


def check_known(request: Request, known: Collection[str]) -> None:
    """Raise InvalidRequest for a query parameter that isn't `known` (`unknown_parameter`), or has two values where one
    counts (`invalid_parameter`); `_…` are cache busters.
    """
    for name, values in request.query.items():
        if name in known:
            if len(values) > 1 and name not in _REPEATABLE:
                raise _unreadable(name, values[1], "repeats a parameter that has one value; send it once")
            continue
        if name.startswith("_"):
            continue
        shown = one_line(shorten(name, 64)) or "(empty)"
        nearest = get_close_matches(shorten(name, 64).lower(), known, 1, 0.5)
        advice = f"the nearest is {nearest[0]}." if nearest else f"it supports {', '.join(sorted(known)) or 'none'}."
        raise InvalidRequest(
            f"{shown} is not a parameter of this endpoint; {advice}", code="unknown_parameter", parameter=shown
        )


def check_expectation(request: Request) -> None:
    """Raise InvalidRequest (`expectation_failed`) for an `Expect` header that asks for anything but `100-continue`."""
    if (request.headers.get("Expect") or "").lower() != "100-continue":
        raise InvalidRequest(
            "The only supported Expect value is 100-continue; leave the header out.", code="expectation_failed"
        )


def integer(request: Request, name: str, default: int, *, lowest: int, highest: int) -> int:
    """A whole number between `lowest` and `highest` from the query."""
    text = request.parameter(name)
    if text is None:
        return default
    if _INTEGER.fullmatch(text) is None or not lowest <= int(text) <= highest:
        raise _unreadable(name, text, f"must be a whole number from {lowest} to {highest}")
    return int(text)


def seconds(request: Request, name: str, default: float, *, highest: float) -> float:
    """A duration of at most `highest` seconds from the query."""
    text = request.parameter(name)
    if text is None:
        return default
    try:
        value = parse_duration(text)
    except ValueError as error:
        raise _unreadable(name, text, str(error)) from None
    if value > highest:
        raise _unreadable(name, text, f"must be at most {highest:g}s")
    return value


def choice(request: Request, name: str, default: str, choices: Sequence[str]) -> str:
    """One of `choices` from the query."""
    text = request.parameter(name)
    if text is None:
        return default
    if text not in choices:
        raise _unreadable(name, text, f"must be {' or '.join(choices)}")
    return text


def text(request: Request, name: str, default: str) -> str:
    """Any text from the query."""
    value = request.parameter(name)
    return default if value is None else value


def flag(request: Request, name: str) -> bool:
    """`true` or `false` (the default) from the query."""
    return choice(request, name, "false", ("true", "false")) == "true"


def confirm(request: Request) -> Confirm:
    """Who has to confirm a connection: `?confirm=client`, or the peer's transport."""
    return cast(Confirm, choice(request, "confirm", "transport", CONFIRMS))


def idempotency_key(request: Request) -> str | None:
    """The `Idempotency-Key` header, if there is one."""
    key = request.headers.get("Idempotency-Key")
    if key is None:
        return None
    if len(request.headers.getall("Idempotency-Key")) > 1:
        raise InvalidRequest("Idempotency-Key was sent twice; send one.", code="invalid_parameter")
    if _IDEMPOTENCY_KEY.fullmatch(key) is None:
        raise InvalidRequest(
            "Idempotency-Key must have 1 to 255 printable ASCII characters without spaces.",
            code="invalid_parameter",
        )
    return key


def accepts(header: str | None, media_type: str) -> bool:
    """Whether an `Accept` header lets `media_type` through (RFC 9110, section 12.5.1); none at all does."""
    if header is None or header in (media_type, "*/*") or not header.strip():
        return True
    kind = media_type.partition("/")[0]
    best: tuple[int, float] = (-1, 0.0)
    for part in header.split(","):
        name, *parameters = (piece.strip().lower() for piece in part.split(";"))
        rank = {media_type: 2, f"{kind}/*": 1, "*/*": 0}.get(name, -1)
        if rank > best[0]:
            best = (rank, _quality(parameters))
    return best[0] >= 0 and best[1] > 0


def accepts_gzip(header: str | None) -> bool:
    """Whether an `Accept-Encoding` header asks for gzip by name (RFC 9110, section 12.5.3)."""
    for part in (header or "").lower().split(","):
        name, *parameters = (piece.strip() for piece in part.split(";"))
        if name == "gzip":
            return _quality(parameters) > 0
    return False


def _quality(parameters: list[str]) -> float:
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                return float(value)
            except ValueError:
                return 1.0
    return 1.0


def media_type(request: Request, accepted: tuple[str, ...]) -> str:
    """The body's media type, without parameters; one of `accepted`, the first where none is given.

    Raises:
        InvalidRequest: `unsupported_media_type`, `unsupported_encoding`.
    """
    headers = request.headers
    if (headers.get("Content-Encoding") or "").strip().lower() not in ("identity", ""):
        raise InvalidRequest(
            "Compressed bodies are not supported; send the body uncompressed.", code="unsupported_encoding"
        )
    # aiohttp frames a body by its last transfer coding and hands on what is inside another one, still coded.
    codings = headers.get("Transfer-Encoding")
    if codings is not None and (codings.strip().lower() != "chunked" or request.version < HTTP_1_1):
        raise InvalidRequest(
            "The only supported Transfer-Encoding is chunked, over HTTP/1.1.", code="unsupported_encoding"
        )
    given = headers.get("Content-Type")
    if given is None or given == accepted[0]:
        return accepted[0]
    name, _, parameters = given.partition(";")
    name = name.strip().lower()
    if name not in accepted:
        raise InvalidRequest(
            f"Send Content-Type: {' or '.join(kind for kind in accepted if kind != FORM)}.",
            code="unsupported_media_type",
        )
    for parameter in parameters.split(";") if parameters else ():
        key, _, value = parameter.partition("=")
        if key.strip().lower() == "charset" and value.strip(' \t"').lower() not in ("utf-8", "utf8", "us-ascii"):
            raise InvalidRequest("Send the body in UTF-8.", code="unsupported_media_type")
    return name


async def read(context: Context, request: Request) -> bytes:
    """The whole body.

    Raises LimitReached (`body_too_large`), TooSlow where it isn't there within `limits.idle_seconds`, Draining where
    the process shuts down before.
    """
    limits = context.config.limits
    max_bytes = limits.max_body_bytes
    body = request.body()
    if body is not None:
        return bounded(context, body)
    length = request.headers.get("Content-Length")
    if length is not None and int(length) > max_bytes:
        raise _too_large(max_bytes)
    limit_seconds = limits.idle_seconds
    too_slow = f"The body did not arrive within {limit_seconds:g} s (limits.idle_seconds)."
    chunks, size_bytes = [], 0
    async with context.until_drain(limit_seconds, too_slow):
        while chunk := await request.next_chunk():
            chunks.append(chunk)
            size_bytes += len(chunk)
            if size_bytes > max_bytes:
                raise _too_large(max_bytes)
    return b"".join(chunks)


def bounded(context: Context, body: bytes) -> bytes:
    """A body that has arrived. Raises LimitReached (`body_too_large`)."""
    max_bytes = context.config.limits.max_body_bytes
    if len(body) > max_bytes:
        raise _too_large(max_bytes)
    return body


def _too_large(max_bytes: int) -> LimitReached:
    return LimitReached(
        f"The body exceeds limits.max_body_bytes ({max_bytes}); send less, or stream NDJSON line by line.",
        code="body_too_large",
        limit_bytes=max_bytes,
    )


def _unreadable(name: str, text: str, reason: str) -> InvalidRequest:
    return InvalidRequest(
        f"The parameter {name}={one_line(shorten(text, 64))} {reason}.",
        code="invalid_parameter",
        parameter=name,
    )
