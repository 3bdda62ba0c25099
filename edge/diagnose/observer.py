"""The hub's observer: writes what the hub does to the log, and passes it on to the history and to callbacks.

One line per event. Lines that could come thousands of times a second are deduplicated: `event_missed` by project,
`limit_reached` by code, connections added and removed beyond `BURST_LINES` a second.
"""

from __future__ import annotations

from collections.abc import Callable

from edge.core.connection import Connection
from edge.core.project import Project
from edge.diagnose.history import ProjectHistory
from edge.logs.ratelimit import LogDeduplicator
from edge.logs.setup import get_logger
from edge.supervisor import Supervisor

_log = get_logger("hub")
_access_log = get_logger("access")
FOLD_SECONDS = 10.0
BURST_LINES = 100
BURST_SECONDS = 1.0
_MAX_KEYS = 1000


class HubObserver:
    """The hub's observer. `connection_came` is called with the project of each new connection.

    `access_log`: streams have a line there too, at their end.
    """

    def __init__(self, history: ProjectHistory, supervisor: Supervisor, *, access_log: bool = False) -> None:
        self._history = history
        self.failed = supervisor.failed
        self._access_log = access_log
        self.connection_came: list[Callable[[str], None]] = []
        self.connection_left: list[Callable[[Project, Connection], None]] = []
        self.missed: list[Callable[[Project, str], None]] = []
        self.dropped: list[Callable[[Project], None]] = []
        self._missed_log: LogDeduplicator[str] = LogDeduplicator(period_seconds=FOLD_SECONDS, max_keys=_MAX_KEYS)
        self._limits: LogDeduplicator[str] = LogDeduplicator(period_seconds=FOLD_SECONDS, max_keys=_MAX_KEYS)
        self._connections_log: LogDeduplicator[str] = LogDeduplicator(
            period_seconds=BURST_SECONDS, max_keys=_MAX_KEYS, lines=BURST_LINES
        )

    def connection_added(self, project: Project, connection: Connection) -> None:
        suppressed = self._connections_log.admit("connection_added", connection.connected_at_seconds)
        if suppressed is not None:
            _log.info(
                "connection_added",
                project=project.name,
                connection=connection.id,
                address=connection.address,
                total=len(project.connections),
                **_more(suppressed),
            )
        self._history.connected(project, connection)
        for callback in self.connection_came:
            callback(project.name)

    def connection_removed(
        self, project: Project, connection: Connection, reason: str, missed: int, now: float
    ) -> None:
        self._history.disconnected(project, connection, reason, missed, now)
        remaining = len(project.connections)
        event = "connection_removed" if remaining else "last_connection_removed"
        suppressed = self._connections_log.admit(event, now)
        if suppressed is not None:
            _log.info(
                event,
                project=project.name,
                connection=connection.id,
                reason=reason,
                remaining=remaining,
                age_seconds=round(now - connection.connected_at_seconds, 3),
                events=connection.events_sent,
                missed=missed,
                **_more(suppressed),
            )
        if self._access_log:
            _access_log.info(
                "request",
                method="GET",
                path=f"/projects/{project.name}/events",
                status=200,
                duration_ms=round((now - connection.connected_at_seconds) * 1000, 3),
                bytes=connection.written_bytes,
                address=connection.address,
                connection=connection.id,
                events=connection.events_sent,
            )
        for callback in self.connection_left:
            callback(project, connection)

    def observer_removed(self, project: Project, connection: Connection) -> None:
        for callback in self.connection_left:
            callback(project, connection)

    def project_forgotten(self, project: Project) -> None:
        self._history.dropped(project)
        for callback in self.dropped:
            callback(project)

    def project_displaced(self, project: Project, now: float) -> None:
        suppressed = self._limits.admit("project_displaced", now)
        if suppressed is not None:
            _log.warning("project_displaced", project=project.name, **_more(suppressed))

    def event_missed(self, project: Project, event_id: str, now: float) -> None:
        suppressed = self._missed_log.admit(project.name, now)
        if suppressed is not None:
            _log.warning(
                "event_missed",
                project=project.name,
                id=event_id,
                pending=len(project.ledger.pending),
                **_more(suppressed),
            )
        for callback in self.missed:
            callback(project, event_id)

    def limit_reached(self, code: str, project: str | None, address: str | None, now: float) -> None:
        suppressed = self._limits.admit(code, now)
        if suppressed is not None:
            _log.warning("limit_reached", code=code, project=project, address=address, **_more(suppressed))

    def flush_suppressed(self, now: float) -> None:
        """Log what was suppressed and not counted since; called every second."""
        for project, suppressed in self._missed_log.due(now):
            _log.warning("event_missed", project=project, suppressed=suppressed)
        for code, suppressed in self._limits.due(now):
            _log.warning("limit_reached", code=code, suppressed=suppressed)
        for event, suppressed in self._connections_log.due(now):
            if event is not None:  # there are fewer events than keys
                _log.info(event, suppressed=suppressed)


def _more(suppressed: int) -> dict[str, int]:
    """How many lines were left out before this one, where any were."""
    return {"suppressed": suppressed} if suppressed else {}
