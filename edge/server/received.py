"""Requests as aiohttp's C parser reads them off the wire, and the answers to what it can't read.

Of aiohttp's bodies (`StreamReader`) one name is used that isn't public: `_buffer`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Protocol

from aiohttp.http_exceptions import HttpProcessingError, LineTooLong
from aiohttp.http_parser import RawRequestMessage
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader

from edge.core.errors import InvalidRequest
from edge.http import problems
from edge.http.request import HTTP_1_1, Request, half_closed
from edge.http.response import Response
from edge.logs.setup import get_logger
from edge.transport import tcp

_log = get_logger("http")
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_HTTP_2_PREFACE = b"PRI * HTTP/2.0\r\n"
_SHORT_BODY_BYTES = 64 * 1024
_SHOWN_BYTES = 64
_DISCARD_SECONDS = 10.0
"""For the rest of a body that is not wanted."""


class Connection(Protocol):
    """What of its connection a request uses."""

    transport: asyncio.Transport | None
    peer: str | None
    half_closed: bool

    def write(self, data: bytes) -> None: ...

    def release(self) -> asyncio.Transport | None: ...


class Received(Request):
    """A request off the wire; it knows where its body comes from and where its answer goes."""

    __slots__ = ("_broken", "_connection", "_payload", "chunked", "continued", "leash", "should_close")

    def __init__(self, message: RawRequestMessage, payload: StreamReader, connection: Connection) -> None:
        super().__init__(message.method, message.path, message.version, message.headers, connection.peer)
        self.should_close = message.should_close
        self.chunked = message.chunked
        self._payload = payload
        self._broken = False
        self._connection = connection
        self.leash: asyncio.Timeout | None = None
        """Ends what waits for a caller that has closed its side."""
        self.continued = False
        """Whether a caller that waits for `100 Continue` has got it."""

    @property
    def protocol(self) -> Connection:
        return self._connection

    @property
    def whole(self) -> bool:
        """Whether all of it has arrived."""
        return self._payload.is_eof()

    @property
    def body_bytes(self) -> int:
        """How much of the body has arrived."""
        return self._payload.total_bytes

    def body(self) -> bytes | None:
        payload = self._payload
        if not payload.is_eof():
            return None
        if payload is EMPTY_PAYLOAD:
            return b""
        if self._broken:
            raise _broken_body()
        # Reading by `read_nowait` has the parser and the transport go on, which a short body has not paused.
        pieces = payload._buffer
        if len(pieces) == 1 and len(pieces[0]) <= _SHORT_BODY_BYTES:
            return pieces[0]
        return payload.read_nowait(-1)

    async def next_chunk(self) -> bytes:
        payload = self._payload
        if not self.continued and "Expect" in self.headers and not payload.is_eof():
            self.continued = True
            if self.version == HTTP_1_1:
                self._connection.write(_CONTINUE)
        chunk = await payload.readany()
        if not chunk and self._broken:
            raise _broken_body()
        return chunk

    async def discard(self) -> None:
        """Read what is left of the body."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_DISCARD_SECONDS):
                while not self._payload.is_eof():
                    await self._payload.readany()

    def break_off(self) -> None:
        """The rest of the body will never come, or can't be read: a handler gets what there is, then the error."""
        self._broken = True
        self._payload.feed_eof()

    def abandon(self) -> None:
        """The caller has gone."""
        if self._payload is not EMPTY_PAYLOAD:
            self._payload.set_exception(ConnectionResetError("Connection lost"))

    @property
    def half_closed(self) -> bool:
        connection = self._connection
        transport = connection.transport
        # Its end may have come with the request, and not have been read yet.
        return connection.half_closed or (
            transport is not None
            and transport.get_extra_info("sslcontext") is None
            and tcp.sending_side_closed(transport.get_extra_info("socket"))
        )

    @asynccontextmanager
    async def while_open(self) -> AsyncIterator[None]:
        if not self.half_closed:
            try:
                async with asyncio.timeout(None) as self.leash:
                    yield
                return
            except TimeoutError:
                pass
            finally:
                self.leash = None
        raise half_closed("The client closed its side while the request was waiting, so nothing was done")


def refusal(error: HttpProcessingError, head: bytes, address: str | None) -> Response:
    """The answer to a head that the parser failed on: it names what is wrong with it."""
    if head.startswith(_HTTP_2_PREFACE):
        return problems.unsupported_version()
    if not isinstance(error, LineTooLong):
        _log.debug("malformed_http", address=address, error=type(error).__name__)
        return problems.response("malformed_http", "The request is not well-formed HTTP/1.1; see RFC 9112.")
    limit_bytes = int(error.args[1])
    line = next((line for line in head.split(b"\n") if len(line) > limit_bytes), b"")
    name = line.partition(b":")[0][:_SHOWN_BYTES].decode("latin-1")
    if " " in name:
        _log.warning("url_too_long", address=address, limit_bytes=limit_bytes)
        detail = f"The URL is longer than {limit_bytes} bytes; send what is long in the body."
        return problems.response("url_too_long", detail, fields={"limit_bytes": limit_bytes})
    _log.warning("header_too_large", address=address, header=name, limit_bytes=limit_bytes)
    return problems.response(
        "header_too_large",
        f"The header {name or 'of this request'} is longer than {limit_bytes} bytes; shorten it.",
        fields={"header": name, "limit_bytes": limit_bytes},
    )


def _broken_body() -> InvalidRequest:
    return InvalidRequest("The body is not well-formed HTTP/1.1; see RFC 9112, section 7.1.", code="malformed_http")
