"""The command line's side of a hub: exit statuses, output, and one HTTP client, which reads event streams, too.

The standard library is all it needs. Invariants: whatever the other side does, the outcome is a response or an
`Unreachable` whose text is one line; an id is noted when its event is whole, so no event is skipped or printed twice
over a reconnect.
"""

from __future__ import annotations

import enum
import http.client
import json
import os
import random
import socket
import ssl
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode, urlsplit

from edge.logs.text import one_line, shorten

DEFAULT_URL = "http://127.0.0.1:8080"
UNIX_SCHEME = "unix:"
_MAX_BODY_BYTES = 64 << 20
_MAX_DETAIL_CHARS = 500
_CONNECT_SECONDS = 15.0
_SILENCE = 2.5
"""Heartbeats that may stay away before the connection counts as dead."""
_LONGEST_RETRY_SECONDS = 30.0
_MAX_LINE_BYTES = 16 << 20
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


def say(text: str) -> None:
    """Write `text` to standard output; ends the program where that is impossible."""
    if sys.stdout is None:  # started with it closed
        raise SystemExit(ExitStatus.FAILED)
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except OSError as error:
        # Or Python tries again at exit, and complains in its own words.
        with Path(os.devnull).open("w") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):  # `edge check-config | head` has all it wants
            warn(f"can't write to standard output: {error.strerror}")
        raise SystemExit(ExitStatus.FAILED) from None


def warn(line: str) -> None:
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


def path_of(path: str, query: Iterable[tuple[str, str]] = ()) -> str:
    """`path` with a query. As everywhere, an argument that is not UTF-8 stays as it was given: the hub refuses it."""
    encoded = urlencode(list(query), errors="surrogateescape")
    return f"{path}?{encoded}" if encoded else path


def path_of_project(project: str, rest: str = "", query: Iterable[tuple[str, str]] = ()) -> str:
    return path_of(f"/projects/{quote(project, safe='', errors='surrogateescape')}{rest}", query)


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
        for name, value in sent.items():
            if "\n" in value or "\r" in value:
                raise CommandError(f"there is a line end in what is sent as {name}; remove it", ExitStatus.USAGE)
        encoded = {name: value.encode(errors="surrogateescape") for name, value in sent.items()}
        self.http.request(method, self._base + path, body, encoded)
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


# --- event streams ---


class StreamEvent(NamedTuple):
    """One event of a stream: `data` is the text of its `data:` lines."""

    id: str
    type: str
    data: str
    project: str = ""
    """Whose event it is, on a stream of several projects."""


class Finished(Exception):
    """The hub ended the stream for good; the text is the reason of `edge.closing`, or `finished` for 204."""


def parse(lines: Iterable[bytes]) -> Iterator[StreamEvent | int]:
    """Events of a stream's lines, and `retry:` values in milliseconds as they come (WHATWG HTML, section 9.2.6)."""
    event_id = event_type = ""
    data: list[str] = []
    for raw in lines:
        line = raw.decode(errors="replace").rstrip("\r\n")
        if not line:
            if data or event_type:
                yield StreamEvent(event_id, event_type or "message", "\n".join(data))
            event_type, data = "", []
            continue
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        match name:
            case "id" if "\0" not in value:
                event_id = value
            case "event":
                event_type = value
            case "data":
                data.append(value)
            case "retry" if value.isascii() and value.isdigit():
                yield int(value)


class Subscription:
    """Events of one or several projects, over as many connections as it takes."""

    def __init__(self, hub: Hub, projects: list[str], since: str | None, *, observe: bool) -> None:
        query = [("since", since)] if since is not None else []
        query += [("observe", "true")] if observe else []
        self._path = path_of_project(projects[0], "/events", query)
        if len(projects) > 1:
            named = [("project", project) for project in projects]
            self._path = path_of("/events", [*named, ("prefix", "true"), *query])
        self._projects = projects
        self._hub = hub
        self._last_id = ""
        self._retry_seconds = 1.0

    def events(self) -> Iterator[StreamEvent]:
        """Every event, the hub's own (`edge.*`) among them, until the stream is finished.

        Raises Refused, Finished. After a drop it reconnects, more slowly each time in a row.
        """
        failures = 0
        while True:
            reason = "the connection was closed"
            try:
                for event in self._one_connection():
                    failures = 0
                    yield event
            except Unreachable as error:
                reason = str(error)
            yield StreamEvent("", "edge.disconnected", json.dumps({"reason": reason}))
            pause_seconds = min(self._retry_seconds * 2**failures, _LONGEST_RETRY_SECONDS)
            failures = min(failures + 1, 10)
            time.sleep(pause_seconds * random.uniform(0.75, 1.25))  # noqa: S311 - jitter, not a secret

    def _one_connection(self) -> Iterator[StreamEvent]:
        with self._hub.connected(_CONNECT_SECONDS) as connection:
            response, sock = connection.stream(self._path, {"Last-Event-ID": self._last_id} if self._last_id else {})
            if response.status == 204:
                raise Finished("finished")
            if response.status in (429, 502, 503, 504):
                raise Unreachable(f"{response.status}: {whole(response).detail}")
            if response.status != 200:
                raise Refused(whole(response))
            closed: dict[str, str] = {}
            for item in parse(iter(lambda: response.readline(_MAX_LINE_BYTES), b"")):
                if isinstance(item, int):
                    self._retry_seconds = item / 1000
                    continue
                self._last_id = item.id or self._last_id
                if item.type == "edge.hello":
                    sock.settimeout(_SILENCE * _heartbeat_seconds(item))
                if item.type == "edge.closing":
                    fields = json_object(item.data)
                    closed[str(fields.get("project"))] = str(fields.get("reason"))
                elif len(self._projects) > 1 and not item.type.startswith("edge."):
                    item = _of_its_project(item)
                    closed.pop(item.project, None)  # it was finished, and is published to again
                yield item
            if len(closed) == len(self._projects) and {*closed.values()} <= {"finished", "deleted"}:
                raise Finished(closed.popitem()[1])


def _of_its_project(event: StreamEvent) -> StreamEvent:
    """An event of a stream of several projects, with the type and the id it has in its own."""
    project, _, event_type = event.type.partition("/")
    places = dict(place.split(":") for place in event.id.split(","))
    return StreamEvent(places[project], event_type, event.data, project)


def _heartbeat_seconds(hello: StreamEvent) -> float:
    heartbeat = json_object(hello.data).get("heartbeat_seconds")
    return max(1.0, float(heartbeat)) if isinstance(heartbeat, int | float) else _CONNECT_SECONDS
