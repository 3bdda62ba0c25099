"""What Redis knows of all nodes together: projects, and tickets that are good on every node.

Redis keeps a ticket's digest and what it stands for, never the ticket itself. Invariant: as in `edge.auth.tickets`;
redeeming is one step in Redis, so of two requests with the same ticket at the same time, on any nodes, one succeeds.
"""

from __future__ import annotations

from dataclasses import dataclass
from heapq import nsmallest
from typing import Any

import msgspec

from edge.auth.permissions import Identity, Permissions
from edge.auth.tickets import TICKET_SECONDS, TicketTable, digest, invalid_ticket, new_ticket, too_many_tickets
from edge.cluster.client import RedisClient
from edge.cluster.local import PROJECTS_A_TURN, Order, View, rank
from edge.core.errors import StoreUnavailable


@dataclass(eq=False)
class ClusterStatus:
    """A project with its last event before `keep_ms` is no longer listed. All of it may raise StoreUnavailable."""

    _redis: RedisClient
    _keep_ms: int

    async def view(self, name: str) -> View | None:
        return (await self.views([name]))[0]

    async def views(self, names: list[str]) -> list[View | None]:
        """As `view` for each name, in one round trip."""
        return [self._view(answer) for answer in await self._redis.run_all([("view", [name]) for name in names])]

    def _view(self, answer: Any) -> View | None:
        if isinstance(answer, StoreUnavailable):
            raise answer
        connections, fields, events, oldest, pending = answer
        meta = {key.decode(): value.decode() for key, value in zip(fields[::2], fields[1::2], strict=True)}
        if "epoch" not in meta or not (connections or events):
            return None
        epoch, newest = meta["epoch"], int(meta["seq"])
        misses, recovered, lost = (int(meta.get(count, 0)) for count in ("misses", "recovered", "lost"))
        first, last = (
            float(meta[moment]) - self._redis.ahead_seconds if moment in meta else None
            for moment in ("first_miss", "last_miss")
        )
        ids = f"{epoch}-{oldest or newest + 1}", f"{epoch}-{newest}"
        held_bytes = int(meta["bytes"])
        return View(connections, epoch, *ids, events, held_bytes, misses, recovered, lost, pending, first, last)

    async def page(self, offset: int, count: int, order: Order, match: str) -> tuple[list[tuple[str, View]], int]:
        """As `Nodes.page`, the most recently published first by default."""
        if order == "busiest" and not match:
            return await self._recent(offset, count)
        best: list[tuple[str, View]] = []
        at, total, matching = 0, 1, 0
        while at < total:
            part, total = await self._recent(at, PROJECTS_A_TURN)
            fitting = [(name, view) for name, view in part if match.lower() in name.lower()]
            matching += len(fitting)
            best = nsmallest(
                offset + count,
                [*best, *fitting],
                lambda one: (rank(order, one[1].connections, one[1].lost, one[1].pending), one[0]),
            )
            at += PROJECTS_A_TURN
        return best[offset:], matching

    async def _recent(self, offset: int, count: int) -> tuple[list[tuple[str, View]], int]:
        projects = self._redis.keys.projects
        async with self._redis.use() as client:
            oldest = f"({(await client.time())[0] - self._keep_ms // 1000}"
            await client.zremrangebyscore(projects, "-inf", oldest)
            total = await client.zcard(projects)
            found: list[Any] = await client.zrevrange(projects, offset, offset + count - 1)
        names = [name.decode() for name in found]
        views = zip(names, await self.views(names), strict=True)
        return [(name, view) for name, view in views if view is not None], total


class _Holder(msgspec.Struct, frozen=True):
    project: str
    expires_at_seconds: float | None
    subject: str | None = None


@dataclass(eq=False)
class SharedTickets(TicketTable):
    """The tickets of all nodes together. All of it may raise StoreUnavailable."""

    _redis: RedisClient
    max_tickets: int
    max_per_project: int

    async def issue(self, project: str, identity: Identity) -> str:
        ticket = new_ticket()
        holder = msgspec.json.encode(_Holder(project, identity.expires_at_seconds, identity.subject))
        limits = (self.max_tickets, self.max_per_project)
        live_ms = int(TICKET_SECONDS * 1000)
        kept = await self._redis.run("issue_ticket", digest(ticket).hex(), project, holder, live_ms, *limits)
        if kept < 0:
            raise too_many_tickets(self.max_per_project, project)
        if not kept:
            raise too_many_tickets(self.max_tickets)
        return ticket

    async def redeem(self, ticket: str, project: str | None) -> Identity:
        found = await self._redis.run("redeem_ticket", digest(ticket).hex(), project or "")
        holder = None if found is None else msgspec.json.decode(found, type=_Holder)
        if holder is None or holder.project != project:
            raise invalid_ticket()
        permissions = Permissions({"subscribe": (holder.project,)})
        return Identity(permissions, holder.expires_at_seconds, holder.subject)
