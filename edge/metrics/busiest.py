"""The few busiest projects, picked a slice at a time, and what they have counted since they were picked.

A counter may not fall, or Prometheus takes the fall for a restart and shows a burst that never was. So a project's
count begins at zero when it is picked, and what was shown under its name stays out of "the others" for good.

Invariant: whatever is counted is shown once: under its project's name, or among the others. The others never fall.
"""

from __future__ import annotations

import heapq

import msgspec

from edge.core.hub import Hub
from edge.core.project import Project

PROJECTS_A_LOOK = 2000
"""How many projects one look goes through: about two milliseconds."""


class Figures(msgspec.Struct, frozen=True):
    """What is shown of a project, or of all the others together."""

    project: str | None
    connections: int
    published: int
    misses: int


class BusiestProjects:
    """Those with most connections; among equals, those that published most since they began."""

    def __init__(self, hub: Hub, count: int) -> None:
        self._hub = hub
        self._count = count
        self._picked: dict[str, tuple[Project, int, int]] = {}
        """By name: the project, and what it had published and missed when it was picked."""
        self._round: list[Project] = []
        self._best: list[tuple[int, int, str, Project]] = []
        self._published_by_dropped = 0
        self._misses_by_dropped = 0

    def look(self, _now: float) -> None:
        """Go through the next slice of projects; at the end of a round, pick anew. Call it about once a second."""
        if not self._round:
            self._round = list(self._hub.projects.values())
        part = self._round[-PROJECTS_A_LOOK:]
        del self._round[-PROJECTS_A_LOOK:]
        ranked = ((len(project.connections), project.published, project.name, project) for project in part)
        # Two projects of one name can meet here when one was deleted meanwhile; `id` is never compared.
        self._best = heapq.nlargest(self._count, [*self._best, *ranked], key=lambda rank: rank[:3])
        if not self._round:
            self._pick({rank[2]: rank[3] for rank in self._best})
            self._best = []

    def figures(self) -> list[Figures]:
        """The picked projects, and last the others (`project` is None)."""
        shown = [_since(*picked) for picked in self._picked.values()]
        counters = self._hub.counters
        others = Figures(
            None,
            len(self._hub.connections) - sum(one.connections for one in shown),
            counters.published - self._published_by_dropped - sum(one.published for one in shown),
            counters.misses.misses - self._misses_by_dropped - sum(one.misses for one in shown),
        )
        return [*shown, others]

    def _pick(self, best: dict[str, Project]) -> None:
        for name, picked in list(self._picked.items()):
            if best.get(name) is not picked[0]:
                last = _since(*picked)
                self._published_by_dropped += last.published
                self._misses_by_dropped += last.misses
                del self._picked[name]
        for name, project in best.items():
            if name not in self._picked and self._hub.projects.get(name) is project:
                self._picked[name] = (project, project.published, project.ledger.misses)


def _since(project: Project, published: int, misses: int) -> Figures:
    connections = len(project.connections)
    return Figures(project.name, connections, project.published - published, project.ledger.misses - misses)
