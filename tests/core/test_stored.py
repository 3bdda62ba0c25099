"""What a store leans on: numbers given before an event is held, and projects that come back from an earlier process."""

from __future__ import annotations

import msgspec
import pytest

from edge.core import resume
from edge.core.errors import Draining, LimitReached
from edge.core.hub import Hub
from edge.core.ledger import LedgerState, MissTotals
from edge.core.project import Project
from edge.core.ring import EVENT_OVERHEAD_BYTES
from edge.core.saved import PastEpoch, SavedProject
from tests.core.eventstream import messages
from tests.core.fakes import FakeConnection, Recorder, make_hub, text


def past(frames: int = 3, *, name: str = "p", pending: tuple[tuple[int, int], ...] = ()) -> SavedProject:
    """Events 5, 6, … of a project whose first four are gone."""
    numbers = range(5, 5 + frames)
    return SavedProject(
        name=name,
        epoch="old1",
        first_seq=1,
        newest=4 + frames,
        frames=[b"id: old1-%d\ndata: x\n\n" % number for number in numbers],
        times=[float(number) for number in numbers],
        ledger=LedgerState(misses=sum(hi - lo + 1 for lo, hi in pending), pending=pending),
    )


class TestReservations:
    def test_frames_are_numbered_in_the_order_of_reserving(self) -> None:
        hub = make_hub()
        project, first = hub.reserve("p", text("a"), 0.0)
        _, second = hub.reserve("p", text("b"), 0.0)
        assert 0 == len(project.ring)
        receipts = [hub.commit(project, frame, 1.0) for frame in (first, second)]
        assert [receipt.id for receipt in receipts] == [message.id for message in messages(first + second)]
        assert [f"{project.epoch}-1", f"{project.epoch}-2"] == [receipt.id for receipt in receipts]
        assert (True, 0, 0) == (receipts[1].missed, receipts[1].connections, project.reserved)

    def test_readers_see_an_event_once_it_is_delivered(self) -> None:
        hub = make_hub()
        reader = FakeConnection(hub, "c")
        hub.attach("p", reader, resume.nothing, 0.0)
        project, frame = hub.reserve("p", text(), 0.0)
        hub.flush(0.0)
        assert [] == reader.seqs
        receipt = hub.commit(project, frame, 0.0)
        hub.flush(0.0)
        assert (1, False, [1]) == (receipt.connections, receipt.missed, reader.seqs)

    def test_a_project_with_reservations_is_not_forgotten(self) -> None:
        hub = make_hub()
        project, frame = hub.reserve("p", text(), 0.0)
        reader = FakeConnection(hub, "c")
        hub.attach("p", reader, resume.nothing, 0.0)
        hub.detach(reader, "client", 0.0)
        assert project is hub.projects["p"]
        hub.commit(project, frame, 0.0)
        assert 1 == len(project.ring)

    def test_cancelled_reservations_leave_nothing_behind(self) -> None:
        hub = make_hub()
        project, _ = hub.reserve("p", text(), 0.0)
        hub.reserve("p", text(), 0.0)
        hub.cancel_reservations(project)
        assert {} == hub.projects
        kept, _ = hub.reserve("q", text(), 0.0)
        hub.commit(kept, hub.reserve("q", text(), 0.0)[1], 0.0)
        hub.cancel_reservations(kept)
        assert ["q"] == list(hub.projects)

    def test_into_a_project_deleted_meanwhile_is_a_miss_lost_at_once(self) -> None:
        hub = make_hub()
        reader = FakeConnection(hub, "c")
        hub.attach("p", reader, resume.nothing, 0.0)
        project, frame = hub.reserve("p", text(), 0.0)
        _, other_frame = hub.reserve("p", text(), 0.0)
        hub.delete("p", 0.0)
        hub.publish("p", text(), 0.0)
        receipt = hub.commit(project, frame, 0.0)
        hub.detach(reader, "deleted", 0.0)
        hub.commit(project, other_frame, 0.0)
        assert (f"{project.epoch}-1", 0, True) == (receipt.id, receipt.connections, receipt.missed)
        misses = hub.counters.misses
        assert (3, 0, 2, 1) == (misses.misses, misses.recovered, misses.lost, misses.pending)
        assert [] == reader.seqs
        assert (1, len(hub.projects["p"].ring.frames()[0][2])) == (hub.counters.ring_events, hub.counters.ring_bytes)

    def test_what_publish_refuses_is_not_reserved(self) -> None:
        hub = make_hub(max_bytes=1000, max_projects=1)
        with pytest.raises(LimitReached):
            hub.reserve("p", text("x" * 1000), 0.0)
        hub.reserve("p", text(), 0.0)
        with pytest.raises(LimitReached):
            hub.reserve("q", text(), 0.0)
        hub.drain(0.0)
        with pytest.raises(Draining):
            hub.reserve("p", text(), 0.0)


class TestRestored:
    def test_numbers_history_and_epoch_go_on(self) -> None:
        hub = make_hub()
        hub.restore(past(), 10.0)
        reader = FakeConnection(hub, "c")
        hub.attach("p", reader, lambda project: resume.after_id(project, "old1-5"), 10.0)
        assert "old1-8" == hub.publish("p", text(), 10.0).id
        hub.flush(10.0)
        assert [6, 7, 8] == reader.seqs
        assert [] == reader.controls("gap")
        assert 8 == hub.projects["p"].published
        assert 4 == hub.counters.ring_events
        assert sum(len(frame) for _, _, frame in hub.projects["p"].ring.frames()) == hub.counters.ring_bytes

    def test_what_was_missed_is_given_to_the_first_reader(self) -> None:
        hub = make_hub()
        hub.restore(past(pending=((3, 3), (5, 5), (7, 7))), 10.0)
        reader = FakeConnection(hub, "c")
        hub.attach("p", reader, resume.missed, 10.0)
        assert [5, 7] == reader.seqs
        assert [1] == [gap["lost"] for gap in reader.controls("gap")]
        everything = FakeConnection(hub, "all")
        hub.attach("p", everything, resume.everything, 10.0)
        assert [4] == [gap["lost"] for gap in everything.controls("gap")]

    def test_the_totals_of_the_hub_begin_with_what_is_pending(self) -> None:
        hub = make_hub()
        ledger = LedgerState(misses=5, lost=3, pending=((5, 5), (7, 7)))
        hub.restore(msgspec.structs.replace(past(), ledger=ledger), 10.0)
        assert (2, 0, 0) == vars_of(hub.counters.misses)
        assert 2 == hub.counters.misses.pending
        hub.attach("p", FakeConnection(hub, "c"), resume.missed, 10.0)
        assert (2, 2, 0) == vars_of(hub.counters.misses)

    def test_its_age_and_its_place_in_line_are_kept(self) -> None:
        hub = make_hub(max_age_seconds=64.0)
        hub.restore(past(), 10.0)
        hub.restore(past(name="q"), 10.0)
        assert ["p", "q"] == [project.name for project in hub._retention._lru]
        hub.tick(70.5)
        assert [7] == [seq for seq, _, _ in hub.projects["p"].ring.frames()]

    def test_smaller_bounds_than_before_hold_at_once(self) -> None:
        hub = make_hub(max_events=2, total_bytes=40 + 2 * EVENT_OVERHEAD_BYTES)
        hub.restore(past(name="p"), 10.0)
        hub.restore(past(name="q"), 10.0)
        assert ["q"] == list(hub.projects)
        assert 2 == hub.counters.ring_events

    def test_nothing_to_hold_is_nothing_to_know(self) -> None:
        hub = make_hub()
        hub.restore(past(0, pending=((3, 3),)), 10.0)
        assert {} == hub.projects
        assert (1, 0, 1) == vars_of(hub.counters.misses)
        hub.publish("q", text(), 10.0)
        hub.tick(10_000.0)
        assert {} == hub.projects


class TestNewEpoch:
    """A process that goes on with a history gives its own events ids of an epoch of its own."""

    def hub(self, *earlier: PastEpoch) -> Hub:
        """It holds 5 (of the oldest), 6 and 7."""
        hub = make_hub()
        hub.restore(msgspec.structs.replace(past(), epoch="new1", earlier=earlier), 10.0)
        return hub

    @staticmethod
    def start(hub: Hub, asked: str) -> tuple[list[int], list[str]]:
        """The numbers, counting one to come, and the reasons of gaps that a subscriber with `asked` gets."""
        reader = FakeConnection(hub, f"c-{asked}")
        hub.attach("p", reader, lambda project: resume.after_id(project, asked), 10.0)
        hub.publish("p", text(), 10.0)
        hub.flush(10.0)
        return reader.seqs, [gap["reason"] for gap in reader.controls("gap")]

    def test_held_events_keep_their_ids_and_new_ones_get_new_ids(self) -> None:
        hub = self.hub(PastEpoch("old0", 6, True), PastEpoch("old1", 7, True))
        project = hub.projects["p"]
        assert "new1-8" == hub.publish("p", text(), 10.0).id
        assert ["old0-5", "old0-6", "old1-7", "new1-8"] == [project.event_id(seq) for seq in range(5, 9)]
        assert ("old0-5", "new1-8") == (project.oldest_id, project.newest_id)

    @pytest.mark.parametrize(
        ("asked", "follows", "gaps"),
        [
            ("old1-5", 6, []),
            ("old1-7", 8, []),
            ("new1-8", 9, []),
            ("old1-2", 5, ["evicted"]),
            ("old1-8", 5, ["restart"]),  # given to another event, by a process whose file this is an older copy of
            ("new1-7", 8, []),  # the position between the two
            ("new1-6", 5, ["unknown"]),
            ("new1-9", 5, ["unknown"]),
            ("old2-7", 5, ["restart"]),
        ],
    )
    def test_who_comes_with_an_id_of_the_epoch_before(self, asked: str, follows: int, gaps: list[str]) -> None:
        hub = self.hub(PastEpoch("old1", 7, True))
        hub.publish("p", text(), 10.0)
        assert (list(range(follows, 10)), gaps) == self.start(hub, asked)

    @pytest.mark.parametrize(
        ("asked", "follows", "gaps"),
        [
            ("old0-6", 5, ["restart"]),
            ("old1-6", 7, []),
            ("old1-5", 5, ["unknown"]),
            ("old1-7", 8, []),
            ("new1-8", 9, []),
        ],
    )
    def test_where_events_may_be_lost_between_two_epochs_it_is_reported(
        self, asked: str, follows: int, gaps: list[str]
    ) -> None:
        hub = self.hub(PastEpoch("old0", 6, False), PastEpoch("old1", 7, True))
        hub.publish("p", text(), 10.0)
        assert (list(range(follows, 10)), gaps) == self.start(hub, asked)

    def test_a_quiet_project_reports_the_restart_once(self) -> None:
        hub = self.hub(PastEpoch("old1", 7, False))
        position = "old1-5"
        for seqs, gaps, hello, behind in (
            ([5, 6, 7], ["restart"], "old1-5", "old1-7"),
            ([], ["restart"], "new1-7", "new1-7"),
            ([], [], "new1-7", "new1-7"),
        ):
            reader = FakeConnection(hub, position)
            hub.attach("p", reader, lambda project, at=position: resume.after_id(project, at), 10.0)  # type: ignore[misc]
            assert (seqs, gaps) == (reader.seqs, [gap["reason"] for gap in reader.controls("gap")])
            ids = [message.id for message in reader.messages]
            assert (hello, behind) == (ids[0], [event_id for event_id in ids if event_id][-1])
            position = behind
            hub.detach(reader, "client", 10.0)
        hub.publish("p", text(), 10.0)
        assert ([8, 9], []) == self.start(hub, position)

    @pytest.mark.parametrize(("frames", "seconds", "gaps"), [(3, 10.0, 1), (3, 2.0, 0), (0, 10.0, 1)])
    def test_a_span_that_reaches_behind_what_is_held_is_a_gap(self, frames: int, seconds: float, gaps: int) -> None:
        hub = make_hub()
        hub.restore(past(frames), 8.0)
        reader = FakeConnection(hub, "c")
        hub.attach("p", reader, lambda known: resume.younger_than(known, "10s", seconds, 8.0), 8.0)
        assert [None] * gaps == [gap["lost"] for gap in reader.controls("gap")]

    def test_one_that_never_lost_an_event_has_no_gap(self) -> None:
        hub = make_hub()
        hub.restore(msgspec.structs.replace(past(), first_seq=5), 8.0)
        reader = FakeConnection(hub, "c")
        hub.attach("p", reader, lambda known: resume.younger_than(known, "10s", 10.0, 8.0), 8.0)
        assert [] == reader.controls("gap")


class TestKeptElsewhere:
    """A project that other processes number and keep: followed here while it has a subscriber here."""

    def test_it_is_not_forgotten_by_itself(self) -> None:
        hub = make_hub()
        hub.restore(msgspec.structs.replace(past(0), pinned=True), 0.0)
        project = hub.projects["p"]
        reader = FakeConnection(hub, "c")
        hub.attach("p", reader, resume.nothing, 0.0)
        hub.detach(reader, "client", 0.0)
        assert project is hub.projects["p"]

    def test_what_comes_from_there_is_held_and_handed_on_but_not_counted_as_published(self) -> None:
        hub = make_hub(max_events=2)
        hub.restore(msgspec.structs.replace(past(0), pinned=True), 0.0)
        project = hub.projects["p"]
        reader = FakeConnection(hub, "c")
        hub.attach("p", reader, resume.nothing, 0.0)
        for seq in (5, 6, 7):
            hub.append_replicated(project, b"id: old1-%d\ndata: x\n\n" % seq, 0.0)
        hub.flush(0.0)
        assert [5, 6, 7] == reader.seqs
        assert (2, 0, 3) == (hub.counters.ring_events, hub.counters.published, hub.counters.delivered)

    def test_followed_without_readers_wants_no_flush(self) -> None:
        hub = make_hub()
        hub.restore(msgspec.structs.replace(past(0), pinned=True), 0.0)
        hub.append_replicated(hub.projects["p"], b"id: old1-5\ndata: x\n\n", 0.0)
        assert not hub._flush_queue._dirty

    def test_letting_go_loses_and_counts_nothing(self) -> None:
        hub = make_hub()
        hub.restore(msgspec.structs.replace(past(), pinned=True), 0.0)
        before = vars_of(hub.counters.misses)
        hub.forget("p")
        hub.forget("p")
        assert {} == hub.projects
        assert (0, 0) == (hub.counters.ring_events, hub.counters.ring_bytes)
        assert before == vars_of(hub.counters.misses)
        assert {0} == set(hub.counters.evicted.values())
        assert 0 == len(hub._retention._expiry) + len(hub._retention._lru)
        observer = hub._observer
        assert isinstance(observer, Recorder)
        assert ["p"] == observer.forgotten


def vars_of(totals: MissTotals) -> tuple[int, int, int]:
    return totals.misses, totals.recovered, totals.lost


def test_a_project_knows_its_ids() -> None:
    hub = make_hub()
    hub.publish("p", text(), 0.0)
    project = hub.projects["p"]
    assert isinstance(project, Project)
    assert (f"{project.epoch}-1", f"{project.epoch}-1") == (project.oldest_id, project.newest_id)
    hub.counters.misses.touched = set()
    project.evict(0, "count", 0.0)
    assert set() == hub.counters.misses.touched
    project.evict(1, "count", 0.0)
    assert (None, None) == (project.oldest_id, project.newest_id)


def test_epochs_never_repeat() -> None:
    hub = make_hub(max_projects=10)
    epochs = []
    for _ in range(100):
        epochs.append(hub.publish("p", text(), 0.0).id.rpartition("-")[0])
        hub.delete("p", 0.0)
    assert ["boot1", "boot2", "boot9", "boota", "bootz", "boot10", "boot11"] == [
        epochs[number - 1] for number in (1, 2, 9, 10, 35, 36, 37)
    ]
    assert 100 == len(set(epochs))
