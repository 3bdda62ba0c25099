"""Streams that are to be closed, a few per turn of the loop: a project may have thousands.

Invariant: each stream is brought up to date before it is closed, and while one waits here, a turn has been asked for.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import NamedTuple, cast

from edge.core.connection import Connection
from edge.core.project import Project

CLOSE_BUDGET = 32
"""Streams closed in one turn of the loop: two or three milliseconds."""


class _Closing(NamedTuple):
    """Streams to close for one reason. All are of `deleted` where they are those of a deleted project."""

    streams: list[Connection]
    reason: str
    deleted: Project | None


class CloseQueue:
    """`want_turn` asks for a turn, in which `run` is called; `close` closes a stream, `failed` gets what it raises;
    `evict` gets each deleted project whose streams are all closed.
    """

    __slots__ = ("_close", "_evict", "_failed", "_queue", "_want_turn")

    def __init__(
        self,
        want_turn: Callable[[], None],
        close: Callable[[Connection, str, float], None],
        failed: Callable[[Connection, Exception, str], None],
        evict: Callable[[Project, float], None],
    ) -> None:
        self._want_turn = want_turn
        self._close = close
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

    def end(self, connection: Connection, reason: str, now: float) -> None:
        """Bring a stream up to date and close it."""
        project = cast("Project | None", connection.project)
        if project is None:
            return
        try:
            if reason != "finished":
                project.deliver(connection, project.ring.newest, now)
            elif not (project.finished and project.has_all(connection)):
                return  # opened again, or its transport is full: it is closed when that has drained
            self._close(connection, reason, now)
        except Exception as error:  # noqa: BLE001 - the other streams are closed
            self._failed(connection, error, "flush")
