"""The file under the SQLite store: which rows it holds after any history, and how it gives space back."""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge.core.ledger import LedgerState
from edge.store.rows import Batch, ProjectRow, ReceiptRow, Segment
from edge.store.sqlite_file import SqliteFile, SqliteFileError

EMPTY = Batch([], [], [], [], [], 0.0)
RING = 6


class Model:
    """What the rings of a hub hold."""

    def __init__(self) -> None:
        self.epochs: dict[str, int] = defaultdict(int)
        self.newest: dict[str, int] = {}

    def batch(self, published: dict[str, int], deleted: set[str]) -> Batch:
        """Delete, then publish so many events to each."""
        for name in deleted & self.newest.keys():
            del self.newest[name]
            self.epochs[name] += 1
        segments, rows = [], []
        for name, count in published.items():
            first = self.newest.get(name, 0) + 1
            self.newest[name] = last = first + count - 1
            first = max(first, last - RING + 1)
            segments.append(Segment(name, self._epoch(name), first, last, 1.0, self._text(name, first, last)))
            rows.append(ProjectRow(name, self._epoch(name), 1, max(1, last - RING + 1), last, LedgerState()))
        return Batch(segments, rows, [name for name in deleted if name not in self.newest], [], [], 0.0)

    def _epoch(self, name: str) -> str:
        return f"e{self.epochs[name]}"

    def _text(self, name: str, first: int, last: int) -> bytes:
        return b"".join(b"id: %b-%d\n\n" % (self._epoch(name).encode(), seq) for seq in range(first, last + 1))

    def rings(self) -> dict[str, tuple[int, bytes]]:
        return {
            name: (newest, self._text(name, max(1, newest - RING + 1), newest)) for name, newest in self.newest.items()
        }


def rings(journal: SqliteFile) -> dict[str, tuple[int, bytes]]:
    return {one.row.name: (one.newest, b"".join(one.frames[-RING:])) for one in journal.projects()}


STEPS = st.lists(
    st.tuples(st.dictionaries(st.sampled_from("abc"), st.integers(1, RING + 2)), st.sets(st.sampled_from("abc"))),
    max_size=25,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS, reopened=st.sets(st.integers(0, 24)), failed=st.sets(st.integers(0, 24)))
def test_the_file_holds_what_the_rings_hold_and_at_most_a_segment_a_project_more(
    tmp_path_factory: pytest.TempPathFactory,
    steps: list[tuple[dict[str, int], set[str]]],
    reopened: set[int],
    failed: set[int],
) -> None:
    path = tmp_path_factory.mktemp("rows") / "h.db"
    journal, model = SqliteFile(path), Model()
    for number, (published, deleted) in enumerate(steps):
        batch = model.batch(published, deleted)
        if number in failed:
            with pytest.raises(sqlite3.Error):
                journal.write(batch._replace(receipts=[("not", "enough")]))  # type: ignore[list-item]
        if number in reopened:
            journal.close()
            journal = SqliteFile(path)
        journal.write(batch)
        held = journal._db.execute("SELECT project, epoch, last_seq FROM segments").fetchall()
        for name, epoch, last_seq in held:
            assert f"e{model.epochs[name]}" == epoch
            assert last_seq > model.newest[name] - RING
    assert model.rings() == rings(journal)
    journal.close()


def test_receipts_past_their_time_are_looked_for_now_and_then(tmp_path: Path) -> None:
    journal = SqliteFile(tmp_path / "h.db")
    journal.projects()
    for key, at_seconds in (("old", 5.0), ("young", 900.0)):
        journal.write(EMPTY._replace(receipts=[ReceiptRow(key, b"", None, 200, None, b"", at_seconds)]))
    journal.write(EMPTY._replace(receipts_since_seconds=10.0))
    assert ["old", "young"] == [row.key for row in journal.receipts()]
    journal.write(EMPTY._replace(receipts_since_seconds=600.0))
    assert ["young"] == [row.key for row in journal.receipts()]
    journal.close()


def test_what_is_given_up_is_given_back_when_there_is_nothing_else_to_do(tmp_path: Path) -> None:
    journal = SqliteFile(tmp_path / "h.db")
    row = ProjectRow("p", "e", 1, 1, 1, LedgerState())
    for seq in range(1, 101):
        segment = Segment("p", "e", seq, seq, 1.0, b"x" * 100_000 + b"\n\n")
        journal.write(EMPTY._replace(segments=[segment], projects=[row._replace(newest=seq)]))
    journal.write(EMPTY._replace(projects=[row._replace(oldest=96, newest=100)]))
    given_back = [_given_back(journal) for _ in range(4)]
    assert [1024, 0] == [given_back[0], given_back[3]]
    assert 2_000_000 > journal._db.execute("PRAGMA page_count").fetchone()[0] * 4096
    assert [b"x" * 100_000 + b"\n\n"] * 5 == journal.projects()[0].frames
    journal.close()


def test_a_row_of_no_project_is_told_and_left_as_it_is(tmp_path: Path) -> None:
    journal = SqliteFile(tmp_path / "h.db")
    journal._db.execute("INSERT INTO segments VALUES ('p', 'e', 1, 1, 1.0, x'0a0a')")
    with pytest.raises(SqliteFileError, match="belongs to no project"):
        journal.projects()
    journal.close()


def _given_back(journal: SqliteFile) -> int:
    """How many pages one write of nothing gives back."""
    before = journal._free_pages()
    journal.write(EMPTY)
    return before - journal._free_pages()
