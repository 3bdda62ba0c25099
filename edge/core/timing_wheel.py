"""When to look at which connection again: a timing wheel, so that no stream has a timer or task of its own.

Invariant: every connection put in comes out once, not before its time and at most one tick after it (if `due` is
called). Connections that have left stay in until their time comes; whoever takes them out drops them.
"""

from __future__ import annotations

import math
from collections import deque

from edge.core.connection import Connection


class TimingWheel:
    """Slots of `tick_seconds` each."""

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
