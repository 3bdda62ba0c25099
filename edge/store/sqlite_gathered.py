"""What gathers on the event loop for the next transaction of the SQLite store."""

from __future__ import annotations

import asyncio
from itertools import islice

import msgspec

from edge.core.hub import Hub
from edge.core.idempotency import Answer, Key
from edge.core.ledger import LedgerState
from edge.core.observer import Receipt
from edge.core.project import Project
from edge.core.registry import DroppedProject
from edge.store.base import Keyed
from edge.store.sqlite_rows import ProjectRow, ReceiptRow, Segment


class PendingCommit:
    """A publisher that waits for the disk; its event is on no ring before it is there."""

    __slots__ = ("frame", "future", "keyed", "project", "remembered")

    def __init__(self, project: Project, frame: bytes, keyed: Keyed | None) -> None:
        self.project = project
        self.frame = frame
        self.keyed = keyed
        self.remembered: Answer | None = None
        """What the transaction says of the key."""
        self.future: asyncio.Future[Receipt] = asyncio.get_running_loop().create_future()

    def give(self, receipt: Receipt) -> None:
        if not self.future.done():
            self.future.set_result(receipt)


class Gathered:
    """`touched`: projects whose history or ledger has changed; the hub adds to it."""

    __slots__ = ("answers", "deleted", "intents", "pending", "receipts", "touched", "unwritten")

    def __init__(self) -> None:
        self.touched: set[str] = set()
        self.deleted: set[str] = set()
        self.unwritten: dict[Project, int] = {}
        """The first event of each that is on its ring and has not been written."""
        self.pending: list[PendingCommit] = []
        self.receipts: dict[str, ReceiptRow | None] = {}
        """Rows to write; None for a key to drop."""
        self.intents: list[asyncio.Future[None]] = []
        """Jobs that are sent once it is written."""
        self.answers: list[asyncio.Future[None]] = []
        """Answers that are given once it is written."""

    def __bool__(self) -> bool:
        return bool(self.unwritten or self.pending or self.receipts or self.deleted)

    def take(self, most: int) -> Gathered:
        """What one transaction writes: all of it but for projects beyond `most`, which stay.

        No event is parted from its key: with keys, all events are taken.
        """
        taken = Gathered()
        first = list(self.unwritten.items()) if self.receipts else list(islice(self.unwritten.items(), most))
        for project, seq in first:
            taken.unwritten[project] = seq
            del self.unwritten[project]
        taken.touched.update(islice(self.touched, max(0, most - len(first))))
        self.touched -= taken.touched
        taken.deleted, self.deleted = self.deleted, set()
        taken.pending, self.pending = self.pending, []
        taken.receipts, self.receipts = self.receipts, {}
        taken.intents, self.intents = self.intents, []
        taken.answers, self.answers = self.answers, []
        return taken

    def put_back(self, earlier: Gathered) -> None:
        """`earlier` was taken and not written."""
        self.touched |= earlier.touched
        self.deleted |= earlier.deleted
        self.unwritten |= earlier.unwritten
        self.pending = earlier.pending + self.pending
        self.receipts = earlier.receipts | self.receipts
        self.intents = earlier.intents + self.intents
        self.answers = earlier.answers + self.answers

    def segments(self, hub: Hub, offset_seconds: float, now_seconds: float) -> list[Segment]:
        """The events: neither those deleted meanwhile, nor those that their ring has evicted.

        `offset_seconds`: the file's clock, which says `now_seconds`, is so far ahead of the hub's.
        """
        segments = []
        for project, first in self.unwritten.items():
            ring = project.ring
            if len(ring) and hub.projects.get(project.name) is project:
                at_seconds = ring.published_at(max(first, ring.oldest)) + offset_seconds
                frames = ring.newest_frames(ring.newest - first + 1)
                segments.append(_segment(project, ring.newest, at_seconds, frames))
        # On no ring yet; all that was reserved before is.
        coming: dict[Project, list[bytes]] = {}
        for one in self.pending:
            if hub.projects.get(one.project.name) is one.project:
                coming.setdefault(one.project, []).append(one.frame)
        for project, frames in coming.items():
            segments.append(_segment(project, project.ring.newest + len(frames), now_seconds, frames))
        return segments

    def keyed_rows(self, now_seconds: float) -> list[ReceiptRow]:
        """What the keys of pending events will remember, if their subscribers are still the same then."""
        rows = []
        newest: dict[Project, int] = {}
        ids: list[str] = []
        for place, one in enumerate(self.pending):
            project = one.project
            seq = newest[project] = newest.get(project, project.ring.newest) + 1
            ids.append(project.event_id(seq))
            if one.keyed is not None:
                first = place + 1 - len(one.keyed.projects)
                receipts = [
                    Receipt(each.project.name, event_id, len(each.project.connections), not each.project.connections)
                    for each, event_id in zip(self.pending[first : place + 1], ids[first:], strict=True)
                ]
                one.remembered = one.keyed.answered(receipts)
                rows.append(receipt_row(one.keyed.key, one.keyed.fingerprint, one.remembered, now_seconds))
        return rows


def project_row(project: Project, offset_seconds: float) -> ProjectRow:
    ring = project.ring
    ledger = shifted(project.ledger.state(ring.newest), offset_seconds)
    return ProjectRow(
        project.name,
        project.epoch,
        project.first_seq,
        ring.oldest,
        ring.newest,
        ledger,
        project.earlier,
        project.finished,
    )


def dropped_row(name: str, past: DroppedProject) -> ProjectRow:
    """The row of a dropped project: where its numbers continue."""
    after = past.newest + 1
    return ProjectRow(name, past.epoch, after, after, past.newest, LedgerState(), past.earlier, past.finished)


def receipt_row(key: Key, fingerprint: bytes, answer: Answer, at_seconds: float) -> ReceiptRow:
    return ReceiptRow(key_text(key), fingerprint, None, answer.status, answer.content_type, answer.body, at_seconds)


def key_text(key: Key) -> str:
    return msgspec.json.encode(key).decode()


def shifted(ledger: LedgerState, by_seconds: float) -> LedgerState:
    """`ledger` with its moments moved from one clock to another."""
    first, last = ledger.first_miss_seconds, ledger.last_miss_seconds
    return msgspec.structs.replace(
        ledger,
        first_miss_seconds=None if first is None else first + by_seconds,
        last_miss_seconds=None if last is None else last + by_seconds,
    )


def _segment(project: Project, last_seq: int, at_seconds: float, frames: list[bytes]) -> Segment:
    first_seq = last_seq - len(frames) + 1
    return Segment(project.name, project.epoch, first_seq, last_seq, at_seconds, b"".join(frames))
