"""A reader of event streams written from the WHATWG specification alone (HTML, 9.2.6), and of chunks (RFC 9112, 7.1).

The oracle of these tests: it shares no line with `edge.core.sse`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

BOM = "\ufeff"


@dataclass(frozen=True)
class Message:
    """One dispatched event. `id` is the last event id after it; `own_id` whether an `id:` line stood in its block."""

    type: str
    data: str
    id: str
    own_id: bool

    @property
    def json(self) -> Any:
        return json.loads(self.data)


@dataclass(frozen=True)
class Comment:
    text: str


@dataclass(frozen=True)
class Retry:
    ms: int


Item = Message | Comment | Retry


class Parser:
    """Takes the stream in pieces that end at a line end; gives what it holds, in order."""

    def __init__(self) -> None:
        self._begun = False
        self._data: list[str] = []
        self._type = ""
        self._own_id = False
        self._last_id = ""

    @property
    def at_rest(self) -> bool:
        """Whether the last block has ended: nothing of it could still change."""
        return not self._data and not self._type and not self._own_id

    def feed(self, piece: bytes) -> list[Item]:
        text = piece.decode()
        if not self._begun:
            text, self._begun = text.removeprefix(BOM), True
        lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
        assert "" == lines.pop(), "the piece does not end at a line end"
        items: list[Item] = []
        for line in lines:
            items += self._line(line)
        return items

    def _line(self, line: str) -> list[Item]:
        if not line:
            return self._dispatch()
        if line.startswith(":"):
            return [Comment(line[1:])]
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "event":
            self._type = value
        elif field == "data":
            self._data.append(value)
        elif field == "id" and "\0" not in value:
            self._last_id, self._own_id = value, True
        elif field == "retry" and value and all("0" <= digit <= "9" for digit in value):
            return [Retry(int(value))]
        return []

    def _dispatch(self) -> list[Item]:
        message = Message(self._type or "message", "\n".join(self._data), self._last_id, self._own_id)
        there = bool(self._data)
        self._data, self._type, self._own_id = [], "", False
        return [message] if there else []


def parse(stream: bytes) -> list[Item]:
    """A whole stream."""
    parser = Parser()
    items = parser.feed(stream)
    assert parser.at_rest
    return items


def messages(stream: bytes) -> list[Message]:
    return [item for item in parse(stream) if isinstance(item, Message)]


def unchunk(wire: bytes) -> bytes:
    """The body of whole chunks; a last chunk (size zero) ends it."""
    body = b""
    while wire:
        size_line, _, wire = wire.partition(b"\r\n")
        size = int(size_line, 16)
        assert b"\r\n" == wire[size : size + 2], "a chunk does not end where its size says"
        body += wire[:size]
        wire = wire[size + 2 :]
        if not size:
            assert b"" == wire, "bytes behind the last chunk"
    return body


def lines_of(text: str) -> str:
    """`text` as a reader gets it: every line end has become LF."""
    return text.replace("\r\n", "\n").replace("\r", "\n")
