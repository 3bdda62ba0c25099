"""What is wired to what: the routes, and the one middleware that turns every refusal into a problem document."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import NamedTuple

from aiohttp import HttpVersion11, web

from edge.core.errors import EdgeError
from edge.http import ack, page, problems, publish, status, subscribe, trigger
from edge.http.service import SERVICE, Service
from edge.log import get_logger

_log = get_logger("http")
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Route(NamedTuple):
    """One thing the hub does, and the right it takes."""

    method: str
    path: str
    handler: Handler
    right: str | None


def build(service: Service) -> web.Application:
    """The application around `service`."""
    app = web.Application(client_max_size=service.config.limits.max_body_bytes, middlewares=[answer_refusals])
    app[SERVICE] = service
    for route in routes(service):
        for method in ("GET", "HEAD") if route.method == "GET" else (route.method,):
            app.router.add_route(method, route.path, route.handler, expect_handler=_expected)
    app.on_response_prepare.append(_no_versions)
    return app


def routes(service: Service) -> tuple[Route, ...]:
    """Every path, in the order of the API page."""
    project = "/projects/{project}"
    return (
        Route("GET", f"{project}/events", subscribe.subscribe, "subscribe"),
        Route("POST", f"{project}/events", publish.publish, "publish"),
        Route("GET", f"{project}/ready", status.ready, "status"),
        Route("POST", f"{project}/trigger", trigger.trigger, "trigger"),
        Route("POST", f"{project}/connections/{{connection}}/ack", ack.ack, "subscribe"),
        Route("GET", project, status.project, "status"),
        Route("DELETE", project, status.delete, "admin"),
        Route("GET", "/projects", status.projects, "status"),
        Route("GET", "/healthz", status.healthz, None),
        Route("GET", "/readyz", status.readyz, None),
        Route("GET", "/metrics", status.metrics, "metrics"),
        *(Route("GET", path, handler, None) for path, handler in page.routes(with_page=service.config.server.page)),
    )


@web.middleware
async def answer_refusals(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Every refusal is a problem document; what nobody foresaw is logged with its trace and told without it."""
    try:
        return await handler(request)
    except EdgeError as error:
        return problems.from_error(error)
    except web.HTTPException as error:
        return problems.from_http(error)
    except web.RequestPayloadError:
        return problems.response("malformed_http", "The body is not well-formed HTTP/1.1; see RFC 9112, section 7.1.")
    except ConnectionError:
        raise
    except Exception:  # noqa: BLE001 - the last one: it is logged with its trace
        _log.exception("unexpected_error", method=request.method, path=request.path)
        return problems.response(
            "internal", "This is a bug in the hub; its log has the details under unexpected_error."
        )


async def _expected(request: web.Request) -> web.StreamResponse | None:
    """Answer an `Expect` header. aiohttp does so before any middleware, and what it doesn't know in plain text."""
    if request.version < HttpVersion11:
        return None
    if request.headers["Expect"].lower() != "100-continue":
        return problems.response("expectation_failed", "Expect may be 100-continue; leave the header out.")
    await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    request.writer.output_size = 0  # the answer itself has not begun
    return None


async def _no_versions(_request: web.Request, response: web.StreamResponse) -> None:
    response.headers["Server"] = "edge"
