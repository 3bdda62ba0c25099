"""Reading requests off one connection: aiohttp's C parser reads every head, and is given no more than it can take.

Invariants:
    * the parser stops behind each whole request, so a malformed one never takes an earlier one with it;
    * what has come and is not given to the parser yet waits in `_unread`.

tests/server/test_aiohttp_server.py pins what this uses of aiohttp's parser. Of its bodies (`StreamReader`) one name is
used that isn't public: `_buffer`.
"""

from __future__ import annotations

import asyncio
import re
from abc import abstractmethod
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, Protocol, cast

from aiohttp.http_exceptions import BadHttpMethod, HttpProcessingError, LineTooLong
from aiohttp.http_parser import HttpRequestParser, RawRequestMessage
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader

from edge.core.errors import InvalidRequest
from edge.http import problems
from edge.http.message import HTTP_1_1, Request, Response, Result, half_closed
from edge.logs.setup import get_logger
from edge.transport import tcp

_log = get_logger("http")
_MAX_LINE_BYTES = 8190
_MAX_HEADERS = 128
_BODY_BUFFER_BYTES = 256 * 1024
_PIECE_BYTES = 64 * 1024
"""Fed to the parser at once where requests begin: it copies the rest of a piece behind each of them."""
_MAX_FAILED_HEAD_BYTES = 64 * 1024
BLANK = b"\r\n\r\n"
_LAST_CHUNK = b"0\r\n\r\n"
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_REQUEST_LINE = re.compile(rb"[\r\n]*[!#$%&'*+.^_`|~0-9A-Za-z-]+ [!-~]+ HTTP/([0-9]\.[0-9])\r\n")
"""A well-formed one (RFC 9112, section 3), of any method and version."""
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

    leash: asyncio.Timeout | None = None
    """Ends what waits for a caller that has closed its side."""
    continued = False
    """Whether a caller that waits for `100 Continue` has got it."""
    _broken = False

    def __init__(self, message: RawRequestMessage, payload: StreamReader, connection: Connection) -> None:
        super().__init__(message.method, message.path, message.version, message.headers, connection.peer)
        self.should_close = message.should_close
        self.chunked = message.chunked
        self._payload = payload
        self.protocol = connection

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
                self.protocol.write(_CONTINUE)
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
        connection = self.protocol
        transport = connection.transport
        # Its end may have come with the request, and not have been read yet.
        return connection.half_closed or (
            transport is not None
            and transport.get_extra_info("sslcontext") is None
            and tcp.sending_side_closed(transport.get_extra_info("socket"))
        )

    async def while_open(self, wait: Coroutine[Any, Any, Result]) -> Result:
        if self.half_closed:
            wait.close()
        else:
            try:
                async with asyncio.timeout(None) as self.leash:
                    return await wait
            except TimeoutError:
                pass
            finally:
                self.leash = None
        raise half_closed("The client closed its side while the request was waiting, so nothing was done")


class RequestReader(asyncio.Protocol):
    """The reading half of a connection; `HttpConnection` answers."""

    __slots__ = (
        "_drained",
        "_head",
        "_head_cut",
        "_parser",
        "_reading_paused",
        "_request",
        "_unread",
        "failed",
        "half_closed",
        "peer",
        "transport",
        "written_bytes",
    )

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.peer: str | None = None
        self._parser: HttpRequestParser | None = None
        """None until its turn has come."""
        self._unread = b""
        """What has come and waits: for the connection's turn, or for the answer to an earlier request."""
        self._request: Received | None = None
        """The one that is being answered."""
        self._reading_paused = False
        self.written_bytes = 0
        self.half_closed = False
        """The caller has closed its side; what came whole is answered (RFC 9112, 9.6)."""
        self.failed = False
        """Whether the parser has failed; what comes behind has no meaning."""
        self._drained = False
        """The parser has nothing left of what it was given."""
        self._head = b""
        """What was given to the parser of requests that are yet to begin: its errors don't say what they are about."""
        self._head_cut = False
        """Whether the beginning of that was too long to be kept."""

    @abstractmethod
    def release(self) -> asyncio.Transport | None:
        """Release the transport: it is closed, or a stream's from now on. None if it is closed already."""

    @abstractmethod
    def _refuse(self, error: HttpProcessingError) -> None:
        """Answer what the parser failed on."""

    def new_parser(self, loop: asyncio.AbstractEventLoop) -> HttpRequestParser:
        return HttpRequestParser(
            cast(Any, self),
            loop,
            _BODY_BUFFER_BYTES,
            max_line_size=_MAX_LINE_BYTES,
            max_field_size=_MAX_LINE_BYTES,
            max_headers=_MAX_HEADERS,
            auto_decompress=False,  # compressed bodies are refused: bombs stay shut, unknown codings get our answer
            max_msg_queue_size=1,  # stop behind each request
        )

    @property
    def connected(self) -> bool:
        return self.transport is not None

    def write(self, data: bytes) -> None:
        """Write what is not an answer yet."""
        if self.transport is not None:
            self.written_bytes += len(data)
            self.transport.write(data)

    def pause_reading(self) -> None:
        """The body holds as much as it may."""
        if self._parser is not None:
            self._parser.pause_reading()
        self._pause_reading()

    def resume_reading(self, resume_parser: bool = True) -> None:
        """The body takes more."""
        if not self._reading_paused:
            return
        self._reading_paused = False
        if resume_parser and self._parser is not None:
            self._feed(b"")
        if not self._reading_paused and self.transport is not None:
            self.transport.resume_reading()

    def _pause_reading(self) -> None:
        if not self._reading_paused and self.transport is not None:
            self._reading_paused = True
            self.transport.pause_reading()

    def _next(self) -> Received | None:
        """Read the next request as far as it has come. None: its head has not come, or is malformed."""
        parser = self._parser
        assert parser is not None
        while True:
            try:
                messages, upgraded, tail = parser.feed_data(self._piece())
            except HttpProcessingError as error:
                self._refuse(error)
                return None
            if upgraded:
                self._decline_upgrade(tail)
            if messages:
                break
            if not self._unread:
                return None
        message, payload = messages[0]
        request = self._request = Received(message, payload, self)
        if message.upgrade and payload.is_eof():
            _, upgraded, tail = parser.feed_data(b"")
            if upgraded:
                self._decline_upgrade(tail)
        elif message.upgrade:
            request.should_close = True
        given = self._head
        at = given.find(BLANK)
        body_at = len(given) if at < 0 else at + len(BLANK)
        self._drained = len(given) - body_at == payload.total_bytes and not self._head_cut
        self._head = b"" if self._drained else self._behind(request, given[body_at:], 0)
        while self._unread and not payload.is_eof():
            data, self._unread = self._unread, b""
            self._feed(data)
        return request

    def _feed(self, data: bytes) -> None:
        """Give the parser more of a body."""
        request = self._request
        assert self._parser is not None
        assert request is not None
        before_bytes = request.body_bytes
        self._drained = False
        try:
            _, upgraded, tail = self._parser.feed_data(data)
        except HttpProcessingError:
            self.failed = True
            _log.debug("malformed_http", address=self.peer, error="body")
            request.break_off()
        else:
            if upgraded:
                self._decline_upgrade(tail)
            self._head = self._behind(request, data, before_bytes)

    def _piece(self) -> bytes:
        """What of `_unread` the parser is given next."""
        data, self._unread = self._unread, b""
        if len(data) > _PIECE_BYTES:
            data, self._unread = data[:_PIECE_BYTES], data[_PIECE_BYTES:]
        lowered = data.lower()
        if b"chunked" in lowered or b"upgrade" in lowered:
            # The head alone: with a malformed chunk the parser forgets the request, and what follows one that asks for
            # another protocol.
            head, blank, rest = data.partition(BLANK)
            data, self._unread = head + blank, rest + self._unread
        if self._head and data:
            self._head += data
            if len(self._head) > _MAX_FAILED_HEAD_BYTES:
                self._head, self._head_cut = self._head[-_MAX_FAILED_HEAD_BYTES:], True
        elif data:
            self._head = data
        return data

    def _decline_upgrade(self, tail: bytes) -> None:
        """Go on with HTTP/1.1: no answer here accepts another protocol."""
        assert self._parser is not None
        self._parser.set_upgraded(False)
        self._unread = tail + self._unread

    @staticmethod
    def _behind(request: Received, data: bytes, before_bytes: int) -> bytes:
        """What of `data`, given to the parser when `before_bytes` of the body had arrived, follows the body."""
        if not request.whole:
            return b""
        return data.partition(_LAST_CHUNK)[2] if request.chunked else data[request.body_bytes - before_bytes :]


def refusal(error: HttpProcessingError, head: bytes, address: str | None) -> Response:
    """The answer to a head that the parser failed on: it names what is wrong with it."""
    begin = _REQUEST_LINE.match(head)
    if begin is not None and begin[1] not in (b"1.1", b"1.0"):
        return problems.unsupported_version()
    if begin is not None and isinstance(error, BadHttpMethod):
        return problems.unknown_method()
    if not isinstance(error, LineTooLong) and head.count(b"\n") > _MAX_HEADERS + 1:  # the request line is none
        _log.warning("header_too_large", address=address, limit_headers=_MAX_HEADERS)
        detail = f"The request has more than {_MAX_HEADERS} headers; send fewer."
        return problems.response("header_too_large", detail, fields={"limit_headers": _MAX_HEADERS})
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
