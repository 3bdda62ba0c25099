"""How long history is kept: the bounds of one ring, of all rings together, and of age.

Invariant: `_holders` has exactly the projects that hold events (and those just restored), the one idle longest
first; it is the one that gives when all rings together are too large.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator

from edge.core.bounds import Bounds
from edge.core.counters import Counters
from edge.core.project import Project

_AGE_STEPS = 64
"""A project is looked at for old events this many times in one `max_age_seconds`, at the most."""


class Retention:
    """Decides what is given up, and when to look for it."""

    __slots__ = ("_ages", "_bounds", "_counters", "_holders")

    def __init__(self, bounds: Bounds, counters: Counters) -> None:
        self._bounds = bounds
        self._counters = counters
        self._holders: OrderedDict[str, Project] = OrderedDict()
        self._ages: deque[tuple[float, str]] = deque()
        """When to look at the age of whose events."""

    def published(self, project: Project, now: float) -> None:
        """`project` is the one published to last."""
        holders = self._holders
        if project.name in holders:
            holders.move_to_end(project.name)
        else:
            holders[project.name] = project
        if project.aged_seconds is None:
            self._watch(project, now)

    def restored(self, project: Project, oldest_seconds: float) -> None:
        """`project` has come back from an earlier process; its oldest event is of `oldest_seconds`."""
        self._holders[project.name] = project
        self._watch(project, oldest_seconds)

    def drop(self, name: str) -> None:
        """The project holds nothing any more."""
        self._holders.pop(name, None)

    def bound(self, project: Project, now: float) -> Iterable[Project]:
        """Bring the ring of `project`, and all rings, within their bounds; yields those that gave for others."""
        bounds, ring = self._bounds, project.ring
        if ring.size_bytes > bounds.max_bytes or len(ring) > bounds.max_events:
            by_count, by_bytes = ring.excess(bounds.max_events, bounds.max_bytes)
            project.evict(by_count, "count", now)
            project.evict(by_bytes, "bytes", now)
        if self._counters.ring_bytes <= bounds.total_bytes:
            return ()
        return self._make_room(now)

    def expire(self, project: Project, now: float) -> None:
        """Give up what is over age."""
        project.evict(project.ring.older_than(now - self._bounds.max_age_seconds), "age", now)

    def due(self, now: float) -> Iterator[str]:
        """Names of projects whose age is to be looked at; `look_again` follows for each that is still there."""
        while self._ages and self._ages[0][0] <= now:
            yield self._ages.popleft()[1]

    def look_again(self, project: Project) -> None:
        """`project` has been looked at; what it still holds will be over age later."""
        project.aged_seconds = None
        if len(project.ring):
            self._watch(project, project.ring.published_at(project.ring.oldest))

    def newest_first(self) -> Iterator[Project]:
        """Projects with events, the one published to last first."""
        return reversed(self._holders.values())

    def _make_room(self, now: float) -> Iterator[Project]:
        while self._counters.ring_bytes > self._bounds.total_bytes:
            idlest = next(iter(self._holders.values()))
            idlest.evict(1, "total", now)
            yield idlest

    def _watch(self, project: Project, oldest_seconds: float) -> None:
        age_seconds = self._bounds.max_age_seconds
        project.aged_seconds = oldest_seconds
        self._ages.append((oldest_seconds + age_seconds + age_seconds / _AGE_STEPS, project.name))
