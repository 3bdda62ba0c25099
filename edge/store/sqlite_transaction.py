"""The tables of the SQLite store, and what one transaction writes: how it gathers on the event loop, and its rows."""

from __future__ import annotations

import asyncio
import sqlite3
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import msgspec

from edge.core.hub import Hub
from edge.core.idempotency import Answer, Key
from edge.core.intervals import Intervals, Run
from edge.core.ledger import LedgerState
from edge.core.observer import Receipt
from edge.core.project import Project
from edge.core.saved import PastEpoch
from edge.store.base import Keyed, StoreUnusableError

APPLICATION_ID = 0x45444745  # "EDGE"
SCHEMA_VERSION = 2
_SCHEMA = """
CREATE TABLE projects (
    name TEXT PRIMARY KEY, epoch TEXT NOT NULL, first_seq INTEGER NOT NULL, newest INTEGER NOT NULL,
    ledger BLOB NOT NULL, earlier BLOB NOT NULL DEFAULT '[]', finished INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
CREATE TABLE segments (
    project TEXT NOT NULL, epoch TEXT NOT NULL, first_seq INTEGER NOT NULL, last_seq INTEGER NOT NULL,
    at_seconds REAL NOT NULL, frames BLOB NOT NULL
);
CREATE TABLE receipts (
    key TEXT PRIMARY KEY, fingerprint BLOB NOT NULL, job TEXT, status INTEGER, content_type TEXT, body BLOB,
    at_seconds REAL NOT NULL
) WITHOUT ROWID;
"""
_LIFE = """
CREATE TABLE life (
    token TEXT NOT NULL, clean INTEGER NOT NULL, commits INTEGER NOT NULL, drift_seconds REAL NOT NULL,
    writes INTEGER NOT NULL
);
INSERT INTO life VALUES ('', 0, 0, 0.0, 0);
"""
_FROM_VERSION_1 = (
    "ALTER TABLE projects ADD COLUMN earlier BLOB NOT NULL DEFAULT '[]';"
    "ALTER TABLE projects ADD COLUMN finished INTEGER NOT NULL DEFAULT 0;"
    "DROP TABLE pulse;" + _LIFE
)


def schema_changes(db: sqlite3.Connection, path: Path) -> str:
    """The statements that give `db` the schema of this version. Raises StoreUnusableError for another's file."""
    application_id = db.execute("PRAGMA application_id").fetchone()[0]
    version = db.execute("PRAGMA user_version").fetchone()[0]
    tables = db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    if application_id not in (0, APPLICATION_ID) or (tables and application_id == 0):
        raise StoreUnusableError(f"{path} is a database of another program: name another file in store.url.")
    if version > SCHEMA_VERSION:
        raise StoreUnusableError(f"{path} was written by a newer edge (version {version}): upgrade this one.")
    changes = _SCHEMA + _LIFE if not tables else _FROM_VERSION_1 if version < SCHEMA_VERSION else ""
    return f"{changes}; PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {SCHEMA_VERSION}"


class Segment(NamedTuple):
    """Events `first_seq..last_seq` of one project, published at `at_seconds` of the file's clock."""

    project: str
    epoch: str
    first_seq: int
    last_seq: int
    at_seconds: float
    frames: bytes


class ProjectRow(NamedTuple):
    """A project as the hub knows it: ring bounds and ledger (its moments on the file's clock)."""

    name: str
    epoch: str
    first_seq: int
    oldest: int
    newest: int
    ledger: LedgerState
    earlier: tuple[PastEpoch, ...] = ()
    finished: bool = False


class ReceiptRow(NamedTuple):
    """An idempotency key: answered, or (`status` None) with job `job` about to be sent."""

    key: str
    fingerprint: bytes
    job: str | None
    status: int | None
    content_type: str | None
    body: bytes | None
    at_seconds: float


class Transaction(NamedTuple):
    """What is written together."""

    segments: Sequence[Segment] = ()
    projects: Sequence[ProjectRow] = ()
    dropped_projects: Sequence[str] = ()
    receipts: Sequence[ReceiptRow] = ()
    dropped_keys: Sequence[str] = ()
    """Keys whose request did nothing after all."""
    receipts_since_seconds: float = 0.0
    """Receipts answered before this moment are no longer remembered."""
    drift_seconds: float = 0.0
    """How far the wall clock is ahead of the file's clock."""

    @property
    def idle(self) -> bool:
        """Nothing is added or changed."""
        return not (self.segments or self.projects or self.receipts)


@dataclass(eq=False, slots=True)
class PendingCommit:
    """A publisher that waits for the disk; its event is on no ring before it is there."""

    project: Project
    frame: bytes
    keyed: Keyed | None
    remembered: Answer | None = None
    """What the transaction says of the key."""
    future: asyncio.Future[Receipt] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


@dataclass(eq=False, slots=True)
class Gathered:
    """What gathers for the next transaction."""

    touched: set[str] = field(default_factory=set)
    """Projects whose history or ledger has changed; the hub adds to it."""
    deleted: set[str] = field(default_factory=set)
    unwritten: dict[Project, int] = field(default_factory=dict)
    """The first event of each that is on its ring and has not been written."""
    pending: list[PendingCommit] = field(default_factory=list)
    receipts: dict[str, ReceiptRow | None] = field(default_factory=dict)
    """Rows to write; None for a key to drop."""
    waiting: dict[asyncio.Future[None], bool] = field(default_factory=dict)
    """Requests that go on once it is written, and whether they are refused where it can't be."""

    def __bool__(self) -> bool:
        return bool(self.unwritten or self.pending or self.receipts or self.deleted)

    def take(self, most: int) -> Gathered:
        """What one transaction writes: all of it but for projects beyond `most`, which stay.

        No event is parted from its key: with keys, all events are taken.
        """
        first = list(self.unwritten) if self.receipts else list(islice(self.unwritten, most))
        unwritten = {project: self.unwritten.pop(project) for project in first}
        touched = set(islice(self.touched, max(0, most - len(first))))
        self.touched -= touched  # in place: the hub holds it
        taken = Gathered(touched, self.deleted, unwritten, self.pending, self.receipts, self.waiting)
        self.deleted, self.pending, self.receipts, self.waiting = set(), [], {}, {}
        return taken

    def put_back(self, earlier: Gathered) -> None:
        """`earlier` was taken and not written."""
        self.touched |= earlier.touched
        self.deleted |= earlier.deleted
        self.unwritten |= earlier.unwritten
        self.pending = earlier.pending + self.pending
        self.receipts = earlier.receipts | self.receipts
        self.waiting = earlier.waiting | self.waiting

    def transaction(
        self, hub: Hub, offset_seconds: float, now_seconds: float, keep_receipts_seconds: float, drift_seconds: float
    ) -> Transaction:
        """`offset_seconds`: the file's clock, which says `now_seconds`, is so far ahead of the hub's."""
        segments = self._segments(hub, offset_seconds, now_seconds)
        rows: list[ProjectRow] = []
        dropped: list[str] = []
        for name in self.touched | self.deleted | {segment.project for segment in segments}:
            if project := hub.projects.get(name):
                ring, state = project.ring, project.ledger.state(project.ring.newest)
                held = project.first_seq, ring.oldest, ring.newest, shifted(state, offset_seconds)
                rows.append(ProjectRow(name, project.epoch, *held, project.earlier, project.finished))
            elif past := hub.dropped.get(name):  # where its numbers continue
                state = LedgerState(unreported_lost=past.unreported_lost, unreported_from=past.unreported_from)
                held = past.first_seq, past.newest + 1, past.newest, state
                rows.append(ProjectRow(name, past.epoch, *held, past.earlier, past.finished))
            else:
                dropped.append(name)
        return Transaction(
            segments=segments,
            projects=rows,
            dropped_projects=dropped,
            receipts=[row for row in self.receipts.values() if row is not None] + self._keyed_rows(now_seconds),
            dropped_keys=[key for key, row in self.receipts.items() if row is None],
            receipts_since_seconds=now_seconds - keep_receipts_seconds,
            drift_seconds=drift_seconds,
        )

    def _segments(self, hub: Hub, offset_seconds: float, now_seconds: float) -> list[Segment]:
        """The events: neither those deleted meanwhile, nor those that their ring has evicted."""
        segments = []
        for project, first in self.unwritten.items():
            ring = project.ring
            if len(ring) and hub.projects.get(project.name) is project:
                at_seconds = ring.published_at(max(first, ring.oldest)) + offset_seconds
                frames = ring.newest_frames(ring.newest - first + 1)
                segments.append(_segment(project, ring.newest, at_seconds, frames))
        # On no ring yet; all that was reserved before is.
        coming: dict[Project, list[bytes]] = {}
        for one in self.pending:
            if hub.projects.get(one.project.name) is one.project:
                coming.setdefault(one.project, []).append(one.frame)
        for project, frames in coming.items():
            segments.append(_segment(project, project.ring.newest + len(frames), now_seconds, frames))
        return segments

    def _keyed_rows(self, now_seconds: float) -> list[ReceiptRow]:
        """What the keys of pending events will remember, if their subscribers are still the same then."""
        rows = []
        newest: dict[Project, int] = {}
        receipts: list[Receipt] = []
        for one in self.pending:
            project = one.project
            seq = newest[project] = newest.get(project, project.ring.newest) + 1
            there = len(project.connections)
            receipts.append(Receipt(project.name, project.event_id(seq), there, not there))
            if one.keyed is not None:
                one.remembered = one.keyed.answered(receipts[-len(one.keyed.projects) :])
                rows.append(receipt_row(one.keyed.key, one.keyed.fingerprint, one.remembered, now_seconds))
        return rows


def _segment(project: Project, last_seq: int, at_seconds: float, frames: list[bytes]) -> Segment:
    first_seq = last_seq - len(frames) + 1
    return Segment(project.name, project.epoch, first_seq, last_seq, at_seconds, b"".join(frames))


def receipt_row(key: Key, fingerprint: bytes, answer: Answer, at_seconds: float) -> ReceiptRow:
    return ReceiptRow(key_text(key), fingerprint, None, answer.status, answer.content_type, answer.body, at_seconds)


def key_text(key: Key) -> str:
    return msgspec.json.encode(key).decode()


def shifted(ledger: LedgerState, by_seconds: float) -> LedgerState:
    """`ledger` with its moments moved from one clock to another."""
    first, last = ledger.first_miss_seconds, ledger.last_miss_seconds
    return msgspec.structs.replace(
        ledger,
        first_miss_seconds=None if first is None else first + by_seconds,
        last_miss_seconds=None if last is None else last + by_seconds,
    )


class SegmentIndex:
    """Which rows hold whose events, so that they are removed without a search.

    Invariant: after each transaction it names exactly the rows of the table `segments`. They are numbered in the order
    they are written in, so those of a project are in the order of its events. It takes sixteen bytes a segment.
    """

    def __init__(self) -> None:
        self._projects: dict[str, tuple[str, array[int]]] = {}
        """The epoch of each, then row number and number of the last event, alternating, oldest first."""
        self._next_row = 1

    def put(self, row: int, name: str, epoch: str, last_seq: int) -> None:
        """Row `row`, the last one, holds events of project `name` up to `last_seq`."""
        held = self._projects.get(name)
        if held is None or held[0] != epoch:
            held = self._projects[name] = epoch, array("q")
        held[1].append(row)
        held[1].append(last_seq)
        self._next_row = row + 1

    def continue_under(self, name: str, epoch: str) -> None:
        """The history of `name` goes on under `epoch`."""
        if held := self._projects.get(name):
            self._projects[name] = epoch, held[1]

    def added(self, batch: Transaction) -> list[tuple[object, ...]]:
        """Row number and columns of what writing `batch` adds. Nothing is changed before `apply`."""
        return [(row, *segment) for row, segment in enumerate(batch.segments, self._next_row)]

    def removed(self, batch: Transaction) -> list[Run]:
        """The numbers of the rows that writing `batch` removes."""
        rows = sorted(row for held, count in self._outdated(batch) for row in held[:count:2])
        return list(Intervals((row, row) for row in rows))

    def apply(self, batch: Transaction) -> None:
        """`batch` was written."""
        for held, count in self._outdated(batch):
            del held[:count]
        for name in batch.dropped_projects:
            self._projects.pop(name, None)
        for row, segment in enumerate(batch.segments, self._next_row):
            self.put(row, segment.project, segment.epoch, segment.last_seq)

    def _outdated(self, batch: Transaction) -> Iterator[tuple[array[int], int]]:
        """For each project how many items belong to segments that are of another epoch, or end before its ring."""
        for name in batch.dropped_projects:
            if name in self._projects:
                held = self._projects[name][1]
                yield held, len(held)
        for project in batch.projects:
            if project.name in self._projects:
                epoch, held = self._projects[project.name]
                at = 0
                while at < len(held) and (epoch != project.epoch or held[at + 1] < project.oldest):
                    at += 2
                yield held, at
