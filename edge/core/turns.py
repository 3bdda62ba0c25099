"""Work that the hub does in slices, a few connections in each turn of the event loop: delivering, and closing streams.

Invariants:
    * a project is `dirty` exactly while it is in the flush queue;
    * each stream in the close queue gets the events held before it is closed;
    * while anything is queued, a turn is scheduled, even if the work before it failed.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from typing import NamedTuple, cast

from edge.core import sse
from edge.core.connection import Connection
from edge.core.limits import Limits
from edge.core.project import Project

FLUSH_BUDGET = 256
"""Connections brought up to date in one turn of the loop, fewer where each is written much: two milliseconds."""
AHEAD_BUDGET = 128
"""Likewise between two turns, for events that are about to be evicted."""
CLOSE_BUDGET = 32
"""Streams closed in one turn of the loop: two or three milliseconds."""
LOST_BUDGET = 64
"""Connections detached in one turn of the loop: two or three milliseconds."""
EVICT_BUDGET = 20_000
"""Events of deleted projects evicted in one turn."""

_SPREAD = 2.0
"""Subscribers reconnect after `retry_ms` plus up to this many times more, so that they don't all come at once."""


class Turn:
    """The next turn of the loop: `wake` is called once, and has `flush` called in it."""

    __slots__ = ("_wake", "wanted")

    def __init__(self, wake: Callable[[], object]) -> None:
        self._wake = wake
        self.wanted = False

    def want(self) -> None:
        """Have `flush` called."""
        if not self.wanted:
            self.wanted = True
            self._wake()


class FlushQueue:
    """`wake` asks for a turn, in which `flush` is called; `flushed` gets each project that is up to date."""

    __slots__ = ("_ahead", "_dirty", "_flushed", "_wake")

    def __init__(self, wake: Callable[[], None], flushed: Callable[[Project, float], None]) -> None:
        self._wake = wake
        self._flushed = flushed
        self._dirty: deque[Project] = deque()
        self._ahead = AHEAD_BUDGET

    def add(self, project: Project) -> None:
        """`project` has a new event."""
        if not project.dirty:
            project.dirty = True
            self._dirty.append(project)
            if len(self._dirty) == 1:
                self._wake()

    def deliver_first(self, project: Project, now: float) -> bool:
        """Deliver what `project` owes and is about to evict. Returns False where that would hold the loop."""
        connections = len(project.streams)
        if connections > self._ahead:
            return False
        while project.has_undelivered:
            self._ahead -= project.flush(now, connections)
        return True

    def flush(self, now: float) -> bool:
        """Bring projects up to date, within one turn's budget. Returns whether more is to do."""
        budget, dirty = FLUSH_BUDGET, self._dirty
        self._ahead = AHEAD_BUDGET
        try:
            while dirty and budget > 0:
                project = dirty.popleft()
                project.dirty = False
                budget -= project.flush(now, budget) + 1
                if project.has_undelivered:
                    project.dirty = True
                    dirty.append(project)
                else:
                    self._flushed(project, now)
        finally:
            if dirty:
                self._wake()
        return bool(dirty)


class _Closing(NamedTuple):
    """Streams to close for one reason, or to abort. All are of `deleted` if they are those of a deleted project."""

    streams: list[Connection]
    reason: str | None
    deleted: Project | None


class CloseQueue:
    """Closes streams. `want_turn` schedules a turn, in which `run` is called.

    `failed` gets what closing a stream raises. `evict` evicts events of each deleted project whose streams are all
    closed, the given number at most, and returns whether none is left.
    """

    __slots__ = ("_evict", "_failed", "_limits", "_queue", "_want_turn")

    def __init__(
        self,
        want_turn: Callable[[], None],
        limits: Limits,
        failed: Callable[[Connection, Exception, str], None],
        evict: Callable[[Project, int, float], bool],
    ) -> None:
        self._want_turn = want_turn
        self._limits = limits
        self._failed = failed
        self._evict = evict
        self._queue: deque[_Closing] = deque()

    def __len__(self) -> int:
        return len(self._queue)

    def add(self, streams: list[Connection], reason: str | None, deleted: Project | None = None) -> None:
        """Close `streams` within the next turns; without a reason, abort them."""
        if streams or deleted is not None:
            self._queue.append(_Closing(streams.copy(), reason, deleted))
            self._want_turn()

    def run(self, now: float) -> None:
        """Close what fits into one turn."""
        budget, queue = CLOSE_BUDGET, self._queue
        try:
            while queue and budget > 0:
                streams, reason, deleted = queue[0]
                while streams and budget > 0:
                    self.end(streams.pop(), reason, now)
                    budget -= 1
                if streams or (deleted is not None and not self._evict(deleted, EVICT_BUDGET, now)):
                    break
                queue.popleft()
        finally:
            if queue:
                self._want_turn()

    def close(self, connection: Connection, reason: str, now: float) -> None:
        """Send `closing` with the reason and end the stream at once."""
        if connection.leaving:
            return
        base_ms = self._limits.retry_ms
        retry_ms = base_ms + int(random.random() * _SPREAD * base_ms)  # noqa: S311  # jitter, no secret
        closing = sse.control_frame("closing", {"reason": reason, "retry_ms": retry_ms}, retry_ms=retry_ms)
        # In one write with the end: a client that closes as soon as it has read `closing` answers an end that comes
        # later with a reset, and then what it has read counts as missed.
        connection.cork()
        connection.control(closing, now)
        connection.leaving = reason
        connection.finish()

    def end(self, connection: Connection, reason: str | None, now: float) -> None:
        """Deliver what is held to a stream and close it, or abort it."""
        project = cast("Project | None", connection.project)
        if project is None:
            return
        try:
            if reason is None:
                connection.abort()
                return
            if reason != "finished":
                if len(project.ring):  # not a replica that was forgotten
                    project.deliver(connection, project.ring.newest, now)
            elif not project.completes(connection):
                return  # opened again, or its transport is full: it is closed when that has drained
            self.close(connection, reason, now)
        except Exception as error:  # noqa: BLE001 - the other streams are closed
            self._failed(connection, error, "flush")
