"""Writes what gathers on the event loop to the SQLite file, one transaction after another.

What a few milliseconds bring is one transaction on the store's own thread; while one is written, the next gathers. When
a transaction fails, the writer refuses new events until a later one succeeds, and it tries again by itself. When there
is nothing to write, it looks once a second whether the file is still there and the disk answers.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from edge.core.errors import StoreUnavailable
from edge.core.idempotency import Key
from edge.core.observer import Receipt
from edge.logs.setup import get_logger
from edge.store.base import MemoryStore, Result, StoreUnusableError
from edge.store.sqlite_file import DRIFT_NOTED_SECONDS, SqliteFile, SqliteFileError, primary_code
from edge.store.sqlite_transaction import Gathered, PendingCommit, Transaction, receipt_row
from edge.supervisor import Supervisor

_log = get_logger("store")
_RETRY_SECONDS = 0.5
_CHECK_SECONDS = 1.0
_STALLED_AFTER_SECONDS = 5.0
"""A busy disk answers within a second or two; one that takes longer hangs."""
_ROUNDS_AT_THE_END = 3
"""What one transaction causes is in the next."""
_PROJECTS_AT_ONCE = 512
"""In one transaction, whose rows are made in one turn of the event loop: about two milliseconds."""


class Worker:
    """Calls functions one after another, on a thread of its own. A thread that hangs in the disk holds up no exit."""

    def __init__(self) -> None:
        self._calls: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self.thread = threading.Thread(target=self._run, name="edge-store", daemon=True)
        self.thread.start()

    def call(self, function: Callable[..., Result], *arguments: Any) -> asyncio.Future[Result]:
        future: Future[Result] = Future()

        def run() -> None:
            try:
                if future.set_running_or_notify_cancel():
                    future.set_result(function(*arguments))
            except BaseException as error:  # noqa: BLE001 - it is raised where the result is awaited
                future.set_exception(error)

        self._calls.put(run)
        return asyncio.wrap_future(future)

    def end(self) -> None:
        self._calls.put(None)

    def _run(self) -> None:
        while (run := self._calls.get()) is not None:
            run()


@dataclass(eq=False)
class SqliteWriter(MemoryStore):
    """The writing half of `SqliteStore`, which takes the events and restores them at start."""

    _path: Path
    _: KW_ONLY
    commit: bool
    flush_seconds: float
    supervisor: Supervisor = field(default_factory=Supervisor)
    _offset_seconds: float = 0.0
    """How far the file's clock is ahead of the hub's."""
    _worker: Worker = field(default_factory=Worker)
    _file: SqliteFile | None = None
    _lost: bool = False
    """The file may no longer be at its path."""
    _gathered: Gathered = field(default_factory=Gathered)
    _remembered: set[Key] = field(default_factory=set)
    """Keys whose answer was written together with their event."""
    _wanted: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when there is something to write."""
    _urgent: asyncio.Event = field(default_factory=asyncio.Event)
    """Set while a request waits for the disk: stop gathering."""
    _closing: bool = False
    _writer: asyncio.Task[None] | None = None
    _writing: Gathered | None = None
    """What is being written."""
    _stalled: bool = False
    """The disk has not answered for seconds."""

    def __post_init__(self) -> None:
        self.problem = StoreUnavailable("The history is not open yet; try again soon.")

    def _written(self, *, or_refused: bool) -> asyncio.Future[None]:
        """Done when what has gathered is written. Raises StoreUnavailable where it can't be, if `or_refused`."""
        written: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._gathered.waiting[written] = or_refused
        self._urgent.set()
        self._wanted.set()
        return written

    async def close(self) -> None:
        self._closing = True
        self._urgent.set()
        self._wanted.set()
        if self._file is not None:
            closing = asyncio.create_task(self._close_file(self._file))
            # The process doesn't wait for a hanging disk; it abandons the thread.
            await asyncio.wait([closing], timeout=0 if self._stalled else _STALLED_AFTER_SECONDS)
            if not closing.done():
                closing.cancel()
                self._log_unwritten()
        self._worker.end()

    async def _close_file(self, file: SqliteFile) -> None:
        if self._writer is not None:
            await asyncio.wait([self._writer])
        clean, rounds = True, _ROUNDS_AT_THE_END
        while clean and rounds and (self._gathered or self._gathered.touched):
            rounds -= len(self._gathered.touched) <= _PROJECTS_AT_ONCE and not self._gathered.unwritten
            clean = await self._write()
        if not clean:
            self._log_unwritten()
        try:
            drift_seconds = self._drift_seconds()
            await self._worker.call(lambda: file.close(clean=clean, drift_seconds=drift_seconds))
        except sqlite3.Error as error:
            _log.error("store_error", error=str(error))
        self._file = None

    def _log_unwritten(self) -> None:
        first = self._gathered.unwritten
        if self._writing is not None:
            first = first | self._writing.unwritten
        _log.error("store_left_unwritten", events=sum(project.ring.newest - seq + 1 for project, seq in first.items()))

    async def _write_all(self) -> None:
        """Gather and write in turns. Once a second also what changed without an event: an eviction, a late miss."""
        while not self._closing:
            if not (self._gathered or len(self._gathered.touched) > _PROJECTS_AT_ONCE or self.problem):
                await _set_within(self._wanted, _CHECK_SECONDS)
            # Let events gather: for the rest of this turn of the event loop, or `flush_seconds` if no request waits.
            if self.commit:
                await asyncio.sleep(0)
            else:
                await _set_within(self._urgent, self.flush_seconds)
            if not await self._write() and not self._closing:
                await asyncio.sleep(_RETRY_SECONDS)

    async def _write(self) -> bool:
        """Write everything gathered in one transaction; check the file if there is nothing. Returns whether that
        succeeded.
        """
        assert self._file is not None
        part = Gathered()
        try:
            if self._lost:
                await self._recreate(self._file)
            has_news = self._has_news(self._file)
            part = self._gathered.take(_PROJECTS_AT_ONCE)
            self._wanted.clear()
            self._urgent.clear()
            self._writing = part
            if has_news:
                written = self._worker.call(self._file.write, self._transaction(part))
            else:
                written = self._worker.call(self._file.check)
            await asyncio.wait((written,), timeout=_STALLED_AFTER_SECONDS)
            if not written.done():
                self._refuse_stalled(part)
            await written
        except Exception as error:  # noqa: BLE001 - waiting requests are refused, and the write is retried
            self._failed(error, part)
            return False
        finally:
            self._writing, self._stalled = None, False
        if self._file.untidy is not None:
            self.errors += 1
            _log.warning("store_untidy", error=str(self._file.untidy))
            self._file.untidy = None
        if self.problem is not None:
            self.problem = None
            _log.info("store_recovered")
        receipts: list[Receipt] = []
        for one in part.pending:
            receipts.append(self._hub.commit(one.project, one.frame, self._clock()))
            self._committed(one, receipts)
        for written in part.waiting:
            _resolve(written, None)
        return True

    def _has_news(self, file: SqliteFile) -> bool:
        """Whether to write: what has gathered, or nothing to give space back or see whether writing works again."""
        drifted = abs(self._drift_seconds() - file.drift_seconds) > DRIFT_NOTED_SECONDS
        return bool(self._gathered or self._gathered.touched or self.problem or file.has_free_pages or drifted)

    def _transaction(self, part: Gathered) -> Transaction:
        transaction = part.transaction(
            self._hub, self._offset_seconds, self._now(), self._receipts.keep_seconds, self._drift_seconds()
        )
        # What is not yet assigned to a connection is looked at again in the next transaction.
        self._gathered.touched.update(row.name for row in transaction.projects if row.ledger.waiting)
        return transaction

    def _committed(self, one: PendingCommit, receipts: list[Receipt]) -> None:
        """`one` is on its ring; its receipt is the last of `receipts`."""
        receipt = receipts[-1]
        # The row in this transaction was built earlier: a later one must say that its ledger knows the event.
        self._gathered.touched.add(one.project.name)
        if one.keyed is None:
            _resolve(one.future, receipt)
            return
        self._remembered.add(one.keyed.key)
        answer = one.keyed.answered(receipts[-len(one.keyed.projects) :])
        if answer == one.remembered:
            _resolve(one.future, receipt)
            return
        # A subscriber connected or disconnected meanwhile: write the answer before it is given.
        row = receipt_row(one.keyed.key, one.keyed.fingerprint, answer, self._now())
        self._gathered.receipts[row.key] = row
        self._written(or_refused=False).add_done_callback(lambda _: _resolve(one.future, receipt))

    # Failing

    def _failed(self, error: Exception, part: Gathered) -> None:
        """Nothing of `part` was written: keep what was promised for the next attempt, refuse the rest."""
        self.errors += 1
        self._lost = self._lost or isinstance(error, (SqliteFileError, OSError))
        full = primary_code(error) == sqlite3.SQLITE_FULL
        is_news = self.problem is None
        self.problem = StoreUnavailable(
            "The disk is full, so nothing published now could be kept; make room, then publish again."
            if full
            else f"The store can't write ({error}), so nothing published now could be kept; try again soon.",
            status=507 if full else None,
        )
        self._gathered.put_back(part)
        pending, self._gathered.pending = self._gathered.pending, []
        for project in {one.project for one in pending}:
            self._hub.cancel_reservations(project)
        for one in pending:
            _resolve(one.future, self._refusal())
        self._refuse_waiting(self._gathered)
        if is_news:
            _log.error("store_error", error=str(error), full=full)
        if not isinstance(error, (sqlite3.Error, SqliteFileError, StoreUnusableError, OSError)):
            self.supervisor.failed("store_writer", error)

    def _refuse_waiting(self, part: Gathered) -> None:
        for written, or_refused in part.waiting.items():  # what isn't refused is true, so it is said now and kept later
            _resolve(written, self._refusal() if or_refused else None)
        part.waiting = {}

    def _refuse_stalled(self, part: Gathered) -> None:
        """Refuse every request that waits for a hanging disk, but not those with a key: their outcome is unknown."""
        self._stalled = True
        if self.problem is None:
            self.errors += 1
            _log.error("store_stalled", seconds=_STALLED_AFTER_SECONDS)
        self.problem = StoreUnavailable(
            "The disk has not answered for seconds, so nothing can be kept; try again soon."
        )
        for one in part.pending + self._gathered.pending:
            if one.keyed is None:
                _resolve(
                    one.future,
                    StoreUnavailable(
                        "The disk has not answered for seconds. The event is published if it answers after all: to be "
                        "sure that it is published once, send it with an Idempotency-Key."
                    ),
                )
        self._refuse_waiting(part)
        self._refuse_waiting(self._gathered)

    async def _recreate(self, file: SqliteFile) -> None:
        """If the file was removed, create one with all that the hub holds. Raises while another is in its place."""
        self._file = await self._worker.call(_in_place, file, self.commit)
        self._lost = False
        if self._file is file:
            return
        self._gathered.unwritten = {project: project.ring.oldest for project in self._hub.projects.values()}
        self._gathered.touched |= set(self._hub.projects)
        for key, fingerprint, answer, answered_seconds in self._receipts.answered():
            row = receipt_row(key, fingerprint, answer, answered_seconds + self._offset_seconds)
            self._gathered.receipts.setdefault(row.key, row)
        _log.warning("store_made_anew", path=str(self._path), projects=len(self._hub.projects))

    def _refusal(self) -> StoreUnavailable:
        """A new exception each time: one raised twice would collect both tracebacks."""
        assert self.problem is not None
        return StoreUnavailable(self.problem.detail, status=self.problem.status)

    def _drift_seconds(self) -> float:
        """How far the wall clock is ahead of the file's clock."""
        return time.time() - self._now()

    def _now(self) -> float:
        """The time on the file's clock."""
        return self._clock() + self._offset_seconds


async def _set_within(event: asyncio.Event, seconds: float) -> None:
    """Wait until `event` is set, which it is in `seconds` at the latest."""
    timer = asyncio.get_running_loop().call_later(seconds, event.set)
    try:
        await event.wait()
    finally:
        timer.cancel()


def _in_place(file: SqliteFile, commit: bool) -> SqliteFile:
    """`file` if it is still at its path, a new file if nothing is. Raises SqliteFileError, StoreUnusableError."""
    if file.path.exists():
        file.check()
        return file
    file.abandon()
    return SqliteFile(file.path, commit=commit)


def _resolve(future: asyncio.Future[Result], outcome: Result | StoreUnavailable) -> None:
    """Unless its caller has gone away."""
    if future.done():
        return
    if isinstance(outcome, StoreUnavailable):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)
