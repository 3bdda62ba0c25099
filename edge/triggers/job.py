"""The job a trigger starts: what it is, where it goes, and how it is written and signed for a webhook.

Invariants:

- A `Job` holds everything a target needs and nothing about where it goes. The address, the secret and the format belong
  to the target, and so to the operator; no field of a job reaches them.
- `data` is passed on as the JSON text the caller wrote, never parsed and written again, so 1e400, integers beyond 64
  bits and repeated keys arrive as they were sent. The one exception is the top level of an object in the `inngest`
  format, where `project` has to be put among the caller's keys.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Protocol

import msgspec
from standardwebhooks.webhooks import Webhook

from edge.core.errors import InvalidRequest
from edge.core.event import Event
from edge.core.observer import Receipt
from edge.store.base import Keyed, Store, receipt_of

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


@dataclass(eq=False)
class StreamTarget:
    """The default target: a job becomes an event of its project's own stream, named after the job."""

    kind = "stream"

    _store: Store
    _clock: Callable[[], float]

    async def dispatch(self, job: Job) -> Delivery:
        """Raises what `Store.publish` raises."""
        event = Event(job.name, bytes(job.data))
        return self.delivery(await receipt_of(self._store.publish(job.project, event, self._clock(), job.keyed)))

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


# --- the body of a webhook, by `trigger.format`, and the headers that sign it ---

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TOP_LEVEL = msgspec.json.Decoder(dict[str, msgspec.Raw])


def _json(job: Job) -> bytes:
    return msgspec.json.encode(
        {"id": job.id, "name": job.name, "ts": job.ts_ms, "project": job.project, "data": job.data}
    )


def _inngest(job: Job) -> bytes:
    """`data` of an Inngest event is an object: anything else becomes its key `value`.

    The hub's `project` replaces the caller's. It is not simply written in front, because most parsers
    take the last of two equal keys, and then a caller could speak for another project.
    """
    text = bytes(job.data)
    fields = _TOP_LEVEL.decode(text) if text.lstrip().startswith(b"{") else {"value": job.data}
    fields["project"] = msgspec.Raw(msgspec.json.encode(job.project))
    return msgspec.json.encode({"id": job.unique_id, "name": job.name, "ts": job.ts_ms, "data": fields})


def _cloudevents(job: Job) -> bytes:
    time = (_EPOCH + timedelta(milliseconds=job.ts_ms)).isoformat(timespec="milliseconds")
    event = {
        "specversion": "1.0",
        "id": job.id,
        "source": f"/projects/{job.project}",
        "type": job.name,
        "time": time.replace("+00:00", "Z"),
        "subject": job.project,
        "datacontenttype": "application/json",
        "data": job.data,
    }
    return msgspec.json.encode(event)


_ENCODERS: dict[str, tuple[str, Callable[[Job], bytes]]] = {
    "json": ("application/json", _json),
    "inngest": ("application/json", _inngest),
    "cloudevents": ("application/cloudevents+json", _cloudevents),
}

FORMATS = tuple(_ENCODERS)


def content_type(format_name: str) -> str:
    return _ENCODERS[format_name][0]


def encode_job(job: Job, format_name: str) -> bytes:
    """The request body. Raises `InvalidRequest` where `data` is not JSON in UTF-8.

    msgspec passes over a string's bytes without checking their encoding when it fills a `Raw`
    (0.22: `decode(b'"\\xff"', type=Raw)` succeeds), so this is where such data would get out.
    """
    try:
        body = _ENCODERS[format_name][1](job)
        body.decode()
    except (UnicodeError, msgspec.DecodeError, RecursionError):
        # Python 3.11 keeps the caller's bytes in the exception: leave it behind.
        body = b""
    if not body:
        raise InvalidRequest("The job's data is not JSON in UTF-8: send it as JSON text, encoded as UTF-8.")
    return body


def signed_headers(webhooks: Sequence[Webhook], message_id: str, body: bytes, now_ms: int) -> dict[str, str]:
    """The headers of Standard Webhooks (https://www.standardwebhooks.com): id, timestamp, a signature by each secret.

    Id and timestamp are sent without a secret, too: receivers deduplicate by the id. The timestamp is the attempt's, or
    a late retry would be taken for a replay.
    """
    seconds = now_ms // 1000
    headers = {"webhook-id": message_id, "webhook-timestamp": str(seconds)}
    if webhooks:
        # `sign` replaces the time zone instead of converting it, so it has to be UTC already.
        moment = datetime.fromtimestamp(seconds, tz=UTC)
        headers["webhook-signature"] = " ".join(one.sign(message_id, moment, body.decode()) for one in webhooks)
    return headers
