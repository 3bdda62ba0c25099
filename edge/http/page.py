"""The live page, `edge.js` and the client packages: a handful of files, answered from memory.

They are read when this module is imported, which is before there is an event loop that reading could hold, and
through importlib.resources, so that a packed program has them too. Each is held as it is and gzipped,
with an ETag for either; a browser asks again each time (`no-cache`) and gets 304. The page may load nothing but
what the hub itself serves, runs no inline script or style, and may stand in no frame.
"""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Awaitable, Callable, Iterable
from importlib import resources

from edge.http import clients, params
from edge.http.context import Context
from edge.http.message import Request, Response

Handler = Callable[[Context, Request], Awaitable[Response]]

CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
_COMMON_HEADERS = {"Cache-Control": "no-cache", "Vary": "Accept-Encoding", "Referrer-Policy": "no-referrer"}
_PAGE_HEADERS = {
    **_COMMON_HEADERS,
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
# The client is for every site: what it may do is decided where it asks, not where it comes from.
_CLIENT_HEADERS = {
    **_COMMON_HEADERS,
    "Access-Control-Allow-Origin": "*",
    "Cross-Origin-Resource-Policy": "cross-origin",
}
_STATIC = resources.files("edge").joinpath("static")
_CONTENT_TYPES = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".ts": "text/plain",
    ".svg": "image/svg+xml",
}


def routes(*, with_page: bool, base_path: str) -> Iterable[tuple[str, Handler]]:
    """Paths and their handlers: the clients' files, and the page's unless it is turned off."""
    served = _CLIENTS | (_PAGE if with_page else {})

    async def to_slash(_context: Context, _request: Request) -> Response:
        return Response(308, content_type="text/plain; charset=utf-8", headers={"Location": f"{base_path}/"})

    if with_page and base_path:
        served[""] = to_slash  # links of the page are relative
    return served.items()


def _static(name: str, headers: dict[str, str]) -> Handler:
    body, suffix = _STATIC.joinpath(name).read_bytes(), name[name.rindex(".") :]
    return _serve(body, f"{_CONTENT_TYPES[suffix]}; charset=utf-8", headers)


def _serve(body: bytes, content_type: str, headers: dict[str, str], *, compress: bool = True) -> Handler:
    """Serves `body`, gzipped for those who accept that if it is worth it (`compress`)."""
    packed = gzip.compress(body, mtime=0) if compress else body
    etags = [f'"{hashlib.blake2b(each, digest_size=12).hexdigest()}"' for each in (body, packed)]

    async def serve(_context: Context, request: Request) -> Response:
        zipped = compress and params.accepts_gzip(request.listed("Accept-Encoding"))
        own = {**headers, "ETag": etags[zipped]}
        if b"Access-Control-Allow-Origin" in request.shared:
            own.pop("Access-Control-Allow-Origin", None)  # browsers refuse an answer with two
        if _matches(request.listed("If-None-Match"), etags[zipped]):
            return Response(304, headers=own)
        if zipped:
            own["Content-Encoding"] = "gzip"
        return Response(200, packed if zipped else body, content_type, own)

    return serve


def _matches(header: str | None, etag: str) -> bool:
    """Whether `If-None-Match` names `etag`, weakly (RFC 9110, section 13.1.2)."""
    listed = (each.strip() for each in header.split(",")) if header else ()
    return any(each == "*" or each.removeprefix("W/") == etag for each in listed)


_CLIENTS = {
    **{f"/{name}": _static(name, _CLIENT_HEADERS) for name in ("edge.js", "edge.d.ts")},
    "/clients/": _serve(clients.index(), "text/html; charset=utf-8", _PAGE_HEADERS),
    **{
        f"/clients/{name}": _serve(package.body, package.content_type, _CLIENT_HEADERS, compress=False)
        for package in clients.PACKAGES
        for name in package.names
    },
}
_PAGE = {"/": _static("index.html", _PAGE_HEADERS)} | {
    f"/{file.name}": _static(file.name, _PAGE_HEADERS)
    for file in _STATIC.iterdir()
    if file.name.startswith("page") or file.name == "icon.svg"
}
