"""The event-stream format, in bytes (WHATWG HTML, section 9.2.5 and 9.2.6; chunks: RFC 9112, section 7.1).

Invariant: a frame is a whole number of events, ends in an empty line, and nothing a publisher wrote can start a field
in it, because data is split at every line end that a parser would split it at (CRLF, CR and LF) and types are checked
(`edge.core.event` encodes both). Frames that version 0.1 stored have the id first; they are sent as they are, and
`text_of` and `decode` read both.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from edge.core.event import DEFAULT_TYPE, FINAL

_ID_FIRST = b"id: "
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


def without_final(frames: bytes) -> bytes:
    """`frames` as they are sent."""
    return frames.removeprefix(FINAL).replace(_FINAL_BEHIND, b"\n\n")


def numbered(id_prefix: bytes, seq: int, text: bytes) -> bytes:
    """`text` (of `Event.text`) as the frame with number `seq`."""
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
