"""The SQLite store around a hub: what the next process knows, and what happens while the file can't be written."""

from __future__ import annotations

import asyncio
import hashlib
import sqlite3
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge.core import resume
from edge.core.errors import InvalidRequest, StoreUnavailable
from edge.core.event import Event
from edge.core.idempotency import Answer
from edge.core.limits import Limits
from edge.core.observer import Receipt
from edge.http import publish
from edge.store import sqlite_writer
from edge.store.base import Keyed, StoreUnusableError
from edge.store.sqlite_file import SqliteFile
from edge.store.sqlite_transaction import Transaction
from tests.store.rig import Rig, Subscriber, life, until

EMPTY = Transaction()


@pytest.fixture(params=[False, True], ids=["async", "commit"])
def commit(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


async def test_a_finished_project_is_finished_in_the_next_process(tmp_path: Path, commit: bool) -> None:
    async with life(tmp_path / "h.db", commit=commit) as first:
        await first.publish("1")
        promised = first.store.publish("p", Event("message", b"2", final=True), first.clock())
        last = promised if isinstance(promised, Receipt) else await promised
    async with life(tmp_path / "h.db", commit=commit) as second:
        assert second.hub.is_over("p", lambda project: resume.after_id(project, last.id))
        assert b": final" not in second.read(start=resume.everything).sent
        await second.publish("3")
        assert not second.hub.projects["p"].finished


async def test_a_subscriber_resumes_in_the_next_process_without_a_gap(tmp_path: Path, commit: bool) -> None:
    async with life(tmp_path / "h.db", commit=commit) as first:
        subscriber = first.read()
        ids = [(await first.publish(str(number))).id for number in range(5)]
        await asyncio.sleep(0)
        assert ids == subscriber.ids
        first.leave(subscriber)
    async with life(tmp_path / "h.db", commit=commit) as second:
        back = second.read(start=lambda project: resume.after_id(project, ids[1]))
        assert ids[2:] == back.ids
        assert b"edge.gap" not in back.sent
        next_id = (await second.publish("next")).id
        await asyncio.sleep(0)
        assert [*ids[2:], next_id] == back.ids


async def test_numbers_go_on_under_a_new_epoch(tmp_path: Path, commit: bool) -> None:
    async with life(tmp_path / "h.db", commit=commit) as first:
        last = (await first.publish("a")).id
    async with life(tmp_path / "h.db", commit=commit) as second:
        epoch, _, seq = (await second.publish("b")).id.rpartition("-")
        assert "2" == seq
        assert epoch != last.rpartition("-")[0]


async def test_the_ledger_is_the_one_of_before(tmp_path: Path, commit: bool) -> None:
    limits = Limits(max_events=3)
    async with life(tmp_path / "h.db", commit=commit, limits=limits) as first:
        for number in range(5):
            await first.publish(str(number))
        assert (5, 0, 2, 3) == first.ledger()
        first.leave(first.read())
        assert (5, 3, 2, 0) == first.ledger()
        await first.publish("missed")
        assert (6, 3, 2, 1) == first.ledger()
    async with life(tmp_path / "h.db", commit=commit, limits=limits) as second:
        assert (6, 3, 2, 1) == second.ledger()
        assert 1 == second.hub.counters.misses.pending
        subscriber = second.read()
        assert 1 == len(subscriber.ids)
        assert (6, 4, 2, 0) == second.ledger()


async def test_what_a_subscriber_had_not_acknowledged_when_the_process_ended_is_missed_in_the_next(
    tmp_path: Path, commit: bool
) -> None:
    async with life(tmp_path / "h.db", commit=commit) as first:
        subscriber = first.read()
        await first.publish("one")
        await asyncio.sleep(0)
        acked = subscriber.written_bytes
        await first.publish("two")
        await asyncio.sleep(0)
        subscriber.acked = acked
        first.leave(subscriber, "dead")
    async with life(tmp_path / "h.db", commit=commit) as second:
        assert (1, 0, 0, 1) == second.ledger()
        assert b"data: two" in second.read().sent


async def test_an_event_without_room_is_missed_after_a_crash(tmp_path: Path) -> None:
    """A crash is a copy of the file taken while the process lives: nothing is written at its end."""
    async with life(tmp_path / "h.db", commit=False) as first:
        subscriber = first.read()
        subscriber.paused = True
        await first.publish("no room")
        await first.events_written()
        _copy_as_after_a_crash(tmp_path)
        first.leave(subscriber)
    async with life(tmp_path / "crashed.db", commit=False) as second:
        assert (1, 0, 0, 1) == second.ledger()


async def test_an_event_that_was_committed_and_not_yet_given_out_is_pending_after_a_crash(tmp_path: Path) -> None:
    async with life(tmp_path / "h.db", commit=True) as first:
        await first.publish("one")
        # The ledger row of this transaction was made before its event reached the ring.
        _copy_as_after_a_crash(tmp_path)
    async with life(tmp_path / "crashed.db", commit=True) as second:
        assert (1, 0, 0, 1) == second.ledger()
        assert b"data: one" in second.read().sent


async def test_only_commit_makes_a_publisher_wait(tmp_path: Path, commit: bool) -> None:
    async with life(tmp_path / "h.db", commit=commit) as rig:
        receipt = rig.store.publish("p", Event("message", b"1"), rig.clock())
        assert commit is not isinstance(receipt, Receipt)
        if not isinstance(receipt, Receipt):
            await receipt


async def test_nothing_is_visible_before_it_is_committed(tmp_path: Path) -> None:
    async with life(tmp_path / "h.db", commit=True) as rig:
        subscriber = rig.read()
        promised = asyncio.ensure_future(rig.publish("one"))
        await asyncio.sleep(0)
        assert [] == subscriber.ids
        receipt = await promised
        await asyncio.sleep(0)
        assert [receipt.id] == subscriber.ids
        assert 1 == receipt.connections


async def test_many_publishers_keep_their_order_and_share_transactions(tmp_path: Path) -> None:
    async with life(tmp_path / "h.db", commit=True) as rig:
        receipts = await asyncio.gather(*(rig.publish(str(number)) for number in range(500)))
        assert sorted(receipts, key=lambda receipt: int(receipt.id.rpartition("-")[2])) == receipts
    database = sqlite3.connect(tmp_path / "h.db")
    assert 20 > database.execute("SELECT count(*) FROM segments").fetchone()[0]
    database.close()


async def test_events_published_together_are_kept_like_others(tmp_path: Path) -> None:
    limits = Limits(max_events=4)
    async with life(tmp_path / "h.db", commit=False, limits=limits) as first:
        await first.publish("0")
        for start, end in ((1, 3), (3, 9), (9, 11)):
            events = [Event("message", str(number).encode()) for number in range(start, end)]
            assert first.store.publish_many("p", events, first.clock()) is not None
        last = await first.publish("11")
        expected = _events(first.read(start=resume.everything))
    async with life(tmp_path / "h.db", commit=False, limits=limits) as second:
        assert expected == _events(second.read(start=resume.everything))
        assert b"data: 11\n" in expected
        assert last.id == second.hub.projects["p"].newest_id


async def test_a_deleted_project_is_gone_from_the_file_too(tmp_path: Path, commit: bool) -> None:
    async with life(tmp_path / "h.db", commit=commit) as first:
        await first.publish("a")
        first.hub.delete("p", first.clock())
    async with life(tmp_path / "h.db", commit=commit) as second:
        assert {} == second.hub.projects


async def test_a_project_deleted_and_made_anew_has_only_its_new_history(tmp_path: Path, commit: bool) -> None:
    async with life(tmp_path / "h.db", commit=commit) as first:
        old = (await first.publish("old")).id
        await first.written()
        first.hub.delete("p", first.clock())
        new = (await first.publish("new")).id
    async with life(tmp_path / "h.db", commit=commit) as second:
        assert old.rpartition("-")[0] != new.rpartition("-")[0]
        assert [new] == second.read(start=resume.everything).ids


async def test_a_project_deleted_while_its_event_is_written_reports_a_miss(tmp_path: Path) -> None:
    async with life(tmp_path / "h.db", commit=True) as rig:
        promised = asyncio.ensure_future(rig.publish("one"))
        await asyncio.sleep(0)
        rig.hub.delete("p", rig.clock())
        receipt = await promised
        assert receipt.missed
        assert (1, 1) == (rig.hub.counters.misses.misses, rig.hub.counters.misses.lost)
        assert {} == rig.hub.projects
    async with life(tmp_path / "h.db", commit=True) as second:
        assert {} == second.hub.projects


async def test_the_file_is_bounded_like_the_ring_and_gives_space_back(tmp_path: Path, commit: bool) -> None:
    limits = Limits(max_events=20)
    async with life(tmp_path / "h.db", commit=commit, limits=limits) as rig:
        for _ in range(30):
            await asyncio.gather(*(rig.publish("x" * 20_000) for _ in range(20)))
            await asyncio.sleep(0.02)
    # 12 MB went through it; the ring holds 400 KB.
    assert 3_000_000 > _size_bytes(tmp_path)
    async with life(tmp_path / "h.db", commit=commit, limits=limits) as second:
        assert 20 == len(second.hub.projects["p"].ring)


async def test_space_is_given_back_while_the_hub_lives_on(tmp_path: Path) -> None:
    async with life(tmp_path / "h.db", commit=False, limits=Limits(max_bytes=16 << 20)) as rig:
        for _ in range(80):
            await rig.publish("x" * 100_000)
        async with asyncio.timeout(60):
            while _size_bytes(tmp_path) < 8_000_000:
                await asyncio.sleep(0.02)
        rig.hub.delete("p", rig.clock())
        # The log beside the file is folded into it now and then, and keeps its four megabytes.
        async with asyncio.timeout(60):
            while (tmp_path / "h.db").stat().st_size > 2_000_000:
                await rig.publish("y")
                await asyncio.sleep(0.05)


async def test_a_file_with_very_many_events_opens_with_all_of_them(tmp_path: Path) -> None:
    projects = 200
    event = Event("message", b"0123456789")
    async with life(tmp_path / "h.db", commit=False) as first:
        # No one reads the odd ones, and every fourth has a subscriber without room.
        subscribers = [first.read(f"p{project}") for project in range(0, projects, 2)]
        for subscriber in subscribers[::2]:
            subscriber.paused = True
        for count in (995, 3, 1, 1, 1, 1, 1):
            for project in range(projects):
                first.store.publish_many(f"p{project}", [event] * count, first.clock())
            await asyncio.sleep(0.02)
        for subscriber in subscribers:
            first.leave(subscriber)
        expected = _state(first)
        events = first.hub.counters.ring_events
        assert projects * 1000 == events
    async with life(tmp_path / "h.db", commit=False) as second:
        assert expected == _state(second)
        assert events == second.hub.counters.ring_events


async def test_aged_events_are_not_given_by_the_next_process(tmp_path: Path) -> None:
    async with life(tmp_path / "h.db", commit=False) as first:
        await first.publish("old")
    async with life(tmp_path / "h.db", commit=False, limits=Limits(max_age_seconds=0.001)) as second:
        subscriber = second.read()
        assert [] == subscriber.ids
        assert b'"lost":1' in subscriber.sent
        assert (1, 0, 1, 0) == second.ledger()


async def test_losses_of_a_forgotten_project_are_reported_by_the_next_process(tmp_path: Path, commit: bool) -> None:
    async with life(tmp_path / "h.db", commit=commit, limits=Limits(max_age_seconds=0.001)) as first:
        await first.publish("x")
        await until(lambda: first.hub.project("p", first.clock()) is None)
        await first.publish("y", "other")
        await first.written()
    async with life(tmp_path / "h.db", commit=commit) as second:
        assert b'"lost":1' in second.read().sent
        assert b"edge.gap" not in second.read().sent  # which was reported


async def test_an_answer_is_given_again_by_the_next_process(tmp_path: Path, commit: bool) -> None:
    key = ("publish", "p", "k")
    async with life(tmp_path / "h.db", commit=commit) as first:
        await first.answered(key, b"print", Answer(201, b"{}"))
    async with life(tmp_path / "h.db", commit=commit) as second:
        entry = second.receipts.find(key, b"print", second.clock())
        assert entry is not None
        assert Answer(201, b"{}") == entry.answer
        with pytest.raises(InvalidRequest, match="different body"):
            second.receipts.find(key, b"other", second.clock())


async def test_a_job_that_was_on_its_way_when_the_process_died_is_not_sent_again(tmp_path: Path) -> None:
    key = ("trigger", "p", "k")
    async with life(tmp_path / "h.db", commit=False) as first:
        assert await first.store.claim(Keyed(key, b"print", publish.published)) is None
        await first.store.record_intent(key, "job-1")
        _copy_as_after_a_crash(tmp_path)
        await first.store.settle(key, None)
    async with life(tmp_path / "crashed.db", commit=False) as second:
        entry = second.receipts.find(key, b"print", second.clock())
        assert entry is not None
        assert entry.answer is not None
        assert 502 == entry.answer.status
        assert b'"may_have_started":true' in entry.answer.body
        assert b'"id":"job-1"' in entry.answer.body
    async with life(tmp_path / "h.db", commit=False) as third:
        assert third.receipts.find(key, b"print", third.clock()) is None


async def test_a_full_disk_refuses_with_507_and_heals_by_itself(tmp_path: Path, commit: bool) -> None:
    async with life(tmp_path / "h.db", commit=commit) as rig:
        subscriber = rig.read()
        await _limit_pages(rig, 12)
        with pytest.raises(StoreUnavailable, match="disk is full") as refused:
            await _publish_until_refused(rig)
        assert 507 == refused.value.status
        assert 1 == refused.value.retry_after_seconds
        assert rig.store.errors
        assert rig.hub.connections
        await _limit_pages(rig, 1_000_000)
        await rig.healed()
        receipt = await rig.publish("room again")
        await asyncio.sleep(0)
        assert receipt.id == subscriber.ids[-1]
        rig.leave(subscriber)
        promised = subscriber.ids
    async with life(tmp_path / "h.db", commit=commit) as second:
        assert promised == second.read(start=resume.everything).ids


async def test_an_event_refused_by_commit_is_never_seen_and_its_number_is_reused(tmp_path: Path) -> None:
    async with life(tmp_path / "h.db", commit=True) as rig:
        subscriber = rig.read()
        await _limit_pages(rig, 1)
        outcomes = await asyncio.gather(*(rig.publish("x" * 50_000) for _ in range(3)), return_exceptions=True)
        assert [StoreUnavailable] * 3 == [type(outcome) for outcome in outcomes]
        assert [] == subscriber.ids
        await _limit_pages(rig, 1_000_000)
        await rig.healed()
        assert (await rig.publish("first")).id.endswith("-1")
        rig.leave(subscriber)


async def test_a_second_process_on_the_same_file_is_refused(tmp_path: Path) -> None:
    async with life(tmp_path / "h.db", commit=False):
        with pytest.raises(StoreUnavailable, match="another process has it open"):
            async with life(tmp_path / "h.db", commit=False):
                pass


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"not a database, but long enough to be looked at" * 100, "it is not a database"),
        (b"SQLite format 3\0" + b"\xff" * 8192, "is"),
    ],
)
async def test_a_file_that_is_no_file_is_refused_and_left_as_it_is(tmp_path: Path, content: bytes, says: str) -> None:
    (tmp_path / "h.db").write_bytes(content)
    with pytest.raises(StoreUnusableError, match=says):
        async with life(tmp_path / "h.db", commit=False):
            pass
    assert content == (tmp_path / "h.db").read_bytes()


async def test_another_programs_database_is_refused(tmp_path: Path) -> None:
    database = sqlite3.connect(tmp_path / "h.db")
    database.execute("CREATE TABLE theirs (x)")
    database.close()
    with pytest.raises(StoreUnusableError, match="another program"):
        async with life(tmp_path / "h.db", commit=False):
            pass


async def test_a_newer_version_is_refused(tmp_path: Path) -> None:
    async with life(tmp_path / "h.db", commit=False):
        pass
    database = sqlite3.connect(tmp_path / "h.db")
    database.execute("PRAGMA user_version = 99")
    database.close()
    with pytest.raises(StoreUnusableError, match="newer edge"):
        async with life(tmp_path / "h.db", commit=False):
            pass


async def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable, match="does its folder exist"):
        async with life(tmp_path / "nowhere" / "h.db", commit=False):
            pass


async def test_a_damaged_file_is_reported_at_start(tmp_path: Path) -> None:
    async with life(tmp_path / "h.db", commit=False) as rig:
        for _ in range(50):
            await rig.publish("x" * 4000)
    with (tmp_path / "h.db").open("r+b") as file:
        file.seek(4096)
        file.write(b"\xaa" * 60_000)
    with pytest.raises(StoreUnusableError, match="damaged"):
        async with life(tmp_path / "h.db", commit=False):
            pass


def test_a_transaction_that_fails_leaves_nothing_of_itself(tmp_path: Path) -> None:
    file = SqliteFile(tmp_path / "h.db")
    broken = EMPTY._replace(dropped_projects=["p"], segments=[("p", "e", 1)])  # type: ignore[list-item]
    with pytest.raises(sqlite3.Error):
        file.write(broken)
    file.write(EMPTY)
    assert [] == list(file.projects())
    file.close(clean=True)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    payloads=st.lists(st.text(alphabet=st.characters(codec="utf-8"), max_size=40), max_size=12),
    commit=st.booleans(),
)
def test_any_text_comes_back_byte_for_byte(
    tmp_path_factory: pytest.TempPathFactory, payloads: list[str], commit: bool
) -> None:
    path = tmp_path_factory.mktemp("any") / "h.db"

    async def story() -> None:
        async with life(path, commit=commit) as first:
            for payload in payloads:
                await first.publish(payload)
            sent = _events(first.read(start=resume.everything))
        async with life(path, commit=commit) as second:
            assert sent == _events(second.read(start=resume.everything))

    asyncio.run(story())


def _state(rig: Rig) -> dict[str, object]:
    """Of each project its newest id, the bounds of its ring, the digest of its frames, and its ledger."""
    return {
        name: (
            project.newest_id,
            (project.first_seq, project.ring.oldest, project.ring.newest, project.ring.size_bytes),
            hashlib.sha256(b"".join(frame for _, _, frame in project.ring.frames())).hexdigest(),
            rig.ledger(name),
        )
        for name, project in rig.hub.projects.items()
    }


def _events(subscriber: Subscriber) -> bytes:
    return subscriber.sent.partition(b"\n\n")[2]


async def _publish_until_refused(rig: Rig) -> None:
    for _ in range(100):
        await rig.publish("x" * 10_000)
        await asyncio.sleep(0.02)


def _size_bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir())


async def _limit_pages(rig: Rig, pages: int) -> None:
    """The file may have no more than `pages` from now on: what a full disk looks like to SQLite."""
    file = rig.store._file
    assert file is not None
    await rig.store._worker.call(lambda: file._db.execute(f"PRAGMA max_page_count = {pages}").fetchone())


def _copy_as_after_a_crash(folder: Path) -> None:
    for suffix in ("", "-wal"):
        source = folder / f"h.db{suffix}"
        if source.exists():
            (folder / f"crashed.db{suffix}").write_bytes(source.read_bytes())


async def test_no_transaction_is_made_of_all_projects(
    tmp_path: Path, commit: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their rows are made on the event loop. Counts work, never time."""
    most = 8
    monkeypatch.setattr(sqlite_writer, "_PROJECTS_AT_ONCE", most)
    rows: list[int] = []
    write = SqliteFile.write

    def counted(file: SqliteFile, batch: Transaction) -> None:
        rows.append(len(batch.projects) + len(batch.dropped_projects))
        write(file, batch)

    monkeypatch.setattr(SqliteFile, "write", counted)
    async with life(tmp_path / "h.db", commit=commit) as rig:
        for number in range(5 * most):
            await rig.publish("x", f"p{number}")
        await rig.written()
        rows.clear()
        for number in range(5 * most):
            rig.hub.delete(f"p{number}", rig.clock())
        await rig.written()
        assert (5 * most, True) == (sum(rows), max(rows) <= most)
        if not commit:  # there each publisher waits for its own event
            rows.clear()
            for number in range(5 * most):
                rig.store.publish(f"q{number}", Event("message", b"x"), rig.clock())
            await rig.written()
            assert max(rows) <= most
    async with life(tmp_path / "h.db", commit=commit) as rig:
        assert (0 if commit else 5 * most) == len(rig.hub.projects)
