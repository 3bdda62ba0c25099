"""Tickets: what a browser's EventSource sends in place of a header.

Invariant: a ticket opens one stream of one project, once, within `TICKET_SECONDS` of its issue, for no longer than the
token that it was issued for; it grants nothing else. The table is bounded, and so is one project's share of it.
"""

from __future__ import annotations

import hashlib
import secrets
from collections import Counter, OrderedDict

from edge.auth.permissions import Identity, Permissions
from edge.core.errors import LimitReached, Unauthenticated

TICKET_SECONDS = 60.0


class Tickets:
    """Issued and unused tickets, at most `max_tickets`, `max_per_project` of one project. Times never go back."""

    def __init__(self, max_tickets: int, max_per_project: int) -> None:
        self.max_tickets = max_tickets
        self.max_per_project = max_per_project
        self._issued: OrderedDict[bytes, tuple[float, str, Identity]] = OrderedDict()
        """By digest, oldest first: when it ends, its project, the identity it stands for."""
        self._per_project: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._issued)

    def issue(self, project: str, identity: Identity, now: float) -> str:
        """A new ticket for `project`. Raises LimitReached (`too_many_tickets`)."""
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

    def redeem(self, ticket: str, project: str | None, now: float) -> Identity:
        """The identity behind `ticket`, which is used up by this. Raises Unauthenticated."""
        self._expire(now)
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
