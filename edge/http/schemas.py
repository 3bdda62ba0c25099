"""Response bodies as structs: what the hub sends and what `/openapi.json` describes come from one place."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from edge.triggers.job import Delivery
from edge.triggers.readiness import Confirmed

Count = Annotated[int, Meta(ge=0)]
EventId = Annotated[str, Meta(pattern="^[0-9a-z]{1,32}-[0-9]{1,18}$")]
Moment = Annotated[str, Meta(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$")]
"""ISO 8601 in UTC, to the millisecond."""


class Ready(msgspec.Struct, frozen=True, kw_only=True):
    """Enough connections are confirmed."""

    ready: Literal[True] = True
    waited_ms: Annotated[float, Meta(ge=0)]
    connections: Count
    confirmed: Confirmed


class Ring(msgspec.Struct, frozen=True):
    """The events a project holds for replay."""

    oldest: EventId | None
    newest: EventId | None
    events: Count
    bytes: Count


class Misses(msgspec.Struct, frozen=True):
    """Events that no subscriber received when they were published: total = recovered + lost + pending."""

    total: Count
    recovered: Count
    lost: Count
    pending: Count


class MissesInTime(Misses, frozen=True):
    """Misses, with the time of the first and the last one."""

    first: Moment | None
    last: Moment | None


class ConnectionStatus(msgspec.Struct, frozen=True):
    """One open stream."""

    id: str
    since: Moment
    address: str
    last_event: EventId | None
    unacknowledged_bytes: Count
    round_trip_ms: Annotated[float, Meta(ge=0)] | None
    paused: bool
    confirmable: Literal["acknowledged", "written"]
    """How it can be confirmed: on Linux, by what its peer's TCP stack has acknowledged."""


class LastDisconnect(msgspec.Struct, frozen=True):
    """When the last connection closed, and why."""

    at: Moment
    reason: str


class LastReady(msgspec.Struct, frozen=True):
    """When a waiting request last found the project ready, with how many connections, confirmed how."""

    at: Moment
    connections: int
    confirmed: str


class ProjectStatus(msgspec.Struct, frozen=True):
    """The state of one project. Of very many connections it lists the newest, and the number of all."""

    project: str
    ring: Ring
    misses: MissesInTime
    epoch: str
    connections: list[ConnectionStatus]
    connections_total: Count
    last_connect: Moment | None
    last_disconnect: LastDisconnect | None
    last_ready: LastReady | None
    finished: bool = False
    """Its newest event was published with `final=true`. Publishing again reopens it."""


class HistoryEvent(msgspec.Struct, frozen=True):
    """One event in the ring; `data` is the text that subscribers receive."""

    id: EventId
    type: str
    data: str
    time: Moment


class Gap(msgspec.Struct, frozen=True):
    """History that is no longer available, as in `edge.gap`."""

    asked: str
    oldest: EventId | None
    newest: EventId | None
    lost: Count | None
    reason: Literal["evicted", "restart", "unknown"]


class History(msgspec.Struct, frozen=True):
    """Events of a project, oldest first. `newest` is the project's: continue after the last id for more."""

    project: str
    oldest: EventId | None
    newest: EventId | None
    gap: Gap | None
    events: list[HistoryEvent]


class ProjectSummary(msgspec.Struct, frozen=True):
    """One line of the list of projects."""

    project: str
    ring: Ring
    misses: Misses
    connections: Count


class ProjectPage(msgspec.Struct, frozen=True):
    """A page of projects, busiest first; `next_offset` is the offset of the next page."""

    projects: list[ProjectSummary]
    total: Count
    next_offset: Count | None


class Deleted(msgspec.Struct, frozen=True):
    """The project was deleted."""

    project: str
    connections_closed: Count
    events_dropped: Count


class Sign(msgspec.Struct, frozen=True):
    """The state of the process."""

    status: Literal["ok", "ready"]


class LinesTaken(msgspec.Struct, frozen=True):
    """The result of an NDJSON request."""

    published: Count
    first_id: EventId | None
    last_id: EventId | None
    connections: Count
    misses: Count


class Triggered(msgspec.Struct, frozen=True, kw_only=True):
    """The job was dispatched."""

    project: str
    id: str
    name: str
    waited_ms: Annotated[float, Meta(ge=0)]
    connections: Count
    confirmed: Confirmed | None
    dispatched: Literal[True] = True
    target: Delivery


class Ticket(msgspec.Struct, frozen=True):
    """A ticket, and the number of seconds it is valid."""

    ticket: str
    expires_in: Count
