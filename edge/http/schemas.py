"""Response bodies as structs; `edge/static/openapi.json` describes each under the same name.

An event id is `<epoch>-<seq>`, a moment ISO 8601 in UTC, to the millisecond.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from edge.core.observer import Receipt
from edge.triggers.job import Delivery
from edge.triggers.readiness import Confirmed


class Ready(msgspec.Struct, frozen=True, kw_only=True):
    """Enough connections are confirmed."""

    ready: Literal[True] = True
    waited_ms: float
    connections: int
    confirmed: Confirmed


class Ring(msgspec.Struct, frozen=True):
    """The events a project holds for replay."""

    oldest: str | None
    newest: str | None
    events: int
    bytes: int


class Misses(msgspec.Struct, frozen=True):
    """Events that no subscriber received when they were published: total = recovered + lost + pending."""

    total: int
    recovered: int
    lost: int
    pending: int


class MissesInTime(Misses, frozen=True):
    """Misses, with the time of the first and the last one."""

    first: str | None
    last: str | None


class ConnectionStatus(msgspec.Struct, frozen=True):
    """One open stream."""

    id: str
    since: str
    address: str
    last_event: str | None
    unacknowledged_bytes: int
    round_trip_ms: float | None
    paused: bool
    confirmable: Literal["acknowledged", "written"]
    """How it can be confirmed: on Linux, by what its peer's TCP stack has acknowledged."""
    sub: str | None


class LastDisconnect(msgspec.Struct, frozen=True):
    """When the last connection closed, and why."""

    at: str
    reason: str


class LastReady(msgspec.Struct, frozen=True):
    """When a waiting request last found the project ready, with how many connections, confirmed how."""

    at: str
    connections: int
    confirmed: str


class ProjectStatus(msgspec.Struct, frozen=True):
    """The state of one project. Of very many connections it lists the newest, and the number of all."""

    project: str
    ring: Ring
    misses: MissesInTime
    epoch: str
    connections: list[ConnectionStatus]
    connections_total: int
    last_connect: str | None
    last_disconnect: LastDisconnect | None
    last_ready: LastReady | None
    finished: bool = False
    """Its newest event was published with `final=true`. Publishing again reopens it."""


class HistoryEvent(msgspec.Struct, frozen=True):
    """One event in the ring; `data` is the text that subscribers receive."""

    id: str
    type: str
    data: str
    time: str


class Gap(msgspec.Struct, frozen=True):
    """History that is no longer available, as in `edge.gap`."""

    asked: str
    oldest: str | None
    newest: str | None
    lost: int | None
    reason: Literal["evicted", "restart", "unknown"]


class History(msgspec.Struct, frozen=True):
    """Events of a project, oldest first. `newest` is the project's: continue after the last id for more."""

    project: str
    oldest: str | None
    newest: str | None
    gap: Gap | None
    events: list[HistoryEvent]


class ProjectSummary(msgspec.Struct, frozen=True):
    """One line of the list of projects."""

    project: str
    ring: Ring
    misses: Misses
    connections: int


class ProjectPage(msgspec.Struct, frozen=True):
    """A page of projects, busiest first; `next_offset` is the offset of the next page."""

    projects: list[ProjectSummary]
    total: int
    next_offset: int | None


class HubStore(msgspec.Struct, frozen=True):
    """Whether the store accepts events, the reason if it does not, and its failed writes."""

    available: bool
    problem: str | None
    errors: int


class HubMisses(Misses, frozen=True):
    """Misses of all projects, and the age of the oldest pending one."""

    oldest_pending_seconds: float | None


class HubRing(msgspec.Struct, frozen=True):
    """What all rings hold, and `ring.total_bytes`. `bytes` includes the overhead of each event."""

    events: int
    bytes: int
    max_bytes: int


class HubStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The totals of this process since it started, as in its metrics."""

    version: str
    started: str
    uptime_seconds: float
    draining: bool
    permissions: list[str]
    """The caller's, on the whole hub."""
    projects: int
    max_projects: int
    connections: int
    observers: int
    waiting: int
    """Requests that wait for a subscriber."""
    published: int
    delivered: int
    ring: HubRing
    misses: HubMisses
    triggers: dict[str, int]
    """By outcome."""
    store: HubStore
    memory_bytes: int | None
    """Resident memory; null where the platform does not report it."""


class Deleted(msgspec.Struct, frozen=True):
    """The project was deleted."""

    project: str
    connections_closed: int
    events_dropped: int


class Sign(msgspec.Struct, frozen=True):
    """The state of the process."""

    status: Literal["ok", "ready"]


class Receipts(msgspec.Struct, frozen=True):
    """What became of an event that was published to several projects."""

    receipts: list[Receipt]


class LinesTaken(msgspec.Struct, frozen=True):
    """The result of an NDJSON request."""

    published: int
    first_id: str | None
    last_id: str | None
    connections: int
    misses: int


class Triggered(msgspec.Struct, frozen=True, kw_only=True):
    """The job was dispatched."""

    project: str
    id: str
    name: str
    waited_ms: float
    connections: int
    confirmed: Confirmed | None
    dispatched: Literal[True] = True
    target: Delivery


class Ticket(msgspec.Struct, frozen=True):
    """A ticket, and the number of seconds it is valid."""

    ticket: str
    expires_in: int
