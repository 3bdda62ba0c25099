"""HTTP connections: aiohttp's C parser reads every head, `Application.answer` answers, and the answer is bytes.

A connection has no task of its own, and a request has one only if its answer has to be waited for: most are answered
where their last byte is read. aiohttp's own server (`web.Server`) takes two tasks and three turns of the loop for each
request, which was a third of a publish and of a connect (docs/decisions.md).

Invariants:
    * requests of a connection are answered in their order, one at a time;
    * once a stream has taken the transport over, nothing that came behind its request is looked at.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, Protocol, cast

from aiohttp.http_exceptions import HttpProcessingError
from multidict import CIMultiDict

from edge.http.message import HTTP_1_1, Request, Response
from edge.http.routes import Application
from edge.logs.text import TRACE, TRACE_HEADER, trace_of
from edge.server.accept import Acceptor, ConnectionThrottle, origin_in
from edge.server.reader import BLANK, Received, RequestReader, refusal

_MAX_UNREAD_BYTES = 64 * 1024
"""Held of what comes behind a request that is being answered; beyond it the transport reads no more."""
_A_TURN = 32
"""Pipelined requests of one connection that are answered in one turn of the loop."""
_LINGER_SECONDS = 1.0


class Server(Protocol):
    """What the connections of one application share."""

    app: Application
    loop: asyncio.AbstractEventLoop
    acceptor: Acceptor
    throttle: ConnectionThrottle
    connections: set[HttpConnection]

    @property
    def idle_seconds(self) -> float:
        """How long a connection may be idle, and a head take to come."""


class HttpConnection(RequestReader):
    """One connection, until it closes or a stream takes its transport over."""

    __slots__ = (
        "_closing",
        "_counted",
        "_expiry",
        "_idle_since",
        "_loop",
        "_server",
        "_task",
        "_waiting",
        "_writing_paused",
    )

    def __init__(self, server: Server) -> None:
        super().__init__()
        self._server = server
        self._loop = server.loop
        self._counted = ""
        """What the acceptor counts it as."""
        self._task: asyncio.Task[None] | None = None
        """Answers the request at hand, where that has to be waited for."""
        self._waiting = True
        """No request may begin: the turn of the connection is yet to come, or that of its next request."""
        self._writing_paused = False
        self._closing = False
        """No further request is answered."""
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

    # Requests

    def _begin(self) -> None:
        """The turn of this connection has come: read what it has sent."""
        if self.transport is not None and not self.transport.is_closing():
            self._parser = self.new_parser(self._loop)
            self._waiting = False
            self._serve()

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
            traceparent = request.headers.get(TRACE_HEADER)
            if not (self._answer(request) if traceparent == TRACE.get() else self._answer_traced(request, traceparent)):
                return
            if self._writing_paused:
                break
        self._serve_later()

    def _answer_traced(self, request: Received, traceparent: str | None) -> bool:
        """`_answer`, and the tasks that it makes, with the trace of the request.

        A connection goes on in the task of the request before, and may read in it: that one's trace isn't this one's.
        """
        token = TRACE.set(trace_of(traceparent))
        try:
            return self._answer(request)
        finally:
            TRACE.reset(token)

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
        with suppress(OSError):  # reset by the peer a moment ago, on asyncio's loop: the transport finds out
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
        head = self._head.partition(BLANK)[0] + b"\r\n"
        request = Request("GET", "/", HTTP_1_1, CIMultiDict(), self.peer)
        request.shared = self._server.app.shared_problem(origin_in(head))
        problem = refusal(error, head, self.peer)
        problem.keep_alive = False
        transport.write(problem.encode(request))  # no stream follows
        self._close()
