"""What is served where: the table of routes, and the one function that answers every request.

`Application.answer` is all there is between aiohttp's parser and a handler: find the route, check where the request
comes from, who sends it and whether they may, check the query, run the handler. What any of it raises becomes a
problem document.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import NamedTuple
from urllib.parse import unquote

from edge.config.schema import Config
from edge.core.counters import DOOR_REASONS
from edge.core.errors import EdgeError
from edge.http import explain, openapi, page, params, problems, publish, status, subscribe, ticket, trigger
from edge.http.access_control import AccessControl, compared
from edge.http.context import Context
from edge.http.request import HTTP_1_0, HTTP_1_1, Request
from edge.http.response import Response, TakenOver
from edge.logs import trace
from edge.logs.setup import get_logger

_log = get_logger("http")
_access_log = get_logger("access")
_GONE = 499
"""nginx's status for a client that went away before its answer."""
_ALL_METHODS = "DELETE, GET, HEAD, OPTIONS, POST"


class Route(NamedTuple):
    """One thing the hub does. `permission`: what it requires, None where anybody may; `parameters`: what its query may
    hold.
    """

    method: str
    path: str
    handler: Callable[[Context, Request], Awaitable[Response]]
    permission: str | None
    parameters: tuple[str, ...] = ()


def routes(context: Context) -> tuple[Route, ...]:
    """Every path, in the order of the API page."""
    project, waiting = "/projects/{project}", ("connections", "timeout", "confirm")
    files = page.routes(with_page=context.config.server.page, base_path=context.config.server.base_path or "")
    since = ("since", *subscribe.LAST_ID_PARAMETERS)
    streaming, publishing = (*since, "heartbeat", "observe", "ticket"), ("type", "require", "wait", "final")
    return (
        Route("GET", f"{project}/events", subscribe.subscribe, "subscribe", streaming),
        Route("POST", f"{project}/events", publish.publish, "publish", publishing),
        Route("GET", SEVERAL, subscribe.subscribe, "subscribe", ("project", "prefix", *streaming)),
        Route("POST", SEVERAL, publish.publish, "publish", ("project", *publishing)),
        Route("GET", f"{project}/ready", status.ready, "status", waiting),
        Route("GET", f"{project}/explain", explain.explain, "status"),
        Route("POST", f"{project}/trigger", trigger.trigger, "trigger", (*waiting, "on_timeout")),
        Route("POST", f"{project}/connections/{{connection}}/ack", ticket.ack, None, ("ticket",)),
        Route("POST", f"{project}/ticket", ticket.ticket, "subscribe"),
        Route("GET", project, status.project, "status"),
        Route("GET", f"{project}/history", status.history, "subscribe", (*since, "limit")),
        Route("DELETE", project, status.delete, "admin"),
        Route("GET", "/projects", status.projects, "status", ("limit", "offset", "sort", "match")),
        Route("GET", "/status", status.hub, "status"),
        *_PROBES,
        Route("GET", "/openapi.json", openapi.openapi, None),
        *(() if context.config.metrics.port is not None else (_METRICS,)),
        *(Route("GET", path, handler, None) for path, handler in files),
    )


SEVERAL = "/events"
"""What takes its projects from the query."""
_PROBES = (Route("GET", "/healthz", status.healthz, None), Route("GET", "/readyz", status.readyz, None))
_METRICS = Route("GET", "/metrics", status.metrics, "metrics")
_OUTSIDE = ("/healthz", "/readyz", "/metrics", "*")
"""What is served without `server.base_path`, too."""


def build(context: Context) -> Application:
    """The hub's application."""
    return Application(context, routes(context))


def metrics_app(context: Context) -> Application:
    """What `metrics.port` serves: the numbers, and the two probes, under the same access control."""
    return Application(context, (*_PROBES, _METRICS))


class Application:
    """The routes of one listening address, and how a request gets to its handler."""

    def __init__(self, context: Context, listed: Iterable[Route]) -> None:
        self.context = context
        self.lifespan: Callable[[], AbstractAsyncContextManager[None]] = nullcontext
        """What runs as long as the application is served."""
        self._access = AccessControl(context)
        self.shared = self._access.shared
        self._no_origin = self.shared(None)
        context.on_reload.append(self._configure)
        self._logs = context.config.server.access_log
        self._base_path = context.config.server.base_path or ""
        self._table: dict[str, dict[str, Route]] = {}
        for route in listed:
            methods = self._table.setdefault(route.path, {})
            methods[route.method] = route
            if route.method == "GET":
                methods["HEAD"] = methods["GET"]

    def _configure(self, config: Config) -> None:
        self._access.configure(config)
        self._no_origin = self.shared(None)

    async def answer(self, request: Request) -> Response:
        """The answer to a request. Nothing but the end of the connection or of the process is raised."""
        began = time.monotonic() if self._logs else 0.0
        headers = request.headers
        origin = headers.get("Origin")
        request.shared = self._no_origin if origin is None else self.shared(origin)
        traceparent = headers.get(trace.HEADER)
        if traceparent is not None:
            trace.carry(traceparent)
        response: Response | None = None
        try:
            route = self._find(request)
            try:
                response = await self._answer(request, route)
            except EdgeError as error:
                response = problems.from_error(error)
            if response.status >= 400:
                request.shared = self._access.shared_problem(origin)
                self._refused(request, route, response)
        except ConnectionError:
            raise
        except Exception as error:  # noqa: BLE001 - the last resort: unexpected errors are logged with their trace
            _log.error("unexpected_error", method=request.method, path=request.path, exc_info=error)
            response = problems.internal()
        finally:
            if self._logs and not isinstance(response, TakenOver):
                self._log_access(request, response, began)
        return response

    async def _answer(self, request: Request, route: Route | None) -> Response:
        headers, access = request.headers, self._access
        if request.version not in (HTTP_1_1, HTTP_1_0):
            return problems.unsupported_version()
        access.check_source(request)
        if request.method == "OPTIONS" and request.allow:
            return access.options(request)
        if route is None:
            return problems.no_route(request.allow)
        if route.path == SEVERAL:
            params.check_projects(request.query.get("project", ()))
        if not access.open:
            await access.authorize(request)
        if self.context.opening is not None and route.permission not in (None, "metrics"):
            raise self.context.opening
        if request.project and request.project not in self.context.hub.projects:
            params.check_project(request.project)
        if request.query_string:
            params.check_known(request, route.parameters)
        if "Expect" in headers and request.version is not HTTP_1_0:
            params.check_expectation(request)
        return await route.handler(self.context, request)

    def _find(self, request: Request) -> Route | None:
        """The route of a request, which learns its project, its permission and the methods of its path."""
        path = request.path
        parts = path.split("/")
        if "%" in path:
            parts = [unquote(part, errors="surrogateescape") for part in parts]
            path = "/".join(parts)
        base_path = self._base_path
        if base_path:
            if path.startswith(base_path) and path[len(base_path) : len(base_path) + 1] in ("", "/"):
                path = path[len(base_path) :]
                parts = path.split("/")
            elif path not in _OUTSIDE:
                return None
        if len(parts) > 2 and parts[1] == "projects":
            request.project, parts[2] = parts[2], "{project}" if parts[2] else ""
            if len(parts) == 6 and parts[3] == "connections" and parts[4]:
                request.connection, parts[4] = parts[4], "{connection}"
            path = "/".join(parts)
        methods = self._table.get(path)
        if methods is None:
            if path == "*":
                request.allow = _ALL_METHODS
            return None
        route = methods.get(request.method)
        if route is None:
            request.allow = ", ".join(sorted({*methods, "OPTIONS"}))
            return None
        request.permission = route.permission
        if route.path == SEVERAL:
            request.projects = tuple(dict.fromkeys(request.query.get("project", ())))
        request.stream = route.handler is subscribe.subscribe
        if request.stream and request.parameter("observe") == "true":
            request.permission = "status"
        return route

    def _refused(self, request: Request, route: Route | None, response: Response) -> None:
        """A subscriber that was refused, by access control or by a limit, is part of the project's history."""
        code = response.code or str(response.status)
        self._access.refused(request, code)
        if route is None or route.handler is not subscribe.subscribe:
            return
        context = self.context
        if code in DOOR_REASONS:
            context.hub.counters.rejected[code] += 1
        detail = None
        if code == "origin_not_allowed":
            named = compared(request)
            detail = f"Origin {named['origin']}, Host {named['host']}"
        address = context.client_addresses.of(request)
        names = request.projects[: params.MAX_PROJECTS] if route.path == SEVERAL else (request.project,)
        for name in names:
            context.history.refused(name, code, address, context.clock(), detail)

    def _log_access(self, request: Request, response: Response | None, began: float) -> None:
        """One line a request, once its answer is made. A stream has its line at its end, from `diagnose.observer`.

        No line holds the query string, which may have a ticket in it.
        """
        _access_log.info(
            "request",
            method=request.method,
            path=request.path,
            status=_GONE if response is None else response.status,
            duration_ms=round((time.monotonic() - began) * 1000, 3),
            bytes=None if response is None else len(response.body),
            address=self.context.client_addresses.of(request),
        )
