"""What a publisher sends: decoded and checked in one place, and encoded once for all subscribers.

Everything that could let one field forge another on the wire is refused here: CR or LF in a type would start a new
field, NUL is dropped by browsers, and names beginning with `edge.` belong to the hub. The JSON text of `data` is passed
through as it came: it is checked to be JSON and UTF-8, never re-encoded.

`id:` is the last line of a frame (WHATWG HTML, section 9.2.6). Several clients note an id when they read it: with the
id first they would resume behind an event that was cut off after its first line.
"""

from __future__ import annotations

import codecs
import re

import msgspec

from edge.core.errors import InvalidRequest, LimitReached

DEFAULT_TYPE = "message"
RESERVED_PREFIX = "edge."
MAX_TYPE_CHARS = 256
"""A type is a name that subscribers listen for; longer ones are a mistake."""
FINAL = b": final\n"
"""The first line of a held event that finishes its project, so that every store and node keeps it with the event.
`sse.without_final` takes it away before the event is sent.
"""
_LINE_END = re.compile(rb"\r\n|\r|\n")
_LONE_SURROGATE = re.compile(
    rb"(\\u[dD][89abAB]..)(?!\\u[dD][c-fC-F])|(?<!\\u[dD][89abAB]..)(\\u[dD][c-fC-F]..)", re.DOTALL
)
"""An escape for one half of a character: JavaScript writes it when a text was cut inside an emoji."""


class Event(msgspec.Struct, frozen=True, gc=False):
    """One event: its `type` and `data`, UTF-8 text that may span lines. `final`: it finishes its project."""

    type: str
    data: bytes
    final: bool = False

    def frame(self, id_prefix: bytes, seq: int) -> bytes:
        """The event as subscribers get it, with the id `id_prefix` (`<epoch>-`) and `seq`."""
        data = self.data
        if b"\n" in data or b"\r" in data:
            data = _LINE_END.sub(b"\ndata: ", data)
        if self.final:
            return b"%b%bdata: %b\nid: %b%d\n\n" % (FINAL, self._type_line(), data, id_prefix, seq)
        if self.type == DEFAULT_TYPE:
            return b"data: %b\nid: %b%d\n\n" % (data, id_prefix, seq)
        return b"event: %b\ndata: %b\nid: %b%d\n\n" % (self.type.encode(), data, id_prefix, seq)

    def text(self) -> bytes:
        """The frame of an event that is numbered elsewhere, without its `id:` line; `sse.numbered` adds the line."""
        data = _LINE_END.sub(b"\ndata: ", self.data)
        return b"%b%bdata: %b\n\n" % (FINAL if self.final else b"", self._type_line(), data)

    def _type_line(self) -> bytes:
        return b"" if self.type == DEFAULT_TYPE else b"event: %b\n" % self.type.encode()


class NewEvent(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """One event as JSON: `data` is any JSON, `type` the name that subscribers listen for."""

    data: msgspec.Raw
    type: str = DEFAULT_TYPE


_decoder = msgspec.json.Decoder(NewEvent)
_checked_types: dict[str, None] = {DEFAULT_TYPE: None}
_MAX_CHECKED_TYPES = 1024


def decode_json(body: bytes | memoryview, max_bytes: int) -> Event:
    """Decode `{"type": …, "data": …}`.

    Raises:
        InvalidRequest: `invalid_event`, with a sentence that names what is wrong.
        LimitReached: `event_too_large`, when `data` is longer than `max_bytes`.
    """
    try:
        decoded = _decoder.decode(body)
        data = bytes(decoded.data)
        data.decode()  # msgspec skips over raw text without looking at its encoding
    except (UnicodeDecodeError, RecursionError, msgspec.DecodeError) as error:
        reason = why_not_json(bytes(body), error)
        if reason is None:
            reason = f'The body is not an event: {error}. Send {{"type": "progress", "data": <any JSON>}}.'
            if "unknown field `event`" in str(error):
                reason += " Write `type` in place of `event`."
            elif not isinstance(error, msgspec.ValidationError):
                reason += " To send plain text, set Content-Type: text/plain."
        raise InvalidRequest(reason, code="invalid_event") from None
    if decoded.type not in _checked_types:  # without a call for each event
        check_type(decoded.type)
    return Event(decoded.type, data if len(data) <= max_bytes else bounded(data, max_bytes))


def why_not_json(body: bytes, error: Exception) -> str | None:
    """What is wrong with the encoding of `body`, which no decoder could read as JSON; None where that isn't it."""
    if body.startswith(codecs.BOM_UTF8):
        return "The body begins with a byte order mark; send JSON in UTF-8 without one."
    if body.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\0" in body[:4]:
        return "The body is UTF-16 or UTF-32; send JSON in UTF-8."
    if isinstance(error, UnicodeDecodeError):
        return "The body is not UTF-8; send JSON in UTF-8."
    lone = _LONE_SURROGATE.search(body) if re.search("surrogate|truncated", str(error)) else None
    if lone is not None:
        half = lone[0].decode("ascii", "replace")
        return f"The JSON has half of a character, {half}; don't cut a text inside a surrogate pair."
    if isinstance(error, RecursionError):
        return "The JSON is nested too deeply; flatten it."
    return None if body.strip() else "The body is empty. Send a JSON object."


def decode_plain_lines(lines: list[bytes], max_bytes: int) -> list[Event] | None:
    """Decode a JSON event a line, many at once. None unless all are good: `decode_json` says what is wrong."""
    text = b"\n".join(lines)
    try:
        if not text.isascii():
            text.decode()
        # Not `decode_lines`, which takes a value that spans two lines for one.
        decoded = list(map(_decoder.decode, lines))
    except (UnicodeDecodeError, RecursionError, msgspec.DecodeError):
        return None
    events = [Event(each.type, bytes(each.data)) for each in decoded]
    for event in events:
        if event.type not in _checked_types or len(event.data) > max_bytes:
            return None
    return events


def decode_text(body: bytes, event_type: str | None, max_bytes: int) -> Event:
    """Take `body` as the data itself; `event_type` comes from the query.

    Raises the same errors as `decode_json`.
    """
    try:
        body.decode()
    except UnicodeDecodeError as error:
        raise InvalidRequest(
            f"The body is not UTF-8 (byte {error.start}); send text in UTF-8.", code="invalid_event"
        ) from None
    name = DEFAULT_TYPE if event_type is None else event_type
    check_type(name)
    return Event(name, bounded(body, max_bytes))


def check_type(name: str) -> None:
    """Raise `InvalidRequest` (`invalid_event`) unless `name` may stand in an `event:` line."""
    if name in _checked_types:
        return
    if not name:
        reason = "The event type is empty; leave it out for `message`."
    elif any(character in name for character in "\r\n\0"):
        reason = "The event type contains CR, LF or NUL; remove it."
    elif name.startswith(RESERVED_PREFIX):
        reason = "Types that begin with `edge.` are reserved; choose another name."
    else:
        try:
            name.encode()
        except UnicodeEncodeError:
            raise InvalidRequest("The event type is not UTF-8.", code="invalid_event") from None
        if len(name) <= MAX_TYPE_CHARS:
            if len(_checked_types) >= _MAX_CHECKED_TYPES:
                _checked_types.clear()
            _checked_types[name] = None
            return
        reason = f"The event type has {len(name)} characters; {MAX_TYPE_CHARS} are allowed."
    raise InvalidRequest(reason, code="invalid_event")


def bounded(data: bytes, max_bytes: int) -> bytes:
    """`data`, or LimitReached (`event_too_large`) when it is longer than `max_bytes`."""
    if len(data) > max_bytes:
        raise LimitReached(
            f"The data has {len(data)} bytes; limits.max_event_bytes allows {max_bytes}.",
            code="event_too_large",
            limit_bytes=max_bytes,
        )
    return data
