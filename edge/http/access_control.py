"""The one door: every request passes here, and what it may not do ends here.

In this order: is it meant for this hub (`Host`), may the page that sent it (`Origin`), who sends it (a bearer token, a
ticket, a cookie), may they do this. Then the handler runs, and every refusal becomes a problem document.

Invariant: a handler whose route names a right runs only for somebody who has it on the project in the path. On a hub
without any `auth` configured, which listens on this machine only, the door costs two look-ups in the headers.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterable
from typing import NamedTuple

from aiohttp import HttpVersion10, HttpVersion11, hdrs, web
from aiohttp.typedefs import Middleware

from edge.auth.hosts import Hosts, Origins, is_own
from edge.auth.permissions import ALL_PERMISSIONS, Identity, on_all_projects
from edge.core.errors import EdgeError, Forbidden, Unauthenticated
from edge.http import problems
from edge.http.context import Context
from edge.logs.ratelimit import LogDeduplicator
from edge.logs.setup import get_logger

_log = get_logger("http")
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

IDENTITY = web.RequestKey("identity", Identity)
"""Who asks; only set where `auth` is configured."""
COOKIE = "edge_token"
TICKET = "ticket"
_EVERY_METHOD = "DELETE, GET, HEAD, OPTIONS, POST"
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
_CORS_MAX_AGE_SECONDS = 600
_CORS_HEADERS = "Authorization, Cache-Control, Content-Type, Idempotency-Key, Last-Event-ID"
_CORS_EXPOSED = "Idempotency-Replayed, Retry-After"
_FOLD_SECONDS = 10.0
_EVERYBODY = Identity(ALL_PERMISSIONS, None, "open")


class Route(NamedTuple):
    """One thing the hub does, and the right it takes; None is free for all."""

    method: str
    path: str
    handler: Handler
    permission: str | None


class AccessControl:
    """The door of one hub. `routes` say which right each handler takes."""

    def __init__(self, context: Context, routes: Iterable[Route]) -> None:
        config = context.config
        auth = config.auth
        self._service = context
        self._permissions = {route.handler: route.permission for route in routes}
        self._origins = Origins(config.cors.origins)
        self._hosts = Hosts(config.server.allowed_hosts)
        self._open = not auth.configured
        self._check_hosts = self._open or bool(config.server.allowed_hosts)
        self._anonymous = Identity(on_all_projects(auth.anonymous), None, "anonymous")
        self._refusals: LogDeduplicator[str] = LogDeduplicator(period_seconds=_FOLD_SECONDS, max_keys=16)

    def install(self, app: web.Application) -> None:
        """Stand in front of every handler of `app`."""
        app[GUARD] = self
        app.middlewares.append(self._middleware())
        app.on_response_prepare.append(_no_versions)
        if self._origins.everyone or self._service.config.cors.origins:
            app.on_response_prepare.append(self._share)

    @property
    def shared_headers(self) -> bytes:
        """Header lines that the answer to a request without `Origin` bears."""
        return b"Vary: Origin\r\n" if self._origins.everyone or self._service.config.cors.origins else b""

    def passes_at_once(self, host: str | None, bearer: str | None, permission: str, project: str) -> bool:
        """Whether a request that shows nothing but these passes. False says nothing: the ordinary way knows more."""
        if self._check_hosts and not self._hosts.know(host):
            return False
        if self._open:
            return True
        identity = self._anonymous if bearer is None else self._service.verifier.static(bearer)
        return identity is not None and identity.permissions.allow(permission, project)

    def _middleware(self) -> Middleware:
        look_where_from, is_open, authorise = self._look_where_from, self._open, self._authorise

        @web.middleware
        async def pass_the_door(request: web.Request, handler: Handler) -> web.StreamResponse:
            try:
                answer = look_where_from(request)
                if answer is not None:
                    return answer
                if not is_open:
                    await authorise(request)
                return await handler(request)
            except ConnectionError:
                raise
            except Exception as error:  # noqa: BLE001 - the last one: what nobody foresaw is logged with its trace
                return self._refusal(request, error)

        return pass_the_door

    def _refusal(self, request: web.Request, error: Exception) -> web.Response:
        match error:
            case EdgeError():
                if error.code in _TOLD:
                    self._tell(request, error.code)
                return problems.from_error(error)
            case web.HTTPException():
                return problems.from_http(error)
            case web.RequestPayloadError():
                sentence = "The body is not well-formed HTTP/1.1; see RFC 9112, section 7.1."
                return problems.response("malformed_http", sentence)
        _log.error("unexpected_error", method=request.method, path=request.path, exc_info=error)
        return problems.response(
            "internal", "This is a bug in the hub; its log has the details under unexpected_error."
        )

    def _look_where_from(self, request: web.Request) -> web.StreamResponse | None:
        """What needs no knowledge of who asks; an answer where that is all there is to say."""
        if request.version is not HttpVersion11 and request.version != HttpVersion10:
            return _unspoken(request)
        headers, method = request.headers, request.method
        if self._check_hosts and not (self._hosts.know(headers.get(hdrs.HOST)) and request.raw_path[0] == "/"):
            self._check_host(request)
        if method not in _SAFE:
            if hdrs.ORIGIN in headers:
                self._check_origin(request)
        elif method == "OPTIONS":
            return self._options(request)
        elif "Sec-Fetch-Site" in headers:
            self._check_reading(request)
        return None

    # Where it comes from

    def _check_host(self, request: web.Request) -> None:
        if not self._open and self._permission(request) is None:
            return  # a probe by address: it learns no more than that the hub lives
        # In the absolute form (`GET http://name/ HTTP/1.1`) the target names the host a second time.
        named = request.headers.get(hdrs.HOST) if request.raw_path[0] in "/*" else request.host
        if self._hosts.know(request.headers.get(hdrs.HOST)) and self._hosts.know(named):
            return
        raise Forbidden(
            "The Host of the request is neither local nor in server.allowed_hosts; ask for the hub by a name it has.",
            code="wrong_host",
        )

    def _check_origin(self, request: web.Request) -> None:
        origin, host = request.headers[hdrs.ORIGIN], request.headers.get(hdrs.HOST)
        if not self._origins.admits(origin, host):
            raise Forbidden(
                "Pages of this origin may not act on this hub; if they should, add it to cors.origins.",
                code="origin_not_allowed",
            )

    def _check_reading(self, request: web.Request) -> None:
        """A stream counts as a reader, so a page elsewhere may not open one, even where it couldn't read it."""
        headers = request.headers
        if headers["Sec-Fetch-Site"] in ("same-origin", "none") or headers.get("Sec-Fetch-Mode") == "navigate":
            return
        if self._permission(request) is not None:
            origin = headers.get(hdrs.ORIGIN)
            if origin is None or not self._origins.admits(origin, headers.get(hdrs.HOST)):
                raise Forbidden(
                    "Pages of other origins may not open this; if they should, add theirs to cors.origins.",
                    code="origin_not_allowed",
                )

    def _options(self, request: web.Request) -> web.StreamResponse:
        """What may be done at a path; for a browser's preflight also from where and with which headers."""
        allowed = _EVERY_METHOD if request.raw_path == "*" else allowed_methods(request)
        if allowed is None:
            raise web.HTTPNotFound
        answer = web.Response(status=204, headers={hdrs.ALLOW: allowed})
        origin = request.headers.get(hdrs.ORIGIN)
        if origin is not None and hdrs.ACCESS_CONTROL_REQUEST_METHOD in request.headers:
            self._check_origin(request)
            answer.headers[hdrs.ACCESS_CONTROL_ALLOW_METHODS] = allowed
            answer.headers[hdrs.ACCESS_CONTROL_ALLOW_HEADERS] = _CORS_HEADERS
            answer.headers[hdrs.ACCESS_CONTROL_MAX_AGE] = str(_CORS_MAX_AGE_SECONDS)
        return answer

    async def _share(self, request: web.Request, response: web.StreamResponse) -> None:
        """Tell browsers that pages of a listed origin may read the answer (with cookies, where it is named)."""
        headers = response.headers
        headers.add(hdrs.VARY, hdrs.ORIGIN)
        origin = request.headers.get(hdrs.ORIGIN)
        if origin is None:
            return
        if self._origins.shares(origin):
            headers[hdrs.ACCESS_CONTROL_ALLOW_ORIGIN] = origin
            headers[hdrs.ACCESS_CONTROL_ALLOW_CREDENTIALS] = "true"
        elif self._origins.everyone:
            headers[hdrs.ACCESS_CONTROL_ALLOW_ORIGIN] = "*"
        else:
            return
        headers[hdrs.ACCESS_CONTROL_EXPOSE_HEADERS] = _CORS_EXPOSED

    # Who it is, and what they may

    async def _authorise(self, request: web.Request) -> None:
        permission = self._permission(request)
        if permission is None:
            return
        project = request.match_info.get("project")
        identity = await self._identity(request, project)
        known = identity is not None
        identity = identity or self._anonymous
        if not identity.permissions.allow(permission, project):
            where = "this project" if project is not None else "the whole hub (*)"
            if known:
                raise Forbidden(
                    f"The token shown doesn't give the right {permission} on {where}.", permission=permission
                )
            raise Unauthenticated(
                f"This takes the right {permission}: send Authorization: Bearer <token>, "
                f"the cookie {COOKIE}, or for a stream ?{TICKET}=."
            )
        request[IDENTITY] = identity

    async def _identity(self, request: web.Request, project: str | None) -> Identity | None:
        """Whose request it is; None when it shows nothing. What it shows and is no good is refused."""
        header = request.headers.get(hdrs.AUTHORIZATION)
        if header is not None:
            scheme, _, token = header.partition(" ")
            if scheme.lower() == "bearer":
                return await self._service.verifier.verify(token.strip())
        if TICKET in request.query:
            identity = await self._shown(request.query[TICKET], project)
            if identity.expires_at_seconds is not None and identity.expires_at_seconds <= time.time():
                raise Unauthenticated("The token that the ticket was given for has expired; get a new one.")
            return identity
        cookies = request.headers.get(hdrs.COOKIE)
        if cookies is not None and COOKIE in cookies and self._trusts(request):
            tokens = cookie_values(cookies, COOKIE)
            if len(tokens) > 1:
                raise Unauthenticated(f"The cookie {COOKIE} came twice; clear the one that isn't yours.")
            if tokens:
                return await self._service.verifier.verify(tokens[0])
        return None

    async def _shown(self, ticket: str, project: str | None) -> Identity:
        if self._service.cluster is not None:
            return await self._service.cluster.tickets.redeem(ticket, project)
        return self._service.tickets.redeem(ticket, project, self._service.clock())

    def _trusts(self, request: web.Request) -> bool:
        """Whether a cookie counts: browsers add it by themselves, also for pages that only `*` lets in."""
        origin = request.headers.get(hdrs.ORIGIN)
        return origin is None or self._origins.shares(origin) or is_own(origin, request.headers.get(hdrs.HOST))

    def _permission(self, request: web.Request) -> str | None:
        return self._permissions.get(request.match_info.handler)

    def _tell(self, request: web.Request, code: str) -> None:
        suppressed = self._refusals.admit(code, self._service.clock())
        if suppressed is not None:
            _log.warning(
                "request_refused", code=code, address=self._service.client_addresses.of(request), suppressed=suppressed
            )


GUARD = web.AppKey("guard", AccessControl)
_TOLD = frozenset({"unauthenticated", "forbidden", "wrong_host", "origin_not_allowed", "keys_unavailable"})


def identity_of(request: web.Request) -> Identity:
    """Who asks."""
    identity: Identity = request.get(IDENTITY, _EVERYBODY)
    return identity


def expiry_of(request: web.Request, now: float) -> float | None:
    """When who asks may no longer, on the hub's clock that says `now`; None for never."""
    expires_at_seconds = identity_of(request).expires_at_seconds
    return None if expires_at_seconds is None else now + expires_at_seconds - time.time()


def allowed_methods(request: web.Request) -> str | None:
    """The value of `Allow` for the path of a request; None when nothing is there."""
    refusal = request.match_info.http_exception
    if refusal is None or not isinstance(refusal, web.HTTPMethodNotAllowed):
        return None
    return ", ".join(sorted({*refusal.allowed_methods, "OPTIONS"}))


def cookie_values(header: str, name: str) -> list[str]:
    """Every value that cookie `name` has in a `Cookie` header (RFC 6265, 4.2.1)."""
    found = []
    for part in header.split(";"):
        key, equals, value = part.partition("=")
        if equals and key.strip() == name:
            value = value.strip()
            found.append(value[1:-1] if len(value) >= 2 and value[0] == value[-1] == '"' else value)
    return found


def _unspoken(request: web.Request) -> web.Response:
    """The answer to HTTP/0.9 and 2.0, which the parser lets through, in HTTP/1.1."""
    request._cache["version"] = HttpVersion11  # what the status line is made of
    answer = problems.response("unsupported_http_version", "The hub speaks HTTP/1.1 and HTTP/1.0.")
    answer.force_close()
    return answer


async def _no_versions(_request: web.Request, response: web.StreamResponse) -> None:
    response.headers["Server"] = "edge"
