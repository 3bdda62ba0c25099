"""`edge store copy FROM TO`: take every project's history from one store to another, ids, misses and all.

Neither store may be in use: the file is locked while it is copied, and a Redis that nodes beat at is refused.
Invariant: the destination was empty, and what arrives there is the run of events and the pending misses that the
source held.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from edge.config.redis_url import SCHEMES
from edge.core.errors import StoreUnavailable
from edge.core.ledger import LedgerState
from edge.store.rows import Batch, ProjectRow, Segment
from edge.store.sqlite_file import SqliteFile, SqliteFileError, Stored

_PROJECTS_A_BATCH = 100
_EMPTY = Batch([], [], [], [], [], 0.0)


class Copied(NamedTuple):
    """What was copied."""

    projects: int
    events: int


class CopyError(Exception):
    """It can't be done; says why and what to do."""


def copy(source: str, destination: str) -> Copied:
    """Copy everything. Both are values of `store.url`. Raises CopyError."""
    try:
        return _copy(source, destination)
    except SqliteFileError as error:
        raise CopyError(str(error)) from error
    except StoreUnavailable as error:
        raise CopyError(error.detail) from error


def _copy(source: str, destination: str) -> Copied:
    kinds = [url.partition(":")[0] for url in (source, destination)]
    if kinds == ["sqlite", "sqlite"]:
        raise CopyError("Both are files: stop edge and copy the file.")
    if not set(kinds) <= {"sqlite", *SCHEMES}:
        raise CopyError("Only sqlite:PATH and redis://HOST:PORT hold a history that can be copied.")
    projects = _from_file(source) if kinds[0] == "sqlite" else iter(_from_redis(source))
    if kinds[1] == "sqlite":
        return _into_file(destination, projects)
    return _into_redis(destination, projects)


def _from_file(url: str) -> Iterator[Stored]:
    path = Path(url.partition(":")[2])
    if not path.exists():
        raise CopyError(f"{path} is not there.")
    journal = SqliteFile(path)
    try:
        yield from journal.projects()
    finally:
        journal.close()


def _into_file(url: str, projects: Iterator[Stored]) -> Copied:
    journal = SqliteFile(Path(url.partition(":")[2]))
    try:
        if journal.projects():
            raise CopyError("The destination holds projects already; name an empty one.")
        copied = Copied(0, 0)
        for stored in projects:
            row, oldest = stored.row, stored.newest - len(stored.frames) + 1
            segments = [
                Segment(row.name, row.epoch, oldest + place, oldest + place, at, frame)
                for place, (at, frame) in enumerate(zip(stored.times, stored.frames, strict=True))
            ]
            known = row._replace(oldest=oldest, newest=stored.newest)
            journal.write(_EMPTY._replace(segments=segments, projects=[known]))
            copied = Copied(copied.projects + 1, copied.events + len(segments))
        return copied
    finally:
        journal.close()


def _from_redis(url: str) -> list[Stored]:
    from edge.cluster.transfer import read_all  # noqa: PLC0415 - redis is imported only where it is used

    return [
        Stored(
            ProjectRow(
                name=one.name,
                epoch=one.epoch,
                first_seq=1,
                oldest=one.newest - len(one.frames) + 1,
                newest=one.newest,
                ledger=LedgerState(
                    misses=one.misses,
                    recovered=one.recovered,
                    lost=one.lost,
                    unreported_lost=one.untold,
                    unreported_from=one.newest - len(one.frames) if one.untold else None,
                    pending=tuple((seq, seq) for seq in one.pending),
                ),
            ),
            one.newest,
            one.frames,
            one.times,
        )
        for one in asyncio.run(read_all(url))
    ]


def _into_redis(url: str, projects: Iterator[Stored]) -> Copied:
    from edge.cluster.transfer import StoredProject, write_all  # noqa: PLC0415 - as above

    def write(batch: list[StoredProject]) -> Copied:
        asyncio.run(write_all(url, batch, first=not copied.projects))
        return Copied(copied.projects + len(batch), copied.events + sum(len(one.frames) for one in batch))

    copied = Copied(0, 0)
    batch: list[StoredProject] = []
    for stored in projects:
        ledger = stored.row.ledger
        batch.append(
            StoredProject(
                name=stored.row.name,
                epoch=stored.row.epoch,
                newest=stored.newest,
                frames=stored.frames,
                times=stored.times or [time.time()],
                misses=ledger.misses,
                recovered=ledger.recovered,
                lost=ledger.lost,
                untold=ledger.unreported_lost,
                pending=[seq for lo, hi in (*ledger.pending, *ledger.waiting) for seq in range(lo, hi + 1)],
            )
        )
        if len(batch) == _PROJECTS_A_BATCH:
            copied, batch = write(batch), []
    return write(batch)
