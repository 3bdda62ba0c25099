"""`edge subscribe`: reads streams until it is interrupted, and resumes after every drop.

Invariant: an id is noted when its event is whole, so no event is skipped or printed twice over a reconnect.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode

from edge.cli.hub import Hub, Refused, Response, Unreachable, connected, send

_CONNECT_SECONDS = 15.0
_SILENCE = 2.5
"""Heartbeats that may stay away before the connection counts as dead."""
_LONGEST_RETRY_SECONDS = 30.0
_MAX_LINE_BYTES = 16 << 20


class StreamEvent(NamedTuple):
    """One event of a stream: `data` is the text of its `data:` lines."""

    id: str
    type: str
    data: str
    project: str = ""
    """Whose event it is, on a stream of several projects."""


class Finished(Exception):
    """The hub ended the stream for good: `reason` is that of `edge.closing`, or `finished` for 204."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


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
        if len(projects) == 1:
            self._path = f"/projects/{quote(projects[0], safe='')}/events"
        else:
            self._path = "/events"
            query = [("project", project) for project in projects] + [("prefix", "true")] + query
        self._query = query
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
            try:
                for event in self._one_connection():
                    failures = 0
                    yield event
                yield StreamEvent("", "edge.disconnected", json.dumps({"reason": "the connection was closed"}))
            except Unreachable as error:
                yield StreamEvent("", "edge.disconnected", json.dumps({"reason": str(error)}))
            pause_seconds = min(self._retry_seconds * 2**failures, _LONGEST_RETRY_SECONDS)
            failures = min(failures + 1, 10)
            time.sleep(pause_seconds * random.uniform(0.75, 1.25))  # noqa: S311 - jitter, not a secret

    def _one_connection(self) -> Iterator[StreamEvent]:
        headers = {"Accept": "text/event-stream", "Cache-Control": "no-cache"}
        if self._last_id:
            headers["Last-Event-ID"] = self._last_id
        path = f"{self._path}?{urlencode(self._query)}" if self._query else self._path
        with connected(self._hub, _CONNECT_SECONDS) as connection:
            connection.connect()
            sock = connection.sock  # which http.client forgets when the response says `Connection: close`
            response = send(connection, self._hub, "GET", path, headers=headers)
            if response.status == 204:
                raise Finished("finished")
            if response.status != 200:
                refused = Response(response.status, {}, response.read(_MAX_LINE_BYTES))
                if response.status in (429, 502, 503, 504):
                    raise Unreachable(f"{refused.status}: {refused.detail}")
                raise Refused(refused)
            closed: dict[str, str] = {}
            for item in parse(iter(lambda: response.readline(_MAX_LINE_BYTES), b"")):
                if isinstance(item, int):
                    self._retry_seconds = item / 1000
                    continue
                if item.id:
                    self._last_id = item.id
                if item.type == "edge.hello":
                    sock.settimeout(_SILENCE * _heartbeat_seconds(item))
                if item.type == "edge.closing":
                    fields = fields_of(item)
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
    heartbeat = fields_of(hello).get("heartbeat_seconds")
    return max(1.0, float(heartbeat)) if isinstance(heartbeat, int | float) else _CONNECT_SECONDS


def fields_of(event: StreamEvent) -> dict[str, Any]:
    """The JSON object in the data of one of the hub's own events."""
    try:
        fields = json.loads(event.data)
    except ValueError:
        return {}
    return fields if isinstance(fields, dict) else {}
