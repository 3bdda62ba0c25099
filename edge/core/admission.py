"""How many may come in: over the hub, into one project, from one address; and how many projects there may be.

Invariant: `_addresses` counts exactly the connections that have entered and not left.
"""

from __future__ import annotations

from edge.core import sse
from edge.core.counters import Counters
from edge.core.errors import LimitReached
from edge.core.event import Event
from edge.core.limits import Limits
from edge.core.observer import Observer

_RETRY_AFTER_SECONDS = 5
_CODES = {
    "max_projects": "too_many_projects",
    "max_connections": "too_many_connections",
    "max_connections_per_project": "too_many_project_connections",
    "max_connections_per_address": "too_many_address_connections",
}


class Admission:
    """Checks the limits; each refusal is counted and told."""

    __slots__ = ("_addresses", "_counters", "_limits", "_observer")

    def __init__(self, limits: Limits, counters: Counters, observer: Observer) -> None:
        self._limits = limits
        self._counters = counters
        self._observer = observer
        self._addresses: dict[str, int] = {}

    def project(self, projects: int, name: str, address: str | None, now: float) -> None:
        """Raise LimitReached (`too_many_projects`) unless one more project may be made."""
        if projects >= self._limits.max_projects:
            self._refuse("max_projects", name, address, now)

    def connection(self, on_all_projects: int, in_project: int, name: str, address: str, now: float) -> None:
        """Raise LimitReached unless one more connection may come in.

        Codes: `too_many_connections`, `too_many_project_connections`, `too_many_address_connections`.
        """
        full = self._full(on_all_projects, in_project, address)
        if full is not None:
            self._refuse(full, name, address, now)

    def has_room(self, projects: int, on_all_projects: int, in_project: int, address: str) -> bool:
        """Whether neither of the two would raise; nothing is counted or told."""
        return projects < self._limits.max_projects and self._full(on_all_projects, in_project, address) is None

    def _full(self, on_all_projects: int, in_project: int, address: str) -> str | None:
        """The limit that one more connection would be too many for."""
        limits = self._limits
        if on_all_projects >= limits.max_connections:
            return "max_connections"
        if in_project >= limits.max_connections_per_project:
            return "max_connections_per_project"
        per_address = limits.max_connections_per_address
        if per_address and self._addresses.get(address, 0) >= per_address:
            return "max_connections_per_address"
        return None

    def entered(self, address: str) -> None:
        self._addresses[address] = self._addresses.get(address, 0) + 1

    def left(self, address: str) -> None:
        there = self._addresses[address] - 1
        if there:
            self._addresses[address] = there
        else:
            del self._addresses[address]

    def _refuse(self, key: str, project: str, address: str | None, now: float) -> None:
        limit: int = getattr(self._limits, key)
        code = _CODES[key]
        self._counters.rejected[code] += 1
        self._observer.limit_reached(code, project, address, now)
        raise LimitReached(
            f"limits.{key} is {limit} and all are taken; come back later, or raise the limit.",
            code=code,
            retry_after_seconds=_RETRY_AFTER_SECONDS,
            limit=limit,
        )

    def frame(self, event: Event) -> None:
        """Raise LimitReached unless a ring can hold `event`."""
        size_bytes = len(sse.event_frame(b"z" * 32, 1 << 60, event))
        most_bytes = self._limits.max_frame_bytes
        if size_bytes > most_bytes:
            raise LimitReached(
                f"As an event stream the event has {size_bytes} bytes; ring.max_bytes allows {most_bytes}.",
                code="event_too_large",
                limit_bytes=most_bytes,
            )
