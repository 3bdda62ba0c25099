"""The file of the SQLite store: its tables, what one transaction writes, and how it is read at start.

Everything here runs on the store's own thread, never on the event loop. Events are written by the segment: what one
transaction gathers of one project is one row, its frames joined (a frame ends in its only empty line, so the row can be
taken apart again). Invariant: after any transaction the file tells one consistent state of the hub, with every event
of every ring in it; segments are trimmed as a whole, so it holds at most one segment a project more than the ring.

What a transaction costs is the pages it touches and the calls it makes. Segments are only ever appended, and given up
by their row numbers, which `SegmentIndex` remembers: an index would be a page for each project in each transaction, and
more than the events themselves. Many rows go into one call: the GIL changes hands with the event loop at each.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path

import msgspec

from edge.core.ledger import LedgerState
from edge.store.rows import Batch, ProjectRow, ReceiptRow
from edge.store.segment_index import SegmentIndex

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
CREATE TABLE receipts (
    key TEXT PRIMARY KEY, fingerprint BLOB NOT NULL, job TEXT, status INTEGER, content_type TEXT, body BLOB,
    at_seconds REAL NOT NULL
) WITHOUT ROWID;
CREATE TABLE pulse (beat INTEGER NOT NULL);
INSERT INTO pulse VALUES (0);
"""
_FREE_PAGES_KEPT = 256
_FREED_AT_ONCE_PAGES = 1024
_FREED_AT_THE_END_PAGES = 8192
"""Moving these takes a few tenths of a second; the next process gives back what is left."""
_WAL_KEPT_BYTES = 4 << 20
_RECEIPTS_LOOKED_AT_SECONDS = 30.0
"""Finding the old ones means looking at all."""
_FRAME_END = b"\n\n"


def _statements(into: str, columns: int) -> list[tuple[int, str]]:
    """How many rows at a time, and the statement that inserts them, replacing those with the same key."""
    row = f"({','.join('?' * columns)})"
    return [
        (rows, f"INSERT OR REPLACE INTO {into} VALUES {','.join([row] * rows)}")  # noqa: S608 - no value is in it
        for rows in (64, 8, 1)
    ]


_ADD_SEGMENTS = _statements("segments (rowid, project, epoch, first_seq, last_seq, at_seconds, frames)", 7)
_SET_PROJECTS = _statements("projects", 5)
_SET_RECEIPTS = _statements("receipts", 7)


class Stored:
    """A project read back: `row.newest` is what its ledger knew of, the frames may go beyond it, up to `newest`."""

    __slots__ = ("frames", "newest", "row", "times")

    def __init__(self, row: ProjectRow, newest: int, frames: list[bytes], times: list[float]) -> None:
        self.row = row
        self.newest = newest
        self.frames = frames
        self.times = times


class SqliteFileError(Exception):
    """The file can't be used; says why and what to do. `final`: opening it again can't help."""

    def __init__(self, text: str, *, final: bool = False) -> None:
        super().__init__(text)
        self.final = final


class SqliteFile:
    """One open file."""

    def __init__(self, path: Path) -> None:
        """Open or make the file at `path`. Raises JournalError."""
        self._path = path
        self._shelf: SegmentIndex | None = None
        self._receipts_looked_at_seconds = 0.0
        self.roomy = False
        """It has pages to give back, which writing nothing does bit by bit."""
        try:
            self._db = sqlite3.connect(path, isolation_level=None, timeout=0.5, check_same_thread=False)
        except sqlite3.Error as error:
            raise self._unusable(error) from error
        try:
            self._prepare()
        except sqlite3.Error as error:
            self._db.close()
            raise self._unusable(error) from error
        except SqliteFileError:
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
        # Debian's SQLite overwrites what is deleted with zeros, page by page: twice the writing.
        db.execute("PRAGMA secure_delete = OFF")
        db.execute("BEGIN IMMEDIATE")
        application_id = db.execute("PRAGMA application_id").fetchone()[0]
        version = db.execute("PRAGMA user_version").fetchone()[0]
        tables = db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        if application_id not in (0, _APPLICATION_ID) or (tables and application_id == 0):
            text = f"{self._path} is a database of another program: name another file in store.url."
            raise SqliteFileError(text, final=True)
        if version > _SCHEMA_VERSION:
            text = f"{self._path} was written by a newer edge (version {version}): upgrade this one."
            raise SqliteFileError(text, final=True)
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
        shelf = self._shelf or self._read()[0]
        change = shelf.change(batch)
        receipts_due = batch.receipts_since_seconds >= self._receipts_looked_at_seconds + _RECEIPTS_LOOKED_AT_SECONDS
        db.execute("BEGIN IMMEDIATE")
        try:
            if batch.idle:
                # There is always something to write: it shows whether the file can be written.
                db.execute("UPDATE pulse SET beat = beat + 1")
            else:
                self._insert(_ADD_SEGMENTS, change.added)
                projects = [
                    (row.name, row.epoch, row.first_seq, row.newest, msgspec.json.encode(row.ledger))
                    for row in batch.projects
                ]
                self._insert(_SET_PROJECTS, projects)
                self._insert(_SET_RECEIPTS, batch.receipts)
            db.executemany("DELETE FROM segments WHERE rowid BETWEEN ? AND ?", change.given_up)
            db.executemany("DELETE FROM projects WHERE name = ?", ((name,) for name in batch.gone))
            db.executemany("DELETE FROM receipts WHERE key = ?", ((key,) for key in batch.dropped))
            if receipts_due:
                db.execute("DELETE FROM receipts WHERE at_seconds < ?", (batch.receipts_since_seconds,))
            db.execute("COMMIT")
        except sqlite3.Error:
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise
        shelf.apply(batch, change)
        if receipts_due:
            self._receipts_looked_at_seconds = batch.receipts_since_seconds
        self._give_space_back(idle=batch.idle)

    def _insert(self, statements: list[tuple[int, str]], rows: Sequence[tuple[object, ...]]) -> None:
        """In few calls."""
        at = 0
        for count, statement in statements:
            while at + count <= len(rows):
                self._db.execute(statement, [value for row in rows[at : at + count] for value in row])
                at += count

    def projects(self) -> list[Stored]:
        """Every project, with its events. Raises JournalError."""
        try:
            return self._read()[1]
        except (sqlite3.Error, msgspec.MsgspecError) as error:
            raise self._unusable(error) from error

    def receipts(self) -> list[ReceiptRow]:
        """Every idempotency key remembered. Raises JournalError."""
        try:
            return [ReceiptRow._make(row) for row in self._db.execute("SELECT * FROM receipts ORDER BY at_seconds")]
        except sqlite3.Error as error:
            raise self._unusable(error) from error

    def close(self) -> None:
        """Give space back, fold the log into the file and close it."""
        try:
            self._free(_FREED_AT_THE_END_PAGES)
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        finally:
            self._db.close()

    def _read(self) -> tuple[SegmentIndex, list[Stored]]:
        """All that is there; from then on it is known which rows hold it."""
        decode = msgspec.json.Decoder(LedgerState).decode
        projects = {
            name: Stored(ProjectRow(name, epoch, first_seq, 0, newest, decode(ledger)), newest, [], [])
            for name, epoch, first_seq, newest, ledger in self._db.execute("SELECT * FROM projects")
        }
        shelf = SegmentIndex()
        # There may be one for each event, a million of them: no call and no object for each.
        for row, name, epoch, first_seq, last_seq, at_seconds, frames in self._db.execute(
            "SELECT rowid, * FROM segments ORDER BY rowid"
        ):
            stored = projects.get(name)
            if stored is None or stored.row.epoch != epoch:
                raise sqlite3.DatabaseError(f"row {row} of its segments belongs to no project")
            if first_seq != stored.newest + 1:
                # What stands before a hole is left out.
                stored.frames, stored.times = [], []
            if first_seq == last_seq:
                stored.frames.append(frames)
                stored.times.append(at_seconds)
            else:
                found = frames.split(_FRAME_END)
                found.pop()
                stored.frames += [frame + _FRAME_END for frame in found]
                stored.times += [at_seconds] * len(found)
            stored.newest = last_seq
            shelf.put(row, name, epoch, last_seq)
        self._shelf = shelf
        self.roomy = self._free_pages() > _FREE_PAGES_KEPT
        return shelf, list(projects.values())

    def _give_space_back(self, *, idle: bool) -> None:
        """Under load half of the file may be free: what is given up now is written anew in a moment."""
        free_pages = self._free_pages()
        self.roomy = free_pages > _FREE_PAGES_KEPT
        if self.roomy and (idle or free_pages * 2 > self._db.execute("PRAGMA page_count").fetchone()[0]):
            self._free(_FREED_AT_ONCE_PAGES)

    def _free_pages(self) -> int:
        return int(self._db.execute("PRAGMA freelist_count").fetchone()[0])

    def _free(self, pages: int) -> None:
        # The pragma is a row without columns for each page, and `execute` stops at the first such row.
        self._db.executescript(f"PRAGMA incremental_vacuum({pages})")

    def _unusable(self, error: Exception) -> SqliteFileError:
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
        final = primary in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT)
        return SqliteFileError(f"{self._path}: {advice}", final=final)
