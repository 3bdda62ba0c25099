"""Doing a request once, on whichever node it comes in: idempotency keys, kept in Redis.

A claim belongs to one request of one node and is void when it reaches Redis later than that request waits for it.
Publishing an event and noting so under its key is one step, in `append`. Invariant: what is done under a key is done
by whoever holds its claim, once; a claim is given back, or answered, however often Redis is gone meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from itertools import count

import msgspec
from redis.exceptions import RedisError

from edge.cluster.client import NODE_TTL_SECONDS, RedisClient
from edge.core.errors import InvalidRequest, StoreUnavailable
from edge.core.idempotency import Answer, Key, unknown_fate
from edge.core.observer import Receipt

_LEASE_MS = 7_200_000
"""Longer than any request may take; a node that dies gives its keys free earlier, unless a job was on its way."""
_POLL_SECONDS = 0.1


class ClusterIdempotency:
    """The keys of one node's requests."""

    def __init__(self, redis: RedisClient, node: str, clock: Callable[[], float], keep_ms: int) -> None:
        self._wire = redis
        self._node = node
        self._clock = clock
        self._keep_ms = keep_ms
        self._redis_ahead_seconds = 0.0
        self._numbers = count(1)
        self._held: dict[str, str] = {}
        """Claims of requests at work here."""
        self._pending_acks: dict[str, tuple[str, bytes]] = {}
        """What became of claims, by claim: the key in Redis and the answer, if any. Redis was not heard to take it."""

    def redis_says(self, now: float) -> None:
        """Redis's clock, just heard."""
        self._redis_ahead_seconds = now - self._clock()

    async def claim(self, key: Key, fingerprint: bytes) -> Answer | Receipt | None:
        """Take a key for this request (None), or give what became of it: the answer, or the receipt of its event where
        nobody lived to answer. Waits for one that is at work elsewhere.

        Raises InvalidRequest (`idempotency_mismatch`), StoreUnavailable.
        """
        receipt = self.receipt(key)
        claim = f"{self._node}/{next(self._numbers)}"
        while True:
            void_after = self._clock() + self._wire.answer_seconds + self._redis_ahead_seconds
            try:
                found = await self._wire.run(
                    "claim",
                    [receipt, self._wire.keys.nodes],
                    *(fingerprint, self._node, claim, _LEASE_MS, NODE_TTL_SECONDS, void_after),
                )
            except BaseException:  # also when the caller has gone away
                self._pending_acks[claim] = (receipt, b"")
                raise
            if found[0] == b"new":
                self._held[receipt] = claim
                return None
            if found[0] == b"late":
                raise StoreUnavailable("Redis took too long; send it again.", retry_after_seconds=1)
            mark, answer, job, event_id, connections, lives = found
            if mark != fingerprint:
                raise InvalidRequest(
                    "This idempotency key was used with another body; take a new key for a new request.",
                    code="idempotency_mismatch",
                )
            if answer is not None:
                return msgspec.json.decode(answer, type=Answer)
            if event_id is not None:
                return Receipt(key[1], event_id.decode(), int(connections), connections == b"0")
            if job is not None and not lives:
                return unknown_fate(job.decode())
            await asyncio.sleep(_POLL_SECONDS)

    async def record_intent(self, key: Key, job_id: str) -> None:
        """The job of a key that was claimed is about to leave. Raises StoreUnavailable."""
        receipt = self.receipt(key)
        if not await self._wire.run("intend", [receipt], self._held[receipt], job_id):
            raise taken_for_dead()

    async def settle(self, key: Key, answer: Answer | None) -> None:
        """What became of a key that was claimed: its answer, or None when nothing was done. While Redis is gone it is
        kept, and told later.
        """
        receipt = self.receipt(key)
        self._pending_acks[self._held.pop(receipt)] = (receipt, b"" if answer is None else msgspec.json.encode(answer))
        with suppress(StoreUnavailable):
            await self.settle_rest()

    async def settle_rest(self) -> None:
        """Tell Redis what it was not heard to take. Raises StoreUnavailable."""
        told = self._pending_acks.copy()
        if not told:
            return
        answers = await self._wire.run_all(
            [("settle", [receipt], [claim, answer, self._keep_ms]) for claim, (receipt, answer) in told.items()]
        )
        for claim, heard in zip(told, answers, strict=True):
            if isinstance(heard, RedisError):
                self._wire.failed(heard)
            else:
                self._pending_acks.pop(claim, None)

    def holds(self, key: Key) -> tuple[str, str]:
        """Where a key that was claimed is kept in Redis, and the claim."""
        receipt = self.receipt(key)
        return receipt, self._held[receipt]

    def receipt(self, key: Key) -> str:
        """Where a key is kept in Redis."""
        return f"{self._wire.keys.prefix}receipt:{msgspec.json.encode(key).decode()}"


def taken_for_dead() -> StoreUnavailable:
    """The claim went to somebody else."""
    return StoreUnavailable(
        "This node was taken for dead while it waited, so another may have the key; send it again.",
        retry_after_seconds=1,
    )
