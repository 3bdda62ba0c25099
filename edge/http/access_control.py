"""Access control: every request passes here, and what it may not do ends here.

In this order: is the request for this hub (`Host`), may the page that sent it (`Origin`, `Sec-Fetch-Site`), who sends
it (a bearer
token, a ticket, a cookie), may they do this. Whatever raises becomes a problem document.

Invariant: a handler whose route requires a permission runs only for a caller who has it on the project in the path. On
a hub without any `auth` configured, which listens on this machine only, this costs two look-ups in the headers.
"""

from __future__ import annotations

import re
import time
from collections.abc import Awaitable, Sequence

from edge.auth.permissions import Identity, Permissions, on_all_projects
from edge.config.schema import Config
from edge.core.errors import Forbidden, Unauthenticated
from edge.http.context import Context
from edge.http.message import Request, Response
from edge.http.source import Hosts, Origins, is_own
from edge.logs.setup import LogDeduplicator, get_logger
from edge.logs.text import one_line, shorten

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
_SHOWN_CHARS = 200
_ECHOED_ORIGIN = re.compile(r"null|[a-z][a-z0-9+.-]*://[!-~]{1,300}", re.ASCII)


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
        self._anonymous = Identity(on_all_projects(auth.anonymous))

    def check_source(self, request: Request) -> None:
        """Refuse a wrong host and a page of another origin, before any authentication."""
        headers = request.headers
        if self._check_hosts and (headers.get("Host") not in self._hosts.known or request.authority is not None):
            self._check_host(request)
        if "Origin" in headers or "Sec-Fetch-Site" in headers:
            if request.method not in _SAFE:
                self._check_origin(request)
            elif request.permission is not None and request.method != "OPTIONS":
                self._check_reading(request)
        elif request.stream and "application/xhtml+xml" in (request.listed("Accept") or ""):
            # A browser that sends no Sec-Fetch-Site (an old one, or any over plain HTTP beyond this machine) loads a
            # page or a frame, and says neither whose.
            raise _foreign(request)

    def refused(self, request: Request, code: str) -> None:
        """Log a refusal, at most one of each code in ten seconds."""
        suppressed = self._refusals.admit(code, self._context.clock()) if code in _LOGGED else None
        if suppressed is not None:
            _log.warning(
                "request_refused",
                code=code,
                method=request.method,
                path=request.path,
                project=request.project or None,
                address=self._context.client_addresses.of(request),
                suppressed=suppressed,
                **(compared(request) if code in ("origin_not_allowed", "wrong_host") else {}),
            )

    # Where it comes from

    def _check_host(self, request: Request) -> None:
        if not self.open and request.permission is None:
            return  # a health check by address, which learns no more than that the hub is up
        # In the absolute form (`GET http://name/ HTTP/1.1`) the target names the host a second time.
        named = (request.headers.get("Host"), request.authority)
        unknown = next((host for host in named if not self._hosts.know(host)), None)
        if unknown is None:
            return
        shown = _shown(unknown)
        raise Forbidden(
            f"The request's Host {shown or '(empty)'} is neither local nor in server.allowed_hosts; add it there.",
            code="wrong_host",
            host=shown,
        )

    def _check_origin(self, request: Request) -> None:
        """An unsafe request may come from the hub's own pages, from listed origins, and from what is not a browser."""
        headers = request.headers
        site, origin = headers.get("Sec-Fetch-Site"), headers.get("Origin")
        # A page can't write Sec-Fetch-Site. Behind a proxy that rewrites Host it identifies the hub's own pages.
        if site == "same-origin" or (origin is None and site == "none"):
            return
        if origin is None or not self._origins.admits(origin, headers.get("Host")):
            raise _foreign(request)

    def _check_reading(self, request: Request) -> None:
        """A stream counts as a subscriber, so a foreign page may not open one, even where it could not read it: not by
        fetch, frame, object, form or navigation.
        """
        headers = request.headers
        site, origin = headers.get("Sec-Fetch-Site"), headers.get("Origin")
        if site in ("same-origin", "none"):
            return
        if origin is not None:
            if not self._origins.admits(origin, headers.get("Host")):
                raise _foreign(request)
        # A navigation to anything but a stream shows the person what they asked for, and the page nothing.
        elif request.stream or headers.get("Sec-Fetch-Mode") != "navigate":
            raise _foreign(request)

    def options(self, request: Request) -> Response:
        """What may be done at a path; for a browser's preflight also from where and with which headers."""
        headers = {"Allow": request.allow}
        if "Origin" in request.headers and "Access-Control-Request-Method" in request.headers:
            if not self._origins.admits(request.headers["Origin"], request.headers.get("Host")):
                raise _foreign(request)
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

    def shared_problem(self, origin: str | None) -> bytes:
        """As `shared`, for a problem: every page may read why it was refused."""
        lines = self.shared(origin)
        if origin is None or b"Allow-Origin" in lines or not _ECHOED_ORIGIN.fullmatch(origin):
            return lines
        vary = "" if lines else "Vary: Origin\r\n"
        allow = f"Access-Control-Allow-Origin: {origin}\r\nAccess-Control-Allow-Credentials: true\r\n"
        return lines + f"{vary}{allow}Access-Control-Expose-Headers: {_CORS_EXPOSED}\r\n".encode("latin-1")

    # Who it is, and what they may

    def identity(self, request: Request) -> Identity | Awaitable[Identity]:
        """The caller's identity, `anonymous` without a credential. Raises Unauthenticated for an invalid credential."""
        token = self._token(request)
        if token is None and (ticket := request.parameter(TICKET)) is not None:
            if not request.stream or request.method == "HEAD":  # which opens nothing, and so uses no ticket up
                raise Unauthenticated(f"A ticket only opens streams; send a token instead of ?{TICKET}=.")
            return self._redeem(request.query[TICKET] if request.projects else [ticket], request)
        if token is None:
            token = self._cookie(request)
        if token is None:
            return self._anonymous
        verifier = self._context.verifier
        return verifier.remembered(token) or verifier.verify(token)

    def _redeem(self, tickets: Sequence[str], request: Request) -> Identity | Awaitable[Identity]:
        """The identity behind the ticket of a stream, or behind as many tickets as it has projects, in their order."""
        names = request.query["project"] if request.projects else [request.project]
        if len(tickets) != len(names):
            raise Unauthenticated(f"A stream of several projects requires a ?{TICKET}= for each, in their order.")
        found = self._context.nodes.tickets.redeem(tickets[0], names[0] or None)
        if len(names) == 1 and isinstance(found, Identity):
            return self._subscriber(names, [found])
        return self._redeem_each(names, tickets, found)

    async def _redeem_each(
        self, names: Sequence[str], tickets: Sequence[str], found: Identity | Awaitable[Identity]
    ) -> Identity:
        identities = [found if isinstance(found, Identity) else await found]
        for ticket, name in zip(tickets[1:], names[1:], strict=True):
            found = self._context.nodes.tickets.redeem(ticket, name or None)
            identities.append(found if isinstance(found, Identity) else await found)
        return self._subscriber(names, identities)

    @staticmethod
    def _subscriber(names: Sequence[str], identities: Sequence[Identity]) -> Identity:
        """What the tickets of `identities` allow together: one stream of `names`."""
        ends = [one.expires_at_seconds for one in identities if one.expires_at_seconds is not None]
        if ends and min(ends) <= time.time():
            raise Unauthenticated("The token that the ticket was issued for has expired; get a new one.")
        if len(names) == 1:
            return identities[0]
        return Identity(Permissions({"subscribe": names}), min(ends, default=None), identities[0].subject)

    def authorize(self, request: Request, identity: Identity) -> None:
        """Refuse a caller without the route's permission."""
        permission = request.permission
        assert permission is not None
        request.identity = identity
        for project in request.projects or (request.project or None,):
            if identity.permissions.allow(permission, project):
                continue
            if identity is self._anonymous:
                raise Unauthenticated(
                    f"This requires the permission {permission}: send Authorization: Bearer <token>, "
                    f"the cookie {COOKIE}, or for a stream ?{TICKET}=."
                )
            where = project if request.projects else "this project" if project else "the whole hub (*)"
            raise Forbidden(f"The token lacks the permission {permission} on {where}.", permission=permission)

    @staticmethod
    def _token(request: Request) -> str | None:
        header = request.headers.get("Authorization")
        if header is None:
            return None
        if len(request.headers.getall("Authorization")) > 1:
            raise Unauthenticated("Authorization was sent twice; send one.")
        scheme, _, token = header.partition(" ")
        return token.strip() if scheme.lower() == "bearer" else None

    def _cookie(self, request: Request) -> str | None:
        cookies = "; ".join(request.headers.getall("Cookie", ()))
        if COOKIE not in cookies or not self._trusts(request):
            return None
        tokens = cookie_values(cookies, COOKIE)
        if len(tokens) > 1:
            raise Unauthenticated(f"The cookie {COOKIE} was sent twice; clear the one that isn't yours.")
        return tokens[0] if tokens else None

    def _trusts(self, request: Request) -> bool:
        """Whether a cookie counts: browsers send it by themselves, also for pages that only `*` admits."""
        headers = request.headers
        origin = headers.get("Origin")
        if origin is None or headers.get("Sec-Fetch-Site") == "same-origin":
            return True
        return self._origins.shares(origin) or is_own(origin, headers.get("Host"))


_LOGGED = frozenset({"unauthenticated", "forbidden", "wrong_host", "origin_not_allowed", "keys_unavailable"})


def compared(request: Request) -> dict[str, str | None]:
    """The Origin and the Host of a request that were compared, fit to be shown."""
    headers = request.headers
    named = {"origin": headers.get("Origin"), "host": headers.get("Host"), "site": headers.get("Sec-Fetch-Site")}
    return {name: _shown(value) for name, value in named.items()}


def _shown(value: str | None) -> str | None:
    return None if value is None else one_line(shorten(value, _SHOWN_CHARS))


def _foreign(request: Request) -> Forbidden:
    """The refusal of a page of another origin, with what was compared."""
    named = compared(request)
    origin, host = named["origin"] or "(none)", named["host"] or "(none)"
    return Forbidden(
        f"The page's Origin {origin} is neither the hub's own (Host {host}) nor in cors.origins. Add it there; or, if "
        "a proxy has rewritten Host, have it pass on the browser's (nginx: proxy_set_header Host $http_host).",
        code="origin_not_allowed",
        origin=named["origin"],
        host=named["host"],
    )


def expiry_of(request: Request, now: float) -> float | None:
    """When the caller's credential expires, on the hub's clock that says `now`; None for never."""
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
