"""Idempotency keys of all nodes, kept in Redis.

A key is claimed for one request, and only that request settles it. A claim is void when it reaches Redis later than its
request waits for it. Publishing an event and noting so under its key is one step, in `append`.

Invariant: what is done under a key is done by the holder of its claim, once; a claim is settled however often Redis is
unreachable meanwhile. A job that may have been sent is never sent again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count

import msgspec

from edge.cluster.client import ANSWER_SECONDS, RedisClient
from edge.core.errors import StoreUnavailable
from edge.core.idempotency import Answer, Key, Receipts, check_fingerprint, unknown_fate
from edge.core.observer import Receipt
from edge.store.base import Keyed

_LEASE_MS = 7_200_000
"""Longer than any request takes. The keys of a node that dies are free earlier, but for those with a job on its way."""
_POLL_SECONDS = 0.1
_SETTLED_AT_ONCE = 256

Claim = tuple[str, str, bytes, int, int]
"""What an event is published under: where the key is kept in Redis, the claim, `besides` and `events` of `Keyed`, and
for how many milliseconds the key is remembered.
"""


@dataclass(eq=False)
class _Held:
    """The claim of a request of this node."""

    claim: str
    fingerprint: bytes
    job_id: str | None = None
    released: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(eq=False)
class ClusterIdempotency:
    """The keys of `edge.store.base.Store`, for the requests of one node."""

    _redis: RedisClient
    _kept: Receipts
    """How long keys are remembered; what is remembered is in Redis."""
    _clock: Callable[[], float]
    _numbers: Iterator[int] = field(default_factory=lambda: count(1))
    _held: dict[str, _Held] = field(default_factory=dict)
    """By where the key is kept in Redis: one request of this node at a time."""
    _unconfirmed: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    """What became of claims, by claim: where the key is kept, and the answer if any. Redis hasn't confirmed it."""

    async def claim(self, keyed: Keyed) -> Answer | None:
        receipt = self._receipt(keyed.key)
        claim = f"{self._redis.node}/{next(self._numbers)}"
        while True:
            if (held := self._held.get(receipt)) is not None:
                check_fingerprint(keyed.fingerprint, held.fingerprint)
                await held.released.wait()
                continue
            self._held[receipt] = _Held(claim, keyed.fingerprint)
            claimed = False
            try:
                known, found = await self._claim_in_redis(keyed, receipt, claim)
                claimed = known and found is None
            except BaseException:  # also when the caller has gone away
                self._unconfirmed[claim] = (receipt, b"")
                raise
            finally:
                if not claimed:
                    self._held.pop(receipt).released.set()
            if known:
                return found
            await asyncio.sleep(_POLL_SECONDS)

    async def _claim_in_redis(self, keyed: Keyed, receipt: str, claim: str) -> tuple[bool, Answer | None]:
        """False when another node's request holds the key; else what `claim` returns."""
        redis = self._redis
        void_after = self._clock() + ANSWER_SECONDS + redis.ahead_seconds
        found = await redis.run("claim", receipt, keyed.fingerprint, redis.node, claim, _LEASE_MS, void_after)
        if found[0] == b"new":
            return True, None
        if found[0] == b"late":
            raise StoreUnavailable("Redis took too long; send it again.")
        known, answer, job, event_id, connections, besides, lives = found
        check_fingerprint(keyed.fingerprint, known)
        if answer is not None:
            return True, msgspec.json.decode(answer, type=Answer)
        if event_id is not None:
            ids, counts = event_id.decode().split(), connections.decode().split()
            receipts = [
                Receipt(name, own_id, int(there), there == "0")
                for name, own_id, there in zip(keyed.projects, ids, counts, strict=True)
            ]
            return True, keyed.answer(receipts, besides or b"")
        if job is not None and not lives:
            return True, unknown_fate(job.decode())
        return False, None

    async def record_intent(self, key: Key, job_id: str) -> None:
        receipt = self._receipt(key)
        held = self._held[receipt]
        if not await self._redis.run("record_intent", receipt, held.claim, job_id):
            raise claim_lost()
        held.job_id = job_id

    async def settle(self, key: Key, answer: Answer | None) -> None:
        """While Redis is unreachable the answer is kept and recorded later."""
        receipt = self._receipt(key)
        held = self._held.pop(receipt)
        self._unconfirmed[held.claim] = (receipt, b"" if answer is None else msgspec.json.encode(answer))
        try:
            with suppress(StoreUnavailable):
                await self.settle_rest()
        finally:
            held.released.set()

    async def abandon(self, key: Key) -> None:
        job_id = self._held[self._receipt(key)].job_id
        await self.settle(key, None if job_id is None else unknown_fate(job_id))

    async def settle_rest(self) -> None:
        """Record what Redis hasn't confirmed, a part at a time. Raises StoreUnavailable."""
        unconfirmed = list(self._unconfirmed.items())
        for at in range(0, len(unconfirmed), _SETTLED_AT_ONCE):
            part = unconfirmed[at : at + _SETTLED_AT_ONCE]
            outcomes = await self._redis.run_all(
                [("settle", [receipt, claim, answer, self._keep_ms]) for claim, (receipt, answer) in part]
            )
            for (claim, _), outcome in zip(part, outcomes, strict=True):
                if not isinstance(outcome, StoreUnavailable):
                    self._unconfirmed.pop(claim, None)

    def publishing(self, keyed: Keyed | None) -> Claim | None:
        """For the script that publishes under a claimed key."""
        if keyed is None:
            return None
        receipt = self._receipt(keyed.key)
        return receipt, self._held[receipt].claim, keyed.besides, keyed.events, self._keep_ms

    @property
    def _keep_ms(self) -> int:
        return int(self._kept.keep_seconds * 1000)

    def _receipt(self, key: Key) -> str:
        return f"{self._redis.keys.prefix}receipt:{msgspec.json.encode(key).decode()}"


def claim_lost() -> StoreUnavailable:
    """Another request holds the claim."""
    return StoreUnavailable(
        "Redis had no heartbeat of this node for too long, so another node may hold the key; send it again."
    )
