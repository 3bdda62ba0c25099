"""An answer: a status, a body that is bytes already, and the headers of its own.

Encoding it is two joins: what depends on status and type is made once, the `Date` line once a second.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus

import msgspec

from edge.http.request import HTTP_1_0, Request

JSON = "application/json"
NO_STORE = {"Cache-Control": "no-store"}
_BODILESS = frozenset({204, 304})


class Response:
    """What a handler returns. `headers` are those beside the ones every answer has."""

    __slots__ = ("body", "code", "content_type", "headers", "keep_alive", "status")

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
        self.code: str | None = None
        """Of a problem."""
        self.keep_alive = True
        """Whether the connection may take another request behind this answer."""

    def encode(self, request: Request) -> bytes:
        """Everything that goes on the wire."""
        body, status = self.body, self.status
        head = _begin(status, self.content_type)
        if status not in _BODILESS:
            head = b"%b%d\r\n" % (head, len(body))
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

    __slots__ = ()


def json_response(
    document: object, *, status: int = 200, content_type: str = JSON, headers: Mapping[str, str] | None = None
) -> Response:
    """`document` as JSON, with a line end behind it, for terminals."""
    return Response(status, msgspec.json.encode(document) + b"\n", content_type, headers)


@lru_cache(maxsize=256)
def _begin(status: int, content_type: str) -> bytes:
    """The lines that depend on nothing else; but for answers without a body the last one lacks its number."""
    lines = f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nServer: edge\r\nX-Content-Type-Options: nosniff\r\n"
    if status not in _BODILESS:
        lines += f"Content-Type: {content_type}\r\nContent-Length: "
    return lines.encode("latin-1")


_date_second, _date_line = 0, b""


def date_line() -> bytes:
    """The `Date` line of this second."""
    global _date_second, _date_line
    second = int(time.time())
    if second != _date_second:
        _date_second, _date_line = second, f"Date: {formatdate(second, usegmt=True)}\r\n".encode()
    return _date_line
