"""`edge store`: copy every project's history from one store to another, back a file up while it is in use, restore it.

Of what is copied neither store may be in use: the file is locked while it is copied, and a Redis with running nodes is
refused. Invariant: the destination was empty, and what arrives there is the run of events and the pending misses that
the source held.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from edge.cli.hub import CommandError
from edge.config.texts import REDIS_SCHEMES
from edge.core.errors import StoreUnavailable
from edge.store.base import StoreUnusableError, new_epoch
from edge.store.sqlite_file import SqliteFile, Stored
from edge.store.sqlite_open import Lock, SqliteFileError
from edge.store.sqlite_open import backup as copy_file
from edge.store.sqlite_transaction import Segment, Transaction


class Copied(NamedTuple):
    """What was copied."""

    projects: int
    events: int


class CopyError(CommandError):
    """It can't be done; says why and what to do."""


def copy(source: str, destination: str) -> Copied:
    """Copy everything. Both are values of `store.url`. Raises CopyError."""
    try:
        return _copy(source, destination)
    except (SqliteFileError, StoreUnusableError) as error:
        raise CopyError(str(error)) from error
    except StoreUnavailable as error:
        raise CopyError(error.detail) from error


def _copy(source: str, destination: str) -> Copied:
    kinds = [url.partition(":")[0] for url in (source, destination)]
    if kinds == ["sqlite", "sqlite"]:
        raise CopyError("Both are files: use edge store backup and edge store restore.")
    if not set(kinds) <= {"sqlite", *REDIS_SCHEMES}:
        raise CopyError("Only sqlite:PATH and redis://HOST:PORT hold a history that can be copied.")
    from edge.cluster.transfer import read_all, write_all  # noqa: PLC0415 - redis is imported only where it is used

    projects = _from_file(source) if kinds[0] == "sqlite" else iter(asyncio.run(read_all(source)))
    if kinds[1] == "sqlite":
        return _into_file(destination, projects)
    return Copied(*asyncio.run(write_all(destination, list(projects))))


def backup(url: str, destination: Path) -> None:
    """Copy the file of `store.url`, which may be in use, to a new file. Raises CopyError."""
    try:
        copy_file(_path(url), destination)
    except SqliteFileError as error:
        raise CopyError(str(error)) from error


def restore(url: str, source: Path) -> Path | None:
    """Put a backup in the place of the file of `store.url`. Returns where that is now. Raises CopyError."""
    path = _path(url)
    new, old = path.with_name(path.name + "-restored"), path.with_name(path.name + "-replaced")
    try:
        lock = Lock(path)
        try:
            new.unlink(missing_ok=True)
            copy_file(source, new)
            replaced = path.exists()
            for suffix in ("-shm", "-wal", ""):
                old.with_name(old.name + suffix).unlink(missing_ok=True)
                if path.with_name(path.name + suffix).exists():
                    path.with_name(path.name + suffix).rename(old.with_name(old.name + suffix))
            new.rename(path)
        finally:
            lock.close()
    except SqliteFileError as error:
        raise CopyError(str(error)) from error
    except OSError as error:
        raise CopyError(f"{error.filename}: {error.strerror}") from error
    return old if replaced else None


def _path(url: str) -> Path:
    kind, _, path = url.partition(":")
    if kind != "sqlite":
        raise CopyError("store.url names no file: only sqlite:PATH can be backed up and restored this way.")
    return Path(path)


def _from_file(url: str) -> Iterator[Stored]:
    path = _path(url)
    if not path.exists():
        raise CopyError(f"{path} is not there.")
    file = SqliteFile(path)
    try:
        for stored in file.projects():
            stored.times = [at + file.drift_seconds for at in stored.times]
            if not file.whole:  # its last ids may have been given to events that are lost
                stored.row = stored.row._replace(epoch=new_epoch())
            yield stored
    finally:
        file.close(clean=file.whole)


def _into_file(url: str, projects: Iterator[Stored]) -> Copied:
    file = SqliteFile(_path(url))
    clean = False
    try:
        if file.projects():
            raise CopyError("The destination holds projects already; name an empty one.")
        copied = Copied(0, 0)
        for stored in projects:
            row, oldest = stored.row, stored.newest - len(stored.frames) + 1
            segments = [
                Segment(row.name, row.epoch, oldest + place, oldest + place, at, frame)
                for place, (at, frame) in enumerate(zip(stored.times, stored.frames, strict=True))
            ]
            known = row._replace(oldest=oldest, newest=stored.newest)
            file.write(Transaction(segments=segments, projects=[known]))
            copied = Copied(copied.projects + 1, copied.events + len(segments))
        clean = True
        return copied
    finally:
        file.close(clean=clean)
