"""`GET /openapi.json`: OpenAPI 3.1, from `edge/static/openapi.json`, which is edited by hand.

In the file an operation names its permission (`x-permission`) and the codes of its own refusals (`x-problems`).
Invariant: the served document says what the routes do; tests/http/test_openapi.py compares the two and asks a running
hub.
"""

from __future__ import annotations

import json
from importlib import resources
from typing import Any

import msgspec

from edge import __version__
from edge.config.schema import PERMISSIONS, Config
from edge.http.context import Context
from edge.http.message import Request, Response
from edge.http.problems import CONTENT_TYPE, PROBLEMS

# Read at import: afterwards the event loop must not wait for a disk.
_FILE = resources.files("edge").joinpath("static/openapi.json").read_bytes()
_ANY_OPERATION = {
    *("malformed_http", "unknown_parameter", "url_too_long", "header_too_large", "wrong_host", "internal"),
    *("too_many_descriptors", "unsupported_http_version"),
}
_WITH_PERMISSION = {"origin_not_allowed", "unauthenticated", "forbidden", "keys_unavailable"}
_HEADERS = {
    401: {"WWW-Authenticate": {"description": "`Bearer`.", "schema": {"type": "string"}}},
    503: {"Retry-After": {"description": "Seconds until a repeat is worthwhile.", "schema": {"type": "string"}}},
}


async def openapi(context: Context, _request: Request) -> Response:
    if context.openapi is None:
        context.openapi = msgspec.json.encode(document(context.config))
    return Response(200, context.openapi)


def document(config: Config) -> dict[str, Any]:
    """The document of a hub with `config`."""
    made: dict[str, Any] = json.loads(_FILE)
    made["info"]["version"] = __version__
    if config.server.base_path:
        made["servers"] = [{"url": config.server.base_path}]
    if config.metrics.port is not None:
        del made["paths"]["/metrics"]
    made["components"]["schemas"]["Problem"]["properties"]["code"]["enum"] = list(PROBLEMS)
    open_to_all = config.auth.anonymous if config.auth.configured else PERMISSIONS
    for methods in made["paths"].values():
        for method, operation in methods.items():
            codes = _ANY_OPERATION.union(operation.pop("x-problems", ()))
            if permission := operation.get("x-permission"):
                codes |= _WITH_PERMISSION
                stream = operation["operationId"].startswith(("subscribe", "headers"))
                schemes = ("bearer", "cookie", *(("ticket",) if stream else ()))
                operation["security"] = [{}] if permission in open_to_all else [{scheme: []} for scheme in schemes]
            for status in sorted({PROBLEMS[code].status for code in codes}):
                same = [code for code, problem in PROBLEMS.items() if code in codes and problem.status == status]
                operation["responses"][str(status)] = _refusal(status, same, empty=method == "head")
    return made


def _refusal(status: int, codes: list[str], *, empty: bool) -> dict[str, Any]:
    made: dict[str, Any] = {"description": "; ".join(f"`{code}`: {PROBLEMS[code].title}" for code in codes) + "."}
    if not empty:
        code = {"properties": {"code": {"type": "string", "enum": codes}}}
        made["content"] = {CONTENT_TYPE: {"schema": {"allOf": [{"$ref": "#/components/schemas/Problem"}, code]}}}
    if status in _HEADERS:
        made["headers"] = _HEADERS[status]
    return made
