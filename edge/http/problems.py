"""Every error the hub answers, in one table, and how it is written: RFC 9457, `application/problem+json`.

`code` is the stable name; `docs/errors.md` has a row for each, and a test holds the two together.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import msgspec

from edge.core.errors import EdgeError
from edge.http.response import Response, json_response

CONTENT_TYPE = "application/problem+json"


class Problem(msgspec.Struct, frozen=True):
    """A row: the HTTP status and the title, which is the same whenever the code is."""

    status: int
    title: str


PROBLEMS: Mapping[str, Problem] = {
    "invalid_project": Problem(400, "Not a project id"),
    "invalid_event": Problem(400, "Not an event"),
    "invalid_trigger": Problem(400, "Not a trigger"),
    "invalid_parameter": Problem(400, "A parameter can't be read"),
    "invalid_request": Problem(400, "The request can't be read"),
    "unknown_parameter": Problem(400, "Unknown query parameter"),
    "half_closed": Problem(400, "The caller has closed its side of the connection"),
    "malformed_http": Problem(400, "Not HTTP"),
    "unauthenticated": Problem(401, "Nobody known"),
    "forbidden": Problem(403, "The right is missing"),
    "origin_not_allowed": Problem(403, "Pages of this origin may not do this"),
    "not_found": Problem(404, "Nothing is here"),
    "unknown_project": Problem(404, "The hub knows nothing of this project"),
    "unknown_connection": Problem(404, "The connection is not there"),
    "method_not_allowed": Problem(405, "The method is not allowed here"),
    "not_acceptable": Problem(406, "No representation the client accepts"),
    "request_timeout": Problem(408, "The request took too long"),
    "no_connection": Problem(409, "Nobody is connected"),
    "stale_probe": Problem(409, "The probe is not open"),
    "body_too_large": Problem(413, "The body is too large"),
    "event_too_large": Problem(413, "The event is too large"),
    "url_too_long": Problem(414, "The URL is too long"),
    "unsupported_media_type": Problem(415, "The body is of a type that isn't read here"),
    "unsupported_encoding": Problem(415, "The body is compressed"),
    "expectation_failed": Problem(417, "The Expect header asks for what isn't offered"),
    "wrong_host": Problem(421, "The request is meant for another host"),
    "idempotency_mismatch": Problem(422, "The key was used with another body"),
    "too_many_project_connections": Problem(429, "The project has all the connections it may have"),
    "too_many_address_connections": Problem(429, "The address has all the connections it may have"),
    "header_too_large": Problem(431, "A header is too large"),
    "internal": Problem(500, "The hub has failed"),
    "dispatch_failed": Problem(502, "The target did not take the job"),
    "draining": Problem(503, "The hub is shutting down"),
    "store_unavailable": Problem(503, "History can't be kept at the moment"),
    "too_many_connections": Problem(503, "The hub has all the connections it may have"),
    "too_many_descriptors": Problem(503, "The process has all the file descriptors it may have"),
    "too_many_projects": Problem(503, "The hub holds all the projects it may hold"),
    "too_many_waiting": Problem(503, "Too many callers wait already"),
    "too_many_tickets": Problem(503, "Too many tickets are out"),
    "keys_unavailable": Problem(503, "The keys that tokens are checked with can't be had"),
    "too_many_idempotency_keys": Problem(503, "Too many idempotency keys are remembered"),
    "unsupported_http_version": Problem(505, "This version of HTTP isn't spoken here"),
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
    """The answer for `code`; `detail` says what to do next, `fields` are the problem's own."""
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
    """The answer for a refusal of ours."""
    return response(
        error.code,
        error.detail,
        retry_after_seconds=error.retry_after_seconds,
        status=error.status,
        fields=error.fields,
    )


def no_route(allow: str) -> Response:
    """The answer where no handler is; `allow` are the methods of the path, if there are any."""
    if allow:
        return response("method_not_allowed", f"Use one of {allow} here.", headers={"Allow": allow})
    return response("not_found", "There is nothing at this path; GET /openapi.json lists all there is.")


def unsupported_version() -> Response:
    """The answer to HTTP/0.9 and HTTP/2, which the parser lets through."""
    answer = response("unsupported_http_version", "The hub speaks HTTP/1.1 and HTTP/1.0.")
    answer.keep_alive = False
    return answer


def internal() -> Response:
    """The answer to what nobody foresaw."""
    return response("internal", "This is a bug in the hub; its log has the details under unexpected_error.")
