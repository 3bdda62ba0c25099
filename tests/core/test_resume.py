"""Where a reader starts, for everything it can ask: a cursor, what it passes over, a gap where one is due."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from edge.core import registry, resume
from edge.core.hub import Hub
from edge.core.project import Project
from edge.core.resume import Gap, Start
from tests.core.fakes import FakeConnection, make_hub, text


def project(published: int = 0, max_events: int = 1000) -> Project:
    """Event `n` is of second `n`; no subscriber was there."""
    hub: Hub = make_hub(max_events=max_events)
    hub.reserve("p", text(), 0.0)
    known = hub.projects["p"]
    known.reserved = 0
    for number in range(1, published + 1):
        hub.publish("p", text(), float(number))
    return known


@pytest.mark.parametrize(
    ("asked", "start"),
    [
        (0, Start(5, gap=Gap("boot1-0", "evicted", 5, 1), resume_from=0)),
        (4, Start(5, gap=Gap("boot1-4", "evicted", 1, 5), resume_from=4)),
        (5, Start(5, resume_id="boot1-5")),
        (6, Start(6, resume_id="boot1-6")),
        (8, Start(8, resume_id="boot1-8")),
        (9, Start(5, gap=Gap("boot1-9", "unknown", None))),
    ],
)
def test_behind_an_event_of_which_six_to_eight_are_held(asked: int, start: Start) -> None:
    assert start == resume.after_id(project(8, max_events=3), f"boot1-{asked}")


@pytest.mark.parametrize(
    "asked",
    [
        *("", "x", "boot1", "boot1-", "-1", "boot1--1", "boot1-1 ", " boot1-1", "boot1-1\n", "BOOT1-1", "é-1"),
        *("boot1-01", "boot1-00", "boot1-\u0661", "boot1-" + "9" * 19, "z" * 33 + "-1", "boot1-0x1", "boot1-1-1"),
    ],
)
def test_what_is_no_event_id_is_unknown(asked: str) -> None:
    assert not resume.is_event_id(asked)
    assert Start(5, gap=Gap(asked, "unknown", None)) == resume.after_id(project(8, max_events=3), asked)


@pytest.mark.parametrize("asked", ["boot2-3", "z" * 32 + "-1", "0-" + "9" * 18, "boot-11"])
def test_an_id_of_another_epoch_is_a_restart(asked: str) -> None:
    assert resume.is_event_id(asked)
    start = Start(5, gap=Gap(asked, "restart", None), resume_id=asked)
    assert start == resume.after_id(project(8, max_events=3), asked)


def test_a_client_that_is_cut_off_before_the_gap_comes_back_to_it() -> None:
    """Unless nothing is held: then it would come back to it for ever."""
    assert "boot2-3" == resume.after_id(project(8), "boot2-3").resume_id
    assert None is resume.after_id(project(), "boot2-3").resume_id


def test_hello_gives_no_client_an_id_that_is_yet_to_be_issued() -> None:
    """It would be cut off, come back when the id is issued, and miss without a gap what came before it."""
    hub = make_hub(max_events=3)
    hub.publish("p", text(), 0.0)
    reader = come_back(hub, "boot1-9")
    cut(hub, reader)
    for _ in range(10):
        hub.publish("p", text(), 0.0)
    hub.flush(0.0)
    back = come_back(hub, reader.messages[0].id)
    assert ([9, 10, 11], ["evicted"]) == (back.seqs, [gap["reason"] for gap in back.controls("gap")])


def test_no_more_of_a_wrong_id_is_sent_back_than_need_be() -> None:
    gap = resume.after_id(project(), "x" * 1000).gap
    assert gap is not None
    assert "x" * 128 == gap.asked


def test_everything() -> None:
    assert Start(0) == resume.everything(project())
    assert Start(0) == resume.everything(project(3))
    assert Start(5, gap=Gap("all", "evicted", 5, 1), resume_from=0) == resume.everything(project(8, max_events=3))


@pytest.mark.parametrize(
    ("count", "start"),
    [
        (1, Start(7)),
        (3, Start(5)),
        (4, Start(5, gap=Gap("last:n", "evicted", 1, 5), resume_from=4)),
        (999, Start(5, gap=Gap("last:n", "evicted", 5, 1), resume_from=0)),
    ],
)
def test_the_newest_of_which_six_to_eight_are_held(count: int, start: Start) -> None:
    assert start == resume.newest(project(8, max_events=3), "last:n", count)


def test_the_newest_of_none() -> None:
    assert Start(0) == resume.newest(project(), "last", 1)


def test_nothing() -> None:
    assert Start(8) == resume.nothing(project(8))


def test_missed_with_nothing_missed() -> None:
    assert Start(0, takes_missed=True) == resume.missed(project())


def test_missed_all_of_it() -> None:
    assert Start(0, takes_missed=True) == resume.missed(project(3))


def test_missed_with_holes() -> None:
    known = project(9)
    known.ledger.delivered(1, 2)
    known.ledger.delivered(4, 4)
    known.ledger.delivered(8, 9)
    start = resume.missed(known)
    assert (2, None) == (start.cursor, start.gap)
    assert start.skips is not None
    assert [(4, 4), (8, 9)] == list(start.skips)


def test_missed_and_partly_lost() -> None:
    assert Start(5, gap=Gap("missed", "evicted", 5, 1), takes_missed=True) == resume.missed(project(8, max_events=3))


@pytest.mark.parametrize(
    ("seconds", "start"),
    [
        (2.0, Start(7)),
        (3.0, Start(6)),
        (3.5, Start(6)),
        (4.0, Start(5)),
        (4.9, Start(5)),
        (5.0, Start(5, gap=Gap("since", "evicted", None))),
        (500.0, Start(5, gap=Gap("since", "evicted", None))),
        (0.0, Start(8)),
    ],
)
def test_a_span_of_time_that_ends_at_ten(seconds: float, start: Start) -> None:
    """Six to eight are held; an event exactly at the beginning of the span belongs to it."""
    assert start == resume.younger_than(project(8, max_events=3), "since", seconds, 10.0)


def test_gaps_name_the_events_held() -> None:
    hub = make_hub(max_events=3)
    for _ in range(5):
        hub.publish("p", text(), 0.0)
    reader = FakeConnection(hub, "c")
    hub.attach("p", reader, lambda known: resume.after_id(known, "boot1-0"), 0.0)
    assert [
        {"asked": "boot1-0", "oldest": "boot1-3", "newest": "boot1-5", "lost": 2, "reason": "evicted"}
    ] == reader.controls("gap")
    assert ["edge.hello", "edge.gap", "message"] == [message.type for message in reader.messages[:3]]
    assert [3, 4, 5] == reader.seqs


@pytest.mark.parametrize(("asked", "reason"), [("nonsense", "unknown"), ("other-1", "restart"), ("boot1-7", "unknown")])
def test_after_an_unknown_id_everything_held_follows(asked: str, reason: str) -> None:
    hub = make_hub(max_events=3)
    for _ in range(5):
        hub.publish("p", text(), 0.0)
    reader = FakeConnection(hub, "c")
    hub.attach("p", reader, lambda known: resume.after_id(known, asked), 0.0)
    assert [(reason, None)] == [(gap["reason"], gap["lost"]) for gap in reader.controls("gap")]
    assert [3, 4, 5] == reader.seqs
    assert 1 == hub.counters.gaps[reason]


def cut(hub: Hub, reader: FakeConnection, now: float = 0.0) -> str:
    """`reader` loses its connection; returns the id that its client comes back with."""
    hub.detach(reader, "client", now)
    return reader.last_id


def come_back(hub: Hub, last_id: str, connection_id: str = "back") -> FakeConnection:
    reader = FakeConnection(hub, connection_id)
    hub.attach("p", reader, lambda known: resume.after_id(known, last_id), 0.0)
    return reader


class TestTheIdOfHello:
    """A client that is cut off before its first event comes back with it."""

    def test_what_comes_meanwhile_is_not_lost(self) -> None:
        hub = make_hub()
        first, other = FakeConnection(hub, "first"), FakeConnection(hub, "other")
        for reader in (first, other):
            hub.attach("p", reader, resume.missed, 0.0)
        last_id = cut(hub, first)
        hub.publish("p", text(), 0.0)
        hub.flush(0.0)
        back = come_back(hub, last_id)
        assert ([1], []) == (back.seqs, back.controls("gap"))

    @pytest.mark.parametrize(
        ("start", "last_id"),
        [
            (resume.missed, "boot1-5"),
            (resume.nothing, "boot1-8"),
            (resume.everything, "boot1-0"),
            (lambda known: resume.after_id(known, "boot1-2"), "boot1-2"),
            (lambda known: resume.after_id(known, "boot1-6"), "boot1-6"),
            (lambda known: resume.after_id(known, "old-6"), "old-6"),
            (lambda known: resume.after_id(known, "boot1-9"), "boot1-5"),
            (lambda known: resume.younger_than(known, "1s", 2.0, 9.0), "boot1-6"),
        ],
    )
    def test_it_stands_before_the_replay_and_its_gap(self, start: Callable[[Project], Start], last_id: str) -> None:
        hub = make_hub(max_events=3)
        for number in range(1, 9):
            hub.publish("p", text(), float(number))
        reader = FakeConnection(hub, "c")
        hub.attach("p", reader, start, 9.0)
        hello = reader.messages[0]
        assert ("edge.hello", True, last_id) == (hello.type, hello.own_id, hello.id)

    def test_a_project_that_wasforgotten_with_nothing_in_it_is_no_gap(self) -> None:
        hub = make_hub()
        reader = come_back(hub, "old-7")
        assert ["restart"] == [gap["reason"] for gap in reader.controls("gap")]
        for _ in range(3):
            last_id = cut(hub, reader)
            assert {} == hub.projects
            reader = come_back(hub, last_id)
            assert [] == reader.controls("gap")
        last_id = cut(hub, reader)
        hub.publish("p", text(), 0.0)
        assert [1] == come_back(hub, last_id).seqs

    def test_a_project_whose_events_have_all_expired_goes_on_where_it_was(self) -> None:
        hub = make_hub(max_age_seconds=10.0)
        for _ in range(3):
            hub.publish("p", text(), 0.0)
        reader = FakeConnection(hub, "c")
        hub.attach("p", reader, resume.missed, 0.0)
        last_id = cut(hub, reader, 20.0)
        assert None is hub.project("p", 20.0)
        hub.publish("p", text(), 20.0)
        assert ([4], []) == ((back := come_back(hub, last_id)).seqs, back.controls("gap"))
        assert [1] == [gap["lost"] for gap in come_back(hub, "boot1-2", "late").controls("gap")]

    @pytest.mark.parametrize(
        ("start", "lost"),
        [
            (resume.missed, [2]),
            (resume.everything, [3]),
            (lambda known: resume.newest(known, "last:2", 2), [2]),
            (lambda known: resume.younger_than(known, "30s", 30.0, 20.0), [None]),
            (lambda known: resume.younger_than(known, "5s", 5.0, 20.0), []),
            (resume.nothing, []),
        ],
    )
    def test_a_project_whose_events_have_all_expired_still_reports_them(
        self, start: Callable[[Project], Start], lost: list[int | None]
    ) -> None:
        hub = make_hub(max_age_seconds=10.0)
        reader = FakeConnection(hub, "c")
        hub.attach("p", reader, resume.missed, 0.0)
        hub.publish("p", text(), 0.0)
        hub.flush(0.0)
        reader.acknowledge(len(reader.wire))
        hub.detach(reader, "client", 0.0)
        for _ in range(2):
            hub.publish("p", text(), 0.0)
        for _ in range(2):  # a visitor changes nothing
            assert None is hub.project("p", 20.0)
            hub.attach("p", visitor := FakeConnection(hub, "v"), resume.nothing, 20.0)
            hub.detach(visitor, "client", 20.0)
        back = FakeConnection(hub, "back")
        hub.attach("p", back, start, 20.0)
        assert lost == [gap["lost"] for gap in back.controls("gap")]

    def test_a_project_that_was_deleted_is_a_gap(self) -> None:
        hub = make_hub()
        reader = FakeConnection(hub, "c")
        hub.attach("p", reader, resume.missed, 0.0)
        last_id = cut(hub, reader)
        hub.publish("p", text(), 0.0)
        hub.delete("p", 0.0)
        assert ["restart"] == [gap["reason"] for gap in come_back(hub, last_id).controls("gap")]

    def test_the_number_of_dropped_projects_remembered_is_bounded(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(registry, "_MAX_DROPPED", 2)
        hub = make_hub()
        for name in "abc":
            hub.attach(name, reader := FakeConnection(hub, name), resume.missed, 0.0)
            hub.detach(reader, "client", 0.0)
        assert ["b", "c"] == list(hub.dropped)
