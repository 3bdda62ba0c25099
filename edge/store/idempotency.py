"""Idempotency keys of a hub that is alone: in memory, and in its store where that outlives the process.

Invariant: what is done under a key is done once. A key whose request did nothing is forgotten; one whose job may have
been sent is remembered with that.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from edge.core.idempotency import Answer, Key, Receipts, unknown_fate
from edge.store.base import MemoryStore, Published


class Idempotency(Protocol):
    """Who holds which key. A key that was claimed is settled or abandoned."""

    async def claim(self, key: Key, fingerprint: bytes) -> Answer | Published | None:
        """Claim a key for this request (None), or say what became of it. Waits while another request holds it.

        Raises InvalidRequest (`idempotency_mismatch`), LimitReached, StoreUnavailable.
        """

    async def record_intent(self, key: Key, job_id: str) -> None:
        """The job of a claimed key is about to be sent. Raises StoreUnavailable."""

    async def settle(self, key: Key, answer: Answer | None) -> None:
        """Record the answer of a claimed key, or None when nothing was done. Returns when it may be given."""

    async def abandon(self, key: Key) -> None:
        """The request of a claimed key ended without an answer: a job that was about to be sent may have started."""


@dataclass(eq=False)
class LocalIdempotency:
    """The keys of this process's requests."""

    _receipts: Receipts
    _store: MemoryStore
    _clock: Callable[[], float]

    async def claim(self, key: Key, fingerprint: bytes) -> Answer | None:
        while (entry := self._receipts.find(key, fingerprint, self._clock())) is not None:
            if entry.answer is not None:
                return entry.answer
            settled = asyncio.Event()
            entry.waiters.append(settled.set)
            await settled.wait()
        self._receipts.begin(key, fingerprint)
        return None

    async def record_intent(self, key: Key, job_id: str) -> None:
        entry = self._receipts.in_progress(key)
        await self._store.record_intent(key, entry.fingerprint, job_id)
        entry.job_id = job_id

    async def settle(self, key: Key, answer: Answer | None) -> None:
        entry = self._receipts.in_progress(key)
        if answer is None:
            self._receipts.drop(key)
            await self._store.record_answer(key, entry.fingerprint, None)
            return
        # Kept first: those that wait for it get it when it can't be lost any more.
        await self._store.record_answer(key, entry.fingerprint, answer)
        self._receipts.answer(key, answer, self._clock())

    async def abandon(self, key: Key) -> None:
        """The store keeps what it has: an event that is being written is there with its key, or neither is."""
        job_id = self._receipts.in_progress(key).job_id
        if job_id is None:
            self._receipts.drop(key)
        else:
            self._receipts.answer(key, unknown_fate(job_id), self._clock())
