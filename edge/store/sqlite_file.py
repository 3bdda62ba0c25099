"""The file of the SQLite store: what one transaction writes, and how the file is read at start.

Everything here runs on the store's own thread, never on the event loop. Events are written in segments: the events of
one project in one transaction are one row, with their frames joined. A frame ends in its only empty line, so the row
can be split again. Invariant: after each transaction the file holds one consistent state of the hub, with every event
of every ring. Segments are removed whole, so the file holds at most one segment per project more than the ring.

A transaction costs the pages it touches and the calls it makes. Segments are only appended, and removed by row number,
which `SegmentIndex` remembers: an index in the file would cost one page per project in each transaction, more than the
events themselves. Many rows go into one call, because the GIL changes hands with the event loop at each call.

Other programs may read the file at any time (a backup, Litestream).
"""

from __future__ import annotations

import asyncio
import os
import secrets
import sqlite3
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any, TypeVar

import msgspec

from edge.core.ledger import LedgerState
from edge.core.saved import PastEpoch
from edge.store.base import StoreUnusableError
from edge.store.sqlite_open import ADVICE, Lock, SqliteFileError, explained, opened, primary_code, schema_changes
from edge.store.sqlite_transaction import ProjectRow, ReceiptRow, SegmentIndex, Transaction

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
Result = TypeVar("Result")


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


@dataclass(slots=True)
class Stored:
    """A project read back: `row.newest` is what its ledger knew of, the frames may go beyond it, up to `newest`."""

    row: ProjectRow
    newest: int
    frames: list[bytes]
    times: list[float]


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
        self.untidy: sqlite3.Error | None = None
        """Why space could not be given back behind the last transaction, if it couldn't."""
        self._lost = False
        self._path_text = str(path)
        self._wal_pages = 0
        self._writes = 0
        self._receipts_expired_seconds = 0.0
        with ExitStack() as stack:
            self._lock = stack.enter_context(closing(Lock(path)))
            os.close(opened(path, path))
            with explained(path):
                self._identity = _identity(self._path_text)
                self._db = stack.enter_context(closing(self._connect()))
                self._prepare(commit=commit)
            self._resources = stack.pop_all()

    def abandon(self) -> None:
        """Close it as it is."""
        self._resources.close()

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(self.path, isolation_level=None, timeout=_BUSY_SECONDS, check_same_thread=False)

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
        if self._lost:
            self.check()
        db = self._db
        if self.index is None:
            self._read()
        assert self.index is not None
        change, encode = self.index.change(batch), msgspec.json.encode
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
            self._insert(_ADD_SEGMENTS, change.added)
            self._insert(_SET_PROJECTS, projects)
            self._insert(_SET_RECEIPTS, batch.receipts)
            for statement, rows in (
                ("DELETE FROM segments WHERE rowid BETWEEN ? AND ?", change.removed),
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
        self.index.apply(batch, change)
        if drifted:
            self.drift_seconds = batch.drift_seconds
        if expired_due:
            self._receipts_expired_seconds = batch.receipts_since_seconds
        self._tidy(idle=batch.idle)
        # Behind COMMIT: what is acknowledged was written to a file that was still there afterwards.
        self.check()

    def check(self) -> None:
        """Raise SqliteFileError when the open file is not the one at its path any more."""
        self._lost = True
        try:
            found = _identity(self._path_text)
        except FileNotFoundError:
            raise SqliteFileError(f"{self.path} was removed while edge was using it: it is made anew.") from None
        if found != self._identity:
            raise SqliteFileError(
                f"{self.path} was replaced while edge was using it: restart edge to use the new file, or move it away."
            )
        self._lost = False

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
        with explained(self.path):
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

    def projects(self) -> list[Stored]:
        """Every project, with its events. Raises SqliteFileError, StoreUnusableError."""
        with explained(self.path):
            return self._read()

    def _read(self) -> list[Stored]:
        decode_ledger = msgspec.json.Decoder(LedgerState).decode
        decode_earlier = msgspec.json.Decoder(tuple[PastEpoch, ...]).decode
        projects = {
            name: Stored(
                ProjectRow(
                    name, epoch, first_seq, 0, newest, decode_ledger(ledger), decode_earlier(earlier), bool(finished)
                ),
                newest, [], [],
            )
            for name, epoch, first_seq, newest, ledger, earlier, finished in self._db.execute("SELECT * FROM projects")
        }  # fmt: skip
        index = SegmentIndex()
        # There may be one for each event, a million of them: no call and no object for each.
        for row, name, first_seq, last_seq, at_seconds, frames in self._db.execute(
            "SELECT rowid, project, first_seq, last_seq, at_seconds, frames FROM segments ORDER BY rowid"
        ):
            stored = projects.get(name)
            if stored is None:
                raise StoreUnusableError(
                    f"{self.path}: {ADVICE[sqlite3.SQLITE_CORRUPT]} (row {row} belongs to no project)"
                )
            if first_seq != stored.newest + 1:
                # What comes before a hole is left out, and of what was written twice the first.
                kept = max(0, len(stored.frames) - (stored.newest + 1 - first_seq)) if first_seq <= stored.newest else 0
                del stored.frames[kept:], stored.times[kept:]
            if first_seq == last_seq:
                stored.frames.append(frames)
                stored.times.append(at_seconds)
            else:
                found = frames.split(_FRAME_END)
                found.pop()
                stored.frames += [frame + _FRAME_END for frame in found]
                stored.times += [at_seconds] * len(found)
            stored.newest = last_seq
            index.put(row, name, stored.row.epoch, last_seq)
        self.index = index
        self.has_free_pages = self._free_pages() > _FREE_PAGES_KEPT
        return list(projects.values())

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
            self.untidy = error if isinstance(error, sqlite3.Error) else sqlite3.OperationalError(str(error))

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


def _identity(path: str) -> tuple[int, int]:
    found = os.stat(path)  # noqa: PTH116 - a third of the time, for each transaction
    return found.st_dev, found.st_ino


class Worker:
    """Calls functions one after another, on a thread of its own. A thread that hangs in the disk holds up no exit."""

    def __init__(self) -> None:
        self._calls: SimpleQueue[tuple[Future[Any], Callable[..., Any], tuple[Any, ...]] | None] = SimpleQueue()
        self.thread = threading.Thread(target=self._run, name="edge-store", daemon=True)
        self.thread.start()

    def call(self, function: Callable[..., Result], *arguments: Any) -> asyncio.Future[Result]:
        future: Future[Result] = Future()
        self._calls.put((future, function, arguments))
        return asyncio.wrap_future(future)

    def end(self) -> None:
        self._calls.put(None)

    def _run(self) -> None:
        while (call := self._calls.get()) is not None:
            future, function, arguments = call
            if not future.set_running_or_notify_cancel():
                continue
            try:
                result = function(*arguments)
            except BaseException as error:  # noqa: BLE001 - it is raised where the result is awaited
                future.set_exception(error)
            else:
                future.set_result(result)
