"""Permissions, whose they are, and the tickets that hand one of them on.

Invariants:

- What is not granted is refused. A grant names a project, or a prefix by a `*` at its end (`*` alone is every project);
  a `*` anywhere else is not a pattern, and as no project's name holds one it grants nothing.
- A ticket, which a browser's EventSource sends in place of a header, opens one stream of one project, once, within
  `TICKET_SECONDS` of its issue, for no longer than the token that it was issued for; it grants nothing else. The table
  is bounded, and so is one project's share of it.
"""

from __future__ import annotations

import hashlib
import secrets
from collections import Counter, OrderedDict
from collections.abc import Iterable, Mapping

import msgspec

from edge.config.schema import PERMISSIONS
from edge.core.errors import LimitReached, Unauthenticated

TICKET_SECONDS = 60.0
ANY = "*"


class Permissions:
    """For each permission the projects it holds for."""

    __slots__ = ("_names", "_prefixes")

    def __init__(self, grants: Mapping[str, Iterable[str]]) -> None:
        """`grants`: projects and prefixes by permission, as the claim of a token has them."""
        self._names: dict[str, frozenset[str]] = {}
        self._prefixes: dict[str, tuple[str, ...]] = {}
        for permission, projects in grants.items():
            listed = list(projects)
            self._names[permission] = frozenset(name for name in listed if not name.endswith(ANY))
            self._prefixes[permission] = tuple(dict.fromkeys(name[:-1] for name in listed if name.endswith(ANY)))

    def allow(self, permission: str, project: str | None) -> bool:
        """Whether `permission` is given on `project`; None is the hub as a whole, which takes `*`."""
        prefixes = self._prefixes.get(permission, ())
        if project is None:
            return "" in prefixes
        return project.startswith(prefixes) or project in self._names.get(permission, ())


def on_all_projects(permissions: Iterable[str]) -> Permissions:
    """`permissions` on every project and on the hub as a whole."""
    return Permissions(dict.fromkeys(permissions, (ANY,)))


ALL_PERMISSIONS = on_all_projects(PERMISSIONS)


class Identity(msgspec.Struct, frozen=True):
    """Who asks: what they may, until when (Unix seconds; None for no end), and the `sub` of a token."""

    permissions: Permissions
    expires_at_seconds: float | None = None
    subject: str | None = None


# --- tickets ---


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
