"""The periodic step of the hub: stalled connections, acknowledgements, expiry and heartbeats.

Invariant: an exception in one step, project or connection is reported and doesn't stop the others.
"""

from __future__ import annotations

from collections.abc import Callable

from edge.core.connection import Connection
from edge.core.counters import Counters
from edge.core.limits import Limits
from edge.core.observer import Observer
from edge.core.project import Project
from edge.core.retention import Retention
from edge.core.timers import PendingAcks, StallDetector, TimingWheel

TICK_BUDGET = 512
"""Connections or projects that one step handles in one turn of the loop."""


class Ticker:
    """Runs the timers of the hub.

    `expire` evicts the expired events of a project, `close` closes a connection, `failed` aborts one that raised.
    """

    __slots__ = (
        "_close",
        "_counters",
        "_expire",
        "_failed",
        "_limits",
        "_observer",
        "_retention",
        "pending_acks",
        "stalled",
        "timing_wheel",
    )

    def __init__(
        self,
        limits: Limits,
        counters: Counters,
        observer: Observer,
        retention: Retention,
        *,
        expire: Callable[[Project, float], None],
        close: Callable[[Connection, str, float], None],
        failed: Callable[[Connection, Exception], None],
    ) -> None:
        self._limits = limits
        self._counters = counters
        self._observer = observer
        self._retention = retention
        self._expire = expire
        self._close = close
        self._failed = failed
        self.stalled = StallDetector(limits.dead_after_seconds)
        self.pending_acks = PendingAcks()
        self.timing_wheel = TimingWheel(min(1.0, limits.heartbeat_seconds / 16))

    def attached(self, connection: Connection, now: float) -> None:
        """Watch a new connection until `detached`."""
        self.timing_wheel.put(connection, min(now + self._limits.heartbeat_seconds, connection.ends_at_seconds))
        if connection.paused:  # its transport was already full when it was attached
            self.stalled.paused[connection] = None

    def detached(self, connection: Connection) -> None:
        """Stop watching a connection. The timing wheel still holds it until its next time, and then ignores it."""
        self.stalled.paused.pop(connection, None)
        self.pending_acks.forget(connection)

    def tick(self, now: float) -> bool:
        """Run all steps once. Returns whether another turn is needed at once."""
        more = False
        for step in (self._abort_stalled, self._read_acks, self._expire_due, self._send_heartbeats):
            try:
                more = step(now) or more
            except Exception as error:  # noqa: BLE001 - see the invariant
                self._observer.failed("tick", error)
        return more

    def _abort_stalled(self, now: float) -> bool:
        for connection in list(self.stalled.paused):
            try:
                self.stalled.end_if_stuck(connection, now)
            except Exception as error:  # noqa: BLE001 - see the invariant
                self._failed(connection, error)
        return False

    def _read_acks(self, _now: float) -> bool:
        for connection in self.pending_acks.take(TICK_BUDGET):
            try:
                if connection.project is not None and connection.refresh():
                    self.pending_acks.add(connection)
            except Exception as error:  # noqa: BLE001 - see the invariant
                self._failed(connection, error)
        return False

    def _expire_due(self, now: float) -> bool:
        due = self._retention.due(now, TICK_BUDGET)
        for project in due:
            try:
                self._expire(project, now)
            except Exception as error:  # noqa: BLE001 - see the invariant
                self._observer.failed("tick", error)
            finally:
                self._retention.look_again(project)
        return len(due) == TICK_BUDGET

    def _send_heartbeats(self, now: float) -> bool:
        due = self.timing_wheel.due(now, TICK_BUDGET)
        silent: dict[bytes, list[Connection]] = {}
        for connection in due:
            if connection.project is None:
                continue
            try:
                next_check = self._check(connection, silent, now)
            except Exception as error:  # noqa: BLE001 - see the invariant
                self._failed(connection, error)
                next_check = now
            self.timing_wheel.put(connection, max(next_check, now + self.timing_wheel.tick_seconds))
        for ping, connections in silent.items():
            try:
                connections[0].write_each(connections, ping)
                self._counters.heartbeats += sum(not connection.observes for connection in connections)
            except Exception as error:  # noqa: BLE001 - see the invariant
                self._observer.failed("tick", error)
        return len(due) == TICK_BUDGET

    def _check(self, connection: Connection, silent: dict[bytes, list[Connection]], now: float) -> float:
        """End `connection` if it has stalled or reached its end, or add it to `silent` if its heartbeat is due.

        Returns when to check it again, in seconds.
        """
        connection.refresh()
        stalls_at = self.stalled.ends(connection, now)
        heartbeat_seconds = self._limits.heartbeat_seconds
        if stalls_at <= now:
            self.stalled.give_up(connection)
        elif connection.ends_at_seconds <= now and not connection.leaving:
            self._close(connection, connection.ends_reason, now)
        elif connection.last_write_seconds + heartbeat_seconds <= now and not (connection.paused or connection.leaving):
            connection.announce(len(connection.ping), now)
            silent.setdefault(connection.ping, []).append(connection)
        return min(stalls_at, connection.last_write_seconds + heartbeat_seconds, connection.ends_at_seconds)
