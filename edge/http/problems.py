"""All errors of the hub in one table, and their encoding: RFC 9457, `application/problem+json`.

`code` is the stable name; `docs/errors.md` has a row for each, and a test holds the two together.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import msgspec

from edge.core.errors import EdgeError
from edge.http.message import Response, json_response

CONTENT_TYPE = "application/problem+json"
ALL_METHODS = "DELETE, GET, HEAD, OPTIONS, POST"


class Problem(msgspec.Struct, frozen=True):
    """The HTTP status and the title of an error code."""

    status: int
    title: str


PROBLEMS: Mapping[str, Problem] = {
    "invalid_project": Problem(400, "Invalid project id"),
    "invalid_event": Problem(400, "Invalid event"),
    "invalid_trigger": Problem(400, "Invalid trigger"),
    "invalid_parameter": Problem(400, "Invalid parameter"),
    "invalid_request": Problem(400, "Invalid request"),
    "unknown_parameter": Problem(400, "Unknown query parameter"),
    "half_closed": Problem(400, "Connection half-closed"),
    "malformed_http": Problem(400, "Malformed HTTP request"),
    "unauthenticated": Problem(401, "Authentication required"),
    "forbidden": Problem(403, "Permission denied"),
    "origin_not_allowed": Problem(403, "Origin not allowed"),
    "not_found": Problem(404, "Not found"),
    "unknown_project": Problem(404, "Unknown project"),
    "unknown_connection": Problem(404, "Unknown connection"),
    "method_not_allowed": Problem(405, "Method not allowed"),
    "not_acceptable": Problem(406, "Not acceptable"),
    "request_timeout": Problem(408, "Request timeout"),
    "no_connection": Problem(409, "No subscriber connected"),
    "stale_probe": Problem(409, "Stale probe"),
    "body_too_large": Problem(413, "Body too large"),
    "event_too_large": Problem(413, "Event too large"),
    "url_too_long": Problem(414, "URL too long"),
    "unsupported_media_type": Problem(415, "Unsupported media type"),
    "unsupported_encoding": Problem(415, "Unsupported encoding"),
    "expectation_failed": Problem(417, "Expectation failed"),
    "wrong_host": Problem(421, "Wrong host"),
    "idempotency_mismatch": Problem(422, "Idempotency key reused with another body"),
    "too_many_project_connections": Problem(429, "Too many connections to the project"),
    "too_many_address_connections": Problem(429, "Too many connections from the address"),
    "header_too_large": Problem(431, "Header too large"),
    "internal": Problem(500, "Internal error"),
    "dispatch_failed": Problem(502, "Dispatch failed"),
    "draining": Problem(503, "Shutting down"),
    "store_unavailable": Problem(503, "Store unavailable"),
    "too_many_connections": Problem(503, "Too many connections"),
    "too_many_descriptors": Problem(503, "Out of file descriptors"),
    "too_many_projects": Problem(503, "Too many projects"),
    "too_many_waiting": Problem(503, "Too many waiting requests"),
    "too_many_tickets": Problem(503, "Too many tickets"),
    "keys_unavailable": Problem(503, "Signing keys unavailable"),
    "too_many_idempotency_keys": Problem(503, "Too many idempotency keys"),
    "unsupported_http_version": Problem(505, "Unsupported HTTP version"),
}


def response(
    code: str,
    detail: str,
    *,
    headers: Mapping[str, str] | None = None,
    retry_after_seconds: float | None = None,
    status: int | None = None,
    fields: Mapping[str, object] | None = None,
) -> Response:
    """The response for `code`; `detail` says what to do next, `fields` are further members of the document."""
    problem = PROBLEMS[code]
    document: dict[str, Any] = {
        "type": f"urn:edge:problem:{code}",
        "title": problem.title,
        "status": status or problem.status,
        "detail": detail,
        "code": code,
        **(fields or {}),
    }
    own = dict(headers) if headers else {}
    if problem.status == 401:
        own["WWW-Authenticate"] = 'Bearer realm="edge"'
    if retry_after_seconds is not None:
        own["Retry-After"] = str(math.ceil(retry_after_seconds))
    answer = json_response(document, status=document["status"], content_type=CONTENT_TYPE, headers=own)
    answer.code = code
    return answer


def from_error(error: EdgeError) -> Response:
    return response(
        error.code,
        error.detail,
        retry_after_seconds=error.retry_after_seconds,
        status=error.status,
        fields=error.fields,
    )


def no_route(allow: str) -> Response:
    """The response where no route matches; `allow` lists the methods of the path, if it exists."""
    if allow:
        return response("method_not_allowed", f"This path supports {allow}.", headers={"Allow": allow})
    return response("not_found", "There is no resource at this path. GET /openapi.json lists all of them.")


def unknown_method() -> Response:
    """The response to a method that the parser doesn't know; nothing is known of the path."""
    detail = f"The hub supports {ALL_METHODS}; names of methods are case-sensitive."
    return response("method_not_allowed", detail, headers={"Allow": ALL_METHODS})


def unsupported_version() -> Response:
    """The response to any version but HTTP/1.1 and HTTP/1.0."""
    answer = response("unsupported_http_version", "The hub supports HTTP/1.1 and HTTP/1.0.")
    answer.keep_alive = False
    return answer


def internal() -> Response:
    """The response to an unexpected exception."""
    return response("internal", "This is a bug in the hub. Its log has the details under unexpected_error.")
