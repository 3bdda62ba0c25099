"""The default store: the ring is all the history there is."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence

from edge.core.event import Event
from edge.core.hub import Hub
from edge.core.idempotency import Answer, Key
from edge.core.observer import Batch, Receipt
from edge.store.base import Keyed, publish_each


class MemoryStore:
    """Hands events straight to the hub."""

    kind = "memory"
    durable = False
    at_once = True
    problem = None
    errors = 0

    def __init__(self, hub: Hub) -> None:
        self._hub = hub

    async def open(self) -> None:
        """There is nothing to open."""

    def publish(self, name: str, event: Event, now: float, keyed: Keyed | None = None) -> Receipt:  # noqa: ARG002
        return self._hub.publish(name, event, now)

    def publish_each(
        self, names: Sequence[str], event: Event, now: float, keyed: Keyed | None = None
    ) -> Awaitable[list[Receipt]]:
        return publish_each(self, self._hub, names, event, now, keyed)

    def publish_many(self, name: str, events: Sequence[Event], now: float) -> Batch:
        return self._hub.publish_many(name, events, now)

    async def deleted(self, name: str) -> None:
        """Deleted."""

    async def record_intent(self, key: Key, fingerprint: bytes, job_id: str) -> None:
        """No later process knows of it."""

    async def record_answer(self, key: Key, fingerprint: bytes, answer: Answer | None) -> None:
        """No later process knows of it."""

    async def close(self) -> None:
        """There is nothing to close."""
