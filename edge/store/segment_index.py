"""Which rows of the file hold whose events, so that they are given up without being looked for.

Invariant: after each transaction it names exactly the rows of the table `segments`. They are numbered in the order they
are written in, so those of a project stand in the order of its events. It takes sixteen bytes a segment.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from typing import NamedTuple

from edge.store.rows import Batch


class Change(NamedTuple):
    """What one transaction does to the table."""

    added: list[tuple[object, ...]]
    """Row number and columns."""
    given_up: list[tuple[int, int]]
    """Row numbers, first and last of each run."""
    cut: list[tuple[_Rows, int]]


class _Rows:
    """Of one project: row number and number of the last event, by turns, oldest first."""

    __slots__ = ("epoch", "held")

    def __init__(self, epoch: str) -> None:
        self.epoch = epoch
        self.held = array("q")

    def before(self, oldest: int) -> int:
        """How many numbers of `held` stand for segments that end before event `oldest`."""
        at = 0
        while at < len(self.held) and self.held[at + 1] < oldest:
            at += 2
        return at


class SegmentIndex:
    """The rows of one file."""

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

    def change(self, batch: Batch) -> Change:
        """What writing `batch` means; nothing is changed before `apply`."""
        cut = [(rows, len(rows.held)) for name in batch.gone if (rows := self._projects.get(name))]
        for project in batch.projects:
            rows = self._projects.get(project.name)
            if rows is not None:
                cut.append((rows, rows.before(project.oldest) if rows.epoch == project.epoch else len(rows.held)))
        return Change(
            [(row, *segment) for row, segment in enumerate(batch.segments, self._next_row)],
            _runs(row for rows, count in cut for row in rows.held[:count:2]),
            cut,
        )

    def apply(self, batch: Batch, change: Change) -> None:
        """`batch` was written."""
        for rows, count in change.cut:
            del rows.held[:count]
        for name in batch.gone:
            self._projects.pop(name, None)
        for row, segment in enumerate(batch.segments, self._next_row):
            self.put(row, segment.project, segment.epoch, segment.last_seq)


def _runs(numbers: Iterable[int]) -> list[tuple[int, int]]:
    """Sorted, and those that follow each other as one."""
    runs: list[tuple[int, int]] = []
    for number in sorted(numbers):
        if runs and runs[-1][1] == number - 1:
            runs[-1] = (runs[-1][0], number)
        else:
            runs.append((number, number))
    return runs
