"""What the hub reports: the receipt of a publisher, and the facts for an observer."""

from __future__ import annotations

from typing import Protocol

import msgspec

from edge.core.connection import Connection
from edge.core.project import Project


class Receipt(msgspec.Struct, frozen=True, gc=False):
    """What became of a published event."""

    project: str
    id: str
    connections: int
    missed: bool


class Batch(msgspec.Struct, frozen=True, gc=False):
    """What became of events that were published together."""

    first_id: str
    last_id: str
    events: int
    missed: bool


class Observer(Protocol):
    """Hears of what the hub does, for the log and for waiting requests."""

    def connection_added(self, project: Project, connection: Connection) -> None: ...
    def connection_removed(
        self, project: Project, connection: Connection, reason: str, missed: int, now: float
    ) -> None: ...
    def observer_removed(self, project: Project, connection: Connection) -> None: ...
    def project_forgotten(self, project: Project) -> None: ...
    def project_displaced(self, project: Project, now: float) -> None: ...
    def event_missed(self, project: Project, event_id: str, now: float) -> None: ...
    def failed(self, task: str, error: Exception) -> None:
        """An exception that the hub has isolated, in the task `tick` or `flush`."""

    def limit_reached(self, code: str, project: str | None, address: str | None, now: float) -> None: ...
