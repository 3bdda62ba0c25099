"""The state of a subscription over its connections: what to ask for, what each event means, when to come back.

Invariant: the position moves when an event is whole, and every connection resumes after it, so an event is given once,
however often the connection is lost. No I/O here: `_client.py` reads.
"""

from __future__ import annotations

import json
import logging
import random
from collections.abc import Mapping, Sequence
from typing import Any

from httpx_sse import ServerSentEvent

from edge_hub_client import _models as models
from edge_hub_client._calls import Call, Query, acknowledge, project_path
from edge_hub_client._errors import EdgeError, Unreachable, refusal

CONNECT_SECONDS = 10.0
SILENT_HEARTBEATS = 2.5
LONGEST_PAUSE_SECONDS = 30.0
_FIRST_SILENCE_SECONDS = 45.0  # until a hello has announced the heartbeat
_PASSING = (408, 425, 429)
_log = logging.getLogger("edge_hub_client")


class Finished(Exception):
    """The project is finished: its last event has been read."""


class Subscription:
    """What both clients' subscriptions share. `state` is `connecting`, `open`, `reconnecting` or `closed`."""

    def __init__(
        self,
        projects: Sequence[str],
        since: str | None,
        last_event_id: str | None,
        *,
        observe: bool,
        max_failures: int | None,
    ) -> None:
        self.state = "connecting"
        self.error: EdgeError | None = None
        """Why it isn't open."""
        self.last_event_id = last_event_id or ""
        """The position after which it resumes: with several projects, in all of them."""
        self._projects = list(projects)
        self._query = [("since", since)] if since is not None else []
        self._query += [("observe", "true")] if observe else []
        self._max_failures = max_failures
        self._failures = 0
        self._retry_seconds = 1.0
        self._closing_seconds: float | None = None
        self._silence_seconds = _FIRST_SILENCE_SECONDS
        self._renewals = 0
        self._connections = {}  # type: dict[str, str]
        self._probe: tuple[str, Mapping[str, Any]] | None = None

    # --- one connection ---

    def _request(self) -> tuple[str, Query, Mapping[str, str]]:
        """Path, query and headers of the next connection."""
        headers = {"Accept": "text/event-stream", "Cache-Control": "no-store"}
        if self.last_event_id:
            headers["Last-Event-ID"] = self.last_event_id
        if len(self._projects) == 1:
            return project_path(self._projects[0], "/events"), self._query, headers
        several = [("project", project) for project in self._projects]
        return "/events", [*several, ("prefix", "true"), *self._query], headers

    def _refused(self, status: int, headers: Mapping[str, str], body: bytes) -> Exception:
        """What an answer other than a stream means."""
        return Finished() if status == 204 else refusal(status, headers, body)

    def _take(self, sse: ServerSentEvent) -> models.Event | None:
        """The event for the subscriber, if it is one. Raises Finished."""
        project, event_type = self._projects[0], sse.event
        if not event_type.startswith("edge."):
            if not sse.id or sse.id == self.last_event_id:
                return None  # an empty one, made of a comment by a proxy
            self.last_event_id = sse.id
            if len(self._projects) > 1:
                project, _, event_type = event_type.partition("/")
            return models.Event(project, sse.id, event_type, sse.data)
        fields = json.loads(sse.data)
        project = fields.get("project", project)
        if event_type == "edge.hello":
            self._greet(project, fields, sse.id)
        elif event_type == "edge.gap":
            gap = models.known(models.Gap, fields)
            lost = "an unknown number of" if gap.lost is None else gap.lost
            _log.warning("%s: %s events are no longer available (%s)", project, lost, gap.reason)
            return models.Event(project, "", event_type, sse.data, gap)
        elif event_type == "edge.closing":
            self._closing_seconds = fields["retry_ms"] / 1000
            if fields["reason"] == "finished" and len(self._projects) == 1:
                raise Finished
        elif event_type == "edge.probe":
            self._probe = (project, {"probe": fields["probe"]})
        return None

    def _greet(self, project: str, hello: Mapping[str, Any], position: str) -> None:
        self.last_event_id = position or self.last_event_id
        self._connections[project] = hello["connection"]
        self._silence_seconds = max(1.0, SILENT_HEARTBEATS * hello["heartbeat_seconds"])
        self._failures = self._renewals = 0
        self.state, self.error = "open", None
        _log.debug("%s: connected as %s, %s to replay", project, hello["connection"], hello["replayed"])

    def _answer(self) -> Call[None] | None:
        """The answer to a probe that has come."""
        if self._probe is None:
            return None
        (project, probe), self._probe = self._probe, None
        return acknowledge(project, self._connections[project], probe)

    # --- between two ---

    def _pause(self, error: EdgeError, *, can_renew: bool) -> float:
        """Seconds until the next connection, after `error` has ended one. Raises `error` where trying can't help."""
        status = error.status or 0
        if status == 401 and can_renew and not self._renewals:
            self._renewals += 1  # the token may just have expired
            return 0.0
        self._failures += 1
        is_final = 400 <= status < 500 and status not in _PASSING
        if is_final or (self._max_failures is not None and self._failures > self._max_failures):
            self.state, self.error = "closed", error
            raise error
        jitter = random.uniform(0.75, 1.25)  # noqa: S311 - not a secret
        backoff_seconds = min(self._retry_seconds * 2.0 ** min(self._failures - 1, 10), LONGEST_PAUSE_SECONDS) * jitter
        wanted_seconds, self._closing_seconds = self._closing_seconds, None
        if wanted_seconds is None:
            wanted_seconds = max(backoff_seconds, error.retry_after or 0.0)
        self.state, self.error = "reconnecting", error
        _log.info("%s: reconnecting in %.1f s: %s", ", ".join(self._projects), wanted_seconds, error.detail)
        return wanted_seconds

    def _ended(self) -> EdgeError:
        return Unreachable("the stream ended")
