"""`edge store`: copy every project's history from one store to another, back a file up while it is in use, restore it.

Of what is copied neither store may be in use: the file is locked while it is copied, and a Redis with running nodes is
refused. Invariant: the destination was empty, and what arrives there is the run of events and the pending misses that
the source held.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import msgspec

from edge.cli.hub import CommandError
from edge.config.texts import REDIS_SCHEMES
from edge.core.errors import StoreUnavailable
from edge.core.saved import SavedProject
from edge.store.base import StoreUnusableError, new_epoch
from edge.store.sqlite_file import ADVICE, Lock, SqliteFile, SqliteFileError, primary_code
from edge.store.sqlite_transaction import APPLICATION_ID, SCHEMA_VERSION, ProjectRow, Segment, Transaction


@contextmanager
def _in_words() -> Iterator[None]:
    """Raise what stores raise as CommandError."""
    try:
        yield
    except (SqliteFileError, StoreUnusableError, StoreUnavailable) as error:
        raise CommandError(str(error)) from error


@_in_words()
def copy(source: str, destination: str) -> tuple[int, int]:
    """Copy everything; returns how many projects and events. Both are values of `store.url`. Raises CommandError."""
    kinds = [url.partition(":")[0] for url in (source, destination)]
    if kinds == ["sqlite", "sqlite"]:
        raise CommandError("Both are files: use edge store backup and edge store restore.")
    if not set(kinds) <= {"sqlite", *REDIS_SCHEMES}:
        raise CommandError("Only sqlite:PATH and redis://HOST:PORT hold a history that can be copied.")
    from edge.cluster.transfer import read_all, write_all  # noqa: PLC0415 - redis is imported only where it is used

    projects = _from_file(source) if kinds[0] == "sqlite" else iter(asyncio.run(read_all(source)))
    if kinds[1] == "sqlite":
        return _into_file(destination, projects)
    return asyncio.run(write_all(destination, list(projects)))


@_in_words()
def backup(url: str, destination: Path) -> None:
    """Copy the file of `store.url`, which may be in use, to a new file. Raises CommandError."""
    _copy_file(_path(url), destination)


@_in_words()
def restore(url: str, source: Path) -> Path | None:
    """Put a backup in the place of the file of `store.url`. Returns where that is now. Raises CommandError."""
    path = _path(url)
    new, old = path.with_name(path.name + "-restored"), path.with_name(path.name + "-replaced")
    try:
        with closing(Lock(path)):
            new.unlink(missing_ok=True)
            _copy_file(source, new)
            replaced = path.exists()
            for suffix in ("-shm", "-wal", ""):
                old.with_name(old.name + suffix).unlink(missing_ok=True)
                if path.with_name(path.name + suffix).exists():
                    path.with_name(path.name + suffix).rename(old.with_name(old.name + suffix))
            new.rename(path)
    except OSError as error:
        raise CommandError(f"{error.filename}: {error.strerror}") from error
    return old if replaced else None


def _copy_file(source: Path, destination: Path) -> None:
    """Copy the file at `source`, which may be in use, to `destination`, which must not exist. Raises CommandError.

    The copy is complete and marked as a copy: subscribers of a process that opens it get a `restart` gap.
    """
    try:
        os.close(os.open(destination, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    except OSError as error:
        raise CommandError(f"{destination}: {error.strerror}: name a new file in a folder that exists.") from error
    copied = False
    try:
        with (
            closing(sqlite3.connect(f"{source.absolute().as_uri()}?mode=ro", uri=True)) as reader,
            closing(sqlite3.connect(destination, isolation_level=None)) as writer,
        ):
            if reader.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
                raise CommandError(f"{source} is not a history of edge.")
            reader.backup(writer)
            if reader.execute("PRAGMA user_version").fetchone()[0] == SCHEMA_VERSION:
                writer.execute("UPDATE life SET token = '', clean = 0")
            copied = True
    except sqlite3.Error as error:
        raise CommandError(f"{source}: {ADVICE.get(primary_code(error), str(error))}") from error
    finally:
        if not copied:
            destination.unlink()


def _path(url: str) -> Path:
    kind, _, path = url.partition(":")
    if kind != "sqlite":
        raise CommandError("store.url names no file: only sqlite:PATH can be backed up and restored this way.")
    return Path(path)


def _from_file(url: str) -> Iterator[SavedProject]:
    path = _path(url)
    if not path.exists():
        raise CommandError(f"{path} is not there.")
    file = SqliteFile(path)
    try:
        for saved in file.projects():
            # The last ids of one that isn't whole may have been given to events that are lost.
            epoch = saved.epoch if file.whole else new_epoch()
            yield msgspec.structs.replace(saved, epoch=epoch, times=[at + file.drift_seconds for at in saved.times])
    finally:
        file.close(clean=file.whole)


def _into_file(url: str, projects: Iterator[SavedProject]) -> tuple[int, int]:
    file = SqliteFile(_path(url))
    copied = events = 0
    clean = False
    try:
        if file.projects():
            raise CommandError("The destination holds projects already; name an empty one.")
        for saved in projects:
            oldest = saved.newest - len(saved.frames) + 1
            segments = [
                Segment(saved.name, saved.epoch, seq, seq, at, frame)
                for seq, (at, frame) in enumerate(zip(saved.times, saved.frames, strict=True), oldest)
            ]
            row = ProjectRow(saved.name, saved.epoch, saved.first_seq, oldest, saved.newest, saved.ledger)
            file.write(Transaction(segments=segments, projects=[row]))
            copied += 1
            events += len(segments)
        clean = True
        return copied, events
    finally:
        file.close(clean=clean)
