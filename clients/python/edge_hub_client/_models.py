"""What is sent and what the hub answers. The meaning of each field: docs/api.md. Fields of a later hub are left out."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any, TypedDict, TypeVar

T = TypeVar("T")


class NewEvent(TypedDict, total=False):
    """An event to publish. `type` is `message` where it is left out; `data` is any JSON."""

    type: str
    data: Any


@dataclasses.dataclass(frozen=True)
class Gap:
    """History that the hub can no longer give: reload your state. `lost` is None where the number is unknown."""

    asked: str
    reason: str
    oldest: str | None = None
    newest: str | None = None
    lost: int | None = None


@dataclasses.dataclass(frozen=True)
class Event:
    """An event of a stream. `data` is its text, as published; `json()` parses it.

    One event of the hub's own comes among them: `edge.gap`, with `gap` set.
    """

    project: str
    id: str
    type: str
    data: str
    gap: Gap | None = None

    def json(self) -> Any:
        return json.loads(self.data)


@dataclasses.dataclass(frozen=True)
class Receipt:
    """A published event. `missed`: no subscriber was connected, and the hub holds it for the next one."""

    project: str
    id: str
    connections: int
    missed: bool


@dataclasses.dataclass(frozen=True)
class BatchReceipt:
    """Events published over one request. `misses` of them found no subscriber."""

    published: int
    first_id: str | None
    last_id: str | None
    connections: int
    misses: int


@dataclasses.dataclass(frozen=True)
class TriggerReceipt:
    """A job that was dispatched, once a subscriber was confirmed. `target` holds the target's own answer."""

    project: str
    id: str
    name: str
    waited_ms: float
    connections: int
    confirmed: str | None
    target: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Ticket:
    """Opens one stream of its project, once, within `expires_in` seconds."""

    ticket: str
    expires_in: int


@dataclasses.dataclass(frozen=True)
class Readiness:
    """A project that has confirmed subscribers. `confirmed` is `acknowledged`, `client` or `written`."""

    waited_ms: float
    connections: int
    confirmed: str


@dataclasses.dataclass(frozen=True)
class HistoryEvent:
    """An event that the hub holds. `time` is when it was published, as RFC 3339 has it."""

    id: str
    type: str
    data: str
    time: str

    def json(self) -> Any:
        return json.loads(self.data)


@dataclasses.dataclass(frozen=True)
class History:
    """Events that the hub holds, oldest first. For the next page ask with `last_event_id` of the last one."""

    project: str
    oldest: str | None
    newest: str | None
    gap: Gap | None
    events: list[HistoryEvent]


class RingStatus(TypedDict):
    """The bounded history of a project."""

    oldest: str | None
    newest: str | None
    events: int
    bytes: int


class MissStatus(TypedDict):
    """total = recovered + lost + pending."""

    total: int
    recovered: int
    lost: int
    pending: int
    first: str | None
    last: str | None


class ConnectionStatus(TypedDict):
    """A subscriber's connection."""

    id: str
    since: str
    address: str
    last_event: str | None
    unacknowledged_bytes: int
    round_trip_ms: float | None
    paused: bool
    confirmable: str
    sub: str | None


class ProjectStatus(TypedDict):
    """A project as the hub has it."""

    project: str
    ring: RingStatus
    misses: MissStatus
    epoch: str
    connections: list[ConnectionStatus]
    connections_total: int
    last_connect: str | None
    last_disconnect: dict[str, Any] | None
    last_ready: dict[str, Any] | None
    finished: bool


def known(kind: type[T], document: Mapping[str, Any]) -> T:
    """A `kind` (a dataclass) of the fields of `document` that it has."""
    names = {field.name for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    return kind(**{name: value for name, value in document.items() if name in names})


def history(document: Mapping[str, Any]) -> History:
    gap = document["gap"]
    return History(
        document["project"],
        document["oldest"],
        document["newest"],
        None if gap is None else known(Gap, gap),
        [known(HistoryEvent, event) for event in document["events"]],
    )
