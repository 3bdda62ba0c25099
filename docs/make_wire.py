"""Writes `clients/js/wire.d.ts`, the types of the wire, from the OpenAPI document: `make docs`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edge.config.schema import Config
from edge.http.openapi import document

FILE = Path(__file__).parents[1] / "clients" / "js" / "wire.d.ts"
_NAMES = {"string": "string", "integer": "number", "number": "number", "boolean": "boolean", "null": "null"}


def declarations() -> str:
    """The file."""
    lines = ["// What is on the wire. `make docs` generates this file from the hub's OpenAPI document.", ""]
    for name, schema in document(Config())["components"]["schemas"].items():
        lines += _interface(name, schema)
    lines += ["/** What docs/errors.md has a row for. */", 'export type ProblemCode = Problem["code"];', ""]
    return "\n".join(lines)


def _interface(name: str, schema: dict[str, Any]) -> Iterator[str]:
    yield from (f"/** {schema['description']} */", f"export interface {name} {{")
    for field, its in schema["properties"].items():
        if "description" in its:
            yield f"  /** {its['description']} */"
        yield f"  {field}{'' if field in schema.get('required', ()) else '?'}: {_type(its)};"
    if name == "Problem":  # the one that is extended
        yield "  [field: string]: unknown;"
    yield from ("}", "")


def _type(schema: dict[str, Any]) -> str:
    if "$ref" in schema:
        return str(schema["$ref"].rpartition("/")[2])
    if "anyOf" in schema:
        return " | ".join(_type(each) for each in schema["anyOf"])
    if "enum" in schema:
        return " | ".join(json.dumps(value) for value in schema["enum"])
    if schema.get("type") == "array":
        return f"{_type(schema['items'])}[]"
    if schema.get("type") == "object":
        return f"{{ [name: string]: {_type(schema['additionalProperties'])} }}"
    return _NAMES[schema["type"]] if "type" in schema else "unknown"


if __name__ == "__main__":
    FILE.write_text(declarations(), encoding="utf-8")
