"""The file of the SQLite store: its tables, what one transaction writes, and how it is read at start.

Everything here runs on the store's own thread, never on the event loop. Events are written by the segment: what one
transaction gathers of one project is one row, its frames joined (a frame ends in its only empty line, so the row can be
taken apart again). Invariant: after any transaction the file tells one consistent state of the hub, with every event
of every ring in it; segments are trimmed as a whole, so it holds at most one segment a project more than the ring.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import msgspec

from edge.core.ledger import LedgerState

_APPLICATION_ID = 0x45444745  # "EDGE"
_SCHEMA_VERSION = 1
_SCHEMA = """
CREATE TABLE projects (
    name TEXT PRIMARY KEY, epoch TEXT NOT NULL, first_seq INTEGER NOT NULL, newest INTEGER NOT NULL,
    ledger BLOB NOT NULL
) WITHOUT ROWID;
CREATE TABLE segments (
    project TEXT NOT NULL, epoch TEXT NOT NULL, first_seq INTEGER NOT NULL, last_seq INTEGER NOT NULL,
    at_seconds REAL NOT NULL, frames BLOB NOT NULL
);
CREATE INDEX segments_by_project ON segments (project, first_seq);
CREATE TABLE receipts (
    key TEXT PRIMARY KEY, fingerprint BLOB NOT NULL, job TEXT, status INTEGER, content_type TEXT, body BLOB,
    at_seconds REAL NOT NULL
) WITHOUT ROWID;
CREATE TABLE pulse (beat INTEGER NOT NULL);
INSERT INTO pulse VALUES (0);
"""
_FREE_PAGES_KEPT = 256
_FREED_AT_ONCE_PAGES = 1024
_WAL_KEPT_BYTES = 4 << 20
_FRAME_END = b"\n\n"


class Segment(NamedTuple):
    """Events `first_seq..last_seq` of one project, published at `at_seconds` (since 1970)."""

    project: str
    epoch: str
    first_seq: int
    last_seq: int
    at_seconds: float
    frames: bytes


class ProjectRow(NamedTuple):
    """A project as the hub knows it: ring bounds and ledger (its moments in seconds since 1970)."""

    name: str
    epoch: str
    first_seq: int
    oldest: int
    newest: int
    ledger: LedgerState


class ReceiptRow(NamedTuple):
    """An idempotency key: answered, or (`status` None) with job `job` about to leave."""

    key: str
    fingerprint: bytes
    job: str | None
    status: int | None
    content_type: str | None
    body: bytes | None
    at_seconds: float


class Batch(NamedTuple):
    """What one transaction writes."""

    segments: list[Segment]
    projects: list[ProjectRow]
    gone: list[str]
    """Projects the hub has forgotten."""
    receipts: list[ReceiptRow]
    dropped: list[str]
    """Keys whose request did nothing after all."""
    receipts_since_seconds: float
    """Receipts answered before this moment are no longer remembered."""


class Stored(NamedTuple):
    """A project read back: `row.newest` is what its ledger knew of, the frames may go beyond it."""

    row: ProjectRow
    newest: int
    frames: list[bytes]
    times: list[float]


class JournalError(Exception):
    """The file can't be used; says why and what to do."""


class Journal:
    """One open file."""

    def __init__(self, path: Path) -> None:
        """Open or make the file at `path`. Raises JournalError."""
        self._path = path
        try:
            self._db = sqlite3.connect(path, isolation_level=None, timeout=0.5, check_same_thread=False)
        except sqlite3.Error as error:
            raise self._unusable(error) from error
        try:
            self._prepare()
        except sqlite3.Error as error:
            self._db.close()
            raise self._unusable(error) from error
        except JournalError:
            self._db.close()
            raise

    def _prepare(self) -> None:
        db = self._db
        # Exclusive: no second process may write the same history, and no shared-memory file is needed.
        db.execute("PRAGMA locking_mode = EXCLUSIVE")
        db.execute("PRAGMA auto_vacuum = INCREMENTAL")
        db.execute("PRAGMA journal_mode = WAL")
        # Each commit reaches the disk: "at most flush_ms is lost" would not be true with NORMAL.
        db.execute("PRAGMA synchronous = FULL")
        db.execute(f"PRAGMA journal_size_limit = {_WAL_KEPT_BYTES}")
        db.execute("BEGIN IMMEDIATE")
        application_id = db.execute("PRAGMA application_id").fetchone()[0]
        version = db.execute("PRAGMA user_version").fetchone()[0]
        tables = db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        if application_id not in (0, _APPLICATION_ID) or (tables and application_id == 0):
            raise JournalError(f"{self._path} is a database of another program: name another file in store.url.")
        if version > _SCHEMA_VERSION:
            raise JournalError(f"{self._path} was written by a newer edge (version {version}): upgrade this one.")
        if not tables:
            for statement in _SCHEMA.split(";"):
                db.execute(statement)
            db.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
            db.execute(f"PRAGMA user_version = {_SCHEMA_VERSION}")
        db.execute("UPDATE pulse SET beat = beat + 1")
        db.execute("COMMIT")

    def write(self, batch: Batch) -> None:
        """One transaction; all of it or nothing. Raises sqlite3.Error."""
        db = self._db
        db.execute("BEGIN IMMEDIATE")
        try:
            db.execute("UPDATE pulse SET beat = beat + 1")
            db.executemany("DELETE FROM projects WHERE name = ?", ((name,) for name in batch.gone))
            db.executemany("DELETE FROM segments WHERE project = ?", ((name,) for name in batch.gone))
            db.executemany("INSERT INTO segments VALUES (?, ?, ?, ?, ?, ?)", batch.segments)
            for row in batch.projects:
                db.execute(
                    "INSERT OR REPLACE INTO projects VALUES (?, ?, ?, ?, ?)",
                    (row.name, row.epoch, row.first_seq, row.newest, msgspec.json.encode(row.ledger)),
                )
                db.execute(
                    "DELETE FROM segments WHERE project = ? AND (last_seq < ? OR epoch != ?)",
                    (row.name, row.oldest, row.epoch),
                )
            db.executemany("INSERT OR REPLACE INTO receipts VALUES (?, ?, ?, ?, ?, ?, ?)", batch.receipts)
            db.executemany("DELETE FROM receipts WHERE key = ?", ((key,) for key in batch.dropped))
            db.execute("DELETE FROM receipts WHERE at_seconds < ?", (batch.receipts_since_seconds,))
            db.execute("COMMIT")
        except sqlite3.Error:
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise
        self._give_space_back()

    def projects(self) -> Iterator[Stored]:
        """Every project, with the events of its epoch. Raises JournalError."""
        try:
            rows = {
                name: ProjectRow(name, epoch, first_seq, 0, newest, msgspec.json.decode(ledger, type=LedgerState))
                for name, epoch, first_seq, newest, ledger in self._db.execute("SELECT * FROM projects")
            }
            segments = map(
                Segment._make,
                self._db.execute(
                    "SELECT segments.* FROM segments JOIN projects"
                    " ON name = project AND projects.epoch = segments.epoch ORDER BY project, segments.first_seq"
                ),
            )
            for name, parts in groupby(segments, key=lambda segment: segment.project):
                yield _joined(rows.pop(name), parts)
        except (sqlite3.Error, msgspec.MsgspecError) as error:
            raise self._unusable(error) from error
        for row in rows.values():
            yield Stored(row, row.newest, [], [])

    def receipts(self) -> list[ReceiptRow]:
        """Every idempotency key remembered. Raises JournalError."""
        try:
            return [ReceiptRow._make(row) for row in self._db.execute("SELECT * FROM receipts ORDER BY at_seconds")]
        except sqlite3.Error as error:
            raise self._unusable(error) from error

    def close(self) -> None:
        """Give all free space back, fold the log into the file and close it."""
        try:
            self._db.execute("PRAGMA incremental_vacuum").fetchall()
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        finally:
            self._db.close()

    def _give_space_back(self) -> None:
        free_pages = self._db.execute("PRAGMA freelist_count").fetchone()[0]
        if free_pages > _FREE_PAGES_KEPT:
            # fetchall: the pragma frees one page for each row it returns.
            self._db.execute(f"PRAGMA incremental_vacuum({_FREED_AT_ONCE_PAGES})").fetchall()

    def _unusable(self, error: Exception) -> JournalError:
        code = getattr(error, "sqlite_errorcode", None)
        primary = None if code is None else code & 0xFF
        advice = {
            sqlite3.SQLITE_BUSY: "another process has it open: one file serves one edge",
            sqlite3.SQLITE_CANTOPEN: "it can't be opened: does its folder exist, and may this user write there?",
            sqlite3.SQLITE_READONLY: "it is read-only: give this user the right to write it and its folder",
            sqlite3.SQLITE_PERM: "this user may not open it",
            sqlite3.SQLITE_FULL: "the disk is full: make room",
            sqlite3.SQLITE_NOTADB: "it is not a database: name another file, or move this one away",
            sqlite3.SQLITE_CORRUPT: "it is damaged: restore a backup, or move it away and start empty",
        }.get(primary or 0, f"{error}")
        return JournalError(f"{self._path}: {advice}")


def _joined(row: ProjectRow, segments: Iterator[Segment]) -> Stored:
    """The frames of one project as one unbroken run up to the newest; what stands before a hole is left out."""
    frames: list[bytes] = []
    times: list[float] = []
    newest = row.newest
    for segment in segments:
        if frames and segment.first_seq != newest + 1:
            frames, times = [], []
        found = segment.frames.split(_FRAME_END)
        found.pop()
        frames += [frame + _FRAME_END for frame in found]
        times += [segment.at_seconds] * len(found)
        newest = segment.last_seq
    return Stored(row, newest, frames, times)
