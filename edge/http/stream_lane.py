"""The express lane for readers: a stream that is asked for in known words is opened without a parser.

Through aiohttp it costs a hundred microseconds to open a stream, and when a hub has been restarted all its readers come
at once. But they say the same: a head is made of lines that decide something (`Host`, `Accept`, `Origin`, a static
token, …), of lines that nobody here reads (`User-Agent`, `Referer`, …), and of a few whose value is the reader's own
(`Last-Event-ID`, its address behind a proxy). A head that has been answered with a stream on the ordinary way is
remembered by its deciding lines, with the head of the answer; the next one with the very same deciding lines gets the
same answer but for its `Date`.

It never refuses. Whatever isn't plainly good takes the ordinary way, where there is one place that says no.

Invariants:
    * what is remembered was made of what aiohttp's parser had read, and a head matches it only when it is byte for byte
      what that parser reads so: `Name: value`, one a line, nothing twice that could be there twice in two meanings;
    * it is asked with the first bytes of a connection only, so the parser would stand at the beginning, too;
    * the door and the limits are asked every time (`AccessControl.passes_at_once`, `Hub.has_room`).
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import NamedTuple

import msgspec
from aiohttp import HttpVersion11, hdrs, web
from aiohttp.helpers import rfc822_formatted_time

from edge.core.errors import InvalidRequest
from edge.core.project import Project
from edge.core.resume import Start
from edge.http.access_control import COOKIE, AccessControl
from edge.http.context import Context
from edge.http.open_stream import new_stream, start_at

_HEAD = re.compile(
    rb"GET /projects/([A-Za-z0-9][A-Za-z0-9._~-]{0,127})/events(?:\?([A-Za-z0-9_=&.:~-]{1,512}))? HTTP/1\.1\r\n"
    rb"((?:[!-~]+: [ -~]*\r\n)+)\r\n"
)
_UNREAD = (
    *("User-Agent", "Accept-Encoding", "Accept-Language", "Cache-Control", "Pragma", "Referer", "DNT", "Priority"),
    *("Sec-GPC", "Sec-Fetch-Dest", "Sec-Fetch-User", "Sec-CH-UA", "Sec-CH-UA-Mobile", "Sec-CH-UA-Platform"),
    *("X-Real-IP", "X-Forwarded-Proto", "X-Forwarded-Host", "X-Forwarded-Port", "X-Forwarded-Server", "X-Request-ID"),
)
"""Nobody here reads these, so their values may be any."""
_OWN = ("Last-Event-ID", "X-Forwarded-For", "Cookie")
"""Read anew for each head."""
_VARYING = re.compile(rb"^((?i:%b)): ([ -~]*)\r\n" % "|".join((*_UNREAD, *_OWN)).encode(), re.MULTILINE)
_DECIDING = frozenset({"host", "accept", "connection", "authorization", "origin", "sec-fetch-site", "sec-fetch-mode"})
_COOKIE = COOKIE.encode()
_DATE = re.compile(rb"\r\nDate: [^\r]*")
_MAX_HEAD_BYTES = 4096
_MAX_REMEMBERED = 1024
_QUERY = frozenset({"since", "last_event_id", "heartbeat"})


class _Lines(msgspec.Struct, frozen=True):
    """What the deciding lines of a head say, as far as anybody asks, and the answer to it around its date."""

    host: str | None
    bearer: str | None
    before_date: bytes
    after_date: bytes


class _Wanted(NamedTuple):
    """A stream that may be opened, but for the limits."""

    name: str
    lines: _Lines
    start: Callable[[Project], Start]
    ping_as_event: bool
    forwarded_for: tuple[str, ...]


class StreamLane:
    """The lane of one hub."""

    def __init__(self, context: Context, guard: AccessControl) -> None:
        self._service = context
        self._guard = guard
        self._known: dict[bytes, _Lines] = {}
        # Another node's events have to be fetched first, and that takes a while.
        self._open = context.cluster is None
        self._cookies_count = context.config.auth.configured

    def learn(self, request: web.BaseRequest, answer_head: bytes) -> None:
        """Remember a request that is being answered with a stream, and the head of the answer."""
        if not self._open or request.version != HttpVersion11:
            return
        headers = request.headers
        scheme, _, token = headers.get(hdrs.AUTHORIZATION, "Bearer ").partition(" ")
        if scheme.lower() != "bearer":
            return
        head = b"".join(b"%b: %b\r\n" % line for line in request._message.raw_headers)
        deciding, _ = _split(head)
        names = [line.partition(b":")[0].decode("latin-1").lower() for line in deciding.split(b"\r\n")[:-1]]
        if not (_DECIDING.issuperset(names) and len(set(names)) == len(names)):
            return
        around = _DATE.split(answer_head)
        if len(around) != 2:
            return
        if len(self._known) >= _MAX_REMEMBERED:
            self._known.clear()
        bearer = token.strip() if hdrs.AUTHORIZATION in headers else None
        self._known[deciding] = _Lines(headers.get(hdrs.HOST), bearer, around[0] + b"\r\nDate: ", around[1])

    def open(self, transport: asyncio.Transport, head: bytes) -> bool:
        """Make `transport` a stream if `head`, all that has come, plainly asks for one. False: nothing has happened."""
        context = self._service
        now = context.clock()
        wanted = self._wanted(head, now)
        peer = transport.get_extra_info("peername")
        if wanted is None or not isinstance(peer, tuple):
            return False
        address = context.client_addresses.behind(peer[0], wanted.forwarded_for, ())
        if not context.hub.has_room(wanted.name, address):
            return False
        stream = new_stream(context, address, chunked=True, ping_as_event=wanted.ping_as_event, expires_at_seconds=None)
        transport.set_protocol(stream)
        lines = wanted.lines
        stream.attach_transport(
            transport, b"%b%b%b" % (lines.before_date, rfc822_formatted_time().encode(), lines.after_date)
        )
        try:
            context.hub.attach(wanted.name, stream, wanted.start, now)
        except Exception:
            stream.abort()
            raise
        stream.uncork()
        return True

    def _wanted(self, head: bytes, now: float) -> _Wanted | None:
        """What `head` asks for. None: it is not plain, or not known, or whoever asks may not have it."""
        match = _HEAD.fullmatch(head) if self._known and len(head) <= _MAX_HEAD_BYTES else None
        if match is None:
            return None
        deciding, others = _split(match[3])
        lines = self._known.get(deciding)
        if lines is None or others is None or (self._cookies_count and _COOKIE in others.get(b"cookie", b"")):
            return None
        name = match[1].decode("ascii")
        asked = self._asked(match[2], others.get(b"last-event-id", b"").decode("ascii").strip(), now)
        if asked is None or not self._guard.passes_at_once(lines.host, lines.bearer, "subscribe", name):
            return None
        hops = others.get(b"x-forwarded-for", b"").decode("ascii").strip()
        return _Wanted(name, lines, *asked, (hops,) if hops else ())

    @staticmethod
    def _asked(query: bytes | None, last_id: str, now: float) -> tuple[Callable[[Project], Start], bool] | None:
        """Where to start, and whether pings are events. None for what the ordinary way may know more of."""
        given: dict[str, str] = {}
        for pair in query.decode("ascii").split("&") if query else ():
            key, _, value = pair.partition("=")
            if key in given or key not in _QUERY:
                return None
            given[key] = value
        heartbeat = given.get("heartbeat", "comment")
        if heartbeat not in ("comment", "event"):
            return None
        try:
            start = start_at(given.get("since", "missed"), last_id or given.get("last_event_id"), now)
        except InvalidRequest:
            return None
        return start, heartbeat == "event"


def _split(head: bytes) -> tuple[bytes, dict[bytes, bytes] | None]:
    """The deciding lines of `head`, and what the others say; None for those when one came twice: the parser knows which
    may.
    """
    parts = _VARYING.split(head)
    names = parts[1::3]
    others = {name.lower(): value for name, value in zip(names, parts[2::3], strict=True)}
    return b"".join(parts[::3]), others if len(others) == len(names) else None
