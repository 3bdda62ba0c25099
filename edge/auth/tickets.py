"""Tickets: what a browser's EventSource shows in place of a header it can't send.

Invariant: a ticket opens one request on one project, once, within `TICKET_SECONDS` of being given, with no more than
the rights and no longer than the life of who asked for it. The table is bounded.
"""

from __future__ import annotations

import hashlib
import secrets
from collections import OrderedDict

from edge.auth.permissions import Identity
from edge.core.errors import LimitReached, Unauthenticated

TICKET_SECONDS = 60.0


class Tickets:
    """Tickets that were given and not used. Times are those of a clock that never falls."""

    def __init__(self, max_tickets: int) -> None:
        self._max_tickets = max_tickets
        self._given: OrderedDict[bytes, tuple[float, str, Identity]] = OrderedDict()
        """By digest, the oldest first: when it ends, the project, whose it is."""

    def __len__(self) -> int:
        return len(self._given)

    def give(self, project: str, identity: Identity, now: float) -> str:
        """A new ticket for `project`. Raises LimitReached (`too_many_tickets`)."""
        self._expire(now)
        if len(self._given) >= self._max_tickets:
            raise no_room(self._max_tickets)
        ticket = new_ticket()
        own = Identity(identity.permissions.on(project), identity.expires_at_seconds, "ticket")
        self._given[digest(ticket)] = (now + TICKET_SECONDS, project, own)
        return ticket

    def use(self, ticket: str, project: str | None, now: float) -> Identity:
        """Whose `ticket` was; it is used up by that. Raises Unauthenticated."""
        self._expire(now)
        held = self._given.pop(digest(ticket), None)
        if held is None or held[1] != project:
            raise not_good()
        return held[2]

    def _expire(self, now: float) -> None:
        while self._given:
            digest, (ends, _, _) = next(iter(self._given.items()))
            if ends > now:
                return
            del self._given[digest]


def new_ticket() -> str:
    """Nobody can guess it."""
    return secrets.token_urlsafe(32)


def digest(ticket: str) -> bytes:
    """What is kept of a ticket: whoever sees the table can't use it."""
    return hashlib.sha256(ticket.encode("utf-8", "surrogatepass")).digest()


def no_room(max_tickets: int) -> LimitReached:
    """Too many tickets are out."""
    return LimitReached(
        f"limits.max_tickets is {max_tickets} and none has been used or has expired; try again soon.",
        code="too_many_tickets",
        retry_after_seconds=5,
        limit=max_tickets,
    )


def not_good() -> Unauthenticated:
    """The ticket is unknown, or not for this project."""
    return Unauthenticated(
        f"The ticket was used, is older than {TICKET_SECONDS:g} s, or is for another project; get a new one."
    )
