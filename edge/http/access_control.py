"""Access control: every request passes here, and what it may not do ends here.

In this order: is it meant for this hub (`Host`), may the page that sent it (`Origin`), who sends it (a bearer token, a
ticket, a cookie), may they do this. Whatever raises becomes a problem document.

Invariant: a handler whose route requires a permission runs only for a caller who has it on the project in the path. On
a hub without any `auth` configured, which listens on this machine only, this costs two look-ups in the headers.
"""

from __future__ import annotations

import time

from edge.auth.hosts import Hosts, Origins, is_own
from edge.auth.permissions import Identity, on_all_projects
from edge.config.schema import Config
from edge.core.errors import Forbidden, Unauthenticated
from edge.http.context import Context
from edge.http.request import Request
from edge.http.response import Response
from edge.logs.ratelimit import LogDeduplicator
from edge.logs.setup import get_logger

_log = get_logger("http")

COOKIE = "edge_token"
TICKET = "ticket"
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
_CORS_MAX_AGE_SECONDS = 600
_CORS_HEADERS = (
    "Authorization, Cache-Control, Content-Type, Idempotency-Key, Last-Event-ID, "
    "X-Requested-With, baggage, datastar-request, traceparent, tracestate"
)
_CORS_EXPOSED = "Idempotency-Replayed, Retry-After"
_FOLD_SECONDS = 10.0


class AccessControl:
    """Access control of one hub."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._refusals: LogDeduplicator[str] = LogDeduplicator(period_seconds=_FOLD_SECONDS, max_keys=16)
        self.configure(context.config)

    def configure(self, config: Config) -> None:
        """Take what `config` allows; again when it was reloaded."""
        auth = config.auth
        self._origins = Origins(config.cors.origins)
        self._shares = bool(config.cors.origins)
        self._hosts = Hosts(config.server.allowed_hosts)
        self.open = not auth.configured
        self._check_hosts = self.open or bool(config.server.allowed_hosts)
        self._anonymous = Identity(on_all_projects(auth.anonymous), None, "anonymous")

    def check_source(self, request: Request) -> None:
        """Refuse what is refused whoever asks: the wrong host, a page of another origin."""
        headers = request.headers
        if self._check_hosts and not (request.authority is None and self._hosts.know(headers.get("Host"))):
            self._check_host(request)
        if request.method not in _SAFE:
            if "Origin" in headers:
                self._check_origin(request)
        elif "Sec-Fetch-Site" in headers and request.method != "OPTIONS":
            self._check_reading(request)

    def refused(self, request: Request, code: str) -> None:
        """Log a refusal, now and then."""
        suppressed = self._refusals.admit(code, self._context.clock()) if code in _LOGGED else None
        if suppressed is not None:
            address = self._context.client_addresses.of(request)
            _log.warning("request_refused", code=code, address=address, suppressed=suppressed)

    # Where it comes from

    def _check_host(self, request: Request) -> None:
        if not self.open and request.permission is None:
            return  # a probe by address: it learns no more than that the hub lives
        # In the absolute form (`GET http://name/ HTTP/1.1`) the target names the host a second time.
        named = request.headers.get("Host")
        if self._hosts.know(named) and (request.authority is None or self._hosts.know(request.authority)):
            return
        raise Forbidden(
            "The Host of the request is neither local nor in server.allowed_hosts; ask for the hub by a name it has.",
            code="wrong_host",
        )

    def _check_origin(self, request: Request) -> None:
        origin, host = request.headers.get("Origin") or "", request.headers.get("Host")
        if not self._origins.admits(origin, host):
            raise Forbidden(
                "Pages of this origin may not act on this hub; if they should, add it to cors.origins.",
                code="origin_not_allowed",
            )

    def _check_reading(self, request: Request) -> None:
        """A stream counts as a reader, so a page elsewhere may not open one, even where it couldn't read it."""
        headers = request.headers
        if headers.get("Sec-Fetch-Site") in ("same-origin", "none") or headers.get("Sec-Fetch-Mode") == "navigate":
            return
        if request.permission is not None:
            origin = headers.get("Origin")
            if origin is None or not self._origins.admits(origin, headers.get("Host")):
                raise Forbidden(
                    "Pages of other origins may not open this; if they should, add theirs to cors.origins.",
                    code="origin_not_allowed",
                )

    def options(self, request: Request) -> Response:
        """What may be done at a path; for a browser's preflight also from where and with which headers."""
        headers = {"Allow": request.allow}
        if "Origin" in request.headers and "Access-Control-Request-Method" in request.headers:
            self._check_origin(request)
            headers["Access-Control-Allow-Methods"] = request.allow
            headers["Access-Control-Allow-Headers"] = _CORS_HEADERS
            headers["Access-Control-Max-Age"] = str(_CORS_MAX_AGE_SECONDS)
        return Response(204, headers=headers)

    def shared(self, origin: str | None) -> bytes:
        """Header lines that tell browsers which pages may read an answer (with cookies, where one is named)."""
        if not self._shares:
            return b""
        lines = "Vary: Origin\r\n"
        if origin is not None:
            if self._origins.shares(origin):
                lines += f"Access-Control-Allow-Origin: {origin}\r\nAccess-Control-Allow-Credentials: true\r\n"
            elif self._origins.everyone:
                lines += "Access-Control-Allow-Origin: *\r\n"
            else:
                return lines.encode()
            lines += f"Access-Control-Expose-Headers: {_CORS_EXPOSED}\r\n"
        return lines.encode("latin-1")

    # Who it is, and what they may

    async def authorize(self, request: Request) -> None:
        """Find out who asks, and refuse a caller without the route's permission."""
        permission = request.permission
        if permission is None:
            return
        identity = await self._identity(request)
        known = identity is not None
        identity = identity or self._anonymous
        if not identity.permissions.allow(permission, request.project or None):
            where = "this project" if request.project else "the whole hub (*)"
            if known:
                raise Forbidden(f"The token lacks the permission {permission} on {where}.", permission=permission)
            raise Unauthenticated(
                f"This requires the permission {permission}: send Authorization: Bearer <token>, "
                f"the cookie {COOKIE}, or for a stream ?{TICKET}=."
            )
        request.identity = identity

    async def _identity(self, request: Request) -> Identity | None:
        """Who sends it; None when it shows nothing. A token that isn't good is refused."""
        verifier = self._context.verifier
        token = self._token(request)
        if token is None and (ticket := request.parameter(TICKET)) is not None:
            identity = await self._context.nodes.redeem_ticket(ticket, request.project or None)
            if identity.expires_at_seconds is not None and identity.expires_at_seconds <= time.time():
                raise Unauthenticated("The token that the ticket was given for has expired; get a new one.")
            return identity
        if token is None:
            token = self._cookie(request)
        if token is None:
            return None
        return verifier.remembered(token) or await verifier.verify(token)

    @staticmethod
    def _token(request: Request) -> str | None:
        header = request.headers.get("Authorization")
        if header is None:
            return None
        scheme, _, token = header.partition(" ")
        return token.strip() if scheme.lower() == "bearer" else None

    def _cookie(self, request: Request) -> str | None:
        cookies = request.headers.get("Cookie")
        if cookies is None or COOKIE not in cookies or not self._trusts(request):
            return None
        tokens = cookie_values(cookies, COOKIE)
        if len(tokens) > 1:
            raise Unauthenticated(f"The cookie {COOKIE} came twice; clear the one that isn't yours.")
        return tokens[0] if tokens else None

    def _trusts(self, request: Request) -> bool:
        """Whether a cookie counts: browsers add it by themselves, also for pages that only `*` lets in."""
        origin = request.headers.get("Origin")
        return origin is None or self._origins.shares(origin) or is_own(origin, request.headers.get("Host"))


_LOGGED = frozenset({"unauthenticated", "forbidden", "wrong_host", "origin_not_allowed", "keys_unavailable"})


def expiry_of(request: Request, now: float) -> float | None:
    """When who asks may no longer, on the hub's clock that says `now`; None for never."""
    expires_at_seconds = request.identity.expires_at_seconds
    return None if expires_at_seconds is None else now + expires_at_seconds - time.time()


def cookie_values(header: str, name: str) -> list[str]:
    """Every value that cookie `name` has in a `Cookie` header (RFC 6265, 4.2.1)."""
    found = []
    for part in header.split(";"):
        key, equals, value = part.partition("=")
        if equals and key.strip() == name:
            value = value.strip()
            found.append(value[1:-1] if len(value) >= 2 and value[0] == value[-1] == '"' else value)
    return found
