"""Writes `docs/api.md` from the OpenAPI document: `make docs`. A test holds the page against what this makes."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edge.config.schema import AuthSettings, Config
from edge.http.openapi import document
from edge.http.problems import PROBLEMS

PAGE = Path(__file__).with_name("api.md")
_HEAD = """\
# HTTP interface

`make docs` generates this page from `/openapi.json`; schemathesis checks that the hub behaves accordingly.
Every error is a problem document with a stable `code`: [errors.md](errors.md).
Permissions: [access.md](access.md).

Every endpoint may also return these errors:

{everywhere}
"""


def page() -> str:
    """The page, for a hub with its defaults and a token."""
    made = document(Config(auth=AuthSettings(token=("-",))))
    everywhere = _refusals(made["paths"]["/healthz"]["get"])
    listed = "\n".join(f"- {status}: {codes}" for status, codes in everywhere.items())
    lines = [_HEAD.format(everywhere=listed)]
    shared = made["components"]["parameters"]
    for path, methods in made["paths"].items():
        for method, operation in methods.items():
            parameters = operation.get("parameters", ())
            operation["parameters"] = [
                shared[one["$ref"].rpartition("/")[2]] if "$ref" in one else one for one in parameters
            ]
            lines += _operation(f"{method.upper()} {path}", operation, everywhere)
    lines += ["## Documents", ""]
    for name, schema in made["components"]["schemas"].items():
        lines += _struct(name, schema)
    return "\n".join(lines).rstrip() + "\n"


def _operation(heading: str, operation: dict[str, Any], everywhere: dict[str, str]) -> Iterator[str]:
    yield from (f"## {operation['summary']}", "", f"`{heading}`", "", _sentences(operation["description"]), "")
    if parameters := operation["parameters"]:
        yield from ("| parameter | in | type | meaning |", "| --- | --- | --- | --- |")
        for one in parameters:
            name = f"**{one['name']}**" if one["required"] else one["name"]
            yield f"| {name} | {one['in']} | {_takes(one)} | {one['description']} |"
        yield ""
    if body := operation.get("requestBody"):
        yield from ("| body | type |", "| --- | --- |")
        for kind, content in body["content"].items():
            yield f"| `{kind}` | {_type(content['schema'])} |"
        yield ""
    yield from ("| status | response |", "| --- | --- |")
    for status, answer in operation["responses"].items():
        if int(status) < 400:
            yield f"| {status} | {_answer(answer)} |"
    for status, codes in _refusals(operation).items():
        if everywhere.get(status) != codes:
            yield f"| {status} | {codes} |"
    yield ""


def _sentences(text: str) -> str:
    """A line for each sentence, or several where one is long."""
    found = re.split(r"(?<=[.!?]) (?=[A-Z`])", " ".join(text.split()))
    return "\n".join(textwrap.fill(one, 119, break_long_words=False, break_on_hyphens=False) for one in found)


def _refusals(operation: dict[str, Any]) -> dict[str, str]:
    """By status the codes an operation may refuse with."""
    found = {}
    for status, answer in operation["responses"].items():
        if int(status) >= 400:
            codes = [code for code in PROBLEMS if f"`{code}`:" in answer["description"]]
            found[status] = ", ".join(f"`{code}`" for code in codes)
    return found


def _answer(answer: dict[str, Any]) -> str:
    parts = [answer["description"]]
    parts += [f"`{kind}`: {_type(content['schema'])}." for kind, content in answer.get("content", {}).items()]
    parts += [f"Header `{name}`: {header['description']}" for name, header in answer.get("headers", {}).items()]
    return " ".join(parts)


def _takes(parameter: dict[str, Any]) -> str:
    schema = parameter["schema"]
    return _type(schema) + (f", default `{schema['default']}`" if "default" in schema else "")


def _type(schema: dict[str, Any]) -> str:  # noqa: PLR0911 - a case a line
    match schema:
        case {"$ref": reference}:
            name = reference.rpartition("/")[2]
            return f"[{name}](#{name.lower()})"
        case {"oneOf": several} | {"anyOf": several}:
            return " or ".join(_type(one) for one in several)
        case {"enum": values}:
            return ", ".join(f"`{value}`" for value in values)
        case {"const": value}:
            return f"`{value}`".lower()
        case {"type": "array", "items": items}:
            return f"list of {_type(items)}"
        case {"type": "integer", "minimum": low, "maximum": high}:
            return f"{low} to {high}"
        case {"type": kind}:
            return str(kind)
    return "any JSON"


def _struct(name: str, schema: dict[str, Any]) -> Iterator[str]:
    yield from (f"### {name}", "", _sentences(schema.get("description", "")), "", "| field | type |", "| --- | --- |")
    required = schema.get("required", ())
    for field, kind in schema.get("properties", {}).items():
        optional = "" if field in required else " (optional)"
        yield f"| `{field}` | {_type(kind)}{optional} |"
    yield ""


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
