"""The embedded store: what is published also goes to a SQLite file, and is there again after the process.

The event loop only takes notes: what a few milliseconds bring is one transaction on the store's own thread, and while
one is written the next gathers. `async` gives the receipt at once and can lose the last `flush_seconds` when the
process is killed: events are on their ring, and what is written is what the ring holds beyond the last transaction.
`commit` numbers an event, lets it reach the disk, and only then puts it on the ring and gives the receipt.

Invariants:
    * Transactions are written one after the other, in the order of what they hold. When one fails nothing new is taken
      until a later one succeeds: in `async` the one that failed is kept and written again, in `commit` its publishers
      are refused and its numbers were never seen.
    * An id never means two events: each process gives ids of epochs of its own. What an earlier one wrote keeps its
      ids; where the end of that history may be lost, a subscriber that resumes from it is told `restart`.
    * An event that is published under an idempotency key is in the same transaction as the key and its answer.

Times in the file are of the file's own clock, which never falls and doesn't follow the wall clock when that is set. How
far the wall clock is ahead of it is written, too.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from edge.core.epochs import PastEpoch
from edge.core.errors import StoreUnavailable
from edge.core.event import Event
from edge.core.hub import Hub
from edge.core.idempotency import Answer, Key, Receipts, unknown_fate
from edge.core.observer import Batch, Receipt
from edge.core.saved import SavedProject
from edge.logs.setup import get_logger
from edge.store.base import Keyed, StoreUnusableError
from edge.store.sqlite_file import DRIFT_NOTED_SECONDS, SqliteFile, SqliteFileError, Stored
from edge.store.sqlite_gathered import (
    Gathered,
    PendingCommit,
    dropped_row,
    key_text,
    project_row,
    receipt_row,
    shifted,
)
from edge.store.sqlite_rows import ProjectRow, ReceiptRow, Transaction
from edge.store.worker import Worker
from edge.supervisor import Supervisor

_log = get_logger("store")
_RETRY_SECONDS = 0.5
_CHECK_SECONDS = 1.0
_STALLED_AFTER_SECONDS = 5.0
"""A disk that is busy answers within a second or two; one that takes longer hangs."""
_EARLIER_EPOCHS_KEPT = 16
"""Beyond those of held events: a subscriber with an older id is told `restart`."""
_TRANSACTIONS_AT_THE_END = 3
"""What one brings about is in the next."""


class SqliteStore:
    """`path` is the file; the hub must be empty until `open` has returned."""

    kind = "sqlite"
    durable = True

    def __init__(
        self,
        path: Path,
        hub: Hub,
        receipts: Receipts,
        clock: Callable[[], float],
        *,
        commit: bool,
        flush_seconds: float,
        keep_receipts_seconds: float,
        supervisor: Supervisor | None = None,
    ) -> None:
        self._supervisor = supervisor or Supervisor()
        self._path = path
        self._hub = hub
        self._receipts = receipts
        self._clock = clock
        self._commit = commit
        self.at_once = not commit
        self._flush_seconds = flush_seconds
        self._keep_receipts_seconds = keep_receipts_seconds
        self._offset_seconds = 0.0
        """How far the file's clock is ahead of the hub's."""
        self._worker = Worker()
        self._file: SqliteFile | None = None
        self._lost = False
        """The file is not at its path any more."""
        self._problem: StoreUnavailable | None = _unavailable("The history is not open yet; try again soon.")
        self.errors = 0
        self._gathered = Gathered()
        self._intended: set[Key] = set()
        """Keys of which the file says that a job is about to be sent."""
        self._remembered: set[Key] = set()
        """Keys whose answer was written with their event."""
        self._urgent = asyncio.Event()
        """A request waits for the disk: don't gather any longer."""
        self._closing = False
        self._writer: asyncio.Task[None] | None = None
        self._writing: tuple[Gathered, float] | None = None
        """What is being written, and since when."""
        self._next_check: asyncio.TimerHandle | None = None

    @property
    def problem(self) -> StoreUnavailable | None:
        return self._problem

    async def open(self) -> None:
        try:
            file, projects, receipts = await self._worker.call(self._read_file)
        except SqliteFileError as error:
            self._problem = _unavailable(f"The history can't be opened: {error}.")
            raise self._refusal() from error
        self._file = file
        # The one published to last is restored last: when all together are too large, the one idle longest gives first.
        projects.sort(key=lambda stored: stored.times[-1] if stored.times else 0.0)
        # A wall clock that was set back, or lost by a board without a battery, is behind what was written last.
        latest = [stored.times[-1] for stored in projects[-1:] if stored.times] + [row.at_seconds for row in receipts]
        self._offset_seconds = max([time.time() - file.drift_seconds, *latest]) - self._clock()
        self._hub.counters.misses.touched = self._gathered.touched
        for stored in projects:
            self._restore(stored, file)
        for receipt in receipts:
            self._restore_receipt(receipt)
        self._problem = None
        self._check()
        events = sum(len(stored.frames) for stored in projects)
        _log.info("store_opened", projects=len(projects), events=events, whole=file.whole)

    def _read_file(self) -> tuple[SqliteFile, list[Stored], list[ReceiptRow]]:
        file = SqliteFile(self._path, commit=self._commit)
        try:
            return file, file.projects(), file.receipts()
        except (SqliteFileError, StoreUnusableError):
            file.abandon()
            raise

    def _restore(self, stored: Stored, file: SqliteFile) -> None:
        """Give the hub a project, to go on under a new epoch."""
        row, now = stored.row, self._clock()
        ledger = shifted(row.ledger, -self._offset_seconds)
        if stored.newest > row.newest:
            unknown = ((row.newest + 1, stored.newest),)
            ledger = msgspec.structs.replace(ledger, waiting=ledger.waiting + unknown)
        earlier = list(row.earlier)
        if earlier and stored.newest == earlier[-1].last_seq:  # no event of `row.epoch` is left
            earlier[-1] = msgspec.structs.replace(earlier[-1], whole=earlier[-1].whole and file.whole)
        else:
            earlier.append(PastEpoch(row.epoch, stored.newest, file.whole))
        oldest = stored.newest - len(stored.frames) + 1
        while len(earlier) > _EARLIER_EPOCHS_KEPT and earlier[0].last_seq < oldest:
            del earlier[0]
        times = [min(at - self._offset_seconds, now) for at in stored.times]
        saved = SavedProject(
            row.name,
            self._hub.new_epoch(),
            row.first_seq,
            stored.newest,
            stored.frames,
            times,
            ledger,
            earlier=tuple(earlier),
            finished=row.finished,
        )
        assert file.index is not None
        file.index.go_on(saved.name, saved.epoch)
        self._hub.restore(saved, now)
        if not file.whole:  # the next process has to know, even if nothing else is written until then
            self._gathered.touched.add(saved.name)

    def _restore_receipt(self, row: ReceiptRow) -> None:
        if row.status is None or row.body is None:
            answer = unknown_fate(row.job)
        else:
            answer = Answer(row.status, row.body, row.content_type or "application/json")
        key = tuple(msgspec.json.decode(row.key, type=list[str]))
        self._receipts.restore(key, row.fingerprint, answer, min(row.at_seconds - self._offset_seconds, self._clock()))

    def publish(self, name: str, event: Event, now: float, keyed: Keyed | None = None) -> Receipt | Awaitable[Receipt]:
        if self._problem is not None:
            raise self._refusal()
        if self._commit:
            project, frame = self._hub.reserve(name, event, now)
            pending = PendingCommit(project, frame, keyed)
            self._gathered.pending.append(pending)
            self._start()
            return pending.future
        # With a key, `record_answer` follows in the same turn of the loop, and so in the same transaction.
        receipt = self._hub.publish(name, event, now)
        self._note(name, 1)
        return receipt

    def publish_many(self, name: str, events: Sequence[Event], now: float) -> Batch | None:
        """None with `commit`, where each event has a promise of its own, and while nothing can be kept."""
        if self._commit or self._problem is not None:
            return None
        batch = self._hub.publish_many(name, events, now)
        self._note(name, len(events))
        return batch

    def _note(self, name: str, count: int) -> None:
        """The `count` newest events of `name` are to be written."""
        project = self._hub.projects.get(name)
        # None: the bounds of the hub left no room for what was just published.
        if project is not None and project not in self._gathered.unwritten:
            self._gathered.unwritten[project] = project.ring.newest - count + 1
        self._start()

    async def deleted(self, name: str) -> None:
        self._gathered.touched.add(name)
        if not self._commit:
            self._start()
            return
        if self._problem is not None:
            raise self._refusal()
        await self._written(self._gathered.intents)

    async def record_intent(self, key: Key, fingerprint: bytes, job_id: str) -> None:
        if self._problem is not None:
            raise self._refusal()
        text = key_text(key)
        self._gathered.receipts[text] = ReceiptRow(text, fingerprint, job_id, None, None, None, self._now())
        self._intended.add(key)
        await self._written(self._gathered.intents)

    async def record_answer(self, key: Key, fingerprint: bytes, answer: Answer | None) -> None:
        intended = key in self._intended
        self._intended.discard(key)
        if key in self._remembered:
            self._remembered.discard(key)
        elif answer is not None:
            self._gathered.receipts[key_text(key)] = receipt_row(key, fingerprint, answer, self._now())
            if intended and self._problem is None:
                # Killed before this is written, the next process would say of a job done that it may have started.
                await self._written(self._gathered.answers)
        elif intended:
            self._gathered.receipts[key_text(key)] = None
        self._start()

    async def _written(self, waiters: list[asyncio.Future[None]]) -> None:
        written: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiters.append(written)
        self._urgent.set()
        self._start()
        await written

    async def close(self) -> None:
        self._closing = True
        self._urgent.set()
        if self._next_check is not None:
            self._next_check.cancel()
        if self._file is not None:
            closing = asyncio.create_task(self._close_file(self._file))
            # The process doesn't wait for a disk that hangs: the thread is left behind.
            await asyncio.wait([closing], timeout=0 if self._stalled else _STALLED_AFTER_SECONDS)
            if not closing.done():
                closing.cancel()
                self._log_unwritten()
        self._worker.end()

    async def _close_file(self, file: SqliteFile) -> None:
        if self._writer is not None:
            await asyncio.wait([self._writer])
        clean = True
        for _ in range(_TRANSACTIONS_AT_THE_END):
            if clean and (self._gathered or self._gathered.touched):
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
            first = first | self._writing[0].unwritten
        _log.error("store_left_unwritten", events=sum(project.ring.newest - seq + 1 for project, seq in first.items()))

    # Writing

    def _check(self) -> None:
        """Once a second: write what changed without an event (an eviction, a late miss), give space back, look whether
        the file is still there and the disk answers.
        """
        self._next_check = asyncio.get_running_loop().call_later(_CHECK_SECONDS, self._check)
        if self._stalled:
            self._refuse_stalled()
        elif self._file is not None and (
            self._gathered.touched
            or self._file.has_free_pages
            or abs(self._drift_seconds() - self._file.drift_seconds) > DRIFT_NOTED_SECONDS
        ):
            self._start()
        elif self._file is not None and self._writer is None:
            self._writer = self._supervisor.start("store_writer", self._check_file(self._file))

    async def _check_file(self, file: SqliteFile) -> None:
        self._writing = Gathered(), self._clock()
        try:
            await self._worker.call(file.check)
        except (SqliteFileError, OSError) as error:
            self._failed(error, Gathered())
        finally:
            self._writing = self._writer = None
        if self._gathered or self._problem is not None:
            self._start()

    def _start(self) -> None:
        if self._writer is None and self._file is not None and not self._closing:
            self._writer = self._supervisor.start("store_writer", self._write_all())

    async def _write_all(self) -> None:
        """Gather and write in turns until nothing is left. After an exception `_check` starts it again."""
        try:
            while True:
                await self._pause()
                if not await self._write() and not self._closing:
                    await asyncio.sleep(_RETRY_SECONDS)
                if self._closing or not (self._gathered or self._problem):
                    return
        finally:
            self._writer = None

    async def _pause(self) -> None:
        """Let something gather: the rest of this turn of the loop, or `flush_seconds` where no request waits."""
        if self._commit:
            await asyncio.sleep(0)
            return
        try:
            async with asyncio.timeout(self._flush_seconds):
                await self._urgent.wait()
        except TimeoutError:
            return

    async def _write(self) -> bool:
        """One transaction with all that has been gathered. Returns whether it succeeded."""
        assert self._file is not None
        part = Gathered()
        try:
            if self._lost:
                await self._make_anew(self._file)
            part = self._gathered.take()
            self._urgent.clear()
            self._writing = part, self._clock()
            await self._worker.call(self._file.write, self._transaction(part))
        except Exception as error:  # noqa: BLE001 - whatever it is: requests that wait are refused, and it is tried again
            self._failed(error, part)
            return False
        finally:
            self._writing = None
        if self._file.untidy is not None:
            self.errors += 1
            _log.warning("store_untidy", error=str(self._file.untidy))
        if self._problem is not None:
            self._problem = None
            _log.info("store_recovered")
        for one in part.pending:
            self._committed(one)
        for written in part.intents + part.answers:
            _finish(written)
        return True

    def _transaction(self, part: Gathered) -> Transaction:
        now = self._now()
        segments = part.segments(self._hub, self._offset_seconds, now)
        rows: list[ProjectRow] = []
        dropped: list[str] = []
        for name in part.touched | {segment.project for segment in segments}:
            if (project := self._hub.projects.get(name)) is None:
                if past := self._hub.dropped.get(name):
                    rows.append(dropped_row(name, past))
                else:
                    dropped.append(name)
                continue
            rows.append(project_row(project, self._offset_seconds))
            if rows[-1].ledger.waiting:
                # Which connection has room for these is not known yet; look again.
                self._gathered.touched.add(name)
        return Transaction(
            segments=segments,
            projects=rows,
            dropped_projects=dropped,
            receipts=[row for row in part.receipts.values() if row is not None] + part.keyed_rows(now),
            dropped_keys=[key for key, row in part.receipts.items() if row is None],
            receipts_since_seconds=now - self._keep_receipts_seconds,
            drift_seconds=self._drift_seconds(),
        )

    def _committed(self, one: PendingCommit) -> None:
        receipt = self._hub.commit(one.project, one.frame, self._clock())
        # The row of this transaction was made before: a later one has to say that its ledger knows the event.
        self._gathered.touched.add(one.project.name)
        if one.keyed is None:
            one.give(receipt)
            return
        self._remembered.add(one.keyed.key)
        answer = one.keyed.answered(receipt)
        if answer == one.remembered:
            one.give(receipt)
            return
        # A subscriber came or went meanwhile: the answer has to be written before it is given.
        row = receipt_row(one.keyed.key, one.keyed.fingerprint, answer, self._now())
        self._gathered.receipts[row.key] = row
        written: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        written.add_done_callback(lambda _: one.give(receipt))
        self._gathered.answers.append(written)

    # Failing

    def _failed(self, error: Exception, part: Gathered) -> None:
        """Nothing of `part` was written: what was promised is kept for the next try, what was not is refused."""
        self.errors += 1
        self._lost = self._lost or isinstance(error, SqliteFileError)
        full = (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF == sqlite3.SQLITE_FULL
        is_news = self._problem is None
        self._problem = _unavailable(
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
            _refuse(one.future, self._refusal())
        self._refuse_waiting(self._gathered)
        if is_news:
            _log.error("store_error", error=str(error), full=full)
        if not isinstance(error, (sqlite3.Error, SqliteFileError, StoreUnusableError, OSError)):
            self._supervisor.failed("store_writer", error)

    def _refuse_waiting(self, part: Gathered) -> None:
        for waiting in part.intents:
            _refuse(waiting, self._refusal())
        for written in part.answers:  # they are true, and given; they are kept later
            _finish(written)
        part.intents, part.answers = [], []

    @property
    def _stalled(self) -> bool:
        return self._writing is not None and self._clock() - self._writing[1] > _STALLED_AFTER_SECONDS

    def _refuse_stalled(self) -> None:
        """No request waits for a disk that hangs, but for those with a key: what it is to remember isn't known yet."""
        assert self._writing is not None
        part, since_seconds = self._writing
        if self._problem is None:
            self.errors += 1
            _log.error("store_stalled", seconds=round(self._clock() - since_seconds, 1))
        self._problem = _unavailable("The disk has not answered for seconds, so nothing can be kept; try again soon.")
        for one in part.pending + self._gathered.pending:
            if one.keyed is None:
                _refuse(
                    one.future,
                    _unavailable(
                        "The disk has not answered for seconds. The event is published if it answers after all: to be "
                        "sure that it is published once, send it with an Idempotency-Key."
                    ),
                )
        self._refuse_waiting(part)
        self._refuse_waiting(self._gathered)

    async def _make_anew(self, file: SqliteFile) -> None:
        """Where the file was removed, make one with all that the hub holds. Raises while another is in its place."""
        self._file = await self._worker.call(_in_place, file, self._commit)
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
        """A fresh exception each: one that is raised twice would gather the traces of both."""
        assert self._problem is not None
        return _unavailable(self._problem.detail, status=self._problem.status)

    def _drift_seconds(self) -> float:
        """How far the wall clock is ahead of the file's."""
        return time.time() - self._now()

    def _now(self) -> float:
        """The file's clock."""
        return self._clock() + self._offset_seconds


def _in_place(file: SqliteFile, commit: bool) -> SqliteFile:
    """`file` where it is at its path, a new one where nothing is. Raises SqliteFileError, StoreUnusableError."""
    if file.path.exists():
        file.check()
        return file
    file.abandon()
    return SqliteFile(file.path, commit=commit)


def _finish(written: asyncio.Future[None]) -> None:
    if not written.done():
        written.set_result(None)


def _refuse(future: asyncio.Future[Any], error: StoreUnavailable) -> None:
    if not future.done():
        future.set_exception(error)


def _unavailable(detail: str, status: int | None = None) -> StoreUnavailable:
    return StoreUnavailable(detail, retry_after_seconds=1, status=status)
