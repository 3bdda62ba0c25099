"""The job a trigger starts, what its target answered, what a target is, and the target that is always there.

Invariant: a `Job` holds everything a target needs and nothing about where it goes. The address, the
secret and the format belong to the target, and so to the operator; no field of a job reaches them.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from typing import Protocol

import msgspec

from edge.core.event import Event, bounded
from edge.core.observer import Receipt
from edge.store.base import Keyed, Store

JOB_ID = re.compile(r"[A-Za-z0-9_:~-]{1,128}", re.ASCII)
"""What a job's id matches in full. It travels as an HTTP header, and a full stop would blur the signed
text `id.timestamp.body` of Standard Webhooks, so it is not among the characters."""


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """One job: `data` is JSON text as the caller wrote it, `ts_ms` milliseconds since 1970 (UTC).

    `id` matches `JOB_ID` and stays the same however often the job is sent.
    """

    id: str
    name: str
    ts_ms: int
    project: str
    data: msgspec.Raw
    traceparent: str | None = None
    keyed: Keyed | None = None
    """The idempotency key under which it is dispatched once, where the caller gave one."""

    @property
    def unique_id(self) -> str:
        """Unlike `id`, which a caller may choose, no other project has it: targets deduplicate by it."""
        return f"{self.id}:{hashlib.sha256(self.project.encode()).hexdigest()[:12]}"


class Delivery(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the trigger's answer shows under `target`.

    `answer` is JSON: the target's answer as it came where that is JSON, else its text as a string;
    left out where the answer was empty. `truncated` says that there was more than is shown.
    """

    kind: str
    status: int
    attempts: int
    answer: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    truncated: bool = False


class Target(Protocol):
    """Takes jobs. One object serves the whole process; `dispatch` may run many times at once."""

    kind: str

    async def dispatch(self, job: Job) -> Delivery:
        """Take the job there once, or raise `edge.core.errors.DispatchFailed`."""

    async def close(self) -> None:
        """Close connections. Nothing is dispatched afterwards."""


class StreamTarget:
    """The default target: a job becomes an event of its project's own stream, named after the job."""

    kind: str = "stream"

    def __init__(self, store: Store, clock: Callable[[], float], max_event_bytes: int) -> None:
        self._store = store
        self._clock = clock
        self._max_event_bytes = max_event_bytes

    async def dispatch(self, job: Job) -> Delivery:
        """Raises what `Store.publish` raises."""
        event = Event(job.name, bounded(bytes(job.data), self._max_event_bytes))
        published = self._store.publish(job.project, event, self._clock(), job.keyed)
        receipt = published if isinstance(published, Receipt) else await published
        return self.delivery(receipt)

    @classmethod
    def delivery(cls, receipt: Receipt) -> Delivery:
        """The delivery of a job that became the event of `receipt`."""
        return Delivery(
            kind=cls.kind,
            status=201 if receipt.connections else 202,
            attempts=1,
            answer=msgspec.Raw(msgspec.json.encode(receipt)),
        )

    async def close(self) -> None:
        """There is nothing to close."""
