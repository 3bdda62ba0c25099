"""How long history is kept: the bounds of one ring, of all rings together, and of age.

Invariants:
    * the LRU list holds exactly the projects with a non-empty ring, least recently published first, and each of them
      is watched for its age;
    * a ring is within its bounds, but for a `crowded` one: while a burst is being delivered to many connections it may
      hold twice as much, so that those that keep up get the events before they are evicted;
    * all rings together are within `total_bytes`, but for a sixteenth while hundreds of projects are being emptied.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable

from edge.core.counters import Counters
from edge.core.limits import Limits
from edge.core.project import Project
from edge.core.ring import EVENT_OVERHEAD_BYTES

ROOM_BUDGET = 64
"""Projects emptied for one event, and in one turn of the loop: less than a millisecond."""
STEPS = 64
"""Events expire late by at most one part in so many of their age."""


class ExpiryWheel:
    """Which projects hold the oldest events, in slots of `max_age_seconds / STEPS`.

    Invariant: a watched project is in exactly one slot, that of the moment its oldest event expires (or an event that
    was evicted before it). So there are never more entries than projects with events.
    """

    __slots__ = ("_max_age_seconds", "_slots", "_step_seconds")

    def __init__(self, max_age_seconds: float) -> None:
        self._max_age_seconds = max_age_seconds
        self._step_seconds = max_age_seconds / STEPS
        self._slots: dict[int, dict[Project, None]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._slots.values()))

    def watch(self, project: Project, after: float = -math.inf) -> None:
        """Have `project`, which holds an event, due when its oldest one expires, but after the moment `after`."""
        ring = project.ring
        due_seconds = max(ring.published_at(ring.oldest) + self._max_age_seconds, after)
        slot = math.floor(due_seconds / self._step_seconds) + 1
        self._slots.setdefault(slot, {})[project] = None
        project.expiry_slot = slot

    def forget(self, project: Project) -> None:
        """Stop watching `project`."""
        slot = project.expiry_slot
        if slot is not None:
            project.expiry_slot = None
            members = self._slots[slot]
            del members[project]
            if not members:
                del self._slots[slot]

    def due(self, now: float, count: int) -> list[Project]:
        """Take out at most `count` of those whose time has come."""
        now_slot = math.floor(now / self._step_seconds)
        due: list[Project] = []
        for slot in sorted(slot for slot in self._slots if slot <= now_slot):
            due += list(self._slots[slot])[: count - len(due)]
            if len(due) == count:
                break
        for project in due:
            self.forget(project)
        return due


class Retention:
    """Decides what is evicted, and when to look for it.

    `deliver_first` is `FlushQueue.deliver_first`.
    """

    __slots__ = ("_counters", "_deliver_first", "_expiry", "_latest", "_limits", "_lru", "crowded")

    def __init__(self, limits: Limits, counters: Counters, deliver_first: Callable[[Project, float], bool]) -> None:
        self._limits = limits
        self._counters = counters
        self._deliver_first = deliver_first
        self._lru: OrderedDict[Project, None] = OrderedDict()
        self._latest: Project | None = None
        """The last of them."""
        self._expiry = ExpiryWheel(limits.max_age_seconds)
        self.crowded: dict[Project, None] = {}
        """To be enforced again when they have been flushed."""

    def enforce(self, project: Project, now: float) -> bool:
        """Make the bounds of `project` hold again after an event was added. Returns whether `shrink` must follow."""
        limits, ring = self._limits, project.ring
        if project is not self._latest:
            self._move_last(project)
        if ring.size_bytes > limits.max_bytes or ring.newest - ring.oldest >= limits.max_events:
            by_count, by_bytes = ring.excess(limits.max_events, limits.max_bytes)
            if not project.owes(by_count + by_bytes) or self._deliver_first(project, now):
                if self.crowded:
                    self.crowded.pop(project, None)
            else:
                self.crowded[project] = None
                by_count, by_bytes = ring.excess(2 * limits.max_events, 2 * limits.max_bytes)
            if by_count:
                project.evict(by_count, "count", now)
            if by_bytes:
                project.evict(by_bytes, "bytes", now)
            if ring.oldest > ring.newest:
                self._remove(project)
        counters = self._counters
        return counters.ring_bytes + counters.ring_events * EVENT_OVERHEAD_BYTES > limits.total_bytes

    @property
    def is_over(self) -> bool:
        """Whether all rings together hold too much."""
        return self._counters.ring_memory_bytes > self._limits.total_bytes

    def shrink(self, total_bytes: int, reason: str, now: float, max_events: float = math.inf) -> list[Project]:
        """Evict from the least recently published projects until all rings occupy `total_bytes`, within one turn's
        budget. Returns those that are empty.
        """
        emptied: list[Project] = []
        while (over_bytes := self._counters.ring_memory_bytes - total_bytes) > 0 and max_events > 0:
            if len(emptied) >= ROOM_BUDGET and over_bytes < total_bytes >> 4:
                break
            idlest = next(iter(self._lru))
            count = int(min(max_events, idlest.ring.freeing(over_bytes)))
            self.evict(idlest, count, reason, now)
            max_events -= count
            if not len(idlest.ring):
                emptied.append(idlest)
        return emptied

    def expire(self, project: Project, now: float, most: int | None = None) -> int:
        """Evict expired events, at most the `most` oldest. Returns how many."""
        count = project.ring.older_than(now - self._limits.max_age_seconds)
        if most is not None:
            count = min(count, most)
        if count:
            self.evict(project, count, "age", now)
        return count

    def drop(self, project: Project) -> None:
        """Empty the ring of `project` without an entry in its ledger: its history is kept elsewhere."""
        self._counters.ring_events -= len(project.ring)
        self._counters.ring_bytes -= project.ring.evict(len(project.ring))
        self._remove(project)

    def evict(self, project: Project, count: int, reason: str, now: float) -> None:
        """Evict the `count` oldest events of `project`."""
        if project.owes(count):
            self._deliver_first(project, now)
        project.evict(count, reason, now)
        ring = project.ring
        if ring.oldest > ring.newest:
            self._remove(project)

    def due(self, now: float, count: int) -> list[Project]:
        """At most `count` projects to expire; `look_again` follows for each."""
        return self._expiry.due(now, count)

    def look_again(self, project: Project, after: float = -math.inf) -> None:
        """Have `project` due when its oldest event expires, but after the moment `after`."""
        if len(project.ring):
            self._expiry.watch(project, after)

    def _remove(self, project: Project) -> None:
        self._lru.pop(project, None)
        self._expiry.forget(project)
        self.crowded.pop(project, None)
        if self._latest is project:
            self._latest = None

    def _move_last(self, project: Project) -> None:
        self._latest = project
        if project in self._lru:
            self._lru.move_to_end(project)
        else:
            self._lru[project] = None
            self._expiry.watch(project)
