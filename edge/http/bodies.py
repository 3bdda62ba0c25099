"""Bodies: which kinds are read, and how JSON is answered."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import msgspec
from aiohttp import HttpVersion11, web

from edge.core.errors import InvalidRequest
from edge.http.context import CONTEXT

JSON = "application/json"
FORM = "application/x-www-form-urlencoded"
"""What curl says when it is told nothing; such bodies are read as JSON."""
TEXT = "text/plain"
NDJSON = "application/x-ndjson"


def media_type(request: web.Request, accepted: tuple[str, ...]) -> str:
    """The body's media type, without parameters; one of `accepted`.

    Raises:
        InvalidRequest: `unsupported_media_type`, `unsupported_encoding`.
    """
    if request.headers.get("Content-Encoding", "identity").strip().lower() not in ("identity", ""):
        raise InvalidRequest("Send the body as it is; compressed bodies are not read.", code="unsupported_encoding")
    # aiohttp frames a body by its last transfer coding and hands on what is inside another one, still coded.
    codings = request.headers.get("Transfer-Encoding")
    if codings is not None and (codings.strip().lower() != "chunked" or request.version < HttpVersion11):
        raise InvalidRequest("Transfer-Encoding may be chunked, in HTTP/1.1.", code="unsupported_encoding")
    given = request.headers.get("Content-Type")
    # aiohttp reads a missing or broken header as application/octet-stream; a missing one is JSON to us.
    name = accepted[0] if given is None else request.content_type
    if name not in accepted:
        raise InvalidRequest(
            f"Send Content-Type: {' or '.join(kind for kind in accepted if kind != FORM)}.",
            code="unsupported_media_type",
        )
    charset = request.charset
    if charset is not None and charset.lower() not in ("utf-8", "utf8", "us-ascii"):
        raise InvalidRequest("Send the body in UTF-8.", code="unsupported_media_type")
    return name


async def read(request: web.Request) -> bytes:
    """The whole body; aiohttp bounds its size.

    Raises TooSlow where it isn't there within `limits.idle_seconds`, Draining where the process leaves before.
    """
    if request.content.is_eof():
        return await request.read()
    limits = request.app[CONTEXT].config.limits
    told_bytes = request.content_length or 0
    if told_bytes > limits.max_body_bytes:
        raise web.HTTPRequestEntityTooLarge(limits.max_body_bytes, told_bytes)
    limit_seconds = limits.idle_seconds
    too_slow = f"The body was not there within {limit_seconds:g} s (limits.idle_seconds)."
    async with request.app[CONTEXT].until_drain(limit_seconds, too_slow):
        return await request.read()


def json_response(
    document: object, *, status: int = 200, content_type: str = JSON, headers: Mapping[str, str] | None = None
) -> web.Response:
    """`document` as JSON, with a line end behind it for whoever reads it in a terminal."""
    body = msgspec.json.encode(document) + b"\n"
    return web.Response(status=status, body=body, content_type=content_type, headers=headers)


def fingerprint(*parts: bytes) -> bytes:
    """What tells two requests with one idempotency key apart."""
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        digest.update(b"%d:" % len(part))
        digest.update(part)
    return digest.digest()
