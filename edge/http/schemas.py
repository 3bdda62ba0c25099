"""Response bodies as structs; `edge/static/openapi.json` says what each is and means, under the same name.

An event id is `<epoch>-<seq>`, a moment ISO 8601 in UTC, to the millisecond.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from edge.core.observer import Receipt
from edge.triggers.job import Delivery
from edge.triggers.readiness import Confirmed


class Ready(msgspec.Struct, frozen=True, kw_only=True):
    ready: Literal[True] = True
    waited_ms: float
    connections: int
    confirmed: Confirmed


class Ring(msgspec.Struct, frozen=True):
    oldest: str | None
    newest: str | None
    events: int
    bytes: int


class Misses(msgspec.Struct, frozen=True):
    total: int
    recovered: int
    lost: int
    pending: int


class MissesInTime(Misses, frozen=True):
    first: str | None
    last: str | None


class ConnectionStatus(msgspec.Struct, frozen=True):
    id: str
    since: str
    address: str
    last_event: str | None
    unacknowledged_bytes: int
    round_trip_ms: float | None
    paused: bool
    confirmable: Literal["acknowledged", "written"]
    sub: str | None


class LastDisconnect(msgspec.Struct, frozen=True):
    at: str
    reason: str


class LastReady(msgspec.Struct, frozen=True):
    at: str
    connections: int
    confirmed: str


class ProjectStatus(msgspec.Struct, frozen=True):
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


class HistoryEvent(msgspec.Struct, frozen=True):
    id: str
    type: str
    data: str
    time: str


class Gap(msgspec.Struct, frozen=True):
    asked: str
    oldest: str | None
    newest: str | None
    lost: int | None
    reason: Literal["evicted", "restart", "unknown"]


class History(msgspec.Struct, frozen=True):
    project: str
    oldest: str | None
    newest: str | None
    gap: Gap | None
    events: list[HistoryEvent]


class ProjectSummary(msgspec.Struct, frozen=True):
    project: str
    ring: Ring
    misses: Misses
    connections: int


class ProjectPage(msgspec.Struct, frozen=True):
    projects: list[ProjectSummary]
    total: int
    next_offset: int | None


class HubStore(msgspec.Struct, frozen=True):
    available: bool
    problem: str | None
    errors: int


class HubMisses(Misses, frozen=True):
    oldest_pending_seconds: float | None


class HubRing(msgspec.Struct, frozen=True):
    events: int
    bytes: int
    max_bytes: int


class HubStatus(msgspec.Struct, frozen=True, kw_only=True):
    version: str
    started: str
    uptime_seconds: float
    draining: bool
    permissions: list[str]
    projects: int
    max_projects: int
    connections: int
    observers: int
    waiting: int
    published: int
    delivered: int
    ring: HubRing
    misses: HubMisses
    triggers: dict[str, int]
    store: HubStore
    memory_bytes: int | None


class Deleted(msgspec.Struct, frozen=True):
    project: str
    connections_closed: int
    events_dropped: int


class Sign(msgspec.Struct, frozen=True):
    status: Literal["ok", "ready"]


class Receipts(msgspec.Struct, frozen=True):
    receipts: list[Receipt]


class LinesTaken(msgspec.Struct, frozen=True):
    published: int
    first_id: str | None
    last_id: str | None
    connections: int
    misses: int


class Triggered(msgspec.Struct, frozen=True, kw_only=True):
    project: str
    id: str
    name: str
    waited_ms: float
    connections: int
    confirmed: Confirmed | None
    dispatched: Literal[True] = True
    target: Delivery


class Ticket(msgspec.Struct, frozen=True):
    ticket: str
    expires_in: int
