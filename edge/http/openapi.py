"""`GET /openapi.json`: OpenAPI 3.1, made once of `edge.http.operations` and the structs that are read and written."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgspec

from edge import __version__
from edge.config.schema import Config
from edge.http import operations, problems
from edge.http.context import Context
from edge.http.operation import Answer, Operation
from edge.http.request import Request
from edge.http.response import Response

_REF = "#/components/schemas/{name}"
_PROBLEM = {
    "type": "object",
    "description": "What was refused, as RFC 9457 has it; some codes bring fields of their own.",
    "properties": {
        "type": {"type": "string", "format": "uri"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "code": {"type": "string", "enum": list(problems.PROBLEMS)},
    },
    "required": ["type", "title", "status", "detail", "code"],
}
_EVERYWHERE = (
    *("malformed_http", "unknown_parameter", "url_too_long", "header_too_large", "wrong_host", "internal"),
    *("too_many_descriptors", "unsupported_http_version"),
)
_BY_AUTH = ("unauthenticated", "forbidden", "keys_unavailable")
_BY_PAGES = ("origin_not_allowed",)
_SECURITY = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "`auth.token`, or a JSON Web Token."},
    "cookie": {"type": "apiKey", "in": "cookie", "name": "edge_token", "description": "The same, for browsers."},
    "ticket": {
        "type": "apiKey",
        "in": "query",
        "name": "ticket",
        "description": "Opens one stream, for a browser's EventSource.",
    },
}


async def openapi(context: Context, _request: Request) -> Response:
    """The document."""
    if context.openapi is None:
        context.openapi = msgspec.json.encode(document(context.config))
    return Response(200, context.openapi)


def document(config: Config) -> dict[str, Any]:
    """The document of a hub with `config`, as what JSON is made of."""
    listed = operations.operations(config)
    structs = list(dict.fromkeys(_structs(listed)))
    references, components = msgspec.json.schema_components(structs, ref_template=_REF)
    reference = dict(zip(structs, references, strict=True))
    paths: dict[str, Any] = {}
    for operation in listed:
        paths.setdefault(operation.path, {})[operation.method] = _operation(operation, config, reference)
    schemas = {name: _as_generators_read_it(components[name]) for name in sorted(components)}
    made: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {
            "title": "edge",
            "version": __version__,
            "description": "A self-hosted Server-Sent Events hub that never drops an event silently.",
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        **({"servers": [{"url": config.server.base_path}]} if config.server.base_path else {}),
        "paths": paths,
        "components": {"schemas": {**schemas, "Problem": _PROBLEM}},
    }
    if config.auth.configured:
        made["components"]["securitySchemes"] = _SECURITY
    return made


def _as_generators_read_it(schema: Any) -> Any:
    """`schema` without what generators of clients stumble over: enums without a type, defaults that say nothing."""
    if isinstance(schema, list):
        return [_as_generators_read_it(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: _as_generators_read_it(value) for key, value in schema.items()}
    values = made.get("enum")
    if isinstance(values, list) and "type" not in made:
        for kind, name in ((str, "string"), (bool, "boolean")):
            if all(isinstance(value, kind) for value in values):
                made = {"type": name, **made}
    if "properties" in schema:
        fields = schema["properties"].items()
        constant = [name for name, field in fields if field.get("enum") == [field.get("default", ...)]]
        made["required"] = [*schema.get("required", ()), *constant]
    if made.get("default", ...) is None or values == [made.get("default", ...)]:
        del made["default"]
    return made


def codes(operation: Operation, config: Config) -> list[str]:
    """The codes of every refusal that `operation` may answer with."""
    found = [*operation.problems, *_EVERYWHERE]
    if operation.permission is not None:
        found += _BY_PAGES
        found += _BY_AUTH if config.auth.configured else ()
    return [code for code in problems.PROBLEMS if code in found]


def _operation(operation: Operation, config: Config, reference: Mapping[Any, Any]) -> dict[str, Any]:
    made: dict[str, Any] = {
        "operationId": operation.name,
        "summary": operation.title,
        "description": operation.text,
        "responses": {str(answer.status): _answer(answer, reference) for answer in operation.answers},
    }
    if operation.permission is not None and config.auth.configured:
        made["description"] += f" Requires the permission `{operation.permission}`."
        known: list[dict[str, list[str]]] = [{"bearer": []}, {"cookie": []}]
        known += [{"ticket": []}] if operation.name in ("subscribe", "headers") else []
        made["security"] = [{}] if operation.permission in config.auth.anonymous else known
    if operation.parameters:
        made["parameters"] = [
            {
                "name": parameter.name,
                "in": parameter.place,
                "required": parameter.place == "path",
                "description": parameter.text,
                "schema": parameter.schema,
            }
            for parameter in operation.parameters
        ]
    if operation.bodies:
        content = {kind: {"schema": _schema(body, reference)} for kind, body in operation.bodies.items()}
        made["requestBody"] = {"required": True, "content": content}
    by_status: dict[int, list[str]] = {}
    for code in codes(operation, config):
        by_status.setdefault(problems.PROBLEMS[code].status, []).append(code)
    for status, listed in by_status.items():
        made["responses"][str(status)] = _refusal(status, listed, empty=operation.method == "head")
    return made


def _answer(answer: Answer, reference: Mapping[Any, Any]) -> dict[str, Any]:
    made: dict[str, Any] = {"description": answer.text}
    if answer.content:
        made["content"] = {kind: {"schema": _schema(body, reference)} for kind, body in answer.content.items()}
    if answer.headers:
        made["headers"] = _headers(answer.headers)
    if answer.links:
        made["links"] = {
            name: {"operationId": name, "parameters": parameters} for name, parameters in answer.links.items()
        }
    return made


def _refusal(status: int, listed: list[str], *, empty: bool) -> dict[str, Any]:
    schema = {
        "allOf": [{"$ref": _REF.format(name="Problem")}, {"properties": {"code": {"type": "string", "enum": listed}}}],
    }
    told = "; ".join(f"`{code}`: {problems.PROBLEMS[code].title}" for code in listed)
    made: dict[str, Any] = {"description": f"{told}."}
    if not empty:
        made["content"] = {problems.CONTENT_TYPE: {"schema": schema}}
    if status == 401:
        made["headers"] = _headers({"WWW-Authenticate": "`Bearer`."})
    if status == 503:
        made["headers"] = _headers({"Retry-After": "Seconds after which it is worth trying again."})
    return made


def _headers(told: Mapping[str, str]) -> dict[str, Any]:
    return {name: {"description": text, "schema": {"type": "string"}} for name, text in told.items()}


def _schema(body: Any, reference: Mapping[Any, Any]) -> Any:
    """`body` with structs replaced by references."""
    if isinstance(body, type):
        return reference[body]
    if isinstance(body, Mapping) and "oneOf" in body:
        return {"oneOf": [reference[one] for one in body["oneOf"]]}
    return body


def _structs(listed: Iterable[Operation]) -> Iterator[Any]:
    for operation in listed:
        for content in (operation.bodies, *(answer.content for answer in operation.answers)):
            for body in content.values():
                if isinstance(body, type):
                    yield body
                elif "oneOf" in body:
                    yield from body["oneOf"]
