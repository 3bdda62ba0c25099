"""What the handlers ask of the hub, whether it is one process or several nodes: `Nodes`.

Two implementations: `LocalNode` here, for a hub that is alone, and `RedisStore`, which asks all nodes around one Redis.
Handlers don't know which they have. This module does not import redis, which would double the time to start.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from heapq import merge
from itertools import islice
from typing import Literal, Protocol, get_args

import msgspec

from edge.auth.tickets import TicketTable
from edge.core.hub import Hub
from edge.core.project import Project
from edge.supervisor import Supervisor
from edge.triggers.hooks import Hooks, LocalHooks
from edge.triggers.job import Target
from edge.triggers.readiness import Readiness


class View(msgspec.Struct, frozen=True):
    """One project on all nodes. Moments are the hub's clock's."""

    connections: int
    epoch: str
    oldest_id: str
    """Not always of `epoch`: events keep their ids when a restart starts a new epoch."""
    newest_id: str
    events: int
    bytes: int
    misses: int
    recovered: int
    lost: int
    pending: int
    first_miss_seconds: float | None
    last_miss_seconds: float | None


Order = Literal["busiest", "connections", "lost", "pending", "name"]
ORDERS: tuple[Order, ...] = get_args(Order)
PROJECTS_A_TURN = 512


def rank(order: Order, connections: int, lost: int, pending: int) -> int:
    """Where a project with these numbers stands in `order`."""
    return -{"lost": lost, "pending": pending, "name": 0}.get(order, connections)


def _rank(project: Project, order: Order) -> tuple[float, float, str]:
    """Projects of the same rank follow by name; the busiest without connections by when they were published to last."""
    connections, ledger, ring = len(project.connections), project.ledger, project.ring
    recent = -ring.published_at(ring.newest) if order == "busiest" and not connections and len(ring) else 0.0
    return rank(order, connections, ledger.lost, len(ledger.pending)), recent, project.name


class Nodes(Protocol):
    """All of it may raise StoreUnavailable."""

    @property
    def readiness(self) -> Readiness: ...

    @property
    def tickets(self) -> TicketTable: ...

    @property
    def rejected_messages(self) -> int:
        """Messages of other nodes that were not understood."""

    def follow(self, names: Sequence[str], last_id: str) -> Awaitable[None] | None:
        """Have the history of each of `names` in this node's hub, up to its part of `last_id`: then connections to all
        can be attached in the same turn. None where there is nothing to wait for.
        """

    async def view(self, name: str) -> View | None:
        """None when `name` is unknown."""

    async def page(self, offset: int, count: int, order: Order, match: str) -> tuple[list[tuple[str, View]], int]:
        """Projects with `match` in their name, and how many they are. The default order is the busiest first on one
        node, and the one published to last on several.
        """

    async def delete(self, name: str) -> tuple[int, int] | None:
        """Close the streams of `name` and drop its history: `(connections, events)`; None when it is unknown."""

    def hooks(self, target: Target, grace_seconds: float) -> Hooks:
        """What reports about projects to `hooks.url`."""


@dataclass(eq=False)
class LocalNode:
    """A hub that is alone."""

    rejected_messages = 0

    _hub: Hub
    readiness: Readiness
    tickets: TicketTable
    _clock: Callable[[], float]
    _supervisor: Supervisor

    def follow(self, names: Sequence[str], last_id: str) -> None:
        """All there is, is here."""

    async def view(self, name: str) -> View | None:
        project = self._hub.project(name, self._clock())
        if project is None:
            return None
        ring, ledger = project.ring, project.ledger
        ids = project.event_id(ring.oldest), project.event_id(ring.newest)
        counts = ledger.misses, ledger.recovered, ledger.lost, len(ledger.pending)
        moments = ledger.first_miss_seconds, ledger.last_miss_seconds
        return View(len(project.connections), project.epoch, *ids, len(ring), ring.size_bytes, *counts, *moments)

    async def page(self, offset: int, count: int, order: Order, match: str) -> tuple[list[tuple[str, View]], int]:
        """Looks at a slice of all projects in each turn of the loop, whatever the offset."""
        parts: list[list[tuple[float, float, str]]] = []
        total = 0
        projects, match = iter(list(self._hub.projects.values())), match.lower()
        while part := list(islice(projects, PROJECTS_A_TURN)):
            ranks = sorted(_rank(project, order) for project in part if match in project.name.lower())
            total += len(ranks)
            parts.append(ranks)
            if offset + count <= PROJECTS_A_TURN:  # keep what the page can show: less for the garbage collector
                parts = [list(islice(merge(*parts), offset + count))]
            await asyncio.sleep(0)
        merged = merge(*parts)
        for _ in range(min(offset, total) // PROJECTS_A_TURN):
            list(islice(merged, PROJECTS_A_TURN))
            await asyncio.sleep(0)
        skipped = offset % PROJECTS_A_TURN
        views = [(name, await self.view(name)) for _, _, name in islice(merged, skipped, skipped + count)]
        return [(name, view) for name, view in views if view is not None], total

    async def delete(self, name: str) -> tuple[int, int] | None:
        return self._hub.delete(name, self._clock())

    def hooks(self, target: Target, grace_seconds: float) -> LocalHooks:
        return LocalHooks(self._hub, target, grace_seconds, self._supervisor, self._clock)
