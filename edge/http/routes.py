"""What is wired to what: the routes, each with the right it takes, behind one door."""

from __future__ import annotations

from aiohttp import HttpVersion11, web

from edge.core.counters import DOOR_REASONS
from edge.http import access_log, ack, explain, openapi, page, problems, publish, status, subscribe, ticket, trigger
from edge.http.access_control import AccessControl, Route
from edge.http.context import CONTEXT, Context
from edge.http.stream_lane import StreamLane


def build(context: Context) -> web.Application:
    """The application around `context`."""
    app = _serving(context, routes(context))
    openapi.install(app)
    return app


def metrics_app(context: Context) -> web.Application:
    """What `metrics.port` serves: the numbers, and the two probes, behind the same door."""
    return _serving(context, (*_PROBES, _METRICS))


def _serving(context: Context, listed: tuple[Route, ...]) -> web.Application:
    around = (
        [access_log.carry_trace, access_log.log_access]
        if context.config.server.access_log
        else [access_log.carry_trace]
    )
    app = web.Application(client_max_size=context.config.limits.max_body_bytes, middlewares=around)
    app[CONTEXT] = context
    for route in listed:
        for method in ("GET", "HEAD") if route.method == "GET" else (route.method,):
            app.router.add_route(method, route.path, route.handler, expect_handler=_expected)
    guard = AccessControl(context, listed)
    guard.install(app)
    app[subscribe.LANE] = StreamLane(context, guard)
    app.on_response_prepare.append(_note_refused_reader)
    return app


def routes(context: Context) -> tuple[Route, ...]:
    """Every path, in the order of the API page."""
    project = "/projects/{project}"
    return (
        Route("GET", f"{project}/events", subscribe.subscribe, "subscribe"),
        Route("POST", f"{project}/events", publish.publish, "publish"),
        Route("GET", f"{project}/ready", status.ready, "status"),
        Route("GET", f"{project}/explain", explain.explain, "status"),
        Route("POST", f"{project}/trigger", trigger.trigger, "trigger"),
        Route("POST", f"{project}/connections/{{connection}}/ack", ack.ack, "subscribe"),
        Route("POST", f"{project}/ticket", ticket.ticket, "subscribe"),
        Route("GET", project, status.project, "status"),
        Route("DELETE", project, status.delete, "admin"),
        Route("GET", "/projects", status.projects, "status"),
        *_PROBES,
        _OPENAPI,
        *(() if context.config.metrics.port is not None else (_METRICS,)),
        *(Route("GET", path, handler, None) for path, handler in page.routes(with_page=context.config.server.page)),
    )


_OPENAPI = Route("GET", "/openapi.json", openapi.openapi, None)
_PROBES = (Route("GET", "/healthz", status.healthz, None), Route("GET", "/readyz", status.readyz, None))
_METRICS = Route("GET", "/metrics", status.metrics, "metrics")


async def _expected(request: web.Request) -> web.StreamResponse | None:
    """Answer an `Expect` header. aiohttp does so before any middleware, and what it doesn't know in plain text."""
    if request.version < HttpVersion11:
        return None
    if request.headers["Expect"].lower() != "100-continue":
        return problems.response("expectation_failed", "Expect may be 100-continue; leave the header out.")
    await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    request.writer.output_size = 0  # the answer itself has not begun
    return None


async def _note_refused_reader(request: web.Request, response: web.StreamResponse) -> None:
    """Whoever wanted to read and was refused, at the door, by a limit or by the route itself, is in the chronicle."""
    if response.status < 400 or request.match_info.handler is not subscribe.subscribe:
        return
    context = request.app[CONTEXT]
    code = response.get(problems.CODE, str(response.status))
    if code in DOOR_REASONS:
        context.hub.counters.rejected[code] += 1
    address = context.client_addresses.of(request)
    context.history.refused(request.match_info["project"], code, address, context.clock())
