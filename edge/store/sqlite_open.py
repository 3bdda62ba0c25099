"""Opening the file of the SQLite store: the lock, whose file it is, its schema, and what an error means.

A second edge is kept out by a lock on `PATH-lock`. The lock file also holds the token of the last process that opened
the database, so a process can detect that an older copy was put in its place.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import msgspec

from edge.store.base import StoreUnusableError

_APPLICATION_ID = 0x45444745  # "EDGE"
_SCHEMA_VERSION = 2
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


class SqliteFileError(Exception):
    """The file can't be used for now. The text says why and what to do."""


class Lock:
    """Excludes a second edge, and holds a text that outlives the process."""

    def __init__(self, path: Path) -> None:
        """Raises SqliteFileError."""
        self._descriptor = opened(path.with_name(path.name + "-lock"), path)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self.close()
            raise SqliteFileError(f"{path}: another process has it open: one file serves one edge") from None
        self.text = os.pread(self._descriptor, 200, 0).decode(errors="replace")

    def write(self, text: str) -> None:
        self.text = text
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, text.encode(), 0)
        os.fsync(self._descriptor)

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def opened(path: Path, shown: Path) -> int:
    """A descriptor of the file at `path`, made where there is none. Raises SqliteFileError, which names `shown`."""
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise SqliteFileError(f"{shown}: {ADVICE[sqlite3.SQLITE_CANTOPEN]} ({error.strerror})") from error


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Raise SqliteFileError for errors of SQLite and the system, StoreUnusableError where trying again can't help."""
    try:
        yield
    except (sqlite3.Error, OSError, msgspec.MsgspecError) as error:
        primary = primary_code(error)
        hopeless = primary in _HOPELESS or isinstance(error, msgspec.MsgspecError)
        text = f"{path}: {ADVICE.get(primary, str(error))}"
        raise (StoreUnusableError if hopeless else SqliteFileError)(text) from error


def schema_changes(db: sqlite3.Connection, path: Path) -> str:
    """The statements that give `db` the schema of this version. Raises StoreUnusableError for another's file."""
    application_id = db.execute("PRAGMA application_id").fetchone()[0]
    version = db.execute("PRAGMA user_version").fetchone()[0]
    tables = db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    if application_id not in (0, _APPLICATION_ID) or (tables and application_id == 0):
        raise StoreUnusableError(f"{path} is a database of another program: name another file in store.url.")
    if version > _SCHEMA_VERSION:
        raise StoreUnusableError(f"{path} was written by a newer edge (version {version}): upgrade this one.")
    changes = _SCHEMA + _LIFE if not tables else _FROM_VERSION_1 if version < _SCHEMA_VERSION else ""
    return f"{changes}; PRAGMA application_id = {_APPLICATION_ID}; PRAGMA user_version = {_SCHEMA_VERSION}"


def backup(source: Path, destination: Path) -> None:
    """Copy the file at `source`, which may be in use, to `destination`, which must not exist. Raises SqliteFileError.

    The copy is complete and marked as a copy: subscribers of a process that opens it get a `restart` gap.
    """
    try:
        os.close(os.open(destination, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    except OSError as error:
        raise SqliteFileError(f"{destination}: {error.strerror}: name a new file in a folder that exists.") from error
    copied = False
    try:
        with (
            closing(sqlite3.connect(f"{source.absolute().as_uri()}?mode=ro", uri=True)) as reader,
            closing(sqlite3.connect(destination, isolation_level=None)) as writer,
        ):
            if reader.execute("PRAGMA application_id").fetchone()[0] != _APPLICATION_ID:
                raise SqliteFileError(f"{source} is not a history of edge.")
            reader.backup(writer)
            if reader.execute("PRAGMA user_version").fetchone()[0] == _SCHEMA_VERSION:
                writer.execute("UPDATE life SET token = '', clean = 0")
            copied = True
    except sqlite3.Error as error:
        raise SqliteFileError(f"{source}: {ADVICE.get(primary_code(error), str(error))}") from error
    finally:
        if not copied:
            destination.unlink()


def primary_code(error: Exception) -> int:
    """SQLite's primary result code; 0 where there is none."""
    return (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF
