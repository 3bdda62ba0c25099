"""Tickets: what a browser's EventSource sends in place of a header.

Invariant: a ticket opens one stream of one project, once, within `TICKET_SECONDS` of its issue, for no longer than the
token that it was issued for; it grants nothing else. The table is bounded, and so is one project's share of it.
"""

from __future__ import annotations

import hashlib
import secrets
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Protocol

from edge.auth.permissions import Identity, Permissions
from edge.core.errors import LimitReached, Unauthenticated

TICKET_SECONDS = 60.0


class TicketTable(Protocol):
    """Issued and unused tickets, at most `max_tickets`, `max_per_project` of one project; both may be changed."""

    max_tickets: int
    max_per_project: int

    async def issue(self, project: str, identity: Identity) -> str:
        """A new ticket for `project`. Raises LimitReached (`too_many_tickets`)."""

    def redeem(self, ticket: str, project: str | None) -> Identity | Awaitable[Identity]:
        """The identity behind `ticket`, which is used up by this. Raises Unauthenticated."""


@dataclass(eq=False)
class Tickets(TicketTable):
    """The tickets of a hub that is alone. The clock never goes back."""

    max_tickets: int
    max_per_project: int
    _clock: Callable[[], float]
    _issued: OrderedDict[bytes, tuple[float, str, Identity]] = field(default_factory=OrderedDict, init=False)
    """By digest, oldest first: when it ends, its project, the identity it stands for."""
    _per_project: Counter[str] = field(default_factory=Counter, init=False)

    def __len__(self) -> int:
        return len(self._issued)

    async def issue(self, project: str, identity: Identity) -> str:
        now = self._clock()
        self._expire(now)
        if len(self._issued) >= self.max_tickets:
            raise too_many_tickets(self.max_tickets)
        if self._per_project[project] >= self.max_per_project:
            raise too_many_tickets(self.max_per_project, project)
        ticket = new_ticket()
        holder = Identity(Permissions({"subscribe": (project,)}), identity.expires_at_seconds, identity.subject)
        self._issued[digest(ticket)] = (now + TICKET_SECONDS, project, holder)
        self._per_project[project] += 1
        return ticket

    def redeem(self, ticket: str, project: str | None) -> Identity:
        self._expire(self._clock())
        held = self._issued.pop(digest(ticket), None)
        if held is None:
            raise invalid_ticket()
        self._release(held[1])
        if held[1] != project:
            raise invalid_ticket()
        return held[2]

    def _expire(self, now: float) -> None:
        while self._issued:
            digest, (ends, project, _) = next(iter(self._issued.items()))
            if ends > now:
                return
            del self._issued[digest]
            self._release(project)

    def _release(self, project: str) -> None:
        self._per_project[project] -= 1
        if not self._per_project[project]:
            del self._per_project[project]


def new_ticket() -> str:
    return secrets.token_urlsafe(32)


def digest(ticket: str) -> bytes:
    """What is stored of a ticket, so that reading the table reveals none."""
    return hashlib.sha256(ticket.encode("utf-8", "surrogatepass")).digest()


def too_many_tickets(limit: int, project: str | None = None) -> LimitReached:
    """The refusal when the hub has issued as many tickets as it may, or `project` has used up its share."""
    detail = f"All {limit} tickets (limits.max_tickets) are issued and unused; try again soon."
    if project is not None:
        detail = (
            f"{project} has {limit} unused tickets, its share of limits.max_tickets (limits.project_share_percent); "
            "use them, or try again in a minute."
        )
    return LimitReached(detail, code="too_many_tickets", retry_after_seconds=5, limit=limit)


def invalid_ticket() -> Unauthenticated:
    return Unauthenticated(
        f"The ticket was used, is older than {TICKET_SECONDS:g} s, or is for another project; get a new one."
    )
