"""What describes one operation of the hub's HTTP interface, for `edge.http.operations` and `edge.http.openapi`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

JSON = "application/json"
TEXT = "text/plain"
Schema = Mapping[str, Any]


class Parameter(NamedTuple):
    """A parameter: where it stands (`path`, `query`, `header`), its schema, what it means."""

    name: str
    place: str
    schema: Schema
    text: str


class Answer(NamedTuple):
    """An answer that is no refusal: by media type a struct or a schema, headers with what they mean, and which
    operations can be asked next with what is in it.
    """

    status: int
    text: str
    content: Mapping[str, Any] = {}
    headers: Mapping[str, str] = {}
    links: Mapping[str, Mapping[str, str]] = {}


class Operation(NamedTuple):
    """One method at one path. `permission`: what it takes; `problems`: the codes of its own refusals."""

    method: str
    path: str
    name: str
    title: str
    text: str
    permission: str | None
    answers: tuple[Answer, ...]
    parameters: tuple[Parameter, ...] = ()
    bodies: Mapping[str, Any] = {}
    problems: tuple[str, ...] = ()
