"""What the hub tells, as log lines in the words the seed asked for, and handed on to the chronicle and whoever waits.

One line a fact. "Published to nobody" can come thousands of times a second, so it is folded: at once the first
time, then once in a while for each project with how many more there were.
"""

from __future__ import annotations

from collections.abc import Callable

from edge.core.chronicle import Chronicle
from edge.core.connection import Connection
from edge.core.project import Project
from edge.folded_log import FoldedLog
from edge.log import get_logger

_log = get_logger("hub")
FOLD_SECONDS = 10.0
_MAX_KEYS = 1000


class HubLog:
    """The hub's observer. `connection_came` is called with the project of each new connection."""

    def __init__(self, chronicle: Chronicle) -> None:
        self._chronicle = chronicle
        self.connection_came: list[Callable[[str], None]] = []
        self._nobody: FoldedLog[str] = FoldedLog(period_seconds=FOLD_SECONDS, max_keys=_MAX_KEYS)
        self._limits: FoldedLog[str] = FoldedLog(period_seconds=FOLD_SECONDS, max_keys=_MAX_KEYS)

    def connection_added(self, project: Project, connection: Connection) -> None:
        _log.info(
            "connection_added",
            project=project.name,
            connection=connection.id,
            address=connection.address,
            total=len(project.connections),
        )
        self._chronicle.came(project, connection)
        for tell in self.connection_came:
            tell(project.name)

    def connection_removed(
        self, project: Project, connection: Connection, reason: str, missed: int, now: float
    ) -> None:
        remaining = len(project.connections)
        _log.info(
            "connection_removed" if remaining else "last_connection_removed",
            project=project.name,
            connection=connection.id,
            reason=reason,
            remaining=remaining,
            age_seconds=round(now - connection.connected_at_seconds, 3),
            missed=missed,
        )
        self._chronicle.left(project, connection, reason, missed, now)

    def project_forgotten(self, project: Project) -> None:
        self._chronicle.forgotten(project)

    def published_to_nobody(self, project: Project, event_id: str, now: float) -> None:
        suppressed = self._nobody.admit(project.name, now)
        if suppressed is not None:
            _log.warning(
                "published_to_nobody",
                project=project.name,
                id=event_id,
                pending=len(project.ledger.pending),
                suppressed=suppressed,
            )

    def limit_reached(self, code: str, project: str, address: str | None, now: float) -> None:
        suppressed = self._limits.admit(code, now)
        if suppressed is not None:
            _log.warning("limit_reached", code=code, project=project, address=address, suppressed=suppressed)

    def tell_folded(self, now: float) -> None:
        """Say what has been folded and not said since; called now and then."""
        for project, suppressed in self._nobody.due(now):
            _log.warning("published_to_nobody", project=project, suppressed=suppressed)
        for code, suppressed in self._limits.due(now):
            _log.warning("limit_reached", code=code, suppressed=suppressed)
