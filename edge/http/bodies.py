"""Request bodies: which media types are read, and within which limits."""

from __future__ import annotations

import hashlib

from edge.core.errors import InvalidRequest, LimitReached
from edge.http.context import Context
from edge.http.request import HTTP_1_1, Request

JSON = "application/json"
FORM = "application/x-www-form-urlencoded"
"""curl's default; such bodies are parsed as JSON."""
TEXT = "text/plain"
NDJSON = "application/x-ndjson"


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


def fingerprint(*parts: bytes) -> bytes:
    """What distinguishes two requests with one idempotency key."""
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        digest.update(b"%d:" % len(part))
        digest.update(part)
    return digest.digest()
