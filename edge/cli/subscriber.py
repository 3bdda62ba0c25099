"""Event streams as a client reads them: `parse`, and `Subscription`, which resumes after every drop.

Invariant: an id is noted when its event is whole, so no event is skipped or printed twice over a reconnect.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterable, Iterator
from typing import NamedTuple
from urllib.parse import quote, urlencode

from edge.cli.hub import Hub, Refused, Unreachable, json_object, whole

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
        path = f"/projects/{quote(projects[0], safe='')}/events"
        if len(projects) > 1:
            path = "/events"
            query = [("project", project) for project in projects] + [("prefix", "true")] + query
        self._path = f"{path}?{urlencode(query)}" if query else path
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
