"""How long history is kept: the bounds of one ring, of all rings together, and of age.

Invariant: exactly the projects that hold events stand in line, the one idle longest first (it gives when all rings
together are too large), and each of them is watched for its age. One that holds nothing stands nowhere here.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from math import inf

from edge.core.counters import Counters
from edge.core.limits import Limits
from edge.core.project import Project
from edge.core.timers import ExpiryWheel


class Retention:
    """Decides what is given up, and when to look for it."""

    __slots__ = ("_counters", "_expiry", "_holders", "_latest", "_limits")

    def __init__(self, limits: Limits, counters: Counters) -> None:
        self._limits = limits
        self._counters = counters
        self._holders: OrderedDict[Project, None] = OrderedDict()
        self._latest: Project | None = None
        """The last in line."""
        self._expiry = ExpiryWheel(limits.max_age_seconds)

    def enforce(self, project: Project, now: float) -> list[Project]:
        """`project` holds a new event: it is the last in line, and all bounds are made to hold again.

        Returns those that hold nothing any more.
        """
        limits, ring = self._limits, project.ring
        if project is not self._latest:
            self._stand_last(project)
        if ring.size_bytes > limits.max_bytes or ring.newest - ring.oldest >= limits.max_events:
            by_count, by_bytes = ring.excess(limits.max_events, limits.max_bytes)
            if by_count:
                self.evict(project, by_count, "count", now)
            if by_bytes:
                self.evict(project, by_bytes, "bytes", now)
        if self._counters.ring_memory_bytes <= limits.total_bytes:
            return []
        return self.shrink(limits.total_bytes, "total", now)

    def expire(self, project: Project, now: float) -> None:
        """Give up what is over age."""
        self.evict(project, project.ring.older_than(now - self._limits.max_age_seconds), "age", now)

    def drop(self, project: Project) -> None:
        """Hold nothing of `project` any more, without a word in its ledger: its history is kept elsewhere."""
        self._counters.ring_events -= len(project.ring)
        self._counters.ring_bytes -= project.ring.evict(len(project.ring))
        self._stand_down(project)

    def evict(self, project: Project, count: int, reason: str, now: float) -> None:
        """Give up the `count` oldest events of `project`."""
        project.evict(count, reason, now)
        ring = project.ring
        if ring.oldest > ring.newest:
            self._stand_down(project)

    def due(self, now: float, count: int) -> list[Project]:
        """At most `count` projects whose age is to be looked at; `look_again` follows for each."""
        return self._expiry.due(now, count)

    def look_again(self, project: Project) -> None:
        """`project` has been looked at; what it still holds will be over age later."""
        if len(project.ring):
            self._expiry.watch(project)

    def newest_first(self) -> Iterator[Project]:
        """Projects with events, the one published to last first."""
        return reversed(self._holders)

    def _stand_down(self, project: Project) -> None:
        self._holders.pop(project, None)
        self._expiry.forget(project)
        if self._latest is project:
            self._latest = None

    def _stand_last(self, project: Project) -> None:
        self._latest = project
        if project in self._holders:
            self._holders.move_to_end(project)
        else:
            self._holders[project] = None
            self._expiry.watch(project)

    def shrink(self, total_bytes: int, reason: str, now: float, max_events: float = inf) -> list[Project]:
        """Evict from the projects idle longest until all rings occupy `total_bytes`, or `max_events` are evicted.

        Returns those that hold nothing any more.
        """
        emptied = []
        while (over_bytes := self._counters.ring_memory_bytes - total_bytes) > 0 and max_events > 0:
            idlest = next(iter(self._holders))
            count = int(min(max_events, idlest.ring.freeing(over_bytes)))
            self.evict(idlest, count, reason, now)
            max_events -= count
            if not len(idlest.ring):
                emptied.append(idlest)
        return emptied
