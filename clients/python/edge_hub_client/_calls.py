"""Every request to the hub, written once; the clients in `_client.py` send them.

A `Call` says what to send, how to read the answer, and whether sending it again is safe. `Attempts` says what to do
after a failure. Neither does I/O.
"""

from __future__ import annotations

import dataclasses
import json
import random
import uuid
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Callable, Generic, TypeVar
from urllib.parse import quote

from edge_hub_client import _models as models
from edge_hub_client._errors import EdgeError, refusal

T = TypeVar("T")
Query = Sequence[tuple[str, str]]

ANSWER_SECONDS = 10.0  # beyond what the hub itself is asked to wait
LONGEST_PAUSE_SECONDS = 5.0
LONGEST_RETRY_AFTER_SECONDS = 30.0
_KEY = "Idempotency-Key"
# What a proxy says without a hub behind it, and a hub that drains, is full or waits for its store.
_PASSING = (408, 425, 429, 502, 503, 504)


@dataclasses.dataclass(frozen=True)
class Call(Generic[T]):
    """A request. `is_repeatable`: it changes nothing, or carries an idempotency key."""

    method: str
    path: str
    read: Callable[[Any], T]
    query: Query = ()
    body: bytes | None = None
    headers: Mapping[str, str] = dataclasses.field(default_factory=dict)
    wait_seconds: float = 0.0
    is_repeatable: bool = True
    has_own_key: bool = False
    """The key was made here, for retries: no other client knows it."""

    def result(self, status: int, headers: Mapping[str, str], body: bytes) -> T:
        """What the answer says. Raises EdgeError."""
        if not 200 <= status < 300:
            raise refusal(status, headers, body)
        try:
            return self.read(json.loads(body) if body else None)
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            detail = f"{self.method} {self.path} was not answered by a hub ({error})."
            raise EdgeError("not_a_hub", detail, status=status) from error


class Attempts(Generic[T]):
    """The tries of one call."""

    def __init__(self, call: Call[T], retries: int) -> None:
        self.call = call
        self._left = retries
        self._pause_seconds = 0.25

    def after(self, error: EdgeError) -> float:
        """Seconds to wait before `call` is sent again. Raises `error` where it may not be, or wouldn't help."""
        if error.code == "too_many_idempotency_keys" and self.call.has_own_key:
            # Nothing was done. Without a key it can be done, once.
            headers = {name: value for name, value in self.call.headers.items() if name != _KEY}
            self.call = dataclasses.replace(self.call, headers=headers, is_repeatable=False, has_own_key=False)
            return 0.0
        is_passing = error.code == "network" or (
            error.status in _PASSING and error.code != "dispatch_failed" and not error.may_have_started
        )
        wanted_seconds = error.retry_after or 0.0
        if not (is_passing and self.call.is_repeatable and self._left) or wanted_seconds > LONGEST_RETRY_AFTER_SECONDS:
            raise error
        self._left -= 1
        pause_seconds = max(self._pause_seconds, wanted_seconds) * random.uniform(0.75, 1.25)  # noqa: S311 - jitter
        self._pause_seconds = min(2 * self._pause_seconds, LONGEST_PAUSE_SECONDS)
        return pause_seconds


def as_json(value: object) -> bytes:
    """Raises ValueError, TypeError for what JSON hasn't got, such as NaN."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def as_line(event: models.NewEvent) -> bytes:
    """A line of NDJSON."""
    return as_json(event) + b"\n"


def query_of(**given: str | int | float | None) -> Query:
    """The parameters that are not None; a float is seconds."""
    return [
        (name, f"{round(value * 1000)}ms" if isinstance(value, float) else str(value))
        for name, value in given.items()
        if value is not None
    ]


def project_path(project: str, rest: str = "") -> str:
    return f"/projects/{quote(project, safe='')}{rest}"


def _flag(value: bool) -> str | None:
    return "true" if value else None


def _keyed(key: str | None) -> Mapping[str, str]:
    return {"Content-Type": "application/json", _KEY: key or uuid.uuid4().hex}


def publish_many(project: str, key: str | None, *, final: bool) -> Call[models.BatchReceipt]:
    """The body is sent by the client, line by line; what an iterator gave can't be given again, so no retries."""
    return Call(
        "POST",
        project_path(project, "/events"),
        partial(models.known, models.BatchReceipt),
        query_of(final=_flag(final)),
        headers={"Content-Type": "application/x-ndjson", **({_KEY: key} if key else {})},
        is_repeatable=False,
    )


class Verbs:
    """What a client can ask of a hub. Each raises EdgeError; times are in seconds."""

    def publish(
        self,
        project: str,
        data: Any = None,
        *,
        type: str = "message",
        require: int | None = None,
        wait: float | None = None,
        final: bool = False,
        key: str | None = None,
    ) -> Call[models.Receipt]:
        """Publish one event. `data` is any JSON.

        With `require`, so many subscribers have to be connected; with `wait`, the hub waits that long for one that is
        ready. Otherwise it raises NoConnection, and nothing is stored. `final`: the project's last event.
        `key` is the idempotency key: with the same key an event is published once, however often it is sent.
        """
        return Call(
            "POST",
            project_path(project, "/events"),
            partial(models.known, models.Receipt),
            query_of(require=require, wait=None if wait is None else float(wait), final=_flag(final)),
            as_json({"type": type, "data": data}),
            _keyed(key),
            wait or 0.0,
            has_own_key=key is None,
        )

    def publish_to(
        self,
        projects: Sequence[str],
        data: Any = None,
        *,
        type: str = "message",
        key: str | None = None,
    ) -> Call[Sequence[models.Receipt]]:
        """Publish one event to several projects: to all of them, or to none."""
        return Call(
            "POST",
            "/events",
            lambda document: [models.known(models.Receipt, receipt) for receipt in document["receipts"]],
            [("project", project) for project in projects],
            as_json({"type": type, "data": data}),
            _keyed(key),
            has_own_key=key is None,
        )

    def trigger(
        self,
        project: str,
        name: str,
        data: Any = None,
        *,
        timeout: float = 3.0,
        connections: int | None = None,
        on_timeout: str | None = None,
        confirm: str | None = None,
        id: str | None = None,
        key: str | None = None,
    ) -> Call[models.TriggerReceipt]:
        """Start a job as soon as a subscriber is confirmed to be connected, at most `timeout` from now.

        Raises NoConnection: no subscriber was, and the job is not started. It starts once, also where this is repeated.
        """
        job = {"name": name, "data": data, **({} if id is None else {"id": id})}
        return Call(
            "POST",
            project_path(project, "/trigger"),
            partial(models.known, models.TriggerReceipt),
            query_of(timeout=float(timeout), connections=connections, on_timeout=on_timeout, confirm=confirm),
            as_json(job),
            _keyed(key or id),
            timeout + 60.0,  # and the target's own time, with retries
        )

    def ticket(self, project: str) -> Call[models.Ticket]:
        """Make a ticket, with which a browser opens one stream of the project."""
        return Call("POST", project_path(project, "/ticket"), partial(models.known, models.Ticket))

    def ready(
        self,
        project: str,
        *,
        timeout: float = 3.0,
        connections: int | None = None,
        confirm: str | None = None,
    ) -> Call[models.Readiness]:
        """Wait until the project has a confirmed subscriber. Raises NoConnection."""
        return Call(
            "GET",
            project_path(project, "/ready"),
            partial(models.known, models.Readiness),
            query_of(timeout=float(timeout), connections=connections, confirm=confirm),
            wait_seconds=timeout,
        )

    def status(self, project: str) -> Call[models.ProjectStatus]:
        """The project as the hub has it: its connections, its ring, its misses."""
        return Call("GET", project_path(project), _project_status)

    def history(
        self,
        project: str,
        *,
        since: str = "all",
        last_event_id: str | None = None,
        limit: int | None = None,
    ) -> Call[models.History]:
        """The events that the hub holds, oldest first. It is not a delivery: misses stay misses."""
        start = {"last_event_id": last_event_id} if last_event_id else {"since": since}
        return Call("GET", project_path(project, "/history"), models.history, query_of(limit=limit, **start))

    def delete(self, project: str) -> Call[None]:
        """Close the project's streams and drop its history."""
        return Call("DELETE", project_path(project), lambda _document: None)


def _project_status(document: models.ProjectStatus) -> models.ProjectStatus:
    return document


def acknowledge(project: str, connection: str, probe: Mapping[str, Any]) -> Call[None]:
    """Answer a probe of the hub's (`confirm=client`)."""
    path = project_path(project, f"/connections/{connection}/ack")
    headers = {"Content-Type": "application/json"}
    return Call("POST", path, lambda _document: None, body=as_json(probe), headers=headers, is_repeatable=False)
