"""Projects with events that their readers have not been written yet, in the order in which they are served.

Invariant: a project is `dirty` exactly while it stands here, and while one does, a turn has been asked for: also behind
one whose flush has failed, which holds up nobody but its own readers.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from edge.core.project import Project

FLUSH_BUDGET = 256
"""Connections brought up to date in one turn of the loop: about two milliseconds of `send`."""


class FlushQueue:
    """`wake` asks for a turn, in which `flush` is called; `finished` gets each finished project that is up to date."""

    __slots__ = ("_dirty", "_finished", "_wake")

    def __init__(self, wake: Callable[[], None], finished: Callable[[Project], None]) -> None:
        self._wake = wake
        self._finished = finished
        self._dirty: deque[Project] = deque()

    def add(self, project: Project) -> None:
        """`project` has a new event."""
        if not project.dirty:
            project.dirty = True
            self._dirty.append(project)
            if len(self._dirty) == 1:
                self._wake()

    def flush(self, now: float) -> bool:
        """Bring projects up to date, within one turn's budget. Returns whether more is to do."""
        budget, dirty = FLUSH_BUDGET, self._dirty
        try:
            while dirty and budget > 0:
                project = dirty.popleft()
                project.dirty = False
                budget -= project.flush(now, budget) + 1
                if project.has_undelivered:
                    project.dirty = True
                    dirty.append(project)
                elif project.finished:
                    self._finished(project)
        finally:
            if dirty:
                self._wake()
        return bool(dirty)
