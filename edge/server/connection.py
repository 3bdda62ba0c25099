"""HTTP connections: aiohttp's C parser reads every head, `Application.answer` answers, and the answer is bytes.

A connection has no task of its own, and a request has one only if its answer has to be waited for: most are answered
where their last byte is read. aiohttp's own server (`web.Server`) takes two tasks and three turns of the loop for each
request, which was a third of a publish and of a connect (docs/decisions.md).

Invariants:
    * requests of a connection are answered in their order, one at a time; what comes behind one waits in `_unread`;
    * the parser stops behind each whole request, so a malformed one never takes an earlier one with it;
    * once a stream has taken the transport over, nothing that came behind its request is looked at.

tests/server/test_aiohttp_server.py pins what this uses of aiohttp's parser.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Coroutine
from typing import Any, Protocol, cast

from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.http_parser import HttpRequestParser
from multidict import CIMultiDict

from edge.http.request import HTTP_1_1, Request
from edge.http.response import Response
from edge.http.routes import Application
from edge.logs import trace
from edge.logs.setup import get_logger
from edge.server.accept import Acceptor, ConnectionThrottle
from edge.server.received import Received, refusal

_log = get_logger("http")
_PIECE_BYTES = 64 * 1024
"""Fed to the parser at once where requests begin: it copies the rest of a piece behind each of them."""
_MAX_UNREAD_BYTES = 64 * 1024
"""Held of what comes behind a request that is being answered; beyond it the transport reads no more."""
_MAX_FAILED_HEAD_BYTES = 64 * 1024
_BLANK = b"\r\n\r\n"
_LAST_CHUNK = b"0\r\n\r\n"
_A_TURN = 32
"""Pipelined requests of one connection that are answered in one turn of the loop."""
_LINGER_SECONDS = 1.0
_ORIGIN = re.compile(rb"\n[Oo][Rr][Ii][Gg][Ii][Nn]:[ \t]*([!-~]{1,300})[ \t]*\r?\n")


class Server(Protocol):
    """What the connections of one application share."""

    app: Application
    loop: asyncio.AbstractEventLoop
    acceptor: Acceptor
    throttle: ConnectionThrottle
    connections: set[HttpConnection]
    idle_seconds: float
    """How long a connection may be idle, and a head take to come."""

    def parser(self, connection: HttpConnection) -> HttpRequestParser: ...


class HttpConnection(asyncio.Protocol):
    """One connection, until it closes or a stream takes its transport over."""

    __slots__ = (
        "_closing",
        "_counted",
        "_drained",
        "_expiry",
        "_head",
        "_head_cut",
        "_idle_since",
        "_loop",
        "_parser",
        "_reading_paused",
        "_request",
        "_server",
        "_task",
        "_unread",
        "_waiting",
        "_writing_paused",
        "failed",
        "half_closed",
        "peer",
        "transport",
        "written_bytes",
    )

    def __init__(self, server: Server) -> None:
        self._server = server
        self._loop = server.loop
        self.transport: asyncio.Transport | None = None
        self.peer: str | None = None
        self._counted = ""
        """What the acceptor counts it as."""
        self._parser: HttpRequestParser | None = None
        """None until its turn has come."""
        self._unread = b""
        """What has come and waits: for the connection's turn, or for the answer to an earlier request."""
        self._request: Received | None = None
        """The one that is being answered."""
        self._task: asyncio.Task[None] | None = None
        """Answers it, where that has to be waited for."""
        self._waiting = True
        """No request may begin: the turn of the connection is yet to come, or that of its next request."""
        self._writing_paused = False
        self._reading_paused = False
        self.written_bytes = 0
        self.half_closed = False
        """The caller has closed its side; what came whole is answered (RFC 9112, 9.6)."""
        self.failed = False
        """Whether the parser has failed; what comes behind has no meaning."""
        self._closing = False
        """No further request is answered."""
        self._drained = False
        """The parser has nothing left of what it was given."""
        self._head = b""
        """What was given to the parser of requests that are yet to begin: its errors don't say what they are about."""
        self._head_cut = False
        """Whether the beginning of that was too long to be kept."""
        self._idle_since = 0.0
        self._expiry: asyncio.TimerHandle | None = None

    # What the transport says

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = cast(asyncio.Transport, transport)
        address = transport.get_extra_info("peername")
        peer = address[0] if isinstance(address, tuple) else None
        server = self._server
        counted = server.acceptor.admit(transport, peer)
        if counted is None:
            return
        self._counted = counted
        self.peer = peer
        self.transport = transport
        self._idle_since = self._loop.time()
        self._expiry = self._loop.call_later(server.idle_seconds, self._expire)
        server.connections.add(self)

    def data_received(self, data: bytes) -> None:
        request = self._request
        if self.failed or self.transport is None:
            return
        if request is not None and not request.whole:
            self._feed(data)
        elif self._waiting or request is not None:
            first = not self._unread
            self._unread += data
            if first and self._parser is None:
                self._server.throttle.run_or_wait(self._begin)
            elif len(self._unread) > _MAX_UNREAD_BYTES:
                self._pause_reading()
        else:
            self._unread = data
            self._serve()

    def eof_received(self) -> bool:
        request = self._request
        transport = self.transport
        # TLS can't be closed on one side.
        if transport is None or self.failed or transport.get_extra_info("sslcontext") is not None:
            return False
        if request is None and not (self._waiting and (self._unread or self._parser is not None)):
            return False
        self.half_closed = True
        if request is not None:
            if request.leash is not None:
                request.leash.reschedule(self._loop.time())
            if not request.whole:
                request.break_off()
        return True

    def connection_lost(self, _exc: BaseException | None) -> None:
        request, task = self._request, self._task
        self.release()
        if request is not None:
            request.abandon()
        if task is not None:
            task.cancel()

    def release(self) -> asyncio.Transport | None:
        """Release the transport: it is closed, or a stream's from now on. None if it is closed already."""
        transport, self.transport = self.transport, None
        if transport is None:
            return None
        self._server.connections.discard(self)
        if self._counted:
            self._server.acceptor.uncount(self._counted)
        if self._expiry is not None:
            self._expiry.cancel()
        self._unread = b""
        self._request = self._parser = None
        return None if transport.is_closing() else transport

    def write(self, data: bytes) -> None:
        """Write what is not an answer yet."""
        if self.transport is not None:
            self.written_bytes += len(data)
            self.transport.write(data)

    def pause_writing(self) -> None:
        self._writing_paused = True

    def resume_writing(self) -> None:
        self._writing_paused = False
        if self._waiting and self._parser is not None:
            self._loop.call_soon(self._serve_on)

    def _expire(self) -> None:
        """Close a connection that is idle, or whose next head doesn't come."""
        due = self._idle_since + self._server.idle_seconds
        now = self._loop.time()
        if self._request is None and now >= due and self.transport is not None:
            self.transport.close()
        else:
            due = due if now < due else now + self._server.idle_seconds
            self._expiry = self._loop.call_at(due, self._expire)

    # What a body asks of its protocol

    @property
    def connected(self) -> bool:
        return self.transport is not None

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

    # Requests

    def _begin(self) -> None:
        """The turn of this connection has come: read what it has sent."""
        if self.transport is not None and not self.transport.is_closing():
            self._parser = self._server.parser(self)
            self._serve_on()

    def _serve_on(self) -> None:
        if self.transport is not None and not self._writing_paused:
            self._waiting = False
            self._serve()

    def _serve_later(self) -> None:
        """Go on in another turn of the loop, or once the caller has taken what was written."""
        self._waiting = True
        if not self._writing_paused:
            self._loop.call_soon(self._serve_on)

    def _serve(self) -> None:
        """Answer the requests that have come, as far as that needs no waiting and one turn allows."""
        for _ in range(_A_TURN):
            request = self._next() if self._unread or not self._drained else None
            if request is None:
                if self.half_closed and self.transport is not None and not self.failed:
                    self.transport.close()
                elif self._reading_paused:
                    self.resume_reading(resume_parser=False)
                return
            traceparent = request.headers.get(trace.HEADER)
            answered = self._answer(request) if traceparent is None else trace.under(traceparent, self._answer, request)
            if not answered:
                return
            if self._writing_paused:
                break
        self._serve_later()

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
        behind = self._head.partition(_BLANK)[2]
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
            head, blank, rest = data.partition(_BLANK)
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

    def _answer(self, request: Received) -> bool:
        """Answer a request, or begin to. Returns whether the next one may follow at once."""
        answer = self._server.app.answer(request)
        if isinstance(answer, Response):
            return self._respond(request, answer)
        self._task = self._loop.create_task(self._answer_later(request, answer))
        return False

    async def _answer_later(self, request: Received, answer: Coroutine[Any, Any, Response]) -> None:
        try:
            response = await answer
        except ConnectionError:
            self.abort()
            return
        self._task = None
        if self._respond(request, response):
            self._serve_later()

    def _respond(self, request: Received, response: Response) -> bool:
        """Write an answer. Returns whether the next request may follow at once."""
        transport = self.transport
        if transport is None:
            return False
        whole = request.whole
        if (
            request.should_close
            or self._closing
            or self.failed
            # Whether the caller will still send the body it holds back can't be known.
            or (not whole and "Expect" in request.headers and not request.continued)
        ):
            response.keep_alive = False
        data = response.encode(request)
        self.written_bytes += len(data)
        transport.write(data)
        self._idle_since = self._loop.time()
        if not whole:
            self._task = self._loop.create_task(self._discard(request, keep_alive=response.keep_alive))
            return False
        self._request = None
        if not response.keep_alive:
            self._close()
        return response.keep_alive

    async def _discard(self, request: Received, *, keep_alive: bool) -> None:
        """Read the rest of a body that was answered before its end."""
        await request.discard()
        self._task = self._request = None
        if self.transport is None:
            return
        if keep_alive and request.whole and not self.failed and not self._closing:
            self._serve_later()
        else:
            self._close()

    def _close(self) -> None:
        """Close our side; of a caller that may still be sending, wait for its end. Closing with bytes unread would
        reset the connection, and the answer might be lost with it (RFC 9112, 9.6).
        """
        transport = self.transport
        if transport is None:
            return
        self.failed = True
        if self.half_closed or self._expiry is None or not transport.can_write_eof():
            transport.close()
            return
        transport.write_eof()
        self._expiry.cancel()
        self._expiry = self._loop.call_later(_LINGER_SECONDS, transport.close)

    def abort(self) -> None:
        if self.transport is not None:
            self.transport.abort()

    def shut_down(self) -> asyncio.Task[None] | None:
        """Close as soon as the request at hand is answered. Returns what answers it, None where nothing does."""
        self._closing = True
        if self._request is None and self.transport is not None:
            self.transport.close()
        return self._task

    # Malformed requests

    def _refuse(self, error: HttpProcessingError) -> None:
        """Answer what the parser failed on."""
        self.failed = True
        transport = self.transport
        assert transport is not None
        head = self._head.partition(_BLANK)[0] + b"\r\n"
        request = Request("GET", "/", HTTP_1_1, CIMultiDict(), self.peer)
        origin = _ORIGIN.search(head)
        request.shared = self._server.app.shared(None if origin is None else origin[1].decode())
        problem = refusal(error, head, self.peer)
        problem.keep_alive = False
        transport.write(problem.encode(request))  # no stream follows
        self._close()
