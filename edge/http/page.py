"""The live page, `edge.js` and the client packages: a handful of files, answered from memory.

They are read when this module is imported, which is before there is an event loop that reading could hold, and
through importlib.resources, so that a packed program has them too. Each is held as it is and gzipped,
with an ETag for either; a browser asks again each time (`no-cache`) and gets 304. The page may load nothing but
what the hub itself serves, runs no inline script or style, and may stand in no frame.
"""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Awaitable, Callable, Iterator
from importlib import resources

import msgspec

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
_CLIENT_FILES = ("edge.js", "edge.d.ts")
_STATIC = resources.files("edge").joinpath("static")
_PAGE_FILES = ("index.html", "icon.svg", *sorted(f.name for f in _STATIC.iterdir() if f.name.startswith("page")))
_CONTENT_TYPES = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".ts": "text/plain",
    ".svg": "image/svg+xml",
}


class Asset(msgspec.Struct, frozen=True):
    """A file in one encoding."""

    body: bytes
    etag: str
    encoding: str | None


def _asset(body: bytes, encoding: str | None) -> Asset:
    return Asset(body, hashlib.blake2b(body, digest_size=12).hexdigest(), encoding)


def _both_encodings(body: bytes) -> tuple[Asset, Asset]:
    return _asset(body, None), _asset(gzip.compress(body, mtime=0), "gzip")


_FILES = {name: _both_encodings(_STATIC.joinpath(name).read_bytes()) for name in _CLIENT_FILES + _PAGE_FILES}
_PACKAGES = [(package, (_asset(package.body, None),) * 2) for package in clients.PACKAGES]
_INDEX = _both_encodings(clients.index())


def routes(*, with_page: bool, base_path: str) -> Iterator[tuple[str, Handler]]:
    """Paths and their handlers: the clients' files, and the page's unless it is turned off."""
    if with_page and base_path:
        yield "", _to_slash(base_path)  # links of the page are relative
    for name in _CLIENT_FILES:
        yield f"/{name}", _serve(_FILES[name], _content_type(name), _CLIENT_HEADERS)
    yield "/clients/", _serve(_INDEX, _content_type("index.html"), _PAGE_HEADERS)
    for package, encodings in _PACKAGES:
        for name in package.names:
            yield f"/clients/{name}", _serve(encodings, package.content_type, _CLIENT_HEADERS)
    if with_page:
        for name in _PAGE_FILES:
            path = "/" if name == "index.html" else f"/{name}"
            yield path, _serve(_FILES[name], _content_type(name), _PAGE_HEADERS)


def _content_type(name: str) -> str:
    return f"{_CONTENT_TYPES[name[name.rindex('.') :]]}; charset=utf-8"


def _to_slash(base_path: str) -> Handler:
    async def redirect(_context: Context, _request: Request) -> Response:
        return Response(308, content_type="text/plain; charset=utf-8", headers={"Location": f"{base_path}/"})

    return redirect


def _serve(encodings: tuple[Asset, Asset], content_type: str, headers: dict[str, str]) -> Handler:
    plain, packed = encodings

    async def serve(_context: Context, request: Request) -> Response:
        asset = packed if params.accepts_gzip(request.headers.get("Accept-Encoding")) else plain
        own = {**headers, "ETag": f'"{asset.etag}"'}
        if b"Access-Control-Allow-Origin" in request.shared:
            own.pop("Access-Control-Allow-Origin", None)  # browsers refuse an answer with two
        if _matches(request.headers.get("If-None-Match"), asset.etag):
            return Response(304, headers=own)
        if asset.encoding is not None:
            own["Content-Encoding"] = asset.encoding
        return Response(200, asset.body, content_type, own)

    return serve


def _matches(header: str | None, etag: str) -> bool:
    """Whether `If-None-Match` names `etag`, weakly (RFC 9110, section 13.1.2)."""
    listed = (each.strip() for each in header.split(",")) if header else ()
    return any(each == "*" or each.removeprefix("W/") == f'"{etag}"' for each in listed)
