"""What a store is: it takes events, and holds the idempotency keys of requests.

The hub doesn't know the store: events pass through it on their way to the ring.

Invariant: a receipt is given only for what the store has promised to keep. What it can't keep is refused with
`store_unavailable` while streams stay open; it heals by itself. What is done under a key is done once: a key whose
request did nothing is forgotten, one whose job may have been sent is remembered with that.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, TypeVar

from edge.core.errors import StoreUnavailable
from edge.core.event import Event
from edge.core.hub import Hub
from edge.core.idempotency import Answer, Key, Receipts, unknown_fate
from edge.core.observer import Batch, Receipt
from edge.core.registry import base36

Result = TypeVar("Result")


class StoreUnusableError(Exception):
    """The store can't be used, and starting again can't help: the text says what to do."""


class Keyed(NamedTuple):
    """An event published under an idempotency key, which remembers `answer(receipts, besides)`.

    There is a receipt for each project of the key. `besides` is what the answer says besides them. Both can be kept, so
    any process can give the answer.
    """

    key: Key
    fingerprint: bytes
    answer: Callable[[Sequence[Receipt], bytes], Answer]
    besides: bytes = b""
    events: int = 1
    """How many events of the project were published in this turn of the loop for the key; this one is the last."""

    @property
    def projects(self) -> list[str]:
        """The projects that the request publishes to, in this order."""
        return self.key[1].split(",")

    def answered(self, receipts: Sequence[Receipt]) -> Answer:
        return self.answer(receipts, self.besides)


class Store(Protocol):
    """Takes events to the ring, and to wherever else history lives, and holds the idempotency keys.

    A key that was claimed is settled or abandoned.
    """

    async def open(self) -> None:
        """Give the hub what an earlier process left. Until it has returned, `problem` says why nothing is taken.

        Raises StoreUnavailable where it may be called again, StoreUnusableError where that can't help.
        """

    def publish(self, name: str, event: Event, now: float, keyed: Keyed | None = None) -> Receipt | Awaitable[Receipt]:
        """Publish; the receipt comes at once or, where the event has to be safe first, later.

        With `keyed`, its events and the key are kept in one step or not at all.

        Raises what `Hub.publish` raises, and StoreUnavailable (now or when awaited).
        """

    def publish_each(
        self, names: Sequence[str], event: Event, now: float, keyed: Keyed | None = None
    ) -> Awaitable[list[Receipt]]:
        """Publish `event` to each of `names`, to all or, raising what `publish` raises, to none."""

    def publish_many(self, name: str, events: Sequence[Event], now: float) -> Batch | None:
        """Publish events together: all or, raising, none. None where each needs a promise of its own."""

    async def deleted(self, name: str) -> None:
        """The project `name` was deleted; returns when that may be answered. Raises StoreUnavailable."""

    @property
    def problem(self) -> StoreUnavailable | None:
        """Why it takes nothing at the moment."""

    @property
    def errors(self) -> int:
        """How often it could not write."""

    async def close(self) -> None:
        """Write what is left and close."""

    async def claim(self, keyed: Keyed) -> Answer | None:
        """Claim a key for this request (None), or give its answer again. Waits while another request holds it.

        Raises InvalidRequest (`idempotency_mismatch`), LimitReached, StoreUnavailable.
        """

    async def record_intent(self, key: Key, job_id: str) -> None:
        """The job of a claimed key is about to be sent. Raises StoreUnavailable."""

    async def settle(self, key: Key, answer: Answer | None) -> None:
        """Record the answer of a claimed key, or None when nothing was done.

        Returns when it may be given; an answer that can't be kept at the moment is kept later.
        """

    async def abandon(self, key: Key) -> None:
        """The request of a claimed key ended without an answer: a job that was about to be sent may have started."""


def new_epoch() -> str:
    """A name for a life of history, later ones sorting behind: milliseconds and a little chance, in base 36."""
    return base36(time.time_ns() // 1_000_000 * 36**3 + secrets.randbelow(36**3))


async def all_of(promised: Iterable[Awaitable[Result]]) -> list[Result]:
    """What was promised, in order. Raises the first exception when all have come."""
    results: list[Result] = []
    for outcome in await asyncio.gather(*promised, return_exceptions=True):
        if isinstance(outcome, BaseException):
            raise outcome
        results.append(outcome)
    return results


async def receipt_of(promised: Receipt | Awaitable[Receipt]) -> Receipt:
    return promised if isinstance(promised, Receipt) else await promised


@dataclass(eq=False)
class MemoryStore(Store):
    """The store of a hub that is alone. This one writes nothing: the ring is all the history there is, and no later
    process knows of it.
    """

    _hub: Hub
    _receipts: Receipts
    _clock: Callable[[], float]
    problem: StoreUnavailable | None = field(default=None, init=False)
    errors: int = field(default=0, init=False)

    async def open(self) -> None: ...
    async def deleted(self, name: str) -> None: ...
    async def close(self) -> None: ...

    def publish(self, name: str, event: Event, now: float, keyed: Keyed | None = None) -> Receipt | Awaitable[Receipt]:
        del keyed
        return self._hub.publish(name, event, now)

    async def publish_each(
        self, names: Sequence[str], event: Event, now: float, keyed: Keyed | None = None
    ) -> list[Receipt]:
        """In one turn of the loop, and so in one transaction."""
        self._hub.check(event)
        self._hub.check_room(names, None, now)
        promised = [self.publish(name, event, now, keyed if name == names[-1] else None) for name in names]
        return await all_of(map(receipt_of, promised))

    def publish_many(self, name: str, events: Sequence[Event], now: float) -> Batch | None:
        return self._hub.publish_many(name, events, now)

    async def claim(self, keyed: Keyed) -> Answer | None:
        while (entry := self._receipts.find(keyed.key, keyed.fingerprint, self._clock())) is not None:
            if entry.answer is not None:
                return entry.answer
            settled = asyncio.Event()
            entry.waiters.append(settled.set)
            await settled.wait()
        self._receipts.begin(keyed.key, keyed.fingerprint)
        return None

    async def record_intent(self, key: Key, job_id: str) -> None:
        self._receipts.in_progress(key).job_id = job_id

    async def settle(self, key: Key, answer: Answer | None) -> None:
        if answer is None:
            self._receipts.drop(key)
        else:
            self._receipts.answer(key, answer, self._clock())

    async def abandon(self, key: Key) -> None:
        """The store keeps what it has: an event that is being written is there with its key, or neither is."""
        job_id = self._receipts.in_progress(key).job_id
        if job_id is None:
            self._receipts.drop(key)
        else:
            self._receipts.answer(key, unknown_fate(job_id), self._clock())
