"""Tickets that are good on every node: issued on one, redeemed on another, once.

Redis keeps a digest and what it stands for, never the ticket itself. Invariant: as in `edge.auth.tickets`; redeeming is
one step in Redis, so of two requests with the same ticket at the same time, on any nodes, one succeeds.
"""

from __future__ import annotations

import msgspec

from edge.auth.permissions import Identity, Permissions
from edge.auth.tickets import TICKET_SECONDS, digest, invalid_ticket, new_ticket, too_many_tickets
from edge.cluster.client import RedisClient


class _Holder(msgspec.Struct, frozen=True):
    project: str
    expires_at_seconds: float | None
    subject: str | None = None


class SharedTickets:
    """Issued and unused tickets of all nodes together, at most `max_tickets`, `max_per_project` of one project."""

    def __init__(self, redis: RedisClient, max_tickets: int, max_per_project: int) -> None:
        self._redis = redis
        self.max_tickets = max_tickets
        self.max_per_project = max_per_project

    async def issue(self, project: str, identity: Identity) -> str:
        """A new ticket for `project`. Raises LimitReached (`too_many_tickets`), StoreUnavailable."""
        ticket = new_ticket()
        holder = msgspec.json.encode(_Holder(project, identity.expires_at_seconds, identity.subject))
        live_ms = int(TICKET_SECONDS * 1000)
        limits = (self.max_tickets, self.max_per_project)
        kept = await self._redis.run(
            "issue_ticket", self._keys(project, ticket), digest(ticket).hex(), holder, live_ms, *limits
        )
        if kept < 0:
            raise too_many_tickets(self.max_per_project, project)
        if not kept:
            raise too_many_tickets(self.max_tickets)
        return ticket

    async def redeem(self, ticket: str, project: str | None) -> Identity:
        """The identity behind `ticket`, which is used up by this. Raises Unauthenticated, StoreUnavailable."""
        found = await self._redis.run("redeem_ticket", self._keys(project or "", ticket), digest(ticket).hex())
        holder = None if found is None else msgspec.json.decode(found, type=_Holder)
        if holder is None or holder.project != project:
            raise invalid_ticket()
        permissions = Permissions({"subscribe": (holder.project,)})
        return Identity(permissions, holder.expires_at_seconds, holder.subject)

    def _keys(self, project: str, ticket: str) -> list[str]:
        prefix = self._redis.keys.prefix
        return [f"{prefix}tickets", f"{prefix}tickets:{project}", f"{prefix}ticket:{digest(ticket).hex()}"]
