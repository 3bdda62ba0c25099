"""Every limit of the core, and the checks of those on connections, projects and the size of an event.

The settings say where each limit comes from and why it is what it is.
Invariant: `Admission._addresses` counts exactly the connections that have entered and not left.
"""

from __future__ import annotations

import ipaddress
from functools import lru_cache

import msgspec

from edge.core.counters import Counters
from edge.core.errors import LimitReached
from edge.core.event import Event
from edge.core.observer import Observer
from edge.core.ring import EVENT_OVERHEAD_BYTES


class Limits(msgspec.Struct):
    """Every limit of the core. Zero means "no limit" for `max_connections_per_address` only.

    A hub and its parts share one of these: what is assigned to a number of connections or projects holds from then on.
    """

    max_events: int = 1000
    max_bytes: int = 1 << 20
    max_age_seconds: float = 3600.0
    total_bytes: int = 256 << 20
    max_connections: int = 50_000
    max_connections_per_project: int = 20_000
    max_connections_per_address: int = 0
    max_projects: int = 100_000
    heartbeat_seconds: float = 15.0
    dead_after_seconds: float = 30.0
    retry_ms: int = 1000

    @property
    def max_frame_bytes(self) -> int:
        """The longest frame that a ring can hold."""
        return min(self.max_bytes, self.total_bytes - EVENT_OVERHEAD_BYTES)


_RETRY_AFTER_SECONDS = 5
_CODES = {
    "max_projects": "too_many_projects",
    "max_connections": "too_many_connections",
    "max_connections_per_project": "too_many_project_connections",
    "max_connections_per_address": "too_many_address_connections",
}

_MOST_FRAME_BYTES_BESIDE_DATA = 512
"""Id, type and field names. A line end in the data may become seven bytes."""


class Admission:
    """Checks the limits; each refusal is counted and reported."""

    __slots__ = ("_addresses", "_counters", "_limits", "_observer", "fits_bytes")

    def __init__(self, limits: Limits, counters: Counters, observer: Observer) -> None:
        self._limits = limits
        self._counters = counters
        self._observer = observer
        self._addresses: dict[str, int] = {}
        self.fits_bytes = (limits.max_frame_bytes - _MOST_FRAME_BYTES_BESIDE_DATA) // 7
        """Data up to this length fits a ring, whatever it contains; `frame` checks longer data."""

    def project(self, projects: int, name: str, address: str | None, now: float) -> None:
        """Raise LimitReached (`too_many_projects`) unless one more project may be made."""
        if projects >= self._limits.max_projects:
            self._refuse("max_projects", name, address, now)

    def connection(
        self, on_all_projects: int, in_project: int, name: str, address: str, now: float, more: int = 0
    ) -> None:
        """Raise LimitReached unless one more connection may come in, and `more` to other projects.

        Codes: `too_many_connections`, `too_many_project_connections`, `too_many_address_connections`.
        """
        limits, per_address = self._limits, self._limits.max_connections_per_address
        if on_all_projects + more >= limits.max_connections:
            self._refuse("max_connections", name, address, now)
        if in_project >= limits.max_connections_per_project:
            self._refuse("max_connections_per_project", name, address, now)
        if per_address and self._addresses.get(network_of(address), 0) + more >= per_address:
            self._refuse("max_connections_per_address", name, address, now)

    def entered(self, address: str) -> None:
        network = network_of(address)
        self._addresses[network] = self._addresses.get(network, 0) + 1

    def left(self, address: str) -> None:
        network = network_of(address)
        there = self._addresses[network] - 1
        if there:
            self._addresses[network] = there
        else:
            del self._addresses[network]

    def _refuse(self, key: str, project: str, address: str | None, now: float) -> None:
        limit: int = getattr(self._limits, key)
        code = _CODES[key]
        self._counters.rejected[code] += 1
        self._observer.limit_reached(code, project, address, now)
        raise LimitReached(
            f"limits.{key} is {limit} and all are in use; try again later, or raise the limit.",
            code=code,
            retry_after_seconds=_RETRY_AFTER_SECONDS,
            limit=limit,
        )

    def frame(self, event: Event) -> None:
        """Raise LimitReached unless a ring can hold `event`."""
        size_bytes = len(event.frame(b"z" * 32, 1 << 60))
        most_bytes = self._limits.max_frame_bytes
        if size_bytes > most_bytes:
            raise LimitReached(
                f"The encoded event has {size_bytes} bytes; ring.max_bytes allows {most_bytes}.",
                code="event_too_large",
                limit_bytes=most_bytes,
            )


def network_of(address: str) -> str:
    """What an address counts as: itself, or its /64 for IPv6, of which each household has a whole one."""
    return _network_of(address) if ":" in address else address


@lru_cache(maxsize=4096)
def _network_of(address: str) -> str:
    try:
        return str(ipaddress.ip_network((address.partition("%")[0], 64), strict=False))
    except ValueError:
        return address
