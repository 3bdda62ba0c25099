"""The command line's side of a hub: exit statuses, output, and one HTTP client from the standard library.

Invariant: whatever the other side does, the outcome is a response or an `Unreachable` whose text is one line.
"""

from __future__ import annotations

import enum
import http.client
import json
import os
import socket
import ssl
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from edge.logs.text import one_line, shorten

DEFAULT_URL = "http://127.0.0.1:8080"
UNIX_SCHEME = "unix:"
_MAX_BODY_BYTES = 64 << 20
_MAX_DETAIL_CHARS = 500
Headers = Mapping[str, str]
_NONE: Headers = MappingProxyType({})


class ExitStatus(enum.IntEnum):
    """What the exit status of `edge` means."""

    OK = 0
    FAILED = 1
    """At run time: the port is taken, the hub isn't healthy, a request was refused."""
    USAGE = 2
    """Wrong usage or configuration: starting again won't help. argparse's number too."""
    NO_SUBSCRIBER = 3
    """The hub answered 409 `no_connection`."""
    INTERRUPTED = 130
    """Ctrl-C before the server listens: 128 + SIGINT, as in shells."""


class CommandError(Exception):
    """A command failed. The text is one line, without the name of the program."""

    def __init__(self, text: str, status: ExitStatus = ExitStatus.FAILED) -> None:
        super().__init__(text)
        self.status = status


def say(text: str) -> int:
    """Write `text` to standard output; the exit status that this makes."""
    if sys.stdout is None:  # started with it closed
        return ExitStatus.FAILED
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except OSError as error:
        # Or Python tries again at exit, and complains in its own words.
        with Path(os.devnull).open("w") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):  # `edge check-config | head` has all it wants
            warn(f"can't write to standard output: {error.strerror}")
        return ExitStatus.FAILED
    return ExitStatus.OK


def warn(line: str) -> None:
    """Write a line to standard error."""
    if sys.stderr is not None:
        sys.stderr.write(one_line(f"edge: {line}") + "\n")


# --- requests ---


class Unreachable(CommandError):
    """No response came."""


class Response(NamedTuple):
    status: int
    headers: Headers
    body: bytes

    @property
    def document(self) -> dict[str, Any]:
        """The JSON object in the body; an empty one for anything else."""
        return json_object(self.body)

    @property
    def detail(self) -> str:
        """What a problem document says to do; of any other body, its beginning."""
        detail = self.document.get("detail")
        text = detail if isinstance(detail, str) else self.body.decode(errors="replace").strip()
        return one_line(shorten(text, _MAX_DETAIL_CHARS))


class Refused(CommandError):
    """The hub answered with an error."""

    def __init__(self, response: Response) -> None:
        status = ExitStatus.NO_SUBSCRIBER if response.status == 409 else ExitStatus.FAILED
        super().__init__(f"{response.status}: {response.detail}", status)


class Hub(NamedTuple):
    """Where a hub is: an `http(s)://` URL, with the path of a proxy if there is one, or `unix:PATH`.

    `verify`: check its certificate. `base_path`: the prefix of every path, as in `server.base_path`.
    """

    url: str
    token: str | None
    verify: bool = True
    base_path: str = ""

    @contextmanager
    def connected(self, timeout_seconds: float) -> Iterator[Connection]:
        """A connection, opened by its first request and closed at the end; `timeout_seconds` bounds each step.

        Raises Unreachable.
        """
        connection = Connection(self, timeout_seconds)
        try:
            yield connection
        except TimeoutError:
            raise Unreachable(f"{self.url} did not answer within {timeout_seconds:g} s") from None
        except (OSError, http.client.HTTPException, UnicodeError) as error:
            raise Unreachable(one_line(f"{self.url}: {_in_words(error)}")) from None
        finally:
            connection.http.close()

    def ask(
        self, method: str, path: str, body: bytes | None = None, headers: Headers = _NONE, *, timeout_seconds: float
    ) -> Response:
        """One request on a connection of its own. Raises Unreachable."""
        with self.connected(timeout_seconds) as connection:
            return connection.exchange(method, path, body, {"Connection": "close", **headers})


class Connection:
    """An HTTP connection to `hub`. Paths are those of the hub, with their query."""

    def __init__(self, hub: Hub, timeout_seconds: float) -> None:
        target = urlsplit(hub.url)
        host, self._base = target.hostname or "", target.path.rstrip("/") + hub.base_path
        self._token = hub.token
        self.http: http.client.HTTPConnection
        if hub.url.startswith(UNIX_SCHEME):
            self.http = _UnixConnection(hub.url.removeprefix(UNIX_SCHEME), timeout_seconds)
            self._base = hub.base_path
        elif target.scheme == "https":
            context = ssl.create_default_context() if hub.verify else ssl._create_unverified_context()  # noqa: S323 - itself
            self.http = http.client.HTTPSConnection(host, target.port, timeout=timeout_seconds, context=context)
        else:
            self.http = http.client.HTTPConnection(host, target.port, timeout=timeout_seconds)

    def send(
        self, method: str, path: str, body: bytes | None = None, headers: Headers = _NONE
    ) -> http.client.HTTPResponse:
        """The response, with its body still to be read."""
        sent = {"User-Agent": "edge", "Accept": "application/json, */*;q=0.5", **headers}
        if self._token is not None:
            sent["Authorization"] = f"Bearer {self._token}"
        self.http.request(method, self._base + path, body, sent)
        return self.http.getresponse()

    def exchange(self, method: str, path: str, body: bytes | None = None, headers: Headers = _NONE) -> Response:
        """The response, with its whole body."""
        return whole(self.send(method, path, body, headers))

    def stream(self, path: str, headers: Headers = _NONE) -> tuple[http.client.HTTPResponse, socket.socket]:
        """The response to a request for an event stream, and the socket that it comes from."""
        self.http.connect()
        sock = self.http.sock  # which http.client forgets when the response says `Connection: close`
        wanted = {"Accept": "text/event-stream", "Cache-Control": "no-cache"}
        return self.send("GET", path, headers={**wanted, **headers}), sock


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout_seconds: float) -> None:
        super().__init__("localhost", timeout=timeout_seconds)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def whole(response: http.client.HTTPResponse) -> Response:
    """A response with its body read, up to a bound."""
    return Response(response.status, dict(response.headers.items()), response.read(_MAX_BODY_BYTES))


def json_object(text: str | bytes) -> dict[str, Any]:
    """The JSON object in `text`; an empty one for anything else."""
    try:
        document = json.loads(text)
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


def check_url(url: str) -> None:
    """Raise CommandError unless `url` can be that of a hub."""
    try:
        target = urlsplit(url)
        usable = target.scheme in ("http", "https") and bool(target.hostname) and target.port != 0
    except ValueError:
        usable = False
    usable = usable or url.startswith(UNIX_SCHEME + "/")
    if not (usable and url.isascii() and url.isprintable() and " " not in url):
        raise CommandError(
            f"--url must be an http:// or https:// URL such as {DEFAULT_URL}, or unix:PATH", ExitStatus.USAGE
        )


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
