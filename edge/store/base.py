"""What a store is. The hub never knows of it: events pass through it on their way to the ring.

Invariant: a receipt is given only for what the store has promised to keep, and what it can't take is refused with
`store_unavailable` while streams stay open; it heals by itself.
"""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import Protocol

from edge.core.errors import StoreUnavailable
from edge.core.event import Event
from edge.core.idempotency import Key
from edge.core.observer import Batch, Receipt


class StoreUnusableError(Exception):
    """The store can't be used as it is, and starting again can't help (it is another program's, or a later version's).
    The text says what to do.
    """


class Store(Protocol):
    """Takes events to the ring, and to wherever else history lives."""

    kind: str
    durable: bool
    """Whether what it keeps outlives the process."""
    at_once: bool
    """Whether `publish` gives the receipt itself, not the promise of one."""

    async def open(self) -> None:
        """Give the hub back what an earlier process left. Until it has returned, `problem` is not None.

        Raises StoreUnavailable where that can't be read at the moment: the caller calls it again. Raises
        StoreUnusableError where calling again can't help.
        """

    def publish(self, name: str, event: Event, now: float, key: Key | None = None) -> Receipt | Awaitable[Receipt]:
        """Publish; the receipt comes at once or, where it has to be safe first, later.

        `key` was claimed for this one event: a store that others share notes in the same step that it is done.

        Raises what `Hub.publish` raises, and StoreUnavailable (now or when awaited).
        """

    def publish_many(self, name: str, events: Sequence[Event], now: float) -> Batch | None:
        """Publish events together: all or, raising, none. None where each needs a promise of its own."""

    async def record_intent(self, key: Key, fingerprint: bytes, job_id: str) -> None:
        """Note that a job is about to leave, so that no later process sends it again. Raises StoreUnavailable."""

    @property
    def problem(self) -> StoreUnavailable | None:
        """Why it takes nothing at the moment."""

    @property
    def errors(self) -> int:
        """How often it could not write."""

    async def close(self) -> None:
        """Write what is left and let go."""
