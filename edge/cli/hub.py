"""One HTTP connection to a hub, for commands; the standard library is all it needs.

Invariant: whatever the other side does, the outcome is a response or an `Unreachable` whose text is one line.
"""

from __future__ import annotations

import http.client
import json
import socket
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from edge.cli.output import CommandError
from edge.logs.text import one_line, shorten

DEFAULT_URL = "http://127.0.0.1:8080"
UNIX_SCHEME = "unix:"
_MAX_BODY_BYTES = 64 << 20
_MAX_DETAIL_CHARS = 500


class Unreachable(CommandError):
    """No response came."""


class Hub(NamedTuple):
    """Where a hub is: an `http(s)://` URL, with the path of a proxy if there is one, or `unix:PATH`.

    `verify`: check its certificate.
    """

    url: str
    token: str | None
    verify: bool = True


class Response(NamedTuple):
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def document(self) -> dict[str, Any]:
        """The JSON object in the body; an empty one for anything else."""
        try:
            document = json.loads(self.body)
        except ValueError:
            return {}
        return document if isinstance(document, dict) else {}

    @property
    def detail(self) -> str:
        """What a problem document says to do; of any other body, its beginning."""
        detail = self.document.get("detail")
        text = detail if isinstance(detail, str) else self.body.decode(errors="replace").strip()
        return one_line(shorten(text, _MAX_DETAIL_CHARS))


class Refused(CommandError):
    """The hub answered with an error."""

    def __init__(self, response: Response) -> None:
        super().__init__(f"{response.status}: {response.detail}")
        self.response = response


def wrong_with(url: str) -> str | None:
    """What is wrong with `url`, or None."""
    try:
        target = urlsplit(url)
        usable = target.scheme in ("http", "https") and bool(target.hostname) and target.port != 0
    except ValueError:
        usable = False
    if (usable or url.startswith(UNIX_SCHEME + "/")) and url.isascii() and url.isprintable() and " " not in url:
        return None
    return f"must be an http:// or https:// URL such as {DEFAULT_URL}, or unix:PATH"


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout_seconds: float) -> None:
        super().__init__("localhost", timeout=timeout_seconds)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


@contextmanager
def connected(hub: Hub, timeout_seconds: float) -> Iterator[http.client.HTTPConnection]:
    """A connection to `hub`, closed at the end; `timeout_seconds` bounds each step. Raises Unreachable."""
    connection: http.client.HTTPConnection
    target = urlsplit(hub.url)
    if hub.url.startswith(UNIX_SCHEME):
        connection = _UnixConnection(hub.url.removeprefix(UNIX_SCHEME), timeout_seconds)
    elif target.scheme == "https":
        context = ssl.create_default_context() if hub.verify else ssl._create_unverified_context()  # noqa: S323 - itself
        connection = http.client.HTTPSConnection(
            target.hostname or "", target.port, timeout=timeout_seconds, context=context
        )
    else:
        connection = http.client.HTTPConnection(target.hostname or "", target.port, timeout=timeout_seconds)
    try:
        yield connection
    except TimeoutError:
        raise Unreachable(f"{hub.url} did not answer within {timeout_seconds:g} s") from None
    except (OSError, http.client.HTTPException, UnicodeError) as error:
        raise Unreachable(one_line(f"{hub.url}: {_in_words(error)}")) from None
    finally:
        connection.close()


def _in_words(error: Exception) -> str:
    match error:
        case ssl.SSLCertVerificationError():
            return f"the certificate is not valid: {error.verify_message or error}"
        case socket.gaierror():
            return "the host name can't be resolved"
        case ConnectionRefusedError():
            return "connection refused: no process accepts connections there"
        case _:
            return str(error) or type(error).__name__


def send(
    connection: http.client.HTTPConnection,
    hub: Hub,
    method: str,
    path: str,
    body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
) -> http.client.HTTPResponse:
    """Send a request, `path` with its query, and return the response with its body still to be read."""
    sent = {"User-Agent": "edge", "Accept": "application/json, */*;q=0.5", **(headers or {})}
    if hub.token is not None:
        sent["Authorization"] = f"Bearer {hub.token}"
    base = "" if hub.url.startswith(UNIX_SCHEME) else urlsplit(hub.url).path.rstrip("/")
    connection.request(method, base + path, body, sent)
    return connection.getresponse()


def exchange(
    connection: http.client.HTTPConnection,
    hub: Hub,
    method: str,
    path: str,
    body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """`send`, with the whole body."""
    response = send(connection, hub, method, path, body, headers)
    return Response(response.status, dict(response.headers.items()), response.read(_MAX_BODY_BYTES))


def ask(
    hub: Hub,
    method: str,
    path: str,
    body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
    *,
    timeout_seconds: float,
) -> Response:
    """One request on a connection of its own. Raises Unreachable."""
    with connected(hub, timeout_seconds) as connection:
        return exchange(connection, hub, method, path, body, {"Connection": "close", **(headers or {})})
