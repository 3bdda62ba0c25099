"""The projects of one process and their streams: admission, connections, delivery in turns, time.

`edge.core.hub.Hub` adds what is published to them. Invariant: connections that are still attached to a deleted project
detach from the old object.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import cast

from edge.core.connection import Connection
from edge.core.counters import Counters
from edge.core.errors import Draining
from edge.core.limits import Admission, Limits
from edge.core.observer import Observer
from edge.core.project import Project
from edge.core.registry import Epochs, Registry
from edge.core.resume import Start
from edge.core.retention import Retention
from edge.core.timers import Ticker
from edge.core.turns import LOST_BUDGET, CloseQueue, FlushQueue, Turn


class Streams:
    """Projects and connections. `boot` (lower-case letters, digits) is unique to the process and begins its epochs."""

    def __init__(self, limits: Limits, *, boot: str, wake: Callable[[], object], observer: Observer) -> None:
        self.limits = limits
        self.counters = Counters()
        self.connections: dict[str, Connection] = {}
        self.observers: dict[str, Connection] = {}
        self.draining = False
        self._observer = observer
        self._epochs = Epochs(boot)
        self._registry = Registry(self._epochs, self.counters, observer)
        self.projects = self._registry.current
        self.dropped = self._registry.dropped
        self._turn = Turn(wake)
        self._lost: deque[tuple[Connection, str, bool]] = deque()
        self._lost_in_turn = 0
        self._closing = CloseQueue(self._turn.want, limits, self.connection_failed, self._evict_deleted)
        self._flush_queue = FlushQueue(self._turn.want, self._flushed)
        self._admission = Admission(limits, self.counters, observer)
        self._retention = Retention(limits, self.counters, self._flush_queue.deliver_first)
        self._ticker = Ticker(
            limits,
            self.counters,
            observer,
            self._retention,
            self._closing,
            expire=self._expire,
            failed=self.connection_failed,
        )

    @property
    def tick_seconds(self) -> float:
        """The interval at which `tick` must be called."""
        return self._ticker.timing_wheel.tick_seconds

    def connected(self, name: str) -> int:
        """How many connections `name` has."""
        project = self.projects.get(name)
        return 0 if project is None else len(project.connections)

    def has_streams(self, name: str) -> bool:
        """Whether `name` has a connection or an observer."""
        project = self.projects.get(name)
        return project is not None and bool(project.connections or project.observers)

    @property
    def streams(self) -> list[Connection]:
        """All connections and observers."""
        return [*self.connections.values(), *self.observers.values()]

    def check_room(self, names: Sequence[str], address: str | None, now: float) -> None:
        """Raise LimitReached (`too_many_projects`) unless all of `names` can exist together. What follows at once may
        create them: none makes way for another.
        """
        new = [name for name in names if name not in self.projects]
        short = len(self.projects) + len(new) - self.limits.max_projects
        if new and short > 0 and not self._registry.can_displace(short, names):
            self._admission.project(self.limits.max_projects, new[-1], address, now)
        for name in names:
            if name in self.projects:
                self._registry.in_use(self.projects[name])

    def flush(self, now: float) -> bool:
        """Deliver events and close streams within the budget of one turn. Returns whether another turn is needed."""
        self._turn.wanted = False
        try:
            self._flush_queue.flush(now)
        finally:
            self._closing.run(now)
            if self._retention.is_over:
                self._make_room(now)
            self._detach_lost(now)
        return self._turn.wanted

    def _detach_lost(self, now: float) -> None:
        self._lost_in_turn = min(len(self._lost), LOST_BUDGET)
        if len(self._lost) > LOST_BUDGET:
            self._turn.want()
        for _ in range(self._lost_in_turn):
            connection, reason, reset = self._lost.popleft()
            self.detach(connection, reason, now, reset=reset)

    def admit(self, name: str, address: str, now: float, more: int = 0) -> None:
        """Raise unless the limits allow one more connection to `name` from `address`, and `more` to other projects.

        Raises:
            Draining, LimitReached: `too_many_connections`, `too_many_project_connections`,
                `too_many_address_connections`, `too_many_projects`.
        """
        if self.draining:
            self.counters.rejected["draining"] += 1
            raise Draining("The hub is shutting down; connect again in a second.", retry_after_seconds=1)
        project = self.projects.get(name)
        if project is None and not self._registry.displaceable():
            self._admission.project(len(self.projects), name, address, now)
        in_project = 0 if project is None else len(project.connections) + len(project.observers)
        there = len(self.connections) + len(self.observers)
        self._admission.connection(there, in_project, name, address, now, more)

    def attach(
        self,
        name: str,
        connection: Connection,
        start: Callable[[Project], Start],
        now: float,
        *,
        admitted: bool = False,
    ) -> None:
        """Add `connection` to project `name` at `start`, and write its hello and replay.

        `admitted`: `admit` has just been called. Otherwise raises what that raises.
        """
        if not admitted:
            self.admit(name, connection.address, now)
        project = self.projects.get(name)
        if project is None:
            project = self._create(name, connection.address, now)
        else:
            if len(project.ring):
                # Not `_expire`: that drops a project which is empty now.
                self._retention.expire(project, now)
            self._registry.in_use(project)
        (self.observers if connection.observes else self.connections)[connection.id] = connection
        self._admission.entered(connection.address)
        self.counters.added += not connection.observes
        project.attach(
            connection,
            start(project),
            {"project": name, "connection": connection.id, "heartbeat_seconds": self.limits.heartbeat_seconds},
            self.limits.retry_ms,
            now,
        )
        self._ticker.attached(connection, now)
        if not connection.observes:
            self._observer.connection_added(project, connection)
        if project.completes(connection):
            self.close(connection, "finished", now)

    def lost(self, connection: Connection, reason: str, now: float, *, reset: bool = False) -> None:
        """`detach` a connection: now, or in a later turn of the loop if many are lost in this one."""
        if self._lost_in_turn < LOST_BUDGET and not self._lost:
            self._lost_in_turn += 1
            self.detach(connection, reason, now, reset=reset)
        else:
            connection.refresh()
            connection.leaving = reason
            self._lost.append((connection, reason, reset))
        self._turn.want()

    def detach(self, connection: Connection, reason: str, now: float, *, reset: bool = False) -> None:
        """Remove a connection whose transport is closed. A second call does nothing.

        `reason` is one of `REMOVAL_REASONS`; `reset`: the peer ended it without a FIN.
        """
        if (self.observers if connection.observes else self.connections).pop(connection.id, None) is None:
            return
        project = cast("Project | None", connection.project)
        assert project is not None
        missed = project.detach(connection, reason, now, reset=reset)
        connection.project = None
        connection.leaving = reason
        self._ticker.detached(connection)
        self._admission.left(connection.address)
        if connection.observes:
            self._observer.observer_removed(project, connection)
        else:
            self.counters.removed[reason] += 1
            if reason == "dead":
                self.counters.dead_detection_seconds.observe(connection.silent_seconds(now))
            self._observer.connection_removed(project, connection, reason, missed, now)
        self._registry.update(project)

    def paused(self, connection: Connection, now: float) -> None:
        """The transport of `connection` is full."""
        connection.paused = True
        connection.progress_seconds = now
        connection.progress_bytes = connection.moved_bytes()
        if connection.project is not None:
            self._ticker.paused[connection] = None

    def drained(self, connection: Connection, now: float) -> None:
        """The transport of `connection` accepts bytes again: the connection catches up from the ring."""
        connection.paused = False
        self._ticker.paused.pop(connection, None)
        project = cast("Project | None", connection.project)
        if project is not None:
            project.deliver(connection, project.ring.newest, now)
            if connection.takes_missed and project.ledger.pending:
                project.offer_missed([connection], now)
            if project.completes(connection):
                self.close(connection, "finished", now)

    def refused(self, code: str, address: str | None, now: float) -> None:
        """Count and report a client that was refused before its request was read."""
        self.counters.rejected[code] += 1
        self._observer.limit_reached(code, None, address, now)

    def pending_acks(self, connection: Connection) -> None:
        """`connection` was written to: read its acknowledgements until it owes none."""
        self._ticker.pending_acks[connection] = None

    def tick(self, now: float) -> bool:
        """Run the periodic step. Returns whether another turn is needed at once."""
        return self._ticker.tick(now)

    def connection_failed(self, connection: Connection, error: Exception, task: str = "tick") -> None:
        """Report `error` and abort `connection` (reason `error`), because its state is unreliable."""
        self._observer.failed(task, error)
        connection.leaving = connection.leaving or "error"
        try:
            connection.abort()
        except Exception as second:  # noqa: BLE001 - the other connections go on
            self._observer.failed(task, second)

    def close(self, connection: Connection, reason: str, now: float) -> None:
        """Send `closing` with the reason and end the stream. The transport then calls `detach`."""
        self._closing.close(connection, reason, now)

    def close_all(self, project: Project, reason: str, now: float) -> None:
        """Close the streams of `project`, a few in each turn of the loop."""
        self._closing.add(project.streams, reason)
        self._closing.run(now)

    def end(self, connection: Connection, reason: str, now: float) -> None:
        """Deliver what is held, then `close`."""
        self._closing.end(connection, reason, now)

    def drain(self, now: float) -> None:
        """Shut down: deliver what is held, close every stream, refuse new events and connections.

        What exceeds the budget of this turn is done by the next calls of `flush`.
        """
        self.draining = True
        self._closing.add(self.streams, "shutdown")
        self._closing.run(now)

    def _flushed(self, project: Project, now: float) -> None:
        """`project` is up to date."""
        if project in self._retention.crowded:
            self._enforce(project, now)
        if project.finished:
            self._closing.add(project.streams, "finished")

    def _evict_deleted(self, project: Project, most: int, now: float) -> bool:
        """Evict at most `most` events of a deleted project. Returns whether none is left."""
        self._retention.evict(project, min(len(project.ring), most), "deleted", now)
        if len(project.ring):
            return False
        self._observer.project_forgotten(project)
        return True

    def _create(self, name: str, address: str | None, now: float) -> Project:
        if len(self.projects) >= self.limits.max_projects and (idlest := self._registry.displaceable()) is not None:
            self._retention.evict(idlest, len(idlest.ring), "projects", now)
            self._registry.update(idlest)
            self.counters.projects_displaced += 1
            self._observer.project_displaced(idlest, now)
        self._admission.project(len(self.projects), name, address, now)
        return self._registry.create(name)

    def _enforce(self, project: Project, now: float) -> None:
        if self._retention.enforce(project, now):
            self._make_room(now)

    def _make_room(self, now: float) -> None:
        for emptied in self._retention.shrink(self.limits.total_bytes, "total", now):
            self._registry.update(emptied)
        if self._retention.is_over:
            self._turn.want()

    def _expire(self, project: Project, now: float, most: int | None = None) -> int:
        """Evict expired events of `project`, at most `most`. Returns how many."""
        count = self._retention.expire(project, now, most)
        self._registry.update(project)
        return count
