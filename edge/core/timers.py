"""The hub's timers: heartbeats and ends of life, expiry of events, stalled peers, acknowledgements to ask for.

None of them has a clock or a callback: time is an argument, and the hub asks what is due.
"""

from __future__ import annotations

import math
from collections import deque
from itertools import islice

from edge.core.connection import NEVER, Connection
from edge.core.project import Project

STEPS = 64
"""An event is given up late by at most one part in so many of its age."""
_OWES_NOTHING = -1


class TimingWheel:
    """When to look at which connection again, in slots of `tick_seconds`: no stream has a timer or task of its own.

    Invariant: each connection that was put in comes out once, not before its time and at most one tick after it (if
    `due` is called). Connections that have left stay in until their time comes; the caller drops them.
    """

    __slots__ = ("_due", "_reached", "_slots", "tick_seconds")

    def __init__(self, tick_seconds: float) -> None:
        self.tick_seconds = tick_seconds
        self._slots: dict[int, list[Connection]] = {}
        self._due: deque[Connection] = deque()
        self._reached = -1

    def put(self, connection: Connection, when: float) -> None:
        """Have `connection` come out at `when`, in seconds."""
        slot = math.ceil(when / self.tick_seconds)
        if slot <= self._reached:
            slot = self._reached + 1
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


class ExpiryWheel:
    """Which projects hold the oldest events, in slots of `max_age_seconds / STEPS`.

    Invariant: a project that is watched stands in exactly one slot, that of the moment its oldest event expires (or an
    event that was evicted before it). So there are never more entries than projects with events.
    """

    __slots__ = ("_max_age_seconds", "_slots", "_step_seconds")

    def __init__(self, max_age_seconds: float) -> None:
        self._max_age_seconds = max_age_seconds
        self._step_seconds = max_age_seconds / STEPS
        self._slots: dict[int, dict[Project, None]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._slots.values()))

    def watch(self, project: Project) -> None:
        """Look at `project`, which holds an event, when its oldest one expires."""
        ring = project.ring
        due_seconds = ring.published_at(ring.oldest) + self._max_age_seconds
        slot = math.floor(due_seconds / self._step_seconds) + 1
        self._slots.setdefault(slot, {})[project] = None
        project.expiry_slot = slot

    def forget(self, project: Project) -> None:
        """Look at `project` no more."""
        slot = project.expiry_slot
        if slot is not None:
            project.expiry_slot = None
            members = self._slots[slot]
            del members[project]
            if not members:
                del self._slots[slot]

    def due(self, now: float, count: int) -> list[Project]:
        """At most `count` of those whose time has come; they are watched no more."""
        now_slot = math.floor(now / self._step_seconds)
        due: list[Project] = []
        for slot in sorted(slot for slot in self._slots if slot <= now_slot):
            due += list(self._slots[slot])[: count - len(due)]
            if len(due) == count:
                break
        for project in due:
            self.forget(project)
        return due


class StallDetector:
    """How long a peer may take nothing of what it owes: `dead_after_seconds`.

    Invariant: `paused` has exactly the attached connections whose transport takes no more for now.
    """

    __slots__ = ("_dead_after_seconds", "paused")

    def __init__(self, dead_after_seconds: float) -> None:
        self._dead_after_seconds = dead_after_seconds
        self.paused: dict[Connection, None] = {}

    def end_if_stuck(self, connection: Connection, now: float) -> None:
        """End a paused connection whose peer has taken nothing for too long."""
        if self.ends(connection, now) <= now:
            self.give_up(connection)

    def ends(self, connection: Connection, now: float) -> float:
        """When the peer will have taken nothing of what it owes for so long; NEVER if it owes nothing.

        What it owes counts from the first look that finds it: between two looks nobody knows since when.
        """
        moved_bytes = connection.moved_bytes()
        owes = moved_bytes != connection.written_bytes
        if not owes or moved_bytes != connection.progress_bytes:
            connection.progress_bytes = moved_bytes if owes else _OWES_NOTHING
            connection.progress_seconds = now
        return connection.progress_seconds + self._dead_after_seconds if owes else NEVER

    @staticmethod
    def give_up(connection: Connection) -> None:
        """End a stream: `slow` when the peer's stack still answers, `dead` when it doesn't."""
        connection.leaving = connection.leaving or ("slow" if connection.answers() else "dead")
        connection.abort()


class PendingAcks:
    """Connections that can't say, when they are lost, what their peer acknowledged: they are asked in time.

    Invariant: one that was written to and has not been found to have everything stands here until it leaves.
    """

    __slots__ = ("_connections",)

    def __init__(self) -> None:
        self._connections: dict[Connection, None] = {}

    def add(self, connection: Connection) -> None:
        self._connections[connection] = None

    def forget(self, connection: Connection) -> None:
        self._connections.pop(connection, None)

    def take(self, count: int) -> list[Connection]:
        """Take out at most `count` of them, the longest waiting first; `add` those that still owe something."""
        taken = list(islice(self._connections, count))
        for connection in taken:
            del self._connections[connection]
        return taken
