"""The event-stream format, in bytes (WHATWG HTML, section 9.2.5 and 9.2.6; chunks: RFC 9112, section 7.1).

Invariant: a frame is a whole number of events, ends in an empty line, and nothing a caller wrote can start a field in
it, because data is split at every line end that a reader would split it at (CRLF, CR and LF) and types are checked.
"""

from __future__ import annotations

import re

import msgspec

from edge.core.event import DEFAULT_TYPE

_LINE_END = re.compile(rb"\r\n|\r|\n")

_NO_ID_BYTES = len(b"id: 0\n")

PING_COMMENT = b": ping\n\n"
PING_EVENT = b"event: edge.ping\ndata: {}\n\n"
PROBE_COMMENT = b": probe\n\n"


def event_frame(id_prefix: bytes, seq: int, event_type: str, data: bytes) -> bytes:
    """One event as text: `id_prefix` is `<epoch>-`, `data` any UTF-8 text."""
    if b"\n" in data or b"\r" in data:
        data = _LINE_END.sub(b"\ndata: ", data)
    if event_type == DEFAULT_TYPE:
        return b"id: %b%d\ndata: %b\n\n" % (id_prefix, seq, data)
    return b"id: %b%d\nevent: %b\ndata: %b\n\n" % (id_prefix, seq, event_type.encode(), data)


def event_text(event_type: str, data: bytes) -> bytes:
    """What follows the `id:` line of an event that is numbered elsewhere; `numbered` puts the line in front."""
    return event_frame(b"", 0, event_type, data)[_NO_ID_BYTES:]


def numbered(id_prefix: bytes, seq: int, text: bytes) -> bytes:
    """`text` (of `event_text`) as the frame with number `seq`."""
    return b"id: %b%d\n%b" % (id_prefix, seq, text)


def control_frame(name: str, fields: dict[str, object], *, retry_ms: int | None = None) -> bytes:
    """One of the hub's own events, `edge.<name>`: JSON data, never an `id:` line."""
    retry = b"" if retry_ms is None else b"retry: %d\n" % retry_ms
    return b"%bevent: edge.%b\ndata: %b\n\n" % (retry, name.encode(), msgspec.json.encode(fields))


def chunk(body: bytes) -> bytes:
    """`body` (not empty) as one HTTP/1.1 chunk."""
    return b"%x\r\n%b\r\n" % (len(body), body)


def chunk_bytes(body_bytes: int) -> int:
    """How long `chunk` makes a body of so many bytes."""
    return body_bytes + len(b"%x" % body_bytes) + 4
