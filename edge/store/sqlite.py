"""The embedded store: what is published also goes to a SQLite file, and is there again after the process.

The event loop only notes: what a few milliseconds bring is one transaction on the store's own thread, and while
one is written the next gathers. `async` gives the receipt at once and can lose the last `flush_seconds` at a power
cut: events are on their ring, and what is written is what the ring holds beyond the last transaction. `commit`
numbers an event, lets it reach the disk, and only then puts it on the ring and gives the receipt.

Invariant: transactions are written one after the other, in the order of what they hold. When one fails nothing new
is taken until a later one succeeds: in `async` the one that failed is kept and written again, in `commit` its
publishers are told and its numbers were never seen by anybody.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec

from edge.core.errors import StoreUnavailable
from edge.core.event import Event
from edge.core.hub import Hub
from edge.core.idempotency import Answer, Entry, Key, Receipts, unknown_fate
from edge.core.ledger import LedgerState
from edge.core.observer import Batch, Receipt
from edge.core.project import Project, SavedProject
from edge.logs.setup import get_logger
from edge.store.base import StoreUnusableError
from edge.store.pending_commit import PendingCommit
from edge.store.rows import Batch as Transaction
from edge.store.rows import ProjectRow, ReceiptRow, Segment
from edge.store.sqlite_file import SqliteFile, SqliteFileError

_log = get_logger("store")
_RETRY_SECONDS = 0.5
_RETRY_AFTER_SECONDS = 1
_LOOK_SECONDS = 1.0


class SqliteStore:
    """`path` is the file; the hub must be empty until `open` has been awaited."""

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
    ) -> None:
        self._path = path
        self._hub = hub
        self._receipts = receipts
        self._clock = clock
        self._commit = commit
        self.at_once = not commit
        self._flush_seconds = flush_seconds
        self._keep_receipts_seconds = keep_receipts_seconds
        self._wall_offset_seconds = time.time() - clock()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="edge-store")
        self._file: SqliteFile | None = None
        self._problem: StoreUnavailable | None = None
        self.errors = 0
        self._touched: set[str] = set()
        self._unwritten: dict[Project, int] = {}
        """The first event of each that is on its ring and has not been written."""
        self._receipt_rows: dict[str, ReceiptRow | None] = {}
        """Rows to write; None for a key to drop."""
        self._held: list[PendingCommit] = []
        """Publishers whose event has to reach the disk first, in order."""
        self._intents: list[asyncio.Future[None]] = []
        self._urgent = asyncio.Event()
        """Somebody waits for the disk: don't gather any longer."""
        self._closing = False
        self._writer: asyncio.Task[None] | None = None
        self._looking: asyncio.TimerHandle | None = None

    @property
    def problem(self) -> StoreUnavailable | None:
        return self._problem

    async def open(self) -> None:
        """Read the file into the hub. Raises StoreUnavailable with what to do about it."""
        loop = asyncio.get_running_loop()
        try:
            self._file = await loop.run_in_executor(self._thread, SqliteFile, self._path)
            projects = await loop.run_in_executor(self._thread, self._file.projects)
            receipts = await loop.run_in_executor(self._thread, self._file.receipts)
        except SqliteFileError as error:
            if self._file is not None:
                await loop.run_in_executor(self._thread, self._file.close)
                self._file = None
            if error.final:
                raise StoreUnusableError(str(error)) from error
            raise StoreUnavailable(str(error), retry_after_seconds=_RETRY_SECONDS) from error
        now = self._clock()
        # The one published to last is restored last: when all together are too large, the one idle longest gives first.
        projects.sort(key=lambda stored: stored.times[-1] if stored.times else 0.0)
        self._hub.counters.misses.touched = self._touched
        for stored in projects:
            ledger = _shift(stored.row.ledger, -self._wall_offset_seconds)
            if stored.newest > stored.row.newest:
                unknown = ((stored.row.newest + 1, stored.newest),)
                ledger = msgspec.structs.replace(ledger, waiting=ledger.waiting + unknown)
            times = [at - self._wall_offset_seconds for at in stored.times]
            if times and max(times) > now:
                times = [min(at, now) for at in times]
            row = stored.row
            past = SavedProject(row.name, row.epoch, row.first_seq, stored.newest, stored.frames, times, ledger)
            self._hub.restore(past, now)
        for receipt in receipts:
            self._restore_receipt(receipt)
        self._receipts.settled = self._settled
        self._look()
        _log.info("store_opened", projects=len(projects), events=sum(len(one.frames) for one in projects))

    def publish(
        self,
        name: str,
        event: Event,
        now: float,
        key: Key | None = None,  # noqa: ARG002 - `settled` has it
    ) -> Receipt | Awaitable[Receipt]:
        if self._problem is not None:
            raise self._refusal()
        if self._commit:
            project, frame = self._hub.reserve(name, event, now)
            future: asyncio.Future[Receipt] = asyncio.get_running_loop().create_future()
            self._held.append(PendingCommit(project, frame, future))
            self._start()
            return future
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

    async def record_intent(self, key: Key, fingerprint: bytes, job_id: str) -> None:
        if self._problem is not None:
            raise self._refusal()
        name = _key_text(key)
        self._receipt_rows[name] = ReceiptRow(name, fingerprint, job_id, None, None, None, self._wall())
        written: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._intents.append(written)
        self._urgent.set()
        self._start()
        await written

    async def close(self) -> None:
        self._closing = True
        self._urgent.set()
        if self._looking is not None:
            self._looking.cancel()
        if self._writer is not None:
            await self._writer
        if self._file is not None:
            if (self._gathered or self._touched) and not await self._write():
                unwritten = sum(project.ring.newest - first + 1 for project, first in self._unwritten.items())
                _log.error("store_left_unwritten", events=unwritten)
            try:
                await asyncio.get_running_loop().run_in_executor(self._thread, self._file.close)
            except sqlite3.Error as error:
                _log.error("store_error", error=str(error))
            self._file = None
        self._thread.shutdown(wait=False)

    # Gathering

    def _note(self, name: str, count: int) -> None:
        """The `count` newest events of `name` are to be written."""
        project = self._hub.projects.get(name)
        # None: the bounds of the hub left no room for what was just published.
        if project is not None and project not in self._unwritten:
            self._unwritten[project] = project.ring.newest - count + 1
        self._start()

    def _settled(self, key: Key, entry: Entry | None) -> None:
        """A key was answered or dropped."""
        name = _key_text(key)
        if entry is None or entry.answer is None:
            self._receipt_rows[name] = None
        else:
            answer = entry.answer
            self._receipt_rows[name] = ReceiptRow(
                name, entry.fingerprint, None, answer.status, answer.content_type, answer.body, self._wall()
            )
        self._start()

    def _look(self) -> None:
        """Now and then, write what changed without an event (an eviction, a late miss), and give space back."""
        if self._touched or (self._file is not None and self._file.roomy):
            self._start()
        self._looking = asyncio.get_running_loop().call_later(_LOOK_SECONDS, self._look)

    def _start(self) -> None:
        if self._writer is None and self._file is not None and not self._closing:
            self._writer = asyncio.create_task(self._write_all())

    async def _write_all(self) -> None:
        """Gather and write in turns until nothing is left."""
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
        """Let something gather: the rest of this turn of the loop, or `flush_seconds` where nobody waits."""
        if self._commit:
            await asyncio.sleep(0)
            return
        try:
            async with asyncio.timeout(self._flush_seconds):
                await self._urgent.wait()
        except TimeoutError:
            return

    @property
    def _gathered(self) -> bool:
        return bool(self._unwritten or self._held or self._receipt_rows)

    async def _write(self) -> bool:
        """One transaction with all that has been gathered. Returns whether it succeeded."""
        assert self._file is not None
        batch, unwritten, rows, held, intents = (
            self._batch(), self._unwritten, self._receipt_rows, self._held, self._intents,
        )  # fmt: skip
        self._unwritten, self._receipt_rows, self._held, self._intents = {}, {}, [], []
        self._urgent.clear()
        try:
            await asyncio.get_running_loop().run_in_executor(self._thread, self._file.write, batch)
        except sqlite3.Error as error:
            self._failed(error, batch, unwritten, rows, held, intents)
            return False
        if self._problem is not None:
            self._problem = None
            _log.info("store_recovered")
        for one in held:
            one.done(self._hub.commit(one.project, one.frame, self._clock()))
            # The row of this transaction was made before: a later one has to say that its ledger knows the event.
            self._touched.add(one.project.name)
        for written in intents:
            if not written.done():
                written.set_result(None)
        return True

    def _batch(self) -> Transaction:
        segments = self._new_on_rings() + self._on_their_way()
        names = self._touched | {segment.project for segment in segments}
        self._touched.clear()
        rows: list[ProjectRow] = []
        gone: list[str] = []
        for name in names:
            if (project := self._hub.projects.get(name)) is None:
                gone.append(name)
                continue
            rows.append(self._row(project))
            if rows[-1].ledger.waiting:
                # Who has room for these is not known yet; look again.
                self._touched.add(name)
        return Transaction(
            segments=segments,
            projects=rows,
            gone=gone,
            receipts=[row for row in self._receipt_rows.values() if row is not None],
            dropped=[key for key, row in self._receipt_rows.items() if row is None],
            receipts_since_seconds=self._wall() - self._keep_receipts_seconds,
        )

    def _new_on_rings(self) -> list[Segment]:
        """What has not been written: neither what was deleted meanwhile, nor what its ring has given up."""
        segments = []
        for project, first in self._unwritten.items():
            ring = project.ring
            if len(ring) and self._hub.projects.get(project.name) is project:
                at_seconds = ring.published_at(max(first, ring.oldest)) + self._wall_offset_seconds
                frames = ring.newest_frames(ring.newest - first + 1)
                segments.append(_segment(project, ring.newest, at_seconds, frames))
        return segments

    def _on_their_way(self) -> list[Segment]:
        """What is on no ring yet; all that was reserved before it is."""
        frames: dict[Project, list[bytes]] = {}
        for one in self._held:
            if self._hub.projects.get(one.project.name) is one.project:
                frames.setdefault(one.project, []).append(one.frame)
        now = self._wall()
        return [_segment(project, project.ring.newest + len(some), now, some) for project, some in frames.items()]

    def _row(self, project: Project) -> ProjectRow:
        ring = project.ring
        ledger = _shift(project.ledger.state(ring.newest), self._wall_offset_seconds)
        return ProjectRow(project.name, project.epoch, project.first_seq, ring.oldest, ring.newest, ledger)

    def _failed(
        self,
        error: sqlite3.Error,
        batch: Transaction,
        unwritten: dict[Project, int],
        rows: dict[str, ReceiptRow | None],
        held: list[PendingCommit],
        intents: list[asyncio.Future[None]],
    ) -> None:
        """Nothing of `batch` was written: what was promised is kept for the next try, what was not is refused."""
        self.errors += 1
        full = error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_FULL
        if self._problem is None:
            _log.error("store_error", error=str(error), full=full)
        self._problem = StoreUnavailable(
            "The disk is full, so nothing published now could be kept; make room, then publish again."
            if full
            else f"The store can't write ({error}), so nothing published now could be kept; try again soon.",
            retry_after_seconds=_RETRY_AFTER_SECONDS,
            status=507 if full else None,
        )
        self._touched |= {row.name for row in batch.projects} | set(batch.gone)
        self._receipt_rows = rows | self._receipt_rows
        if self._commit:
            held += self._held
            self._held = []
            for project in {one.project for one in held}:
                self._hub.cancel_reservations(project)
            for one in held:
                one.refuse(self._refusal())
        self._unwritten |= unwritten
        for written in intents + self._intents:
            if not written.done():
                written.set_exception(self._refusal())
        self._intents = []

    def _refusal(self) -> StoreUnavailable:
        """A fresh exception each: one that is raised twice would gather the traces of both."""
        assert self._problem is not None
        problem = self._problem
        return StoreUnavailable(problem.detail, retry_after_seconds=problem.retry_after_seconds, status=problem.status)

    # Receipts

    def _restore_receipt(self, row: ReceiptRow) -> None:
        if row.status is None or row.body is None:
            answer = unknown_fate(row.job)
        else:
            answer = Answer(row.status, row.body, row.content_type or "application/json")
        answered_seconds = min(row.at_seconds - self._wall_offset_seconds, self._clock())
        self._receipts.restore(
            tuple(msgspec.json.decode(row.key, type=list[str])), row.fingerprint, answer, answered_seconds
        )

    def _wall(self) -> float:
        return self._clock() + self._wall_offset_seconds


def _key_text(key: Key) -> str:
    return msgspec.json.encode(key).decode()


def _segment(project: Project, last_seq: int, at_seconds: float, frames: list[bytes]) -> Segment:
    first_seq = last_seq - len(frames) + 1
    return Segment(project.name, project.epoch, first_seq, last_seq, at_seconds, b"".join(frames))


def _shift(ledger: LedgerState, by_seconds: float) -> LedgerState:
    """`ledger` with its moments moved from one clock to another."""
    first, last = ledger.first_miss_seconds, ledger.last_miss_seconds
    return msgspec.structs.replace(
        ledger,
        first_miss_seconds=None if first is None else first + by_seconds,
        last_miss_seconds=None if last is None else last + by_seconds,
    )
