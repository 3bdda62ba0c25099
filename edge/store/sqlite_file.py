"""The file of the SQLite store: what one transaction writes, and how the file is read at start.

Everything here runs on the store's own thread, never on the event loop. Events are written in segments: the events of
one project in one transaction are one row, with their frames joined. A frame ends in its only empty line, so the row
can be split again. Invariant: after each transaction the file holds one consistent state of the hub, with every event
of every ring. Segments are removed whole, so the file holds at most one segment per project more than the ring.

A transaction costs the pages it touches and the calls it makes. Segments are only appended, and removed by row number,
which `SegmentIndex` remembers: an index in the file would cost one page per project in each transaction, more than the
events themselves. Many rows go into one call, because the GIL changes hands with the event loop at each call.

Other programs may read the file at any time (a backup, Litestream). A second edge is kept out by a lock on `PATH-lock`.
The lock file also holds the token of the last process that opened the database, so a process can detect that an older
copy was put in its place.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import msgspec

from edge.core.ledger import LedgerState
from edge.core.saved import PastEpoch, SavedProject
from edge.store.base import StoreUnusableError
from edge.store.sqlite_transaction import ReceiptRow, SegmentIndex, Transaction, schema_changes

ADVICE = {
    sqlite3.SQLITE_BUSY: "another program keeps it locked: end that program",
    sqlite3.SQLITE_CANTOPEN: "it can't be opened: does its folder exist, and may this user write there?",
    sqlite3.SQLITE_READONLY: "it is read-only: let this user write it and its folder",
    sqlite3.SQLITE_PERM: "this user may not open it: let it read and write the file",
    sqlite3.SQLITE_FULL: "the disk is full: make room",
    sqlite3.SQLITE_NOTADB: "it is not a database: name another file, or move this one away",
    sqlite3.SQLITE_CORRUPT: "it is damaged: restore a backup, or move it away and start empty",
}
_HOPELESS = (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT)
_BUSY_SECONDS = 5.0
"""Another program holds the file for a moment when it makes a backup."""
_FREE_PAGES_KEPT = 256
_FREED_AT_ONCE_PAGES = 1024
_FREED_AT_THE_END_PAGES = 8192
"""Moving these takes a few tenths of a second; the next process gives back what is left."""
_PAGE_BYTES = 4096
_WAL_PAGES_MIN, _WAL_PAGES_MAX = 16, 1000
_WAL_SHARE_OF_FREE_SPACE = 8
"""The log may take an eighth of what the disk has left, or a small disk would be full of it."""
_TIDIED_EVERY = 16
"""Transactions: what is free changes slowly, and to ask takes a quarter of a small transaction."""
DRIFT_NOTED_SECONDS = 0.5
_RECEIPTS_EXPIRED_EVERY_SECONDS = 30.0
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
_SET_PROJECTS = _statements("projects", 7)
_SET_RECEIPTS = _statements("receipts", 7)


class SqliteFileError(Exception):
    """The file can't be used for now. The text says why and what to do."""


class Lock:
    """Excludes a second edge, and holds a text that outlives the process."""

    def __init__(self, path: Path) -> None:
        """Raises SqliteFileError."""
        self._descriptor = _opened(path.with_name(path.name + "-lock"), path)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self.close()
            raise SqliteFileError(f"{path}: another process has it open: one file serves one edge") from None
        self.text = os.pread(self._descriptor, 200, 0).decode(errors="replace")

    def write(self, text: str) -> None:
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, text.encode(), 0)
        os.fsync(self._descriptor)

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def _opened(path: Path, shown: Path) -> int:
    """A descriptor of the file at `path`, made where there is none. Raises SqliteFileError, which names `shown`."""
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise SqliteFileError(f"{shown}: {ADVICE[sqlite3.SQLITE_CANTOPEN]} ({error.strerror})") from error


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Raise SqliteFileError for errors of SQLite and the system, StoreUnusableError where trying again can't help."""
    try:
        yield
    except (sqlite3.Error, OSError, msgspec.MsgspecError) as error:
        primary = primary_code(error)
        hopeless = primary in _HOPELESS or isinstance(error, msgspec.MsgspecError)
        text = f"{path}: {ADVICE.get(primary, str(error))}"
        raise (StoreUnusableError if hopeless else SqliteFileError)(text) from error


class SqliteFile:
    """One open file.

    `whole`: no event that was acknowledged is missing from it. That is known of a file that was closed in order, or
    whose last process wrote every event before its receipt; and only if it still is that process's file.
    """

    def __init__(self, path: Path, *, commit: bool = False) -> None:
        """Open or make the file at `path`. Raises SqliteFileError, StoreUnusableError."""
        self.path = path
        self.drift_seconds = 0.0
        """How far the wall clock was ahead of the file's clock."""
        self.index: SegmentIndex | None = None
        """Known from the first time that the file is read or written."""
        self.has_free_pages = False
        """It has pages to give back, which idle transactions do bit by bit."""
        self.untidy: Exception | None = None
        """Why space could not be given back behind the last transaction, if it couldn't."""
        self._path_text = str(path)
        self._wal_pages = 0
        self._writes = 0
        self._receipts_expired_seconds = 0.0
        with ExitStack() as stack:
            self._lock = stack.enter_context(closing(Lock(path)))
            os.close(_opened(path, path))
            with _explained(path):
                self._identity = _identity(self._path_text)
                db = sqlite3.connect(path, isolation_level=None, timeout=_BUSY_SECONDS, check_same_thread=False)
                self._db = stack.enter_context(closing(db))
                self._prepare(commit=commit)
            self._resources = stack.pop_all()

    def abandon(self) -> None:
        """Close it as it is."""
        self._resources.close()

    def _prepare(self, *, commit: bool) -> None:
        db = self._db
        changes = schema_changes(db, self.path)  # before anything is written
        db.execute("PRAGMA auto_vacuum = INCREMENTAL")
        db.execute("PRAGMA journal_mode = WAL")
        # Each commit reaches the disk: "at most flush_ms is lost" would not be true with NORMAL.
        db.execute("PRAGMA synchronous = FULL")
        # Debian's SQLite overwrites what is deleted with zeros, page by page: twice the writing.
        db.execute("PRAGMA secure_delete = OFF")
        self._bound_log()
        db.execute("BEGIN IMMEDIATE")
        for statement in changes.split(";"):
            db.execute(statement)
        token, clean, commits, self.drift_seconds = db.execute(
            "SELECT token, clean, commits, drift_seconds FROM life"
        ).fetchone()
        self.whole = bool(clean or commits) and self._lock.text == self._mark(token)
        token = secrets.token_hex(8)
        db.execute("UPDATE life SET token = ?, clean = 0, commits = ?, writes = writes + 1", (token, commit))
        db.execute("COMMIT")
        # In this order: killed in between, the next process finds two tokens, and takes the file for an older copy.
        self._lock.write(self._mark(token))

    def _mark(self, token: str) -> str:
        return f"{token} {self._identity[1]}"  # not the device, whose number may be another after a reboot

    def write(self, batch: Transaction) -> None:
        """One transaction; all of it or nothing. Raises sqlite3.Error, SqliteFileError."""
        db = self._db
        if self.index is None:
            self._read()
        assert self.index is not None
        added, removed, encode = self.index.added(batch), self.index.removed(batch), msgspec.json.encode
        projects = [
            (row.name, row.epoch, row.first_seq, row.newest, encode(row.ledger), encode(row.earlier), row.finished)
            for row in batch.projects
        ]
        expired_due = batch.receipts_since_seconds >= self._receipts_expired_seconds + _RECEIPTS_EXPIRED_EVERY_SECONDS
        drifted = abs(batch.drift_seconds - self.drift_seconds) > DRIFT_NOTED_SECONDS
        try:
            db.execute("BEGIN IMMEDIATE")
            if batch.idle or drifted:
                # There is always something to write: it shows whether the file can be written.
                db.execute("UPDATE life SET writes = writes + 1, drift_seconds = ?", (batch.drift_seconds,))
            self._insert(_ADD_SEGMENTS, added)
            self._insert(_SET_PROJECTS, projects)
            self._insert(_SET_RECEIPTS, batch.receipts)
            for statement, rows in (
                ("DELETE FROM segments WHERE rowid BETWEEN ? AND ?", removed),
                ("DELETE FROM projects WHERE name = ?", [(name,) for name in batch.dropped_projects]),
                ("DELETE FROM receipts WHERE key = ?", [(key,) for key in batch.dropped_keys]),
            ):
                if rows:
                    db.executemany(statement, rows)
            if expired_due:
                db.execute("DELETE FROM receipts WHERE at_seconds < ?", (batch.receipts_since_seconds,))
            db.execute("COMMIT")
        except BaseException as error:
            if db.in_transaction:
                db.execute("ROLLBACK")
            if isinstance(error, sqlite3.Error) and primary_code(error) == sqlite3.SQLITE_FULL:
                self._fold_log()  # it may be the log that fills the disk
            raise
        self.index.apply(batch)
        if drifted:
            self.drift_seconds = batch.drift_seconds
        if expired_due:
            self._receipts_expired_seconds = batch.receipts_since_seconds
        self._tidy(idle=batch.idle)
        # Behind COMMIT: what is acknowledged was written to a file that was still there afterwards.
        self.check()

    def check(self) -> None:
        """Raise SqliteFileError when the open file is not the one at its path any more."""
        try:
            found = _identity(self._path_text)
        except FileNotFoundError:
            raise SqliteFileError(f"{self.path} was removed while edge was using it: it is made anew.") from None
        if found != self._identity:
            raise SqliteFileError(
                f"{self.path} was replaced while edge was using it: restart edge to use the new file, or move it away."
            )

    def _insert(self, statements: list[tuple[int, str]], rows: Sequence[tuple[object, ...]]) -> None:
        """In few calls."""
        at = 0
        for count, statement in statements if len(rows) > 1 else statements[-1:]:
            while at + count <= len(rows):
                values = rows[at] if count == 1 else [value for row in rows[at : at + count] for value in row]
                self._db.execute(statement, values)
                at += count

    def receipts(self) -> list[ReceiptRow]:
        """Every idempotency key remembered. Raises SqliteFileError, StoreUnusableError."""
        with _explained(self.path):
            return [ReceiptRow._make(row) for row in self._db.execute("SELECT * FROM receipts ORDER BY at_seconds")]

    def close(self, *, clean: bool, drift_seconds: float | None = None) -> None:
        """Give space back, fold the log into the file and close it. `clean`: nothing is left to write."""
        drift_seconds = self.drift_seconds if drift_seconds is None else drift_seconds
        try:
            self._free(_FREED_AT_THE_END_PAGES)
            if clean:
                self._db.execute("UPDATE life SET clean = 1, drift_seconds = ?", (drift_seconds,))
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        finally:
            self.abandon()

    def projects(self) -> list[SavedProject]:
        """Every project, with its events; times are the file's. Raises SqliteFileError, StoreUnusableError."""
        with _explained(self.path):
            return self._read()

    def _read(self) -> list[SavedProject]:
        decode_ledger = msgspec.json.Decoder(LedgerState).decode
        decode_earlier = msgspec.json.Decoder(tuple[PastEpoch, ...]).decode
        projects = {
            name: SavedProject(
                name, epoch, first_seq, newest, [], [], decode_ledger(ledger),
                earlier=decode_earlier(earlier), finished=bool(finished),
            )
            for name, epoch, first_seq, newest, ledger, earlier, finished in self._db.execute("SELECT * FROM projects")
        }  # fmt: skip
        newest_seqs = {name: project.newest for name, project in projects.items()}
        index = SegmentIndex()
        # There may be one for each event, a million of them: no call and no object for each.
        for row, name, first_seq, last_seq, at_seconds, frames in self._db.execute(
            "SELECT rowid, project, first_seq, last_seq, at_seconds, frames FROM segments ORDER BY rowid"
        ):
            project = projects.get(name)
            if project is None:
                raise StoreUnusableError(
                    f"{self.path}: {ADVICE[sqlite3.SQLITE_CORRUPT]} (row {row} belongs to no project)"
                )
            newest = newest_seqs[name]
            if first_seq != newest + 1:
                # What comes before a hole is left out, and of what was written twice the first.
                kept = max(0, len(project.frames) - (newest + 1 - first_seq)) if first_seq <= newest else 0
                del project.frames[kept:], project.times[kept:]
            if first_seq == last_seq:
                project.frames.append(frames)
                project.times.append(at_seconds)
            else:
                found = frames.split(_FRAME_END)
                found.pop()
                project.frames.extend([frame + _FRAME_END for frame in found])
                project.times.extend([at_seconds] * len(found))
            newest_seqs[name] = last_seq
            index.put(row, name, project.epoch, last_seq)
        self.index = index
        self.has_free_pages = self._free_pages() > _FREE_PAGES_KEPT
        return [_up_to(project, newest_seqs[name]) for name, project in projects.items()]

    # Space

    def _tidy(self, *, idle: bool) -> None:
        """Give space back. What was committed before is safe, however this ends."""
        self.untidy = None
        try:
            self._writes += 1
            if not idle and self._writes % _TIDIED_EVERY:
                return
            self._bound_log()
            free_pages = self._free_pages()
            self.has_free_pages = free_pages > _FREE_PAGES_KEPT
            # Under load half of the file may be free: what is freed now is written anew in a moment.
            if self.has_free_pages and (idle or free_pages * 2 > self._db.execute("PRAGMA page_count").fetchone()[0]):
                self._free(_FREED_AT_ONCE_PAGES)
        except (sqlite3.Error, OSError) as error:
            self.untidy = error

    def _bound_log(self) -> None:
        space = os.statvfs(self.path.parent)
        pages = space.f_bavail * space.f_frsize // _PAGE_BYTES // _WAL_SHARE_OF_FREE_SPACE
        pages = max(_WAL_PAGES_MIN, min(_WAL_PAGES_MAX, 1 << pages.bit_length() - 1 if pages else 0))
        if pages != self._wal_pages:
            self._wal_pages = pages
            self._db.execute(f"PRAGMA wal_autocheckpoint = {pages}")
            self._db.execute(f"PRAGMA journal_size_limit = {pages * _PAGE_BYTES}")

    def _fold_log(self) -> None:
        try:
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        except sqlite3.Error as error:
            self.untidy = error

    def _free_pages(self) -> int:
        return int(self._db.execute("PRAGMA freelist_count").fetchone()[0])

    def _free(self, pages: int) -> None:
        # The pragma is a row without columns for each page, and `execute` stops at the first such row.
        self._db.executescript(f"PRAGMA incremental_vacuum({pages})")


def _up_to(project: SavedProject, newest: int) -> SavedProject:
    """`project` with its events up to `newest`: those that its ledger doesn't know have reached no subscriber."""
    unknown = ((project.newest + 1, newest),) if newest > project.newest else ()
    ledger = msgspec.structs.replace(project.ledger, waiting=project.ledger.waiting + unknown)
    return msgspec.structs.replace(project, newest=newest, ledger=ledger)


def _identity(path: str) -> tuple[int, int]:
    found = os.stat(path)  # noqa: PTH116 - a third of the time, for each transaction
    return found.st_dev, found.st_ino


def primary_code(error: Exception) -> int:
    """SQLite's primary result code; 0 where there is none."""
    return (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF
