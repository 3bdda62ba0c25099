"""Requests as the handlers see them, and their answers.

A request is what the head says, and a body that is read when a handler wants it. Nothing here knows aiohttp:
`edge.server.reader` makes one of each head that aiohttp's parser has read, and tests make them of literals. An answer
is a status, a body that is bytes already, and headers of its own. Encoding it is two joins: what depends on status and
type is made once, the `Date` line once a second.

Invariant: header values and the target may hold lone surrogates (bytes that are not UTF-8); code that writes one into a
response passes it through `edge.logs.text.one_line` first.
"""

from __future__ import annotations

import re
import time
from collections.abc import Coroutine, Mapping
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus
from typing import Any, TypeVar
from urllib.parse import parse_qsl

import msgspec
from multidict import CIMultiDict, CIMultiDictProxy

from edge.auth.permissions import ALL_PERMISSIONS, Identity
from edge.core.errors import InvalidRequest

HTTP_1_0 = (1, 0)
HTTP_1_1 = (1, 1)
Result = TypeVar("Result")
Headers = CIMultiDictProxy[str] | CIMultiDict[str]
"""Names match in any case, and `get` gives the first of several values."""
OPEN = Identity(ALL_PERMISSIONS)
"""Every request on a hub without `auth`."""


class Request:
    """One request. `peer` is the address at the other end of the socket, None where it has none."""

    authority: str | None = None
    """The host in a target in absolute form (`GET http://name/ HTTP/1.1`)."""
    _query: dict[str, list[str]] | None = None
    # What routing and access control find out. Most requests leave most of it as it is here.
    project = ""
    projects: tuple[str, ...] = ()
    """Those in the query, where the route takes several."""
    connection = ""
    permission: str | None = None
    """What the route requires; None where anybody may."""
    stream = False
    """Whether the route opens a stream."""
    allow = ""
    """The methods of the path, as the `Allow` header lists them; empty when nothing is there."""
    identity = OPEN
    shared = b""
    """Header lines of the answer that say which pages may read it."""
    protocol: Any = None
    """The HTTP connection, which a stream takes the transport from."""

    def __init__(
        self, method: str, target: str, version: tuple[int, int], headers: Headers, peer: str | None = None
    ) -> None:
        self.method = method
        self.version = version
        self.headers = headers
        self.peer = peer
        if target[:1] not in ("/", "*"):
            _, _, rest = target.partition("://")
            end = re.search(r"[/?]|$", rest)
            assert end is not None
            self.authority, target = rest[: end.start()], rest[end.start() :]
            if target[:1] != "/":  # an empty path is the root (RFC 9110, section 4.2.3)
                target = f"/{target}"
        if "#" in target:
            target = target.partition("#")[0]
        self.path, _, self.query_string = target.partition("?")

    @property
    def query(self) -> dict[str, list[str]]:
        """The values of each query parameter, in the order they came."""
        query = self._query
        if query is None:
            query = self._query = {}
            text = self.query_string
            if "%" in text or "+" in text:
                pairs = parse_qsl(text, keep_blank_values=True, errors="surrogateescape")
            else:
                split = [pair.partition("=") for pair in text.split("&") if pair]
                pairs = [(name, value) for name, _, value in split]
            for name, value in pairs:
                query.setdefault(name, []).append(value)
        return query

    def parameter(self, name: str) -> str | None:
        """The first value of a query parameter."""
        query = self._query
        if query is None:
            if not self.query_string:
                return None
            query = self.query
        values = query.get(name)
        return None if values is None else values[0]

    def listed(self, name: str) -> str | None:
        """The lines of a header that is a list, as one (RFC 9110, section 5.3); None without any."""
        lines = self.headers.getall(name, None)
        return None if lines is None else ", ".join(lines)

    # The body and the connection, which the server's own class brings

    def body(self) -> bytes | None:
        """The whole body, once, if all of it has arrived. Raises InvalidRequest (`malformed_http`) when broken."""
        return b""

    async def next_chunk(self) -> bytes:
        """What has arrived of the body since the last call, waiting for something; empty at its end."""
        return b""

    @property
    def half_closed(self) -> bool:
        """Whether the caller has closed its side of the connection."""
        return False

    async def while_open(self, wait: Coroutine[Any, Any, Result]) -> Result:
        """What `wait` returns, if the caller keeps its sending side open until then: one that has closed it can't be
        distinguished from one that has gone. Raises InvalidRequest (`half_closed`).
        """
        return await wait


def half_closed(why: str) -> InvalidRequest:
    """The refusal of what needs a caller that keeps its side open."""
    return InvalidRequest(f"{why}; keep the sending side open until the response arrives.", code="half_closed")


JSON = "application/json"
NO_STORE = {"Cache-Control": "no-store"}
_BODILESS = frozenset({204, 304})


class Response:
    """What a handler returns. `headers` are those beside the ones every answer has."""

    code: str | None = None
    """Of a problem."""
    keep_alive = True
    """Whether the connection may take another request behind this answer."""
    endless = False
    """Whether the body that `HEAD` asks about has no length: a stream's."""

    def __init__(
        self,
        status: int = 200,
        body: bytes = b"",
        content_type: str = JSON,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.status = status
        self.body = body
        self.content_type = content_type
        self.headers = headers

    def encode(self, request: Request) -> bytes:
        """Everything that goes on the wire."""
        body, status = self.body, self.status
        head = _begin(status, self.content_type)
        if status not in _BODILESS and not self.endless:
            head = b"%bContent-Length: %d\r\n" % (head, len(body))
        if self.headers:
            head += "".join([f"{name}: {value}\r\n" for name, value in self.headers.items()]).encode("latin-1")
        if not self.keep_alive:
            head += b"Connection: close\r\n"
        elif request.version == HTTP_1_0:
            head += b"Connection: keep-alive\r\n"
        if request.method == "HEAD":
            body = b""
        return b"%b%b%b\r\n%b" % (head, date_line(), request.shared, body)


class TakenOver(Response):
    """What a handler returns when the transport is a stream's, which writes its own head."""


def json_response(
    document: object, *, status: int = 200, content_type: str = JSON, headers: Mapping[str, str] | None = None
) -> Response:
    """`document` as JSON, with a line end behind it, for terminals."""
    return Response(status, msgspec.json.encode(document) + b"\n", content_type, headers)


@lru_cache(maxsize=256)
def _begin(status: int, content_type: str) -> bytes:
    """The lines that depend on nothing else."""
    lines = f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nServer: edge\r\nX-Content-Type-Options: nosniff\r\n"
    if status not in _BODILESS:
        lines += f"Content-Type: {content_type}\r\n"
    return lines.encode("latin-1")


_date_second, _date_line = 0, b""


def date_line() -> bytes:
    """The `Date` line of this second."""
    global _date_second, _date_line
    second = int(time.time())
    if second != _date_second:
        _date_second, _date_line = second, f"Date: {formatdate(second, usegmt=True)}\r\n".encode()
    return _date_line
