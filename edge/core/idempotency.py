"""Answers remembered by idempotency key, so that a request may be sent twice and is done once.

Invariant: for one key there is at most one answer and at most one request in progress; a key is forgotten
`keep_seconds` after its answer, never while its request is in progress. A full table refuses new keys rather than
forgetting one that was promised, and one project can't fill it. Long answers count as several.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable

import msgspec

from edge.core.errors import InvalidRequest, LimitReached

Key = tuple[str, ...]
"""What was done, to which project, under which name."""
ENTRY_BYTES = 1024
"""An answer that is longer takes the place of as many entries as it fills."""


class Answer(msgspec.Struct, frozen=True):
    """An HTTP answer that can be given again."""

    status: int
    body: bytes
    content_type: str = "application/json"


def unknown_fate(job: str | None) -> Answer:
    """The answer for a job of which it isn't known whether it was sent: the key must not send it once more."""
    document = {
        "type": "urn:edge:problem:dispatch_failed",
        "title": "Dispatch failed",
        "status": 502,
        "detail": "The hub was stopped while this job was being sent, so it may have started and is not sent again: "
        "look for the job's id at the target.",
        "code": "dispatch_failed",
        "id": job,
        "may_have_started": True,
    }
    return Answer(502, msgspec.json.encode(document), "application/problem+json")


def check_fingerprint(fingerprint: bytes, known: bytes) -> None:
    """Raise InvalidRequest (`idempotency_mismatch`) where a key is used again for something else."""
    if fingerprint != known:
        raise InvalidRequest(
            "This idempotency key was used with a different body; use a new key for a new request.",
            code="idempotency_mismatch",
        )


class Entry:
    """One key: what its first request looked like and, once there is one, the answer."""

    __slots__ = ("answer", "answered_seconds", "fingerprint", "job_id", "waiters")

    def __init__(self, fingerprint: bytes) -> None:
        self.fingerprint = fingerprint
        self.answer: Answer | None = None
        self.answered_seconds = 0.0
        self.job_id: str | None = None
        """The job that was about to be sent."""
        self.waiters: list[Callable[[], None]] = []

    @property
    def size(self) -> int:
        """How many entries of the table it takes."""
        return 1 if self.answer is None else max(1, -(-len(self.answer.body) // ENTRY_BYTES))


class Receipts:
    """Answers by key."""

    def __init__(self, max_keys: int, keep_seconds: float, max_keys_per_project: int | None = None) -> None:
        self.max_keys = max_keys
        self.max_keys_per_project = max_keys_per_project or max_keys
        self.keep_seconds = keep_seconds
        self._in_progress: dict[Key, Entry] = {}
        self._answered: OrderedDict[Key, Entry] = OrderedDict()
        self._per_project: Counter[str] = Counter()
        self._size = 0
        self.refused = 0

    def __len__(self) -> int:
        return self._size

    def find(self, key: Key, fingerprint: bytes, now: float) -> Entry | None:
        """The entry of a key that is answered or in progress; None for a new one.

        Raises:
            InvalidRequest: `idempotency_mismatch`, the key was used with another `fingerprint`.
        """
        self._expire(now)
        entry = self._answered.get(key) or self._in_progress.get(key)
        if entry is not None:
            check_fingerprint(fingerprint, entry.fingerprint)
        return entry

    def begin(self, key: Key, fingerprint: bytes) -> Entry:
        """Note that a new key's request is in progress. Raises LimitReached (`too_many_idempotency_keys`)."""
        if self._size >= self.max_keys:
            raise self._refusal(
                f"limits.max_idempotency_keys is {self.max_keys} and all are in use; "
                "try again later, send no key, or raise the limit.",
                self.max_keys,
            )
        if self._per_project[key[1]] >= self.max_keys_per_project:
            raise self._refusal(
                f"{key[1]} uses its share of {self.max_keys_per_project} idempotency keys "
                "(limits.project_share_percent); try again later, or send no key.",
                self.max_keys_per_project,
            )
        entry = self._in_progress[key] = Entry(fingerprint)
        self._count(key, entry.size)
        return entry

    def in_progress(self, key: Key) -> Entry:
        """The entry of a key that `begin` returned."""
        return self._in_progress[key]

    def answer(self, key: Key, answer: Answer, now: float) -> None:
        """The request of `key` is done; those that wait for it are woken."""
        entry = self._in_progress.pop(key)
        self._count(key, -entry.size)
        self._hold(key, entry, answer, now)
        for wake in entry.waiters:
            wake()
        entry.waiters = []

    def drop(self, key: Key) -> None:
        """The request of `key` did nothing: it may be sent again as if it had never been."""
        entry = self._in_progress.pop(key, None)
        if entry is not None:
            self._count(key, -entry.size)
            for wake in entry.waiters:
                wake()

    def restore(self, key: Key, fingerprint: bytes, answer: Answer, answered_seconds: float) -> None:
        """Remember what an earlier process answered; the oldest first."""
        self._hold(key, Entry(fingerprint), answer, answered_seconds)

    def answered(self) -> list[tuple[Key, bytes, Answer, float]]:
        """Key, fingerprint, answer and its moment, the oldest first."""
        return [
            (key, entry.fingerprint, entry.answer, entry.answered_seconds)
            for key, entry in self._answered.items()
            if entry.answer is not None
        ]

    def _hold(self, key: Key, entry: Entry, answer: Answer, answered_seconds: float) -> None:
        entry.answer = answer
        entry.answered_seconds = answered_seconds
        self._answered[key] = entry
        self._count(key, entry.size)

    def _expire(self, now: float) -> None:
        while self._answered:
            key, entry = next(iter(self._answered.items()))
            if entry.answered_seconds + self.keep_seconds > now:
                return
            del self._answered[key]
            self._count(key, -entry.size)

    def _count(self, key: Key, change: int) -> None:
        self._size += change
        self._per_project[key[1]] += change
        if not self._per_project[key[1]]:
            del self._per_project[key[1]]

    def _refusal(self, detail: str, limit: int) -> LimitReached:
        self.refused += 1
        return LimitReached(detail, code="too_many_idempotency_keys", retry_after_seconds=5, limit=limit)
