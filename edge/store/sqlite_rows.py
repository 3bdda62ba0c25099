"""What one transaction of the SQLite store writes, and which rows of the file hold whose events."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from edge.core.ledger import LedgerState
from edge.core.saved import PastEpoch


class Segment(NamedTuple):
    """Events `first_seq..last_seq` of one project, published at `at_seconds` of the file's clock."""

    project: str
    epoch: str
    first_seq: int
    last_seq: int
    at_seconds: float
    frames: bytes


class ProjectRow(NamedTuple):
    """A project as the hub knows it: ring bounds and ledger (its moments on the file's clock)."""

    name: str
    epoch: str
    first_seq: int
    oldest: int
    newest: int
    ledger: LedgerState
    earlier: tuple[PastEpoch, ...] = ()
    finished: bool = False


class ReceiptRow(NamedTuple):
    """An idempotency key: answered, or (`status` None) with job `job` about to be sent."""

    key: str
    fingerprint: bytes
    job: str | None
    status: int | None
    content_type: str | None
    body: bytes | None
    at_seconds: float


class Transaction(NamedTuple):
    """What is written together."""

    segments: Sequence[Segment] = ()
    projects: Sequence[ProjectRow] = ()
    dropped_projects: Sequence[str] = ()
    receipts: Sequence[ReceiptRow] = ()
    dropped_keys: Sequence[str] = ()
    """Keys whose request did nothing after all."""
    receipts_since_seconds: float = 0.0
    """Receipts answered before this moment are no longer remembered."""
    drift_seconds: float = 0.0
    """How far the wall clock is ahead of the file's clock."""

    @property
    def idle(self) -> bool:
        """Nothing is added or changed."""
        return not (self.segments or self.projects or self.receipts)


class Change(NamedTuple):
    """What one transaction does to the table of segments."""

    added: list[tuple[object, ...]]
    """Row number and columns."""
    removed: list[tuple[int, int]]
    """Row numbers, first and last of each run."""
    cut: list[tuple[_Rows, int]]


class _Rows:
    """Of one project: row number and number of the last event, alternating, oldest first."""

    __slots__ = ("epoch", "held")

    def __init__(self, epoch: str) -> None:
        self.epoch = epoch
        self.held = array("q")

    def before(self, oldest: int) -> int:
        """How many items of `held` belong to segments that end before event `oldest`."""
        at = 0
        while at < len(self.held) and self.held[at + 1] < oldest:
            at += 2
        return at


class SegmentIndex:
    """Which rows hold whose events, so that they are removed without a search.

    Invariant: after each transaction it names exactly the rows of the table `segments`. They are numbered in the order
    they are written in, so those of a project are in the order of its events. It takes sixteen bytes a segment.
    """

    def __init__(self) -> None:
        self._projects: dict[str, _Rows] = {}
        self._next_row = 1

    def put(self, row: int, name: str, epoch: str, last_seq: int) -> None:
        """Row `row`, the last one, holds events of project `name` up to `last_seq`."""
        rows = self._projects.get(name)
        if rows is None or rows.epoch != epoch:
            rows = self._projects[name] = _Rows(epoch)
        rows.held.append(row)
        rows.held.append(last_seq)
        self._next_row = row + 1

    def go_on(self, name: str, epoch: str) -> None:
        """The history of `name` goes on under `epoch`."""
        if rows := self._projects.get(name):
            rows.epoch = epoch

    def change(self, batch: Transaction) -> Change:
        """What writing `batch` means; nothing is changed before `apply`."""
        cut = [(rows, len(rows.held)) for name in batch.dropped_projects if (rows := self._projects.get(name))]
        for project in batch.projects:
            rows = self._projects.get(project.name)
            if rows is not None:
                cut.append((rows, rows.before(project.oldest) if rows.epoch == project.epoch else len(rows.held)))
        return Change(
            [(row, *segment) for row, segment in enumerate(batch.segments, self._next_row)],
            _runs(row for rows, count in cut for row in rows.held[:count:2]),
            cut,
        )

    def apply(self, batch: Transaction, change: Change) -> None:
        """`batch` was written."""
        for rows, count in change.cut:
            del rows.held[:count]
        for name in batch.dropped_projects:
            self._projects.pop(name, None)
        for row, segment in enumerate(batch.segments, self._next_row):
            self.put(row, segment.project, segment.epoch, segment.last_seq)


def _runs(numbers: Iterable[int]) -> list[tuple[int, int]]:
    """Sorted, and consecutive ones as one."""
    runs: list[tuple[int, int]] = []
    for number in sorted(numbers):
        if runs and runs[-1][1] == number - 1:
            runs[-1] = (runs[-1][0], number)
        else:
            runs.append((number, number))
    return runs
