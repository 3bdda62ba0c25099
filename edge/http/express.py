"""The express lane: a plain publish, answered in the moment its bytes arrive.

On its way through aiohttp a POST costs 60 µs of processor time before the hub is asked anything: a head is parsed into
objects, a request and a task are made, the router and the door are passed. Most publishers send the same head again and
again, with another project and another length. So a head that has taken the ordinary way is remembered by the lines
that don't vary, and the next one that is made of the same lines is known without parsing: same bytes, same meaning.

It never refuses. Whatever isn't plainly good (a query, a header that isn't in `_PLAIN_HEADERS`, a body in pieces, JSON
that isn't an event, a project that isn't there yet, a token that isn't the static one) takes the ordinary way, where
there is one place that says no.

Invariants:
    * lines are remembered only when aiohttp's parser stood between two messages as they came (`Boundary`), or bytes
      sent before them would have lent them another meaning;
    * it answers only while nothing is unanswered on the connection: answers keep the order of their requests;
    * the door is asked every time (`AccessControl.passes_at_once`).
"""

from __future__ import annotations

import re
from typing import Final

import msgspec
from aiohttp import HttpVersion11
from aiohttp.helpers import rfc822_formatted_time
from aiohttp.http_parser import RawRequestMessage

from edge.core.errors import EdgeError
from edge.core.event import decode_json
from edge.core.observer import Receipt
from edge.http import bodies
from edge.http.access_control import AccessControl
from edge.http.context import Context

_HEAD = re.compile(
    rb"POST /projects/([A-Za-z0-9][A-Za-z0-9._~-]{0,127})/events HTTP/1\.1\r\n"
    rb"((?:[^\r\n]+\r\n)*?)(?i:Content-Length): ([0-9]{1,7})\r\n((?:[^\r\n]+\r\n)*)\r\n"
)
_PLAIN_HEADERS = frozenset(
    {
        *("host", "user-agent", "accept", "accept-encoding", "accept-language", "connection"),
        *("content-type", "content-length", "authorization"),
    }
)
_PLAIN_TYPES = frozenset(
    {None, bodies.JSON, f"{bodies.JSON}; charset=utf-8", f"{bodies.JSON};charset=utf-8", bodies.FORM}
)
_MAX_HEAD_BYTES = 2048
_MAX_REMEMBERED = 1024
UNKNOWN: Final = -1
"""Where the parser stands isn't known any more."""


class _Lines(msgspec.Struct, frozen=True):
    """What the lines of a head say, as far as anybody asks."""

    host: str | None
    bearer: str | None


class Express:
    """The lane of one hub, shared by its connections."""

    def __init__(self, context: Context, guard: AccessControl) -> None:
        self._service = context
        self._guard = guard
        self._known: dict[tuple[bytes, bytes], _Lines] = {}
        self._max_event_bytes = context.config.limits.max_event_bytes
        # Every request has its line in the access log, where there is one: it is written on the ordinary way.
        self._open = context.store.at_once and not context.config.server.access_log
        self._begin = {
            status: b"HTTP/1.1 %d %b\r\nContent-Type: application/json\r\nContent-Length: " % (status, reason)
            for status, reason in ((201, b"Created"), (202, b"Accepted"))
        }
        self._end = b"\r\nServer: edge\r\n%b\r\n" % guard.shared_headers

    def learn(self, head: bytes, message: RawRequestMessage) -> None:
        """Remember `head`, which aiohttp has just parsed into `message`, if it is plain."""
        match = _HEAD.fullmatch(head) if self._open and len(head) <= _MAX_HEAD_BYTES else None
        if match is None or message.should_close or message.chunked or message.upgrade or message.compression:
            return
        headers = message.headers
        if message.version != HttpVersion11 or not all(name.lower() in _PLAIN_HEADERS for name in headers):
            return
        scheme, _, token = headers.get("Authorization", "Bearer ").partition(" ")
        if headers.get("Content-Type") not in _PLAIN_TYPES or scheme.lower() != "bearer":
            return
        if len(self._known) >= _MAX_REMEMBERED:
            self._known.clear()
        bearer = token.strip() if "Authorization" in headers else None
        self._known[match[2], match[4]] = _Lines(headers.get("Host"), bearer)

    def answer(self, data: bytes) -> tuple[bytes, int]:
        """Do what `data` begins with, request by request. Returns the answers, and how many bytes were dealt with."""
        answers, at = b"", 0
        while (match := _HEAD.match(data, at)) is not None:
            lines = self._known.get((match[2], match[4]))
            body_at = match.end()
            end = body_at + int(match[3])
            if lines is None or end > len(data):
                break
            receipt = self._publish(match[1].decode("ascii"), lines, data[body_at:end])
            if receipt is None:
                break
            body = msgspec.json.encode(receipt)
            answers += b"%b%d\r\nDate: %b%b%b\n" % (
                self._begin[201 if receipt.connections else 202],
                len(body) + 1,
                rfc822_formatted_time().encode(),
                self._end,
                body,
            )
            at = end
        return answers, at

    def _publish(self, name: str, lines: _Lines, body: bytes) -> Receipt | None:
        """None: nothing has happened."""
        context = self._service
        # A project that isn't there yet may be one too many, and a refusal is counted where it is given.
        if name not in context.hub.projects:
            return None
        if not self._guard.passes_at_once(lines.host, lines.bearer, "publish", name):
            return None
        try:
            receipt = context.store.publish(name, decode_json(body, self._max_event_bytes), context.clock())
        except EdgeError:
            return None
        assert isinstance(receipt, Receipt)
        return receipt


def stands_after(data: bytes, message: RawRequestMessage) -> tuple[int, int]:
    """Where the parser stands when it has made `message` of `data`, having stood between messages before.

    Returns the length of the head and how many bytes of the body are still to come; `UNKNOWN` for the latter when it
    can't be told.
    """
    head_bytes = data.find(b"\r\n\r\n") + 4
    head = data[:head_bytes]
    # Lenient parsers skip empty lines before a message and take a bare LF for a line end.
    if head_bytes < 4 or not head[:1].isalpha() or head.count(b"\n") != head.count(b"\r\n"):
        return 0, UNKNOWN
    if message.chunked or message.upgrade or message.compression:
        return 0, UNKNOWN
    unread_bytes = head_bytes + int(message.headers.get("Content-Length", "0")) - len(data)
    return head_bytes, max(unread_bytes, UNKNOWN)
