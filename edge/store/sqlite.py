"""The embedded store: published events also go to a SQLite file, and are restored from it when the process restarts.

`async` returns the receipt at once and can lose the last `flush_seconds` when the process is killed: events are on
their ring, and the writer writes what the ring holds beyond the last transaction. `commit` numbers an event, writes it
to the disk, and only then puts it on the ring and returns the receipt.

Invariants:
    * Transactions are written one after another, in the order of their events. When one fails, nothing new is accepted
      until a later one succeeds: in `async` the failed one is kept and written again; in `commit` its publishers are
      refused, and its numbers were never seen.
    * An id never means two events: each process assigns ids in new epochs. Events of an earlier process keep their ids;
      where the end of that history may be lost, a subscriber that resumes from it gets a `restart` gap.
    * An event published under an idempotency key is in the same transaction as the key and its response.

Times in the file are on the file's own clock, which never goes back and does not follow the wall clock when that is
set. The file also holds how far the wall clock is ahead of it.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Sequence

import msgspec

from edge.core.errors import StoreUnavailable
from edge.core.event import Event
from edge.core.idempotency import Answer, Key, unknown_fate
from edge.core.observer import Batch, Receipt
from edge.core.saved import PastEpoch, SavedProject
from edge.logs.setup import get_logger
from edge.store.base import Keyed, StoreUnusableError
from edge.store.sqlite_file import SqliteFile, SqliteFileError
from edge.store.sqlite_transaction import PendingCommit, ReceiptRow, key_text, receipt_row, shifted
from edge.store.sqlite_writer import SqliteWriter

_log = get_logger("store")
_EARLIER_EPOCHS_KEPT = 16
"""Beyond those of held events. A subscriber with an older id gets a `restart` gap."""


class SqliteStore(SqliteWriter):
    """`path` is the file; the hub must be empty until `open` has returned."""

    async def open(self) -> None:
        try:
            file, projects, receipts = await self._worker.call(self._read_file)
        except SqliteFileError as error:
            self.problem = StoreUnavailable(f"The history can't be opened: {error}.")
            raise self._refusal() from error
        self._file = file
        # The most recently published project is restored last: if all together are too large, the idlest goes first.
        projects.sort(key=lambda saved: saved.times[-1] if saved.times else 0.0)
        # A wall clock that was set back, or lost by a board without a battery, may be behind the last times written.
        latest = [saved.times[-1] for saved in projects[-1:] if saved.times] + [row.at_seconds for row in receipts]
        self._offset_seconds = max([time.time() - file.drift_seconds, *latest]) - self._clock()
        self._hub.counters.misses.touched = self._gathered.touched
        for saved in projects:
            self._restore(saved, file)
        for receipt in receipts:
            self._restore_receipt(receipt)
        self.problem = None
        self._wanted.set()
        self._writer = self.supervisor.keep_running("store_writer", self._write_all)
        events = sum(len(saved.frames) for saved in projects)
        _log.info("store_opened", projects=len(projects), events=events, whole=file.whole)

    def _read_file(self) -> tuple[SqliteFile, list[SavedProject], list[ReceiptRow]]:
        file = SqliteFile(self._path, commit=self.commit)
        try:
            return file, file.projects(), file.receipts()
        except (SqliteFileError, StoreUnusableError):
            file.abandon()
            raise

    def _restore(self, saved: SavedProject, file: SqliteFile) -> None:
        """Restore a project in the hub, to continue under a new epoch."""
        now, epoch = self._clock(), self._hub.new_epoch()
        earlier = [*saved.earlier, PastEpoch(saved.epoch, saved.newest, file.whole)]
        assert file.index is not None
        file.index.continue_under(saved.name, epoch)
        continued = msgspec.structs.replace(
            saved,
            epoch=epoch,
            times=[min(at - self._offset_seconds, now) for at in saved.times],
            ledger=shifted(saved.ledger, -self._offset_seconds),
            earlier=_bounded(earlier, saved.newest - len(saved.frames) + 1),
        )
        self._hub.restore(continued, now)
        if not file.whole:  # record it for the next process, even if nothing else is written until then
            self._gathered.touched.add(saved.name)

    def _restore_receipt(self, row: ReceiptRow) -> None:
        if row.status is None or row.body is None:
            answer = unknown_fate(row.job)
        else:
            answer = Answer(row.status, row.body, row.content_type or "application/json")
        key = tuple(msgspec.json.decode(row.key, type=list[str]))
        self._receipts.restore(key, row.fingerprint, answer, min(row.at_seconds - self._offset_seconds, self._clock()))

    def publish(self, name: str, event: Event, now: float, keyed: Keyed | None = None) -> Receipt | Awaitable[Receipt]:
        if self.problem is not None:
            raise self._refusal()
        if self.commit:
            project, frame = self._hub.reserve(name, event, now)
            pending = PendingCommit(project, frame, keyed)
            self._gathered.pending.append(pending)
            self._wanted.set()
            return pending.future
        # With a key, `settle` follows in the same turn of the loop, and so in the same transaction.
        receipt = self._hub.publish(name, event, now)
        self._mark_unwritten(name, 1)
        return receipt

    def publish_many(self, name: str, events: Sequence[Event], now: float) -> Batch | None:
        """None with `commit`, where each event has its own promise, and while the store can't write."""
        if self.commit or self.problem is not None:
            return None
        batch = self._hub.publish_many(name, events, now)
        self._mark_unwritten(name, len(events))
        return batch

    def _mark_unwritten(self, name: str, count: int) -> None:
        """Mark the `count` newest events of `name` as unwritten."""
        project = self._hub.projects.get(name)
        # None: the hub's limits left no room for what was just published.
        if project is not None and project not in self._gathered.unwritten:
            self._gathered.unwritten[project] = project.ring.newest - count + 1
        self._wanted.set()

    async def deleted(self, name: str) -> None:
        self._gathered.deleted.add(name)
        if not self.commit:
            self._wanted.set()
            return
        if self.problem is not None:
            raise self._refusal()
        await self._written(or_refused=True)

    async def record_intent(self, key: Key, job_id: str) -> None:
        if self.problem is not None:
            raise self._refusal()
        await super().record_intent(key, job_id)
        text, fingerprint = key_text(key), self._receipts.in_progress(key).fingerprint
        self._gathered.receipts[text] = ReceiptRow(text, fingerprint, job_id, None, None, None, self._now())
        await self._written(or_refused=True)

    async def settle(self, key: Key, answer: Answer | None) -> None:
        entry = self._receipts.in_progress(key)
        if key in self._remembered:
            self._remembered.discard(key)
        elif answer is not None:
            row = receipt_row(key, entry.fingerprint, answer, self._now())
            self._gathered.receipts[row.key] = row
            if entry.job_id is not None and self.problem is None:
                # If killed before this is written, the next process would report a finished job as possibly started.
                await self._written(or_refused=False)
        elif entry.job_id is not None:
            self._gathered.receipts[key_text(key)] = None
        self._wanted.set()
        # Kept first: those that wait for it get it when it can't be lost any more.
        await super().settle(key, answer)


def _bounded(earlier: list[PastEpoch], oldest: int) -> tuple[PastEpoch, ...]:
    """Without the oldest of too many epochs that have no event from number `oldest` on."""
    last_seqs = [oldest - 1, *(past.last_seq for past in earlier)]
    unused = [place for place, past in enumerate(earlier) if past.last_seq <= max(oldest - 1, last_seqs[place])]
    for place in reversed(unused[: max(0, len(unused) - _EARLIER_EPOCHS_KEPT)]):
        gone = earlier.pop(place)
        if place:  # what may be lost behind it may be lost behind the one before
            before = earlier[place - 1]
            earlier[place - 1] = msgspec.structs.replace(before, whole=before.whole and gone.whole)
    return tuple(earlier)
