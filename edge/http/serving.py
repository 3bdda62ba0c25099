"""aiohttp's server, with our answers where it would write its own.

Malformed HTTP never reaches a handler: aiohttp's protocol object answers it in plain text and logs a traceback for
each. Here it is a problem document and a debug line. The subclasses touch names that aiohttp 3.14 does not promise
(`Server.__call__`, `_kwargs`, `_loop`; `RequestHandler.handle_error`, `_messages`, `_current_request`; `_ErrInfo`);
tests/http/test_serving.py pins what they do.
"""

from __future__ import annotations

import asyncio
from typing import Any

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.web_protocol import _ErrInfo

from edge.http import problems
from edge.log import get_logger

_log = get_logger("http")


class HubRequestHandler(web.RequestHandler):
    """One HTTP connection."""

    __slots__ = ()

    def data_received(self, data: bytes) -> None:
        """Tell a handler that its body has broken. aiohttp would only queue an error behind the request, and whoever
        reads the body would wait for the rest until the client goes away.
        """
        super().data_received(data)
        request = self._current_request
        if request is None or not self._messages or not isinstance(self._messages[-1][0], _ErrInfo):
            return
        if not request.content.is_eof():
            self._messages.pop()
            request.content.set_exception(web.RequestPayloadError("The body is not well-formed."))
            request.content.feed_eof()  # or aiohttp would read on after the answer
            self.close()

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
    """Makes a `HubRequestHandler` for each connection."""

    def __call__(self) -> web.RequestHandler:
        return HubRequestHandler(self, loop=self._loop, **self._kwargs)


class HubRunner(web.AppRunner):
    """An `AppRunner` whose server is a `HubServer`. Handlers are cancelled when their caller goes away."""

    def __init__(self, app: web.Application, *, shutdown_timeout_seconds: float) -> None:
        super().__init__(
            app,
            access_log=None,
            handler_cancellation=True,
            auto_decompress=False,  # compressed bodies are refused: bombs stay shut, unknown codings get our answer
            shutdown_timeout=shutdown_timeout_seconds,
        )

    async def _make_server(self) -> web.Server:
        made: Any = await super()._make_server()
        return HubServer(
            made.request_handler,
            request_factory=made.request_factory,
            handler_cancellation=made.handler_cancellation,
            loop=asyncio.get_running_loop(),
            **made._kwargs,
        )
