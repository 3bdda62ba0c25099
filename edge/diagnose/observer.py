"""What happens around each project: the hub's observer writes it to the log, and records a few facts for `explain`.

One log line per event. Lines that could come thousands of times a second are deduplicated: `event_missed` by project,
`limit_reached` by code, connections added and removed beyond `BURST_LINES` a second.

The record outlives the projects: the hub drops one as soon as nothing is left of it, just when the question comes why
no subscriber was connected. Nothing is recorded while all is well: a delivered event, a trigger that found its
subscriber, a first subscriber without a miss. Invariant: it holds at most `max_projects` projects and `max_unknown`
names that were only ever refused, each with at most `_MAX_FACTS` facts: one per kind and reason, with its count and
latest time. Unknown names have a pool of their own, so that refused requests under made-up names evict no project's
facts.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Literal

import msgspec

from edge.core.connection import Connection
from edge.core.project import Project
from edge.logs.setup import LogDeduplicator, get_logger
from edge.supervisor import Supervisor

_log = get_logger("hub")
_access_log = get_logger("access")
FOLD_SECONDS = 10.0
BURST_LINES = 100
BURST_SECONDS = 1.0
_MAX_KEYS = 1000
MAX_PROJECTS = 10_000
"""About 600 bytes each."""
MAX_UNKNOWN = 1_000
_MAX_FACTS = 12
_MAX_NAME_CHARS = 128

Kind = Literal["left", "refused", "late", "trigger", "forgotten", "connected", "published", "missed"]
"""The last three are not recorded: they are what the project itself knows of its newest connection, event and miss."""


class Fact(msgspec.Struct, gc=False):
    """Something that happened `count` times, last at `last_seconds`; the other fields describe the last time.

    kind       reason                                 seconds                       missed, recovered
    left       why (`REMOVAL_REASONS`)                how long it was connected     events it did not receive
    refused    the error code                         -                             -
    late       `first`, `dropped` or `trigger`        how late it connected         events missed, and recovered
    trigger    `waited` or an outcome                 how long it waited            -
    forgotten  -                                      -                             in the project's whole life
    """

    kind: Kind
    reason: str
    last_seconds: float
    count: int = 1
    seconds: float | None = None
    address: str | None = None
    connection: str | None = None
    missed: int = 0
    recovered: int = 0
    lost: int = 0
    detail: str | None = None
    """Of a refusal: what was compared."""


class _Record:
    __slots__ = ("awaited_since_seconds", "facts")

    def __init__(self) -> None:
        self.facts: dict[tuple[Kind, str], Fact] = {}
        self.awaited_since_seconds: float | None = None
        """Since when a trigger has waited without a subscriber connecting."""

    def add(self, fact: Fact) -> None:
        before = self.facts.pop((fact.kind, fact.reason), None)
        if before is not None:
            fact.count = before.count + 1
        elif len(self.facts) >= _MAX_FACTS:
            del self.facts[next(iter(self.facts))]
        self.facts[fact.kind, fact.reason] = fact


class ProjectHistory:
    """Records facts as they happen; `facts` returns them. Times are seconds of the hub's clock."""

    def __init__(self, max_projects: int = MAX_PROJECTS, max_unknown: int = MAX_UNKNOWN) -> None:
        self._max_projects = max_projects
        self._max_unknown = max_unknown
        self.projects: OrderedDict[str, _Record] = OrderedDict()
        self.unknown: OrderedDict[str, _Record] = OrderedDict()
        """Names that were only ever refused."""

    def connected(self, project: Project, connection: Connection) -> None:
        """A connection of `project` was added; recorded if it is the first after something went wrong."""
        if len(project.connections) != 1:
            return
        now = connection.connected_at_seconds
        record = self.projects.get(project.name)
        absence = project.ledger.absence_ends()
        if absence is not None:
            # The hub drops an empty project, and with it that there was a connection.
            left_before = record is not None and any(kind == "left" for kind, _ in record.facts)
            reason = "dropped" if left_before or project.last_disconnect is not None else "first"
            late_seconds, counts = now - absence.since_seconds, (absence.missed, absence.recovered)
            record = self._project(project.name)
            record.add(Fact("late", reason, now, 1, late_seconds, None, connection.id, *counts))
        if record is not None and record.awaited_since_seconds is not None:
            record.add(Fact("late", "trigger", now, seconds=now - record.awaited_since_seconds))
            record.awaited_since_seconds = None

    def disconnected(self, project: Project, connection: Connection, reason: str, missed: int, now: float) -> None:
        """A connection of `project` was removed; `missed` events had not reached it."""
        lasted_seconds = now - connection.connected_at_seconds
        fact = Fact("left", reason, now, 1, lasted_seconds, connection.address, connection.id, missed)
        self._project(project.name).add(fact)

    def refused(self, name: str, code: str, address: str | None, now: float, detail: str | None = None) -> None:
        """A subscriber of `name`, which may be anything, was refused."""
        name = name[:_MAX_NAME_CHARS]
        record = self.projects.get(name)
        if record is None:
            record = self.unknown.pop(name, None) or _Record()
            _insert(self.unknown, name, record, self._max_unknown)
        record.add(Fact("refused", code, now, address=address, detail=detail))

    def trigger(self, name: str, outcome: str, waited_seconds: float, now: float) -> None:
        """A trigger of `name` had to wait (`waited`), or failed (`no_connection`, `dispatched_anyway`, `failed`,
        `cancelled`).
        """
        record = self._project(name)
        record.add(Fact("trigger", outcome, now, seconds=waited_seconds))
        if outcome in ("no_connection", "dispatched_anyway") and record.awaited_since_seconds is None:
            record.awaited_since_seconds = now - waited_seconds

    def dropped(self, project: Project) -> None:
        """The hub dropped `project` and its ledger; its totals are kept if anything was missed."""
        ledger = project.ledger
        if ledger.last_miss_seconds is not None:
            fact = Fact("forgotten", "", ledger.last_miss_seconds)
            fact.missed, fact.recovered, fact.lost = ledger.misses, ledger.recovered, ledger.lost
            self._project(project.name).add(fact)

    def facts(self, name: str) -> list[Fact]:
        """The facts of `name`, newest first."""
        record = self.projects.get(name) or self.unknown.get(name)
        facts = () if record is None else record.facts.values()
        return sorted(facts, key=lambda fact: fact.last_seconds, reverse=True)

    def _project(self, name: str) -> _Record:
        record = self.projects.pop(name, None) or self.unknown.pop(name, None) or _Record()
        _insert(self.projects, name, record, self._max_projects)
        return record


def _insert(pool: OrderedDict[str, _Record], name: str, record: _Record, bound: int) -> None:
    """Add a name as the newest of `pool`, and drop the oldest beyond `bound`."""
    pool[name] = record
    if len(pool) > bound:
        pool.popitem(last=False)


# --- the observer ---


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
        if (suppressed := self._connections_log.admit("connection_added", connection.connected_at_seconds)) is not None:
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
        if (suppressed := self._connections_log.admit(event, now)) is not None:
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
        if (suppressed := self._limits.admit("project_displaced", now)) is not None:
            _log.warning("project_displaced", project=project.name, **_more(suppressed))

    def event_missed(self, project: Project, event_id: str, now: float) -> None:
        if (suppressed := self._missed_log.admit(project.name, now)) is not None:
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
        if (suppressed := self._limits.admit(code, now)) is not None:
            _log.warning("limit_reached", code=code, project=project, address=address, **_more(suppressed))

    def flush_suppressed(self, now: float) -> None:
        """Log what was suppressed and not counted since; called every second."""
        for project, suppressed in self._missed_log.due(now):
            _log.warning("event_missed", project=project, suppressed=suppressed)
        for code, suppressed in self._limits.due(now):
            if code == "project_displaced":
                _log.warning("project_displaced", suppressed=suppressed)
            else:
                _log.warning("limit_reached", code=code, suppressed=suppressed)
        for event, suppressed in self._connections_log.due(now):
            if event is not None:  # there are fewer events than keys
                _log.info(event, suppressed=suppressed)


def _more(suppressed: int) -> dict[str, int]:
    """How many lines were left out before this one, where any were."""
    return {"suppressed": suppressed} if suppressed else {}
