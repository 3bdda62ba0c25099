"""The embedded default target: a job becomes an event of its project's own stream, named after the job."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from edge.core.event import Event, bounded
from edge.core.observer import Receipt
from edge.store.base import Store
from edge.triggers.job import Delivery, Job


class StreamTarget:
    """Publishes each job's data; its readers are the ones the trigger has waited for."""

    kind: str = "stream"

    def __init__(self, store: Store, clock: Callable[[], float], max_event_bytes: int) -> None:
        self._store = store
        self._clock = clock
        self._max_event_bytes = max_event_bytes

    async def dispatch(self, job: Job) -> Delivery:
        """Raises what `Store.publish` raises."""
        event = Event(job.name, bounded(bytes(job.data), self._max_event_bytes))
        published = self._store.publish(job.project, event, self._clock(), job.key)
        receipt = published if isinstance(published, Receipt) else await published
        return self.delivery(receipt)

    @classmethod
    def delivery(cls, receipt: Receipt) -> Delivery:
        """What is told of a job that became the event of `receipt`."""
        return Delivery(
            kind=cls.kind,
            status=201 if receipt.connections else 202,
            attempts=1,
            answer=msgspec.Raw(msgspec.json.encode(receipt)),
        )

    async def close(self) -> None:
        """There is nothing to let go of."""
