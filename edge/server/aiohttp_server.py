"""aiohttp's server, with our answers where it would write its own.

Malformed HTTP never reaches a handler: aiohttp's protocol object answers it in plain text and logs a traceback for
each. Here it is a problem document and a debug line. And plain publishes are answered before aiohttp sees them
(`edge.http.express`). The subclasses touch names that aiohttp 3.14 does not promise (`Server.__call__`, `_kwargs`,
`_loop`; `RequestHandler.handle_error`, `data_received`, `_messages`, `_current_request`, `_waiter`, `_paused`,
`_close`, `_force_close`, `_keepalive_timeout`, `_next_keepalive_close_time`; `_ErrInfo`);
tests/server/test_aiohttp_server.py and test_express.py pin what they do.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from typing import Any

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.http_parser import RawRequestMessage
from aiohttp.web_protocol import _ErrInfo

from edge.http import problems
from edge.http.access_control import GUARD
from edge.http.context import CONTEXT
from edge.http.express import UNKNOWN, Express, stands_after
from edge.http.subscribe import LANE
from edge.logs.setup import get_logger
from edge.server.accept import Lobby, Newcomer
from edge.server.fd_limit import FdLimit
from edge.transport import tcp

_log = get_logger("http")


class HubRequestHandler(web.RequestHandler):
    """One HTTP connection."""

    __slots__ = ("_express", "_later", "_unread_bytes")

    def __init__(self, manager: web.Server, express: Express, **options: Any) -> None:
        super().__init__(manager, **options)
        self._express = express
        self._later: bytes | None = None
        """What came between two requests, until aiohttp's task waits for the next one."""
        self._unread_bytes = 0
        """Of the last request's body; 0 when the parser stands between two messages."""

    def data_received(self, data: bytes) -> None:
        """aiohttp's task takes a turn of the loop from the end of one request to waiting for the next. A quick client
        is quicker; if its publish took the ordinary way for that, so would each behind it. So it waits for that turn.
        """
        if self._later is not None:
            self._later += data
        elif data and self._waiter is None and self._current_request is None and not self._messages:
            self._later = data
            self._loop.call_soon(self._read_later)
        else:
            self._read(data)

    def _read_later(self) -> None:
        data, self._later = self._later, None
        if data is not None and self.transport is not None:
            self._read(data)

    def _read(self, data: bytes) -> None:
        """Answer plain publishes, hand the rest to aiohttp, and follow where its parser stands."""
        waiter = self._waiter
        idle = waiter is not None and not waiter.done() and not self._messages and not self._paused
        if idle and self._unread_bytes == 0 and not (self._force_close or self._close):
            answers, dealt_with_bytes = self._express.answer(data)
            if dealt_with_bytes:
                assert self.transport is not None
                self.transport.write(answers)
                self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout
                if dealt_with_bytes == len(data):
                    return
                data = data[dealt_with_bytes:]
        before = len(self._messages)
        super().data_received(data)
        # aiohttp calls this without data, too, to have its parser go on.
        if data and self._unread_bytes != UNKNOWN:
            self._follow(data, len(self._messages) - before)
        if self._current_request is not None and self._messages:
            self._break_body(self._current_request)

    def _follow(self, data: bytes, new_messages: int) -> None:
        if self._unread_bytes > 0:
            self._unread_bytes = max(self._unread_bytes - len(data), UNKNOWN)
        elif new_messages != 1:
            self._unread_bytes = UNKNOWN
        else:
            message = self._messages[-1][0]
            if not isinstance(message, RawRequestMessage):
                self._unread_bytes = UNKNOWN
                return
            head_bytes, self._unread_bytes = stands_after(data, message)
            if self._unread_bytes != UNKNOWN:
                self._express.learn(data[:head_bytes], message)

    def _break_body(self, request: web.BaseRequest) -> None:
        """Tell a handler that its body has broken. aiohttp would only queue an error behind the request, and whoever
        reads the body would wait for the rest until the client goes away.
        """
        if isinstance(self._messages[-1][0], _ErrInfo) and not request.content.is_eof():
            self._messages.pop()
            request.content.set_exception(web.RequestPayloadError("The body is not well-formed."))
            request.content.feed_eof()  # or aiohttp would read on after the answer
            self.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Give the connection a kernel's time-out too: a client that doesn't take its answer goes."""
        super().connection_made(transport)
        sock = transport.get_extra_info("socket")
        if tcp.supported(sock):
            tcp.set_user_timeout(sock, self.keepalive_timeout)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002 - aiohttp calls it so
    ) -> web.StreamResponse:
        """The answer for what went wrong outside every handler. The connection closes after it."""
        if request.writer.output_size > 0:
            raise ConnectionError("An answer has begun already; the connection is of no more use.")
        if isinstance(exc, HttpProcessingError) or status == 400:
            _log.debug("malformed_http", address=request.remote, error=type(exc).__name__)
            answer = problems.response("malformed_http", "The request is not well-formed HTTP/1.1; see RFC 9112.")
        else:
            _log.error("unexpected_error", method=request.method, path=request.path, exc_info=exc)
            answer = problems.response(
                "internal", "This is a bug in the hub; its log has the details under unexpected_error."
            )
        answer.headers["Server"] = "edge"
        answer.force_close()
        return answer


class HubServer(web.Server):
    """Lets every connection into its lobby; what speaks HTTP there is a `HubRequestHandler`. Both of the parts are set
    before the first.
    """

    express: Express
    lobby: Lobby

    def __call__(self) -> asyncio.Protocol:  # type: ignore[override]  # aiohttp's own is only ever called by a loop
        return Newcomer(self.lobby)

    def handler(self) -> HubRequestHandler:
        return HubRequestHandler(self, self.express, loop=self._loop, **self._kwargs)

    def pre_shutdown(self) -> None:
        self.lobby.close()
        super().pre_shutdown()


class HubRunner(web.AppRunner):
    """An `AppRunner` whose server is a `HubServer`. Handlers are cancelled when their caller goes away."""

    def __init__(self, app: web.Application, *, shutdown_timeout_seconds: float) -> None:
        super().__init__(
            app,
            access_log=None,
            auto_decompress=False,  # compressed bodies are refused: bombs stay shut, unknown codings get our answer
            handler_cancellation=True,
            keepalive_timeout=app[CONTEXT].config.limits.idle_seconds,  # also the deadline of a request's headers
            shutdown_timeout=shutdown_timeout_seconds,
        )

    async def _make_server(self) -> web.Server:
        made: Any = await super()._make_server()
        server = HubServer(
            made.request_handler,
            request_factory=made.request_factory,
            handler_cancellation=made.handler_cancellation,
            loop=asyncio.get_running_loop(),
            **made._kwargs,
        )
        context = self.app[CONTEXT]
        server.express = Express(context, self.app[GUARD])
        server.lobby = Lobby(asyncio.get_running_loop(), FdLimit(context.hub), server.handler)
        return server

    async def listen_on(self, sock: socket.socket, *, backlog: int = 128, tls: ssl.SSLContext | None = None) -> None:
        """Serve who comes to a bound socket.

        On Linux a connection inherits the options of the socket it came to: what a stream needs of them is set once,
        and only then streams take their lane.
        """
        if tcp.supported(sock):
            tcp.prepare(sock, self.app[CONTEXT].config.stream.dead_after_seconds)
            assert isinstance(self.server, HubServer)
            self.server.lobby.lane = self.app.get(LANE)
        await web.SockSite(self, sock, backlog=backlog, ssl_context=tls).start()
