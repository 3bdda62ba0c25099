"""Closing streams, a few per turn of the event loop: a project may have thousands.

Invariant: each queued stream gets the events held before it is closed, and while one is queued, a turn is scheduled.
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

CLOSE_BUDGET = 32
"""Streams closed in one turn of the loop: two or three milliseconds."""

_SPREAD = 2.0
"""Subscribers reconnect after `retry_ms` plus up to this many times more, so that they don't all come at once."""


class _Closing(NamedTuple):
    """Streams to close for one reason. All are of `deleted` where they are those of a deleted project."""

    streams: list[Connection]
    reason: str
    deleted: Project | None


class CloseQueue:
    """Closes streams. `want_turn` schedules a turn, in which `run` is called.

    `failed` gets what closing a stream raises, `evict` each deleted project whose streams are all closed.
    """

    __slots__ = ("_evict", "_failed", "_limits", "_queue", "_want_turn")

    def __init__(
        self,
        want_turn: Callable[[], None],
        limits: Limits,
        failed: Callable[[Connection, Exception, str], None],
        evict: Callable[[Project, float], None],
    ) -> None:
        self._want_turn = want_turn
        self._limits = limits
        self._failed = failed
        self._evict = evict
        self._queue: deque[_Closing] = deque()

    def __len__(self) -> int:
        return len(self._queue)

    def add(self, streams: list[Connection], reason: str, deleted: Project | None = None) -> None:
        """Close `streams` within the next turns."""
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
                if not streams:
                    queue.popleft()
                    if deleted is not None:
                        self._evict(deleted, now)
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
        connection.control(closing, now)
        connection.leaving = reason
        connection.finish()

    def end(self, connection: Connection, reason: str, now: float) -> None:
        """Deliver what is held to a stream and close it."""
        project = cast("Project | None", connection.project)
        if project is None:
            return
        try:
            if reason != "finished":
                project.deliver(connection, project.ring.newest, now)
            elif not (project.finished and project.has_all(connection)):
                return  # opened again, or its transport is full: it is closed when that has drained
            self.close(connection, reason, now)
        except Exception as error:  # noqa: BLE001 - the other streams are closed
            self._failed(connection, error, "flush")
