"""aiohttp's low-level server, with a request and an answer of our own.

Every head is read by aiohttp's C parser. `web.Server` runs a task for each connection, takes one message after another
and asks its handler for an answer: here that is `Application.answer`, the request is a `Received`, and the answer is
bytes. What aiohttp itself would answer (malformed HTTP) is a problem document and a log line.

The classes touch names that aiohttp 3.14 does not promise: of `RequestHandler` `_messages`, `_drain_helper` and
`_current_request`; of `Server` `_loop` and `_kwargs`; what a request is asked for (`_task`, `_finish`, `_cancel`);
`_buffer` of a body; `_ErrInfo`. tests/server/test_aiohttp_server.py pins what they do.
"""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http_exceptions import LineTooLong
from aiohttp.http_parser import RawRequestMessage
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader
from aiohttp.web_protocol import _ErrInfo

from edge.core.errors import InvalidRequest
from edge.http import problems
from edge.http.request import HTTP_1_1, Request, half_closed
from edge.http.response import Response
from edge.http.routes import Application
from edge.logs.setup import get_logger
from edge.server.accept import Acceptor, PendingConnection
from edge.server.fd_limit import FdLimit
from edge.transport import tcp

_log = get_logger("http")
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_HTTP_2_PREFACE = b"PRI * HTTP/2.0\r\n"
_MAX_FAILED_HEAD_BYTES = 64 * 1024
_SHOWN_BYTES = 64
_LINGER_SECONDS = 1.0
_MAX_PIECES = 64
"""Of one read. More than aiohttp takes of pipelined requests; a body full of empty lines costs no more than this."""
_SHORT_BODY_BYTES = 64 * 1024
_ORIGIN = re.compile(rb"\n[Oo][Rr][Ii][Gg][Ii][Nn]:[ \t]*([!-~]{1,300})[ \t]*\r?\n")


class Received(Request):
    """A request that aiohttp has received; it knows where its body comes from and where its answer goes."""

    __slots__ = ("_broken", "_handler", "_message", "_payload", "_task", "continued", "leash")

    def __init__(
        self,
        message: RawRequestMessage,
        payload: StreamReader,
        handler: HubRequestHandler,
        task: asyncio.Task[None],
    ) -> None:
        super().__init__(message.method, message.path, message.version, message.headers, handler.peer)
        self._message = message
        self._payload = payload
        self._broken = False
        self._handler = handler
        self._task = task  # aiohttp clears it
        self.leash: asyncio.Timeout | None = None
        """Ends what waits for a caller that has closed its side."""
        self.continued = False
        """Whether a caller that waits for `100 Continue` has got it."""

    @property
    def protocol(self) -> HubRequestHandler:
        return self._handler

    # What the handlers ask for

    def body(self) -> bytes | None:
        payload = self._payload
        if not payload.is_eof():
            return None
        if payload is EMPTY_PAYLOAD:
            return b""
        try:
            pieces = payload._buffer
            if self._broken:
                raise _broken_body()
            # Reading by `read_nowait` has the parser and the transport go on, which a short body has not paused.
            if len(pieces) == 1 and len(pieces[0]) <= _SHORT_BODY_BYTES and payload.exception() is None:
                return pieces[0]
            return payload.read_nowait(-1)
        except web.RequestPayloadError:
            raise _broken_body() from None

    async def next_chunk(self) -> bytes:
        payload = self._payload
        if not self.continued and "Expect" in self.headers and not payload.is_eof():
            self.continued = True
            if self.version == HTTP_1_1 and self._handler.transport is not None:
                self._handler.transport.write(_CONTINUE)
        try:
            chunk = await payload.readany()
        except web.RequestPayloadError:
            raise _broken_body() from None
        if not chunk and self._broken:
            raise _broken_body()
        return chunk

    def break_off(self) -> None:
        """The rest of the body will never come, or can't be read: a handler gets what there is, then the error."""
        self._broken = True
        self._payload.feed_eof()

    @property
    def half_closed(self) -> bool:
        return self._handler.half_closed

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

    async def send(self, response: Response) -> None:
        """Write the answer; wait while the caller doesn't take what was written before."""
        handler = self._handler
        handler.request = None
        transport = handler.transport
        if transport is None:
            response.keep_alive = False
            return
        if (
            self._message.should_close
            or ((handler.half_closed or handler.failed) and not handler._messages)
            # Whether the caller will still send the body it holds back can't be known.
            or ("Expect" in self.headers and not self.continued and not self._payload.is_eof())
        ):
            response.keep_alive = False
        transport.write(response.encode(self))
        if handler.writing_paused:
            await handler._drain_helper()
        if handler.failed and not handler._messages and transport.can_write_eof():
            await handler.linger(transport)

    # What aiohttp asks for

    def _finish(self) -> None:
        """aiohttp's requests end the reading of forms here."""

    def _cancel(self, error: BaseException) -> None:
        self._payload.set_exception(error)


class HubRequestHandler(web.RequestHandler):
    """One HTTP connection."""

    __slots__ = ("_closed_by_caller", "_head", "_network", "failed", "half_closed", "peer", "request")

    def __init__(self, server: HubServer, network: str | None, **options: Any) -> None:
        super().__init__(server, **options)
        self._network = network
        """What its connection is counted as."""
        self.half_closed = False
        self.peer: str | None = None
        self.request: Received | None = None
        """The one that is being answered."""
        self._closed_by_caller: asyncio.Future[None] | None = None
        self.failed = False
        """Whether the parser has given up; what comes behind has no meaning."""
        self._head = b""
        """What has come of a head that isn't complete: the parser gives an error, but not what it is about."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        address = self.peername
        self.peer = address[0] if isinstance(address, tuple) else None

    def connection_lost(self, exc: BaseException | None) -> None:
        """The connection was lost, or a stream has taken it over."""
        network, self._network = self._network, None
        server = self._manager
        if isinstance(server, HubServer):
            server.acceptor.uncount(network)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Give the parser one head at a time: it forgets those before a malformed one that come in the same piece."""
        begin = 0
        end = data.find(b"\r\n\r\n") + 4
        if end != 3 and data.startswith(b"POST ") and data.find(b" HTTP/", end) < 0:
            end = 3  # one request and its body
        for _ in range(_MAX_PIECES):
            if end == 3 or end == len(data):
                break
            self._feed(data[begin:end])
            begin = end
            end = data.find(b"\r\n\r\n", begin) + 4
        self._feed(data[begin:] if begin else data)

    def _feed(self, data: bytes) -> None:
        if self.failed:
            return
        super().data_received(data)
        messages = self._messages
        if not messages:
            if data and (self.request is None or self.request._payload.is_eof()):
                self._head = (self._head + data)[-_MAX_FAILED_HEAD_BYTES:]
            return
        error = messages[-1][0]
        if not isinstance(error, _ErrInfo):
            self._head = b""
        else:
            self._head += data
            self.failed = True
            self._break_body()

    def _break_body(self) -> None:
        """End a body that has broken. aiohttp would only queue an error behind its request, and the handler that reads
        it would wait for the rest until the client goes away.
        """
        request, messages = self.request, self._messages
        if len(messages) > 1:
            payload = messages[-2][1]
        elif request is not None:
            payload = request._payload
        else:
            return
        if payload.is_eof():
            return
        messages.pop()
        _log.debug("malformed_http", address=self.peer, error="body")
        if len(messages):
            payload.set_exception(web.RequestPayloadError("The body is not well-formed."))
            payload.feed_eof()
        elif request is not None:
            request.break_off()

    async def linger(self, transport: asyncio.Transport) -> None:
        """Close our side and wait for the caller's: closing with bytes unread would reset the connection, and the
        answer might be lost with it (RFC 9112, 9.6).
        """
        transport.write_eof()
        self._closed_by_caller = self._loop.create_future()
        await asyncio.wait((self._closed_by_caller,), timeout=_LINGER_SECONDS)

    def eof_received(self) -> bool:  # type: ignore[override]  # aiohttp's always closes
        """RFC 9112, 9.6: what came whole is answered, then the connection closes."""
        if self._closed_by_caller is not None and not self._closed_by_caller.done():
            self._closed_by_caller.set_result(None)
        request = self.request
        if (request is None and not self._messages) or self.ssl_context is not None:
            return False
        self.half_closed = True
        if request is not None and request.leash is not None:
            request.leash.reschedule(self._loop.time())
        if request is not None and not request._payload.is_eof():
            request.break_off()
        return True

    def handle_error(  # type: ignore[override]  # our answers are ours
        self,
        request: Received,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002 - aiohttp calls it so
    ) -> Response:
        """The answer for what the parser refused, or for what went wrong outside every handler."""
        if status == 400:
            answer = self._unparsed(request, exc)
        else:
            _log.error("unexpected_error", method=request.method, path=request.path, exc_info=exc)
            answer = problems.internal()
        answer.keep_alive = False
        return answer

    def _unparsed(self, request: Received, error: BaseException | None) -> Response:
        """Name what is wrong with a head that aiohttp's parser gave up on."""
        head, self._head = self._head, b""
        server = self._manager
        assert isinstance(server, HubServer)
        origin = _ORIGIN.search(head)
        request.shared = server.app.shared(None if origin is None else origin[1].decode())
        if head.startswith(_HTTP_2_PREFACE):
            return problems.unsupported_version()
        if not isinstance(error, LineTooLong):
            _log.debug("malformed_http", address=self.peer, error=type(error).__name__)
            return problems.response("malformed_http", "The request is not well-formed HTTP/1.1; see RFC 9112.")
        limit_bytes = int(error.args[1])
        line = next((line for line in head.split(b"\n") if len(line) > limit_bytes), b"")
        name = line.partition(b":")[0][:_SHOWN_BYTES].decode("latin-1")
        if " " in name:
            _log.warning("url_too_long", address=self.peer, limit_bytes=limit_bytes)
            detail = f"The URL is longer than {limit_bytes} bytes; send what is long in the body."
            return problems.response("url_too_long", detail, fields={"limit_bytes": limit_bytes})
        _log.warning("header_too_large", address=self.peer, header=name, limit_bytes=limit_bytes)
        return problems.response(
            "header_too_large",
            f"The header {name or 'of this request'} is longer than {limit_bytes} bytes; shorten it.",
            fields={"header": name, "limit_bytes": limit_bytes},
        )


def _broken_body() -> InvalidRequest:
    return InvalidRequest("The body is not well-formed HTTP/1.1; see RFC 9112, section 7.1.", code="malformed_http")


class HubServer(web.Server):
    """Makes a `PendingConnection` of each new connection; what speaks HTTP then is a `HubRequestHandler`."""

    def __init__(self, app: Application) -> None:
        config = app.context.config
        loop = asyncio.get_running_loop()
        super().__init__(
            app.answer,  # type: ignore[arg-type]  # our answers are ours
            request_factory=_received,  # type: ignore[arg-type]
            handler_cancellation=True,  # handlers end with their caller
            loop=loop,
            access_log=None,
            auto_decompress=False,  # compressed bodies are refused: bombs stay shut, unknown codings get our answer
            keepalive_timeout=config.limits.idle_seconds,  # also the deadline of a request's headers
        )
        self.app = app
        self.acceptor = Acceptor(
            loop,
            FdLimit(app.context.hub),
            self.handler,
            config.limits.idle_seconds,
            max_per_address=config.limits.max_connections_per_address,
            is_proxy=app.context.client_addresses.is_proxy,
        )

    def __call__(self) -> asyncio.Protocol:  # type: ignore[override]  # aiohttp's own is only ever called by a loop
        return PendingConnection(self.acceptor)

    def handler(self, network: str | None) -> HubRequestHandler:
        return HubRequestHandler(self, network, loop=self._loop, **self._kwargs)

    def pre_shutdown(self) -> None:
        self.acceptor.close()
        super().pre_shutdown()


def _received(
    message: RawRequestMessage,
    payload: StreamReader,
    handler: HubRequestHandler,
    _writer: AbstractStreamWriter,
    task: asyncio.Task[None],
) -> Received:
    request = handler.request = Received(message, payload, handler, task)
    return request


class HubRunner:
    """Serves an application on sockets: its lifespan begins with `setup` and ends with `cleanup`."""

    server: HubServer

    def __init__(self, app: Application, *, shutdown_timeout_seconds: float) -> None:
        self._app = app
        self._shutdown_timeout_seconds = shutdown_timeout_seconds
        self._lifespan = AsyncExitStack()
        self._listening: list[asyncio.Server] = []

    async def setup(self) -> None:
        await self._lifespan.enter_async_context(self._app.lifespan())
        self.server = HubServer(self._app)

    async def listen_on(self, sock: socket.socket, *, backlog: int = 128, tls: ssl.SSLContext | None = None) -> None:
        """Serve who comes to a bound socket. On Linux a connection inherits the options that are set here."""
        if tcp.supported(sock):
            tcp.prepare(sock, self._app.context.config.limits.idle_seconds)
        loop = asyncio.get_running_loop()
        serve = loop.create_unix_server if sock.family == socket.AF_UNIX else loop.create_server
        self._listening.append(await serve(self.server, sock=sock, backlog=backlog, ssl=tls))

    async def stop_listening(self) -> None:
        """Accept no one any more; the connections that are there stay."""
        for listening in self._listening:
            listening.close()

    async def cleanup(self) -> None:
        """End the connections: handlers at work get the shutdown time-out to finish."""
        await self.stop_listening()
        await asyncio.sleep(0)
        self.server.pre_shutdown()
        await self.server.shutdown(self._shutdown_timeout_seconds)
        await self._lifespan.aclose()
