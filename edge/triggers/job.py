"""The job a trigger starts, what its target answered, and what a target is.

Invariant: a `Job` says everything a target needs and nothing about where it goes. The address, the
secret and the format belong to the target, and so to the operator; no field of a job reaches them.
"""

from __future__ import annotations

import re
from typing import Protocol

import msgspec

from edge.core.idempotency import Key

JOB_ID = re.compile(r"[A-Za-z0-9_:~-]{1,128}", re.ASCII)
"""What a job's id matches in full. It travels as an HTTP header, and a full stop would blur the signed
text `id.timestamp.body` of Standard Webhooks, so it is not among the characters."""


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """One job: `data` is JSON text as the caller wrote it, `ts_ms` milliseconds since 1970 (UTC).

    `id` matches `JOB_ID` and stays the same however often the job is sent: receivers deduplicate by it.
    """

    id: str
    name: str
    ts_ms: int
    project: str
    data: msgspec.Raw
    traceparent: str | None = None
    key: Key | None = None
    """Under which it is done once, where the caller gave one."""


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
        """Let go of connections. Nothing is dispatched afterwards."""
