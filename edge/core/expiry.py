"""Whose events come of age next, so that nothing is held longer than it may be and no project has a timer.

Invariant: a project that is watched stands in exactly one slot, that of the moment its oldest event comes of age (or
of an event that was given up before it); one that is forgotten stands in none. So there are never more entries than
projects with events, however fast projects come and go.
"""

from __future__ import annotations

import math

from edge.core.project import Project

STEPS = 64
"""An event is given up late by at most one part in so many of its age."""


class ExpiryWheel:
    """Slots of `max_age_seconds / STEPS` each."""

    __slots__ = ("_max_age_seconds", "_slots", "_step_seconds")

    def __init__(self, max_age_seconds: float) -> None:
        self._max_age_seconds = max_age_seconds
        self._step_seconds = max_age_seconds / STEPS
        self._slots: dict[int, dict[Project, None]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._slots.values()))

    def watch(self, project: Project) -> None:
        """Look at `project`, which holds an event, when its oldest has come of age."""
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
