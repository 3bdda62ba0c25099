"""Receipts remembered by key, so that a request may be sent twice and is done once.

Invariant: for one key there is at most one answer and at most one request at work; a key is forgotten
`keep_seconds` after its answer, never while it is at work. A full table refuses new keys rather than
forgetting one that was promised.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import msgspec

from edge.core.errors import InvalidRequest, LimitReached

Key = tuple[str, ...]
"""What was done, to which project, under which name."""


class Answer(msgspec.Struct, frozen=True):
    """An HTTP answer that can be given again."""

    status: int
    body: bytes
    content_type: str = "application/json"


def unknown_fate(job: str | None) -> Answer:
    """The answer for a job whose hub was gone before it could tell: the key must not send it once more."""
    document = {
        "type": "urn:edge:problem:dispatch_failed",
        "title": "The target did not take the job",
        "status": 502,
        "detail": "The hub was stopped while this job was on its way, so it may have started and is not sent again: "
        "ask the target for the job's id.",
        "code": "dispatch_failed",
        "id": job,
        "may_have_started": True,
    }
    return Answer(502, msgspec.json.encode(document), "application/problem+json")


class Entry:
    """One key: what its first request looked like and, once there is one, the answer."""

    __slots__ = ("answer", "answered_seconds", "fingerprint", "waiters")

    def __init__(self, fingerprint: bytes) -> None:
        self.fingerprint = fingerprint
        self.answer: Answer | None = None
        self.answered_seconds = 0.0
        self.waiters: list[Callable[[], None]] = []


class Receipts:
    """Answers by key. `settled` is told of each key that is answered (with its entry) or dropped (with None)."""

    def __init__(self, max_keys: int, keep_seconds: float) -> None:
        self.max_keys = max_keys
        self.keep_seconds = keep_seconds
        self._at_work: dict[Key, Entry] = {}
        self._answered: OrderedDict[Key, Entry] = OrderedDict()
        self.refused = 0
        self.settled: Callable[[Key, Entry | None], None] | None = None

    def __len__(self) -> int:
        return len(self._at_work) + len(self._answered)

    def find(self, key: Key, fingerprint: bytes, now: float) -> Entry | None:
        """The entry of a key that is answered or at work; None for a new one.

        Raises:
            InvalidRequest: `idempotency_mismatch`, the key was used with another `fingerprint`.
        """
        self._expire(now)
        entry = self._answered.get(key) or self._at_work.get(key)
        if entry is not None and entry.fingerprint != fingerprint:
            raise InvalidRequest(
                "This idempotency key was used with another body; take a new key for a new request.",
                code="idempotency_mismatch",
            )
        return entry

    def begin(self, key: Key, fingerprint: bytes) -> Entry:
        """Note that a new key's request is at work. Raises LimitReached (`too_many_idempotency_keys`)."""
        if len(self) >= self.max_keys:
            self.refused += 1
            raise LimitReached(
                f"limits.max_idempotency_keys is {self.max_keys} and all are in use; "
                "try again later, send no key, or raise the limit.",
                code="too_many_idempotency_keys",
                retry_after_seconds=5,
                limit=self.max_keys,
            )
        entry = self._at_work[key] = Entry(fingerprint)
        return entry

    def answer(self, key: Key, answer: Answer, now: float) -> None:
        """The request of `key` is done; whoever waits for it is told."""
        entry = self._at_work.pop(key)
        entry.answer = answer
        entry.answered_seconds = now
        self._answered[key] = entry
        self._tell(key, entry)
        for wake in entry.waiters:
            wake()

    def drop(self, key: Key) -> None:
        """The request of `key` did nothing: it may be sent again as if it had never been."""
        entry = self._at_work.pop(key, None)
        if entry is not None:
            self._tell(key, None)
            for wake in entry.waiters:
                wake()

    def restore(self, key: Key, fingerprint: bytes, answer: Answer, answered_seconds: float) -> None:
        """Remember what an earlier process answered; the oldest first."""
        entry = self._answered[key] = Entry(fingerprint)
        entry.answer = answer
        entry.answered_seconds = answered_seconds

    def _tell(self, key: Key, entry: Entry | None) -> None:
        if self.settled is not None:
            self.settled(key, entry)

    def _expire(self, now: float) -> None:
        while self._answered:
            key, entry = next(iter(self._answered.items()))
            if entry.answered_seconds + self.keep_seconds > now:
                return
            del self._answered[key]
