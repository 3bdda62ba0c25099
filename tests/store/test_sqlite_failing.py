"""What becomes of publishers, keys and the file when the disk fails in its various ways."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from edge.core import resume
from edge.core.errors import StoreUnavailable
from edge.core.event import Event
from edge.core.idempotency import Answer
from edge.core.limits import Limits
from edge.core.observer import Receipt
from edge.logs.setup import configure
from edge.store import sqlite_file, sqlite_writer
from edge.store.base import Keyed
from edge.store.sqlite_file import SqliteFile
from tests.store.rig import Rig, life, until

KEY = ("publish", "p", "k")


@pytest.fixture(params=[False, True], ids=["async", "commit"])
def commit(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def answer(receipts: Sequence[Receipt], besides: bytes) -> Answer:
    (receipt,) = receipts
    return Answer(201, f"{receipt.id} {receipt.connections} {receipt.missed} ".encode() + besides)


def keyed_publish(rig: Rig, data: str = "keyed") -> asyncio.Future[Receipt]:
    keyed = Keyed(KEY, b"print", answer, b"besides")
    promised = rig.store.publish("p", Event("message", data.encode()), rig.clock(), keyed)
    assert isinstance(promised, asyncio.Future)
    return promised


def failing(monkeypatch: pytest.MonkeyPatch, name: str, error: Exception) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(SqliteFile, name, fail)


class TestKeys:
    async def test_an_event_and_its_key_are_one_transaction(self, tmp_path: Path) -> None:
        async with life(tmp_path / "h.db", commit=True) as rig:
            receipt = await keyed_publish(rig)
            await rig.crash()
        async with life(tmp_path / "h.db", commit=True) as rig:
            entry = rig.receipts.find(KEY, b"print", rig.clock())
            assert entry is not None
            assert answer([receipt], b"besides") == entry.answer

    async def test_the_answer_that_is_remembered_is_the_one_that_is_given(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A subscriber connects between the transaction and the receipt."""
        writing, connected = threading.Event(), threading.Event()
        write = SqliteFile.write

        def write_once_connected(*arguments: Any) -> None:
            writing.set()
            connected.wait()
            write(*arguments)

        async with life(tmp_path / "h.db", commit=True) as rig:
            monkeypatch.setattr(SqliteFile, "write", write_once_connected)
            promised = keyed_publish(rig)
            # Not `_writing`, which is also set while the file is only checked, as it is at start.
            await until(writing.is_set)
            rig.read()
            connected.set()
            receipt = await promised
            assert 1 == receipt.connections
            await rig.crash()
        async with life(tmp_path / "h.db", commit=True) as rig:
            entry = rig.receipts.find(KEY, b"print", rig.clock())
            assert entry is not None
            assert answer([receipt], b"besides") == entry.answer

    async def test_an_event_that_was_not_written_leaves_no_key(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async with life(tmp_path / "h.db", commit=True) as rig:
            with monkeypatch.context() as patch:
                failing(patch, "_insert", sqlite3.OperationalError("disk I/O error"))
                with pytest.raises(StoreUnavailable, match="disk I/O error"):
                    await keyed_publish(rig)
            await rig.healed()
        async with life(tmp_path / "h.db", commit=True) as rig:
            assert rig.receipts.find(KEY, b"print", rig.clock()) is None
            assert {} == rig.hub.projects

    async def test_a_jobs_answer_is_kept_before_it_is_given(self, tmp_path: Path, commit: bool) -> None:
        async with life(tmp_path / "h.db", commit=commit) as rig:
            assert await rig.store.claim(Keyed(KEY, b"print", answer)) is None
            await rig.store.record_intent(KEY, "job-1")
            await rig.store.settle(KEY, Answer(202, b"done"))
            await rig.crash()
        async with life(tmp_path / "h.db", commit=commit) as rig:
            entry = rig.receipts.find(KEY, b"print", rig.clock())
            assert entry is not None
            assert Answer(202, b"done") == entry.answer


async def test_an_error_behind_commit_undoes_nothing(
    tmp_path: Path, commit: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with life(tmp_path / "h.db", commit=commit) as rig:
        first = await rig.publish("first")
        with monkeypatch.context() as patch:
            patch.setattr(sqlite_file, "_TIDIED_EVERY", 1)
            failing(patch, "_free_pages", sqlite3.OperationalError("disk I/O error"))
            second = await rig.publish("second")
            await until(lambda: rig.store.errors > 0)
        third = await rig.publish("third")
        ids = [receipt.id for receipt in (first, second, third)]
        assert ids == rig.read(start=resume.everything).ids
    async with life(tmp_path / "h.db", commit=commit) as rig:
        assert ids == rig.read(start=resume.everything).ids


@pytest.mark.parametrize("error", [RuntimeError("a bug"), sqlite3.InterfaceError("no code"), MemoryError(), OSError(5)])
async def test_whatever_fails_no_publisher_waits_for_ever(
    tmp_path: Path, commit: bool, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    configure("console", "error")
    async with asyncio.timeout(20), life(tmp_path / "h.db", commit=commit) as rig:
        ids = [(await rig.publish("before")).id]
        with monkeypatch.context() as patch:
            failing(patch, "_insert", error)
            ids += await rig.publish_until_refused()
        await rig.healed()
        ids += [(await rig.publish("after")).id]
    async with life(tmp_path / "h.db", commit=commit) as rig:
        assert ids == rig.read(start=resume.everything).ids


async def test_a_file_that_was_removed_is_noticed_and_made_anew(tmp_path: Path, commit: bool) -> None:
    async with life(tmp_path / "h.db", commit=commit) as rig:
        ids = [(await rig.publish(str(number))).id for number in range(5)]
        await rig.answered(KEY, b"print", Answer(201, b"{}"))
        for entry in os.scandir(tmp_path):
            (tmp_path / entry.name).unlink()
        ids += await rig.publish_until_refused()
        await rig.healed()
        ids.append((await rig.publish("after")).id)
        ledger = rig.ledger()
    async with life(tmp_path / "h.db", commit=commit) as rig:
        assert ids == rig.read(start=resume.everything).ids
        assert ledger[0] == rig.hub.projects["p"].ledger.misses
        assert rig.receipts.find(KEY, b"print", rig.clock()) is not None


async def test_an_idle_hub_notices_that_its_file_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_writer, "_CHECK_SECONDS", 0.05)
    async with life(tmp_path / "h.db", commit=True) as rig:
        await rig.publish("one")
        (tmp_path / "h.db").unlink()
        await until(lambda: rig.store.errors > 0 and os.access(tmp_path / "h.db", os.R_OK))
        await rig.healed()


async def test_a_file_that_was_replaced_is_left_alone(tmp_path: Path, commit: bool) -> None:
    async with life(tmp_path / "h.db", commit=commit) as rig:
        ids = [(await rig.publish("one")).id]
        shutil.copy(tmp_path / "h.db", tmp_path / "other")
        (tmp_path / "other").replace(tmp_path / "h.db")
        content = (tmp_path / "h.db").read_bytes()
        ids += await rig.publish_until_refused()
        await until(lambda: "was replaced" in str(rig.store.problem))
        assert content == (tmp_path / "h.db").read_bytes()
        (tmp_path / "h.db").unlink()
        await rig.healed()
    async with life(tmp_path / "h.db", commit=commit) as rig:
        assert ids == rig.read(start=resume.everything).ids


class TestHangingDisk:
    @pytest.fixture
    def disk(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
        """Writing waits until it is set."""
        answers = threading.Event()
        write = SqliteFile.write

        def hang(*arguments: Any) -> None:
            answers.wait()
            write(*arguments)

        monkeypatch.setattr(SqliteFile, "write", hang)
        monkeypatch.setattr(sqlite_writer, "_STALLED_AFTER_SECONDS", 0.2)
        monkeypatch.setattr(sqlite_writer, "_CHECK_SECONDS", 0.05)
        yield answers
        answers.set()

    async def test_it_shows_and_refuses_and_heals(self, tmp_path: Path, commit: bool, disk: threading.Event) -> None:
        async with asyncio.timeout(20), life(tmp_path / "h.db", commit=commit) as rig:
            await rig.publish_until_refused()
            assert "disk has not answered" in str(rig.refusal)
            assert rig.store.problem is not None
            with pytest.raises(StoreUnavailable, match="disk has not answered"):
                await rig.store.record_intent(KEY, "job-1")
            disk.set()
            await rig.healed()
            await rig.publish("y")

    async def test_a_keyed_publisher_waits_and_is_answered_once(self, tmp_path: Path, disk: threading.Event) -> None:
        async with asyncio.timeout(20), life(tmp_path / "h.db", commit=True) as rig:
            promised = keyed_publish(rig)
            await until(lambda: rig.store.problem is not None)
            assert not promised.done()
            disk.set()
            assert "1" == (await promised).id.rpartition("-")[2]

    async def test_the_end_does_not_wait_for_it(self, tmp_path: Path, commit: bool, disk: threading.Event) -> None:
        rig = Rig(tmp_path / "h.db", commit=commit)
        await rig.store.open()
        await rig.publish_until_refused()
        async with asyncio.timeout(10):
            file = rig.store._file
            await rig.store.close()
        assert not disk.is_set()
        disk.set()
        await asyncio.to_thread(rig.store._worker.thread.join)
        assert file is not None
        file.abandon()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "edge-test", str(folder)], check=True)
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


async def test_the_log_does_not_fill_a_small_disk(small_disk: Path, commit: bool) -> None:
    limits = Limits(max_events=50)
    async with life(small_disk / "h.db", commit=commit, limits=limits) as rig:
        for number in range(1500):
            await rig.publish(f"{number} " + "x" * 3000)
            if not commit and number % 20 == 0:
                await asyncio.sleep(0.02)
        assert 0 == rig.store.errors
    async with life(small_disk / "h.db", commit=commit, limits=limits) as rig:
        assert 50 == len(rig.hub.projects["p"].ring)


async def test_a_full_disk_heals_when_there_is_room(small_disk: Path, commit: bool) -> None:
    ballast = small_disk / "ballast"
    async with asyncio.timeout(50), life(small_disk / "h.db", commit=commit, limits=Limits(max_events=20)) as rig:
        await rig.publish("first")
        with suppress(OSError), ballast.open("wb") as file:
            while True:
                file.write(b"x" * 4096)
                file.flush()
        kept = await rig.publish_until_refused("y" * 20_000)
        assert "disk is full" in str(rig.refusal)
        ballast.unlink()
        await rig.healed()
        kept.append((await rig.publish("z")).id)
    async with life(small_disk / "h.db", commit=commit, limits=Limits(max_events=20)) as rig:
        assert kept[-20:] == rig.read(start=resume.everything).ids[-len(kept[-20:]) :]
