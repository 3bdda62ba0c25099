"""The periodic step of the hub: stalled connections, acknowledgements, expiry, heartbeats and ends of life.

No stream has a timer or task of its own. Each step does a bounded amount of work in one turn of the event loop.
Invariant: an exception in one step, project or connection is reported and doesn't stop the others.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from itertools import islice

from edge.core.connection import NEVER, Connection
from edge.core.counters import Counters
from edge.core.limits import Limits
from edge.core.observer import Observer
from edge.core.project import Project
from edge.core.retention import Retention
from edge.core.turns import CloseQueue

TICK_BUDGET = 512
"""Connections or projects that one step handles in one turn of the loop."""
EXPIRE_BUDGET = 20_000
"""Events that expire in one turn."""
_PROJECTS_AT_ONCE = 16
_OWES_NOTHING = -1


class TimingWheel:
    """When to look at which connection again, in slots of `tick_seconds`.

    Invariant: each connection that was put in comes out once, not before its time and at most one tick after it (if
    `due` is called). Connections that have been detached stay in until their time comes; the caller drops them.
    """

    __slots__ = ("_due", "_reached", "_slots", "tick_seconds")

    def __init__(self, tick_seconds: float) -> None:
        self.tick_seconds = tick_seconds
        self._slots: dict[int, list[Connection]] = {}
        self._due: deque[Connection] = deque()
        self._reached = -1

    def put(self, connection: Connection, when: float) -> None:
        """Have `connection` come out at `when`, in seconds."""
        slot = max(math.ceil(when / self.tick_seconds), self._reached + 1)
        there = self._slots.get(slot)
        if there is None:
            self._slots[slot] = [connection]
        else:
            there.append(connection)

    def due(self, now: float, count: int) -> list[Connection]:
        """Take out at most `count` of those whose time has come."""
        now_slot = math.floor(now / self.tick_seconds)
        if now_slot > self._reached:
            if len(self._slots) < now_slot - self._reached:
                slots = sorted(slot for slot in self._slots if slot <= now_slot)
            else:
                slots = [slot for slot in range(self._reached + 1, now_slot + 1) if slot in self._slots]
            for slot in slots:
                self._due.extend(self._slots.pop(slot))
            self._reached = now_slot
        return [self._due.popleft() for _ in range(min(count, len(self._due)))]


class Ticker:
    """Runs the timers of the hub. `expire` evicts expired events of a project, `failed` aborts a connection.

    Invariants:
        * `paused` has exactly the attached connections whose transport takes no more for now;
        * a connection that can't say, when it is lost, what its peer acknowledged is in `pending_acks` while it may
          owe something: it is asked in time.
    """

    __slots__ = (
        "_close_queue",
        "_counters",
        "_expire",
        "_failed",
        "_limits",
        "_look_at",
        "_looked_seconds",
        "_observer",
        "_retention",
        "paused",
        "pending_acks",
        "timing_wheel",
    )

    def __init__(
        self,
        limits: Limits,
        counters: Counters,
        observer: Observer,
        retention: Retention,
        close_queue: CloseQueue,
        *,
        expire: Callable[[Project, float, int], int],
        failed: Callable[[Connection, Exception], None],
    ) -> None:
        self._limits = limits
        self._counters = counters
        self._observer = observer
        self._retention = retention
        self._close_queue = close_queue
        self._expire = expire
        self._failed = failed
        self.paused: dict[Connection, None] = {}
        self.pending_acks: dict[Connection, None] = {}
        self.timing_wheel = TimingWheel(min(1.0, limits.heartbeat_seconds / 16))
        self._look_at: list[Connection] = []
        """Of the paused connections, those that this tick has still to look at."""
        self._looked_seconds = -math.inf

    def attached(self, connection: Connection, now: float) -> None:
        """Watch a new connection until `detached`."""
        self.timing_wheel.put(connection, min(now + self._limits.heartbeat_seconds, connection.ends_at_seconds))
        if connection.paused:  # its transport was already full when it was attached
            self.paused[connection] = None

    def detached(self, connection: Connection) -> None:
        """Stop watching a connection. The timing wheel still holds it until its next time, and then ignores it."""
        self.paused.pop(connection, None)
        self.pending_acks.pop(connection, None)

    def tick(self, now: float) -> bool:
        """Run all steps once. Returns whether another turn is needed at once."""
        more = False
        for step in (self._end_stalled, self._read_acks, self._expire_due, self._send_heartbeats):
            try:
                more = step(now) or more
            except Exception as error:  # noqa: BLE001 - see the invariant
                self._observer.failed("tick", error)
        self._close_queue.run(now)
        return more

    def _end_stalled(self, now: float) -> bool:
        """Look at each paused connection once a tick."""
        if not self._look_at and now - self._looked_seconds >= self.timing_wheel.tick_seconds / 2:
            self._look_at, self._looked_seconds = list(self.paused), now
        part, self._look_at = self._look_at[:TICK_BUDGET], self._look_at[TICK_BUDGET:]
        stalled = []
        for connection in part:
            try:
                if connection in self.paused and self._stalls_at(connection, now) <= now:
                    self._remove_stalled(connection, now)
                    stalled.append(connection)
            except Exception as error:  # noqa: BLE001 - see the invariant
                self._failed(connection, error)
        self._close_queue.add(stalled, None)
        return bool(self._look_at)

    def _read_acks(self, _now: float) -> bool:
        for connection in list(islice(self.pending_acks, TICK_BUDGET)):
            del self.pending_acks[connection]
            try:
                if connection.project is not None and connection.refresh():
                    self.pending_acks[connection] = None
            except Exception as error:  # noqa: BLE001 - see the invariant
                self._failed(connection, error)
        return False

    def _expire_due(self, now: float) -> bool:
        projects, events = TICK_BUDGET, EXPIRE_BUDGET
        while projects > 0 and events > 0:
            due = self._retention.due(now, min(projects, _PROJECTS_AT_ONCE))
            if not due:
                return False
            projects -= len(due)
            for project in due:
                try:
                    events -= self._expire(project, now, EXPIRE_BUDGET)
                    self._retention.look_again(project)
                except Exception as error:  # noqa: BLE001 - see the invariant
                    self._observer.failed("tick", error)
                    self._retention.look_again(project, now)
        return True

    def _send_heartbeats(self, now: float) -> bool:
        due = self.timing_wheel.due(now, TICK_BUDGET)
        silent: dict[bytes, list[Connection]] = {}
        over: dict[str | None, list[Connection]] = {}
        for connection in due:
            if connection.project is None:
                continue
            try:
                next_check = self._check(connection, silent, over, now)
            except Exception as error:  # noqa: BLE001 - see the invariant
                self._failed(connection, error)
                next_check = now
            self.timing_wheel.put(connection, max(next_check, now + self.timing_wheel.tick_seconds))
        for reason, connections in over.items():
            self._close_queue.add(connections, reason)
        for ping, connections in silent.items():
            try:
                connections[0].write_each(connections, ping)
                self._counters.heartbeats += sum(not connection.observes for connection in connections)
            except Exception as error:  # noqa: BLE001 - see the invariant
                self._observer.failed("tick", error)
        return len(due) == TICK_BUDGET

    def _check(
        self,
        connection: Connection,
        silent: dict[bytes, list[Connection]],
        over: dict[str | None, list[Connection]],
        now: float,
    ) -> float:
        """Add `connection` to `over`, by reason, if it has stalled or reached its end, and to `silent` if its heartbeat
        is due. Returns when to check it again, in seconds.
        """
        connection.refresh()
        stalls_at = self._stalls_at(connection, now)
        heartbeat_seconds = self._limits.heartbeat_seconds
        if stalls_at <= now:
            self._remove_stalled(connection, now)
            over.setdefault(None, []).append(connection)
        elif connection.ends_at_seconds <= now and not connection.leaving:
            connection.ends_at_seconds = NEVER
            over.setdefault(connection.ends_reason, []).append(connection)
        elif connection.last_write_seconds + heartbeat_seconds <= now and not (connection.paused or connection.leaving):
            connection.announce(len(connection.ping), now)
            silent.setdefault(connection.ping, []).append(connection)
        return min(stalls_at, connection.last_write_seconds + heartbeat_seconds, connection.ends_at_seconds)

    def _stalls_at(self, connection: Connection, now: float) -> float:
        """When the peer will have taken nothing of what it owes for `dead_after_seconds`; NEVER if it owes nothing.

        Counts from the first look that finds something owed: between two looks it isn't known since when.
        """
        moved_bytes = connection.moved_bytes()
        owes = moved_bytes != connection.written_bytes
        if not owes or moved_bytes != connection.progress_bytes:
            connection.progress_bytes = moved_bytes if owes else _OWES_NOTHING
            connection.progress_seconds = now
        return connection.progress_seconds + self._limits.dead_after_seconds if owes else NEVER

    @staticmethod
    def _remove_stalled(connection: Connection, now: float) -> None:
        """Say why a stalled stream is aborted: `slow` if the peer's stack still answers, `dead` if it doesn't."""
        connection.leaving = connection.leaving or ("slow" if connection.answers() else "dead")
        connection.progress_seconds = now
