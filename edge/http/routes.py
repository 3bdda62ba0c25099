"""What is served where: the table of routes, and the one function that answers every request.

`Application.answer` is all there is between aiohttp's parser and a handler: find the route, check where the request
comes from, who sends it and whether they may, check the query, run the handler. What any of it raises becomes a
problem document.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from contextlib import AbstractAsyncContextManager, nullcontext
from functools import lru_cache
from typing import Any, NamedTuple
from urllib.parse import unquote

from edge.auth.permissions import Identity
from edge.config.schema import Config
from edge.core.counters import DOOR_REASONS
from edge.core.errors import EdgeError
from edge.http import openapi, page, params, problems, publish, status, subscribe, trigger
from edge.http.access_control import AccessControl, compared
from edge.http.context import Context
from edge.http.message import HTTP_1_0, HTTP_1_1, Request, Response, TakenOver
from edge.logs.setup import get_logger

_log = get_logger("http")
_access_log = get_logger("access")
_GONE = 499
"""nginx's status for a client that went away before its answer."""


class Route(NamedTuple):
    """One thing the hub does. `permission`: what it requires, None where anybody may; `parameters`: what its query may
    hold.
    """

    method: str
    path: str
    handler: Callable[[Context, Request], Response | Awaitable[Response]]
    permission: str | None
    parameters: tuple[str, ...] = ()


def routes(context: Context) -> tuple[Route, ...]:
    """Every path, in the order of the API page."""
    project, waiting = "/projects/{project}", ("connections", "timeout", "confirm")
    files = page.routes(with_page=context.config.server.page, base_path=context.config.server.base_path or "")
    since = ("since", *params.LAST_ID_PARAMETERS)
    streaming, publishing = (*since, "heartbeat", "observe", "ticket"), ("type", "require", "wait", "final")
    return (
        Route("GET", f"{project}/events", subscribe.subscribe, "subscribe", streaming),
        Route("POST", f"{project}/events", publish.publish, "publish", publishing),
        Route("GET", SEVERAL, subscribe.subscribe, "subscribe", ("project", "prefix", *streaming)),
        Route("POST", SEVERAL, publish.publish, "publish", ("project", *publishing)),
        Route("GET", f"{project}/ready", status.ready, "status", waiting),
        Route("GET", f"{project}/explain", status.explain, "status"),
        Route("POST", f"{project}/trigger", trigger.trigger, "trigger", (*waiting, "on_timeout")),
        Route("POST", f"{project}/connections/{{connection}}/ack", status.ack, None, ("ticket",)),
        Route("POST", f"{project}/ticket", status.ticket, "subscribe"),
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


_MAX_REMEMBERED_CHARS = 300


@lru_cache(maxsize=2048)
def read_path(path: str, base_path: str) -> tuple[str | None, str, str]:
    """The path of a route (None outside of `base_path`), the project and the connection that `path` names."""
    parts, base = path.split("/"), base_path.split("/")
    if coded := "%" in path:
        parts = [unquote(part, errors="surrogateescape") for part in parts]
    if parts[: len(base)] == base:
        parts[: len(base)] = [""]
    elif "/".join(parts) not in _OUTSIDE:
        return None, "", ""
    project = connection = ""
    if len(parts) > 2 and parts[1] == "projects":
        project = parts[2]
        if project or len(parts) > 3:
            parts[2] = "{project}"
        if len(parts) == 6 and parts[3] == "connections" and parts[4]:
            connection, parts[4] = parts[4], "{connection}"
    if coded and any("/" in part for part in parts):  # `%2F` separates nothing
        return None, "", ""
    return "/".join(parts), project, connection


class Application:
    """The routes of one listening address, and how a request gets to its handler."""

    def __init__(self, context: Context, listed: Iterable[Route]) -> None:
        self.context = context
        self.lifespan: Callable[[], AbstractAsyncContextManager[None]] = nullcontext
        """What runs as long as the application is served."""
        self._access = AccessControl(context)
        self.shared = self._access.shared
        self.shared_problem = self._access.shared_problem
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

    def answer(self, request: Request) -> Response | Coroutine[Any, Any, Response]:
        """The answer to a request; a coroutine where it has to be waited for, which raises only ConnectionError."""
        began = time.monotonic() if self._logs else 0.0
        origin = request.headers.get("Origin")
        request.shared = self._no_origin if origin is None else self.shared(origin)
        try:
            answer = self._authenticate(request, self._find(request))
        except Exception as error:  # noqa: BLE001 - `_failed` logs what is unexpected
            answer = self._failed(request, error)
        if not isinstance(answer, Response):
            return self._answer_later(request, answer, began)
        if answer.status >= 400 or self._logs:
            self._answered(request, answer, began)
        return answer

    async def _answer_later(
        self, request: Request, coming: Awaitable[Response | Awaitable[Response]], began: float
    ) -> Response:
        response: Response | None = None
        try:
            answer = await coming
            response = answer if isinstance(answer, Response) else await answer
        except ConnectionError:
            raise
        except Exception as error:  # noqa: BLE001 - `_failed` logs what is unexpected
            response = self._failed(request, error)
        finally:
            self._answered(request, response, began)
        return response

    @staticmethod
    def _failed(request: Request, error: Exception) -> Response:
        """What a handler raised, as a problem: a refusal, or an unexpected error, which is logged with its trace."""
        if isinstance(error, EdgeError):
            return problems.from_error(error)
        _log.error("unexpected_error", method=request.method, path=request.path, exc_info=error)
        return problems.internal()

    def _answered(self, request: Request, response: Response | None, began: float) -> None:
        """Log an answer, None where the client went away before; a refusal is part of the project's history."""
        if response is not None and response.status >= 400:
            request.shared = self.shared_problem(request.headers.get("Origin"))
            if response.code != "internal":
                self._refused(request, response)
        if self._logs and not isinstance(response, TakenOver):
            self._log_access(request, response, began)

    def _authenticate(
        self, request: Request, route: Route | None
    ) -> Response | Awaitable[Response | Awaitable[Response]]:
        """What must hold of any request; then `_run`, at once or as soon as it is known who sent the request."""
        access = self._access
        if request.version not in (HTTP_1_1, HTTP_1_0):
            return problems.unsupported_version()
        access.check_source(request)
        if request.method == "OPTIONS" and request.allow:
            return access.options(request)
        if route is None:
            return problems.no_route(request.allow)
        if route.path == SEVERAL:
            if "project" not in request.query:  # or it is misspelt
                params.check_known(request, route.parameters)
            params.check_projects(request.query.get("project", ()))
        elif not request.project and route.path.startswith("/projects/"):  # `/projects//events`
            params.check_project("")
        if not access.open and route.permission is not None:
            identity = access.identity(request)
            if not isinstance(identity, Identity):
                return self._run_as(request, route, identity)
            access.authorize(request, identity)
        return self._run(request, route)

    async def _run_as(
        self, request: Request, route: Route, identity: Awaitable[Identity]
    ) -> Response | Awaitable[Response]:
        self._access.authorize(request, await identity)
        return self._run(request, route)

    def _run(self, request: Request, route: Route) -> Response | Awaitable[Response]:
        if self.context.opening is not None and route.permission not in (None, "metrics"):
            raise self.context.opening
        if request.project and request.project not in self.context.hub.projects:
            params.check_project(request.project)
        if request.query_string:
            params.check_known(request, route.parameters)
        if "Expect" in request.headers and request.version is not HTTP_1_0:
            params.check_expectation(request)
        return route.handler(self.context, request)

    def _find(self, request: Request) -> Route | None:
        """The route of a request, which learns its project, its permission and the methods of its path."""
        path = request.path
        read = read_path if len(path) <= _MAX_REMEMBERED_CHARS else read_path.__wrapped__
        pattern, request.project, request.connection = read(path, self._base_path)
        methods = None if pattern is None else self._table.get(pattern)
        if methods is None:
            if pattern == "*":
                request.allow = problems.ALL_METHODS
            return None
        route = methods.get(request.method)
        if route is None:
            request.allow = ", ".join(sorted({*methods, "OPTIONS"}))
            return None
        request.permission = route.permission
        if route.path == SEVERAL:
            request.projects = tuple(dict.fromkeys(request.query.get("project", ())))
        request.stream = route.handler is subscribe.subscribe
        if request.query_string and request.stream and request.parameter("observe") == "true":
            request.permission = "status"
        return route

    def _refused(self, request: Request, response: Response) -> None:
        """A subscriber that was refused, by access control or by a limit, is part of the project's history; an observer
        is not, nor is `HEAD`, which would have opened nothing.
        """
        code = response.code or str(response.status)
        self._access.refused(request, code)
        if not request.stream or request.method == "HEAD":
            return
        context = self.context
        if code in DOOR_REASONS:
            context.hub.counters.rejected[code] += 1
        if request.permission == "status":
            return
        detail = None
        if code == "origin_not_allowed":
            named = compared(request)
            detail = f"Origin {named['origin']}, Host {named['host']}"
        address = context.client_addresses.of(request)
        names = (request.project,) if request.project else request.projects[: params.MAX_PROJECTS]
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
