"""What a process knows of the history that earlier ones wrote: what is whole, what may be lost, how old it is."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import time
from pathlib import Path

import pytest

from edge.cli.store_copy import backup
from edge.core import resume
from edge.core.errors import StoreUnavailable
from edge.core.idempotency import Answer
from edge.core.limits import Limits
from edge.store import sqlite, sqlite_writer
from edge.store.sqlite_file import SqliteFile, SqliteFileError
from tests.store.rig import Rig, life, until

HOUR = 3600.0


@pytest.fixture(params=[False, True], ids=["async", "commit"])
def commit(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


class Wall:
    """A wall clock that can be set."""

    def __init__(self) -> None:
        self.ahead_seconds = 0.0
        self._time = time.time

    def time(self) -> float:
        return self._time() + self.ahead_seconds


@pytest.fixture
def wall(monkeypatch: pytest.MonkeyPatch) -> Wall:
    clock = Wall()
    monkeypatch.setattr(time, "time", clock.time)
    return clock


async def publish(rig: Rig, count: int) -> list[str]:
    return [(await rig.publish(str(number))).id for number in range(count)]


async def test_after_an_orderly_end_every_id_is_good(tmp_path: Path, commit: bool) -> None:
    ids: list[str] = []
    for _ in range(3):
        async with life(tmp_path / "h.db", commit=commit) as rig:
            if ids:
                assert (ids[1:], []) == rig.resumed(ids[0])
                assert ([], []) == rig.resumed(ids[-1])
            ids += await publish(rig, 2)
    assert 3 == len({event_id.rpartition("-")[0] for event_id in ids})


async def test_after_a_kill_commit_lost_nothing_and_async_says_that_it_may_have(tmp_path: Path, commit: bool) -> None:
    async with life(tmp_path / "h.db", commit=commit) as rig:
        ids = await publish(rig, 3)
        await rig.written()
        await rig.crash()
    async with life(tmp_path / "h.db", commit=commit) as rig:
        new = await publish(rig, 1)
        assert ((ids[1:] + new, []) if commit else (ids + new, ["restart"])) == rig.resumed(ids[0])
        assert (new, []) == rig.resumed(new[0]) or ([], []) == rig.resumed(new[0])


async def test_an_id_that_was_lost_is_never_given_again(tmp_path: Path) -> None:
    async with life(tmp_path / "h.db", commit=False) as rig:
        kept = await publish(rig, 2)
        await rig.written()
        lost = (await rig.publish("gone before it was written")).id
        await rig.crash()
    async with life(tmp_path / "h.db", commit=False) as rig:
        new = await publish(rig, 2)
        assert lost not in new
        assert (kept + new, ["restart"]) == rig.resumed(lost)


async def test_possible_losses_are_reported_by_later_processes_too(tmp_path: Path) -> None:
    async with life(tmp_path / "h.db", commit=False) as rig:
        old = await publish(rig, 2)
        await rig.written()
        await rig.crash()
    async with life(tmp_path / "h.db", commit=False):
        pass
    async with life(tmp_path / "h.db", commit=False) as rig:
        new = await publish(rig, 1)
    async with life(tmp_path / "h.db", commit=False) as rig:
        assert (old + new, ["restart"]) == rig.resumed(old[0])
        assert ([], []) == rig.resumed(new[0])


async def test_a_life_of_which_nothing_was_written_breaks_the_history_before_it(tmp_path: Path) -> None:
    async with life(tmp_path / "h.db", commit=False) as rig:
        old = await publish(rig, 2)
    async with life(tmp_path / "h.db", commit=False, flush_seconds=60.0) as rig:
        lost = await publish(rig, 1)
        await rig.crash()
    async with life(tmp_path / "h.db", commit=False) as rig:
        assert (old, ["restart"]) == rig.resumed(old[0])
        assert (old, ["restart"]) == rig.resumed(lost[0])


@pytest.mark.parametrize("with_its_lock", [False, True])
async def test_an_older_copy_put_back_gives_no_id_twice(tmp_path: Path, commit: bool, with_its_lock: bool) -> None:
    path, copy = tmp_path / "h.db", tmp_path / "copy"
    async with life(path, commit=commit) as rig:
        old = await publish(rig, 2)
    copy.mkdir()
    for name in ("h.db", "h.db-lock"):
        shutil.copy(tmp_path / name, copy)
    async with life(path, commit=commit) as rig:
        lost = await publish(rig, 2)
    shutil.copy(copy / "h.db", path)
    if with_its_lock:
        shutil.copy(copy / "h.db-lock", tmp_path)
    async with life(path, commit=commit) as rig:
        new = await publish(rig, 2)
        assert not {*old, *lost} & {*new}
        assert (old + new, ["restart"]) == rig.resumed(lost[-1])
        if not with_its_lock:  # then the file itself looks like the last one
            assert (old + new, ["restart"]) == rig.resumed(old[0])


async def test_a_file_that_was_moved_may_be_an_older_one(tmp_path: Path, commit: bool) -> None:
    async with life(tmp_path / "h.db", commit=commit) as rig:
        ids = await publish(rig, 2)
    (tmp_path / "h.db").rename(tmp_path / "moved.db")
    async with life(tmp_path / "moved.db", commit=commit) as rig:
        assert (ids, ["restart"]) == rig.resumed(ids[0])


async def test_a_backup_of_a_file_in_use_is_whole_and_taken_for_a_backup(tmp_path: Path, commit: bool) -> None:
    async with life(tmp_path / "h.db", commit=commit) as rig:
        ids = await publish(rig, 50)
        await rig.written()
        await asyncio.to_thread(backup, f"sqlite:{tmp_path / 'h.db'}", tmp_path / "backup.db")
        await publish(rig, 5)
    assert 0o600 == (tmp_path / "backup.db").stat().st_mode & 0o777
    shutil.copy(tmp_path / "backup.db", tmp_path / "h.db")
    async with life(tmp_path / "h.db", commit=commit) as rig:
        assert (ids, ["restart"]) == rig.resumed(ids[0])
        assert ids == rig.read(start=resume.everything).ids


async def test_another_program_may_read_the_file_meanwhile(tmp_path: Path, commit: bool) -> None:
    async with life(tmp_path / "h.db", commit=commit) as rig:
        await publish(rig, 3)
        await rig.written()
        with sqlite3.connect(tmp_path / "h.db") as reader:
            assert [("p",)] == reader.execute("SELECT name FROM projects").fetchall()
            await publish(rig, 3)
        reader.close()


async def test_files_are_for_their_user_alone(tmp_path: Path) -> None:
    async with life(tmp_path / "h.db", commit=False) as rig:
        await publish(rig, 1)
        await rig.written()
        assert {0o600} == {entry.stat().st_mode & 0o777 for entry in os.scandir(tmp_path)}


async def test_a_file_of_version_1_opens(tmp_path: Path) -> None:
    old = sqlite3.connect(tmp_path / "h.db", isolation_level=None)
    old.executescript("""
        PRAGMA application_id = 0x45444745; PRAGMA user_version = 1; PRAGMA journal_mode = WAL;
        CREATE TABLE projects (name TEXT PRIMARY KEY, epoch TEXT NOT NULL, first_seq INTEGER NOT NULL,
            newest INTEGER NOT NULL, ledger BLOB NOT NULL) WITHOUT ROWID;
        CREATE TABLE segments (project TEXT NOT NULL, epoch TEXT NOT NULL, first_seq INTEGER NOT NULL,
            last_seq INTEGER NOT NULL, at_seconds REAL NOT NULL, frames BLOB NOT NULL);
        CREATE TABLE receipts (key TEXT PRIMARY KEY, fingerprint BLOB NOT NULL, job TEXT, status INTEGER,
            content_type TEXT, body BLOB, at_seconds REAL NOT NULL) WITHOUT ROWID;
        CREATE TABLE pulse (beat INTEGER NOT NULL);
        INSERT INTO pulse VALUES (7);
        INSERT INTO projects VALUES ('p', 'e1', 1, 2, '{"misses":2,"pending":[[1,2]]}');
        INSERT INTO segments VALUES ('p', 'e1', 1, 2, unixepoch(), CAST('id: e1-1' || char(10) || 'data: a' || char(10)
            || char(10) || 'id: e1-2' || char(10) || 'data: b' || char(10) || char(10) AS BLOB));
    """)
    old.close()
    async with life(tmp_path / "h.db", commit=False) as rig:
        assert ["e1-1", "e1-2"] == rig.read().ids
        assert (["e1-1", "e1-2"], ["restart"]) == rig.resumed("e1-1")
        new = await publish(rig, 1)
    async with life(tmp_path / "h.db", commit=False) as rig:
        assert ["e1-1", "e1-2", *new] == rig.read(start=resume.everything).ids


async def test_the_hubs_totals_begin_with_what_is_pending(tmp_path: Path, commit: bool) -> None:
    async with life(tmp_path / "h.db", commit=commit, limits=Limits(max_events=2)) as rig:
        await publish(rig, 5)
    async with life(tmp_path / "h.db", commit=commit, limits=Limits(max_events=2)) as rig:
        misses = rig.hub.counters.misses
        assert (2, 0, 0, 2) == (misses.misses, misses.recovered, misses.lost, misses.pending)
        assert (5, 0, 3, 2) == rig.ledger()


async def test_a_client_of_a_project_that_holds_nothing_gets_no_gap(tmp_path: Path, commit: bool) -> None:
    ids: list[str] = []
    for number in range(3):
        async with life(tmp_path / "h.db", commit=commit, limits=Limits(max_age_seconds=0.05)) as rig:
            for event_id in ids:
                assert (0, []) == (len(rig.resumed(event_id)[0]), rig.resumed(event_id)[1])
            subscriber = rig.read()
            hello = subscriber.sent.decode()
            ids = [hello.partition("\nid: ")[2].partition("\n")[0]]
            rig.leave(subscriber)
            if number:
                ids = [*ids, *await publish(rig, 1)][-1:]
            await asyncio.sleep(0.1)
            rig.hub.project("p", rig.clock())
            assert {} == rig.hub.projects


async def test_a_deletion_that_was_answered_outlives_a_kill(tmp_path: Path) -> None:
    async with life(tmp_path / "h.db", commit=True) as rig:
        await publish(rig, 2)
        await rig.written()
        rig.hub.delete("p", rig.clock())
        await rig.store.deleted("p")
        await rig.crash()
    async with life(tmp_path / "h.db", commit=True) as rig:
        assert {} == rig.hub.projects


class TestClocks:
    @pytest.mark.parametrize("step_seconds", [3 * HOUR, -3 * HOUR, 50 * 365 * 24 * HOUR])
    async def test_a_step_while_it_runs_makes_nothing_young_or_old(
        self, tmp_path: Path, commit: bool, wall: Wall, step_seconds: float
    ) -> None:
        key = ("trigger", "p", "k")
        async with life(tmp_path / "h.db", commit=commit) as rig:
            await publish(rig, 1)
            await rig.answered(key, b"", Answer(202, b"{}"))
            wall.ahead_seconds = step_seconds
            await publish(rig, 1)
        for _ in range(2):
            async with life(tmp_path / "h.db", commit=commit) as rig:
                ages = [rig.clock() - at for _, at, _ in rig.hub.projects["p"].ring.frames()]
                assert 2 == len(ages)
                assert all(-0.001 <= age < 60 for age in ages)
                assert rig.receipts.find(key, b"", rig.clock()) is not None

    async def test_a_step_is_noted_though_nothing_is_published_behind_it(
        self, tmp_path: Path, commit: bool, wall: Wall, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sqlite_writer, "_CHECK_SECONDS", 0.02)
        for step_seconds, killed in ((26 * HOUR, False), (52 * HOUR, True)):
            async with life(tmp_path / "h.db", commit=commit) as rig:
                await publish(rig, 1)
                await rig.written()
                wall.ahead_seconds = step_seconds
                if killed:
                    await _noted(rig)
                    await rig.crash()
        async with life(tmp_path / "h.db", commit=commit) as rig:
            ages = [rig.clock() - at for _, at, _ in rig.hub.projects["p"].ring.frames()]
            assert 2 == len(ages)
            assert all(-0.001 <= age < 60 for age in ages)

    async def test_time_passes_while_it_is_down(self, tmp_path: Path, commit: bool, wall: Wall) -> None:
        async with life(tmp_path / "h.db", commit=commit) as rig:
            await publish(rig, 1)
        wall.ahead_seconds = HOUR / 2
        async with life(tmp_path / "h.db", commit=commit) as rig:
            (_, at, _), *_ = rig.hub.projects["p"].ring.frames()
            assert HOUR / 2 == pytest.approx(rig.clock() - at, abs=60)

    async def test_a_board_that_starts_without_its_clock(self, tmp_path: Path, commit: bool, wall: Wall) -> None:
        async with life(tmp_path / "h.db", commit=commit) as rig:
            await publish(rig, 1)
        wall.ahead_seconds = -50 * 365 * 24 * HOUR
        async with life(tmp_path / "h.db", commit=commit) as rig:
            await publish(rig, 1)
            wall.ahead_seconds = 0.0
            await publish(rig, 1)
        async with life(tmp_path / "h.db", commit=commit) as rig:
            ages = [rig.clock() - at for _, at, _ in rig.hub.projects["p"].ring.frames()]
            assert 3 == len(ages)
            assert all(-0.001 <= age < 60 for age in ages)


def test_a_second_process_is_kept_out_without_a_wait(tmp_path: Path) -> None:
    first = SqliteFile(tmp_path / "h.db")
    with pytest.raises(SqliteFileError, match="another process has it open"):
        SqliteFile(tmp_path / "h.db")
    first.close(clean=True)
    SqliteFile(tmp_path / "h.db").close(clean=True)


async def test_a_store_that_is_not_ready_is_opened_later(tmp_path: Path, commit: bool) -> None:
    async with life(tmp_path / "h.db", commit=commit) as first:
        ids = await publish(first, 2)
        rig = Rig(tmp_path / "h.db", commit=commit)
        with pytest.raises(StoreUnavailable, match="another process has it open"):
            await rig.store.open()
        with pytest.raises(StoreUnavailable, match="another process has it open"):
            await rig.publish("too early")
    await rig.store.open()
    assert ids == rig.read(start=resume.everything).ids
    await rig.store.close()


async def _noted(rig: Rig) -> None:
    """Wait until the file knows how far the wall clock is ahead."""
    file = rig.store._file
    assert file is not None
    await until(lambda: abs(rig.store._drift_seconds() - file.drift_seconds) < 1)


async def test_a_quiet_project_goes_on_from_the_position_behind_a_reported_restart(tmp_path: Path) -> None:
    path = tmp_path / "h.db"
    async with life(path, commit=False) as rig:
        ids = await publish(rig, 2)
        await rig.written()
        await rig.crash()
    positions: list[str] = []
    for _ in range(3 * sqlite._EARLIER_EPOCHS_KEPT):
        async with life(path, commit=False) as rig:
            project = rig.hub.projects["p"]
            assert [ids[0], ids[1]] == [project.event_id(seq) for seq in (1, 2)]
            assert ([], ["restart"]) == rig.resumed(ids[1])
            assert (ids, ["restart"]) == rig.resumed(ids[0])
            positions.append(f"{project.epoch}-2")
            for known in positions[-sqlite._EARLIER_EPOCHS_KEPT + 1 :]:
                assert ([], []) == rig.resumed(known)
            assert len(project.earlier) <= sqlite._EARLIER_EPOCHS_KEPT + 1
    async with life(path, commit=False) as rig:
        await rig.publish("new")
        await rig.crash()
    async with life(path, commit=False) as rig:
        assert ["restart"] == rig.resumed(positions[-1])[1], "a kill may have lost something since"


async def test_the_file_forgets_keys_after_the_time_of_the_configuration_in_use(tmp_path: Path) -> None:
    first = Rig(tmp_path / "h.db", commit=True)
    await first.store.open()
    await first.answered(("publish", "p", "k"), b"f", Answer(202, b"{}"))
    first.receipts.keep_seconds = 0.0
    await first.publish("1")
    await first.store.close()
    second = Rig(tmp_path / "h.db", commit=True)
    await second.store.open()
    assert 0 == len(second.receipts)
    await second.store.close()
