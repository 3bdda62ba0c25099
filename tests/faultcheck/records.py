"""What a round of the fault checker records: each request, frame, poll and fault, with its time.

Records hold no opinion: only `judge.py` decides what breaks a promise. Times are seconds since the round began.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from typing import Literal, TypeVar

Outcome = Literal["accepted", "refused", "unknown", "unsent"]
"""`unknown`: sent whole and never answered. `unsent`: never sent whole, so it must not be published."""


@dataclass(frozen=True, slots=True)
class Record:
    at: float


@dataclass(frozen=True, slots=True)
class Sent(Record):
    """One event (or job) in one request. `at` is the time before the request, `until` the one after its answer."""

    until: float
    publisher: str
    way: Literal["json", "text", "ndjson", "half", "trigger"]
    project: str
    token: str
    outcome: Outcome
    key: str = ""
    """Of the request, "" without one. Publishes and triggers have keys of their own."""
    id: str = ""
    """The event's, or the job's of a trigger; "" where the answer doesn't say (inside NDJSON)."""
    status: int = 0
    code: str = ""
    replayed: bool = False
    may_have_started: bool = False
    body: str = ""


@dataclass(frozen=True, slots=True)
class Received(Record):
    """A job at the target. `status` is what the target answered; 0 when the hub closed before it could."""

    project: str
    token: str
    webhook_id: str
    status: int


@dataclass(frozen=True, slots=True)
class Opened(Record):
    """A subscriber sent its request: `asked` is its Last-Event-ID, "" without one."""

    subscriber: str
    project: str
    asked: str
    since: str


@dataclass(frozen=True, slots=True)
class Hello(Record):
    subscriber: str
    project: str
    id: str
    oldest: str
    newest: str


@dataclass(frozen=True, slots=True)
class Seen(Record):
    subscriber: str
    project: str
    id: str
    token: str


@dataclass(frozen=True, slots=True)
class Gap(Record):
    subscriber: str
    project: str
    asked: str
    oldest: str
    newest: str
    lost: int | None
    reason: str


@dataclass(frozen=True, slots=True)
class Ended(Record):
    """A stream was closed, by whom and how stands in `how`."""

    subscriber: str
    project: str
    how: str


@dataclass(frozen=True, slots=True)
class Caught(Record):
    """A subscriber has read the project's last event: what it hasn't seen by now it never will."""

    subscriber: str
    project: str


@dataclass(frozen=True, slots=True)
class Polled(Record):
    """Samples of `/metrics`. `life` counts the starts of the node's process."""

    node: str
    life: int
    samples: dict[str, float]


@dataclass(frozen=True, slots=True)
class Misses(Record):
    """The ledger of a project as its status shows it."""

    node: str
    project: str
    total: int
    recovered: int
    lost: int
    pending: int


@dataclass(frozen=True, slots=True)
class Started(Record):
    node: str
    life: int


@dataclass(frozen=True, slots=True)
class Fault(Record):
    """What was done to the hub; the flags say what the documentation lets it forget by that."""

    what: str
    loses_events: bool = False
    loses_keys: bool = False
    kills: bool = False
    """What subscribers had acknowledged is unknown afterwards."""
    ends_redis: bool = False


@dataclass(frozen=True, slots=True)
class Broken(Record):
    """What the harness itself saw break: a process that ended, a traceback, a stream that never came to its end."""

    rule: str
    text: str


Found = TypeVar("Found", bound=Record)


@dataclass(slots=True)
class History:
    """All records of one round, in the order of their arrival."""

    records: list[Record] = field(default_factory=list)

    def add(self, record: Record) -> None:
        self.records.append(record)

    def of(self, kind: type[Found]) -> Iterator[Found]:
        return (record for record in self.records if isinstance(record, kind))


def mentions(record: Record, words: frozenset[str]) -> bool:
    """Whether any field of it is one of `words`."""
    return any(getattr(record, each.name) in words for each in fields(record) if each.type == "str")


def line(record: Record) -> str:
    """One line for a report; fields that are empty are left out."""
    found = ((each.name, getattr(record, each.name)) for each in fields(record) if each.name != "at")
    shown = ((name, f"{value:.3f}" if isinstance(value, float) else value) for name, value in found if value)
    text = " ".join(f"{name}={value}" for name, value in shown)
    return f"{record.at:9.3f} {type(record).__name__:8} {text}"
