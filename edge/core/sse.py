"""The event-stream format, in bytes (WHATWG HTML, section 9.2.5 and 9.2.6; chunks: RFC 9112, section 7.1).

Invariant: a frame is a whole number of events, ends in an empty line, and nothing a publisher wrote can start a field
in it, because data is split at every line end that a parser would split it at (CRLF, CR and LF) and types are checked.

`id:` is the last line of an event. Several clients note an id when they read it: with the id first they would resume
behind an event that was cut off after its first line. Frames that version 0.1 stored have the id first; they are sent
as they are, and `text_of` and `decode` read both.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import msgspec

from edge.core.event import DEFAULT_TYPE, Event

_LINE_END = re.compile(rb"\r\n|\r|\n")
_ID_FIRST = b"id: "
FINAL = b": final\n"
"""The first line of a held event that finishes its project, so that every store and node keeps it with the event.
`without_final` takes it away before the event is sent.
"""
_FINAL_BEHIND = b"\n\n" + FINAL

PING_COMMENT = b": ping\n"
"""A single line: some clients make an empty event of a comment that is followed by an empty line."""
PING_EVENT = b"event: edge.ping\ndata: {}\n\n"
PROBE_COMMENT = b": probe\n"


class Decoded(NamedTuple):
    """What a frame says."""

    id: str
    type: str
    data: str


def event_frame(id_prefix: bytes, seq: int, event: Event) -> bytes:
    """One event as text: `id_prefix` is `<epoch>-`."""
    data = event.data
    if b"\n" in data or b"\r" in data:
        data = _LINE_END.sub(b"\ndata: ", data)
    if event.final:
        return b"%b%bdata: %b\nid: %b%d\n\n" % (FINAL, _type_line(event.type), data, id_prefix, seq)
    if event.type == DEFAULT_TYPE:
        return b"data: %b\nid: %b%d\n\n" % (data, id_prefix, seq)
    return b"event: %b\ndata: %b\nid: %b%d\n\n" % (event.type.encode(), data, id_prefix, seq)


def event_text(event: Event) -> bytes:
    """An event that is numbered elsewhere, without its `id:` line; `numbered` adds the line."""
    data = _LINE_END.sub(b"\ndata: ", event.data)
    return b"%b%bdata: %b\n\n" % (FINAL if event.final else b"", _type_line(event.type), data)


def without_final(frames: bytes) -> bytes:
    """`frames` as they are sent."""
    return frames.removeprefix(FINAL).replace(_FINAL_BEHIND, b"\n\n")


def _type_line(event_type: str) -> bytes:
    return b"" if event_type == DEFAULT_TYPE else b"event: %b\n" % event_type.encode()


def numbered(id_prefix: bytes, seq: int, text: bytes) -> bytes:
    """`text` (of `event_text`) as the frame with number `seq`."""
    return b"%bid: %b%d\n\n" % (text[:-1], id_prefix, seq)


def text_of(frame: bytes) -> bytes:
    """A frame without its `id:` line: the reverse of `numbered`."""
    if frame.startswith(_ID_FIRST):
        return frame.partition(b"\n")[2]
    return frame[: frame.rindex(b"\nid: ") + 1] + b"\n"


def decode(frame: bytes) -> Decoded:
    """The id, type and data of a frame."""
    event_id, event_type, data = "", DEFAULT_TYPE, []
    for line in frame.decode().split("\n"):
        field, _, value = line.partition(": ")
        if field == "data":
            data.append(value)
        elif field == "event":
            event_type = value
        elif field == "id":
            event_id = value
    return Decoded(event_id, event_type, "\n".join(data))


def control_frame(
    name: str, fields: dict[str, object], *, retry_ms: int | None = None, event_id: str | None = None
) -> bytes:
    """One of the hub's own events, `edge.<name>`, with JSON data. Only hello has an `event_id`."""
    retry = b"" if retry_ms is None else b"retry: %d\n" % retry_ms
    id_line = b"" if event_id is None else b"id: %b\n" % event_id.encode()
    return b"%bevent: edge.%b\ndata: %b\n%b\n" % (retry, name.encode(), msgspec.json.encode(fields), id_line)


def chunk(body: bytes) -> bytes:
    """`body` (not empty) as one HTTP/1.1 chunk."""
    return b"%x\r\n%b\r\n" % (len(body), body)


def chunk_bytes(body_bytes: int) -> int:
    """How long `chunk` makes a body of so many bytes."""
    return body_bytes + len(b"%x" % body_bytes) + 4
