"""The file under the SQLite store: which rows it holds after any history, and how it gives space back."""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge.core.ledger import LedgerState
from edge.store.base import StoreUnusableError
from edge.store.sqlite_file import SqliteFile
from edge.store.sqlite_transaction import ProjectRow, ReceiptRow, Segment, Transaction

EMPTY = Transaction()
RING = 6


class Model:
    """What the rings of a hub hold."""

    def __init__(self) -> None:
        self.epochs: dict[str, int] = defaultdict(int)
        self.newest: dict[str, int] = {}

    def batch(self, published: dict[str, int], deleted: set[str]) -> Transaction:
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
        return Transaction(segments, rows, [name for name in deleted if name not in self.newest])

    def _epoch(self, name: str) -> str:
        return f"e{self.epochs[name]}"

    def _text(self, name: str, first: int, last: int) -> bytes:
        return b"".join(b"id: %b-%d\n\n" % (self._epoch(name).encode(), seq) for seq in range(first, last + 1))

    def rings(self) -> dict[str, tuple[int, bytes]]:
        return {
            name: (newest, self._text(name, max(1, newest - RING + 1), newest)) for name, newest in self.newest.items()
        }


def rings(file: SqliteFile) -> dict[str, tuple[int, bytes]]:
    return {one.name: (one.newest, b"".join(one.frames[-RING:])) for one in file.projects()}


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
    file, model = SqliteFile(path), Model()
    for number, (published, deleted) in enumerate(steps):
        batch = model.batch(published, deleted)
        if number in failed:
            with pytest.raises(sqlite3.Error):
                file.write(batch._replace(receipts=[("not", "enough")]))  # type: ignore[list-item]
        if number in reopened:
            file.close(clean=True)
            file = SqliteFile(path)
        file.write(batch)
        held = file._db.execute("SELECT project, epoch, last_seq FROM segments").fetchall()
        for name, epoch, last_seq in held:
            assert f"e{model.epochs[name]}" == epoch
            assert last_seq > model.newest[name] - RING
    assert model.rings() == rings(file)
    file.close(clean=True)


def test_receipts_past_their_time_are_looked_for_now_and_then(tmp_path: Path) -> None:
    file = SqliteFile(tmp_path / "h.db")
    file.projects()
    for key, at_seconds in (("old", 5.0), ("young", 900.0)):
        file.write(EMPTY._replace(receipts=[ReceiptRow(key, b"", None, 200, None, b"", at_seconds)]))
    file.write(EMPTY._replace(receipts_since_seconds=10.0))
    assert ["old", "young"] == [row.key for row in file.receipts()]
    file.write(EMPTY._replace(receipts_since_seconds=600.0))
    assert ["young"] == [row.key for row in file.receipts()]
    file.close(clean=True)


def test_what_is_given_up_is_given_back_when_there_is_nothing_else_to_do(tmp_path: Path) -> None:
    file = SqliteFile(tmp_path / "h.db")
    row = ProjectRow("p", "e", 1, 1, 1, LedgerState())
    for seq in range(1, 101):
        segment = Segment("p", "e", seq, seq, 1.0, b"x" * 100_000 + b"\n\n")
        file.write(EMPTY._replace(segments=[segment], projects=[row._replace(newest=seq)]))
    file.write(EMPTY._replace(projects=[row._replace(oldest=96, newest=100)]))
    given_back = [_given_back(file) for _ in range(4)]
    assert [1024, 0] == [given_back[0], given_back[3]]
    assert 2_000_000 > file._db.execute("PRAGMA page_count").fetchone()[0] * 4096
    assert [b"x" * 100_000 + b"\n\n"] * 5 == file.projects()[0].frames
    file.close(clean=True)


def test_a_row_of_no_project_is_reported_and_kept(tmp_path: Path) -> None:
    file = SqliteFile(tmp_path / "h.db")
    file._db.execute("INSERT INTO segments VALUES ('p', 'e', 1, 1, 1.0, x'0a0a')")
    with pytest.raises(StoreUnusableError, match="belongs to no project"):
        file.projects()
    file.close(clean=True)


def _given_back(file: SqliteFile) -> int:
    """How many pages one write of nothing gives back."""
    before = file._free_pages()
    file.write(EMPTY)
    return before - file._free_pages()
