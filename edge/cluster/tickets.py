"""Tickets that are good on every node: given on one, used on another, once.

Redis keeps a digest and whose it is, never the ticket itself. Invariant: as in `edge.auth.tickets`; and using is one
step in Redis, so of two who show the same ticket at the same time, on any nodes, one comes in.
"""

from __future__ import annotations

import msgspec

from edge.auth.permissions import PERMISSIONS, Identity, Permissions
from edge.auth.tickets import TICKET_SECONDS, digest, new_ticket, no_room, not_good
from edge.cluster.client import RedisClient


class _Whose(msgspec.Struct, frozen=True):
    project: str
    permissions: list[str]
    expires_at_seconds: float | None


class SharedTickets:
    """Tickets that were given and not used, on all nodes; `max_tickets` holds for all of them together."""

    def __init__(self, redis: RedisClient, max_tickets: int) -> None:
        self._wire = redis
        self._max_tickets = max_tickets

    async def give(self, project: str, identity: Identity) -> str:
        """A new ticket for `project`. Raises LimitReached (`too_many_tickets`), StoreUnavailable."""
        ticket = new_ticket()
        permissions = [permission for permission in PERMISSIONS if identity.permissions.allow(permission, project)]
        whose = msgspec.json.encode(_Whose(project, permissions, identity.expires_at_seconds))
        kept = await self._wire.run(
            "ticket", self._keys(ticket), digest(ticket).hex(), whose, int(TICKET_SECONDS * 1000), self._max_tickets
        )
        if not kept:
            raise no_room(self._max_tickets)
        return ticket

    async def use(self, ticket: str, project: str | None) -> Identity:
        """Whose `ticket` was; it is used up by that. Raises Unauthenticated, StoreUnavailable."""
        found = await self._wire.run("use_ticket", self._keys(ticket), digest(ticket).hex())
        whose = None if found is None else msgspec.json.decode(found, type=_Whose)
        if whose is None or whose.project != project:
            raise not_good()
        return Identity(
            Permissions(dict.fromkeys(whose.permissions, (whose.project,))), whose.expires_at_seconds, "ticket"
        )

    def _keys(self, ticket: str) -> list[str]:
        prefix = self._wire.keys.prefix
        return [f"{prefix}tickets", f"{prefix}ticket:{digest(ticket).hex()}"]
