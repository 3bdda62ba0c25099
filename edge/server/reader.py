"""Reading requests off one connection: aiohttp's C parser reads every head, and is given no more than it can take.

Invariants:
    * the parser stops behind each whole request, so a malformed one never takes an earlier one with it;
    * what has come and is not given to the parser yet waits in `_unread`.

tests/server/test_aiohttp_server.py pins what this uses of aiohttp's parser.
"""

from __future__ import annotations

import asyncio
from abc import abstractmethod

from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.http_parser import HttpRequestParser

from edge.logs.setup import get_logger
from edge.server.received import Received

_log = get_logger("http")
_PIECE_BYTES = 64 * 1024
"""Fed to the parser at once where requests begin: it copies the rest of a piece behind each of them."""
_MAX_FAILED_HEAD_BYTES = 64 * 1024
BLANK = b"\r\n\r\n"
_LAST_CHUNK = b"0\r\n\r\n"


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
        behind = self._head.partition(BLANK)[2]
        self._drained = len(behind) == request.body_bytes and not self._head_cut
        self._head = b"" if self._drained else self._behind(request, behind, 0)
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
