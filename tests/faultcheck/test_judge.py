"""The judge finds what is wrong in histories made by hand, and nothing in those that are right."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.faultcheck.judge import LEDGER, Promise, judge
from tests.faultcheck.records import (
    Broken,
    Caught,
    Ended,
    Fault,
    Gap,
    Hello,
    History,
    Misses,
    Opened,
    Polled,
    Received,
    Record,
    Seen,
    Sent,
    Started,
)

STREAM = '{"target":{"kind":"stream"}}'
WEBHOOK = '{"target":{"kind":"webhook"}}'


def published(at: float, token: str, event_id: str = "", **more: Any) -> Sent:
    """Accepted unless `more` says otherwise."""
    usual: dict[str, Any] = {"outcome": "accepted", "status": 201, "way": "json", "project": "p", "publisher": "x"}
    return Sent(at, at + 0.1, token=token, id=event_id, **{**usual, **more})


def triggered(at: float, token: str, job: str, body: str = WEBHOOK, **more: Any) -> Sent:
    return published(at, token, job, way="trigger", body=body, **more)


def opened(at: float, who: str = "s", asked: str = "", since: str = "all") -> Opened:
    return Opened(at, who, "p", asked, since)


def hello(at: float, event_id: str, who: str = "s", oldest: str = "") -> Hello:
    return Hello(at, who, "p", event_id, oldest, event_id)


def seen(at: float, event_id: str, token: str, who: str = "s") -> Seen:
    return Seen(at, who, "p", event_id, token)


def gap(at: float, asked: str, oldest: str, lost: int | None, reason: str, who: str = "s") -> Gap:
    return Gap(at, who, "p", asked, oldest, oldest, lost, reason)


def job(at: float, token: str, webhook_id: str, status: int = 200) -> Received:
    return Received(at, "p", token, webhook_id, status)


def kill(at: float) -> Fault:
    return Fault(at, "kill", loses_events=True, kills=True)


def rules(*records: Record, promise: Promise | None = None) -> set[str]:
    return {violation.rule for violation in judge(History(list(records)), promise or Promise())}


GOOD: tuple[Record, ...] = (
    opened(0.0),
    hello(0.1, "e-0"),
    published(1.0, "one", "e-1"),
    seen(1.1, "e-1", "one"),
    published(2.0, "two", "e-2"),
    seen(2.1, "e-2", "two"),
    Ended(2.5, "s", "p", "cut"),
    published(3.0, "three", "e-3"),
    opened(4.0, asked="e-2"),
    hello(4.1, "e-2", oldest="e-1"),
    seen(4.2, "e-3", "three"),
    Caught(4.3, "s", "p"),
)


def without(record: Record) -> tuple[Record, ...]:
    return tuple(each for each in GOOD if each is not record)


def test_a_whole_history_breaks_nothing() -> None:
    assert set() == rules(*GOOD)


def test_an_event_left_out_is_a_hole_and_unseen() -> None:
    assert {"order", "unseen"} == rules(*without(GOOD[5]))


def test_the_last_event_left_out_is_unseen() -> None:
    assert {"unseen"} == rules(*without(GOOD[10]))


def test_a_subscriber_that_never_came_to_the_end_may_still_get_it() -> None:
    assert set() == rules(*GOOD[:-2])


def test_an_event_twice_or_out_of_order() -> None:
    assert {"order"} == rules(*GOOD[:-1], seen(4.25, "e-2", "two"))
    assert {"order"} == rules(*GOOD[:-1], seen(4.25, "e-3", "three"))


def test_an_id_noted_before_its_event_came() -> None:
    """The wire has the id behind the data, so that a cut between both loses nothing."""
    assert {"order", "unseen"} == rules(
        *GOOD[:5], opened(4.0, asked="e-2"), hello(4.1, "e-2"), seen(4.2, "e-3", "three"), GOOD[7], GOOD[-1]
    )


def test_an_id_that_means_two_events() -> None:
    assert {"one-meaning", "unseen"} == rules(*GOOD[:-1], published(4.2, "four", "e-3"), GOOD[-1])
    assert "one-meaning" in rules(
        *GOOD, opened(5.0, "t", since="none"), hello(5.1, "e-2", "t"), seen(6, "e-3", "x", "t")
    )


def test_an_event_with_two_ids_in_one_epoch() -> None:
    again = published(4.0, "one", "e-4")
    assert {"twice"} == rules(*GOOD[:-1], again, seen(4.25, "e-4", "one"), GOOD[-1])


def test_an_event_may_come_again_under_the_next_epoch() -> None:
    """What a store kept goes on under a new epoch when its end may be lost."""
    assert set() == rules(
        *GOOD[:-5],
        kill(3.5),
        opened(4.0, asked="e-2"),
        hello(4.1, "f-0"),
        gap(4.2, "e-2", "f-1", None, "restart"),
        seen(4.3, "f-1", "one"),
        seen(4.4, "f-2", "two"),
        Caught(4.5, "s", "p"),
    )


RESTARTED = (
    *GOOD[:-4],
    opened(4.0, asked="e-2"),
    hello(4.1, "f-0"),
    gap(4.2, "e-2", "f-1", None, "restart"),
    seen(4.3, "f-1", "one"),
    Caught(4.5, "s", "p"),
)


def test_a_reported_restart_after_a_fault_that_may_lose() -> None:
    assert set() == rules(*RESTARTED[:-5], kill(3.5), *RESTARTED[-5:])


def test_an_epoch_begins_with_the_first_hello_that_shows_it() -> None:
    """Its first event may be read after the fault that ended it."""
    assert set() == rules(
        opened(0.0, since="none"),
        hello(0.1, "e-0"),
        published(1.0, "one", "e-1"),
        kill(1.5),
        seen(1.6, "e-1", "one", "t"),
        opened(2.0, asked="e-0"),
        hello(2.1, "f-0"),
        gap(2.2, "e-0", "", None, "restart"),
        opened(0.0, "t", since="none"),
    )


def test_a_restart_gap_where_nothing_may_be_lost() -> None:
    assert {"loss"} == rules(*RESTARTED)
    assert {"loss"} == rules(*RESTARTED[:-5], Fault(3.5, "SIGTERM"), *RESTARTED[-5:])


def test_another_epoch_without_a_gap() -> None:
    silent = [record for record in RESTARTED if not isinstance(record, Gap)]
    assert "order" in rules(*silent[:-4], kill(3.5), *silent[-4:])


def test_a_subscriber_that_is_cut_off_between_hello_and_gap() -> None:
    """It comes back behind a gap that it hasn't read; docs/decisions.md says why that is the limit."""
    history = (
        *GOOD[:7],
        opened(4.0, asked="e-2"),
        hello(4.1, "f-0"),
        opened(4.2, asked="f-0"),
        hello(4.3, "f-0"),
        published(5.0, "one", "f-1"),
        seen(5.1, "f-1", "one"),
        Caught(6.0, "s", "p"),
    )
    assert set() == rules(*history[:7], kill(3.5), *history[7:])
    assert {"loss"} == rules(*history)
    read_more = (*history[:9], seen(4.15, "f-1", "zero"), *history[9:])
    assert "order" in rules(*read_more[:7], kill(3.5), *read_more[7:])


def test_a_subscriber_that_is_cut_off_within_hello() -> None:
    """It has noted the id of a hello that it hasn't read to its end."""
    history = (
        *GOOD[:7],
        opened(4.0, asked="e-2"),
        opened(4.2, asked="f-0"),
        hello(4.3, "f-0"),
        published(5.0, "one", "f-1"),
        seen(5.1, "f-1", "one"),
        Caught(6.0, "s", "p"),
    )
    assert set() == rules(*history[:7], kill(3.5), *history[7:])
    assert {"loss"} == rules(*history)


def test_a_gap_is_read_again_by_a_subscriber_that_was_cut_off_behind_it() -> None:
    restarted = (
        *GOOD[:7],
        kill(3.5),
        opened(4.0, asked="e-2"),
        hello(4.1, "e-2", oldest="f-1"),
        gap(4.1, "e-2", "f-1", None, "restart"),
        opened(4.2, asked="e-2"),
        hello(4.3, "e-2", oldest="f-1"),
        gap(4.3, "e-2", "f-1", None, "restart"),
        published(4.0, "one", "f-1"),
        seen(5.1, "f-1", "one"),
        Caught(6.0, "s", "p"),
    )
    assert set() == rules(*restarted)
    assert "order" in rules(*restarted[:-2], seen(5.1, "f-2", "one"))

    evicted = (
        *GOOD[:7],
        opened(4.0, asked="e-2"),
        hello(4.1, "e-2", oldest="e-5"),
        gap(4.1, "e-2", "e-5", 2, "evicted"),
        opened(4.2, asked="e-2"),
        hello(4.3, "e-2", oldest="e-6"),
        gap(4.3, "e-2", "e-6", 3, "evicted"),
        published(5.0, "six", "e-6"),
        seen(5.1, "e-6", "six"),
        Caught(6.0, "s", "p"),
    )
    assert set() == rules(*evicted, promise=Promise(evicts=True))
    miscounted = (*evicted[:-4], gap(4.3, "e-2", "e-6", 1, "evicted"), *evicted[-3:])
    assert {"gap-count"} == rules(*miscounted, promise=Promise(evicts=True))


LOST = published(3.0, "three", "e-3")
RESUMED = (opened(4.0, asked="e-2"), hello(4.1, "e-2"), published(5.0, "four", "f-3"), seen(5.1, "f-3", "four"))


def test_the_next_epoch_may_go_on_without_a_gap_where_nothing_was_lost() -> None:
    assert set() == rules(*GOOD[:7], *RESUMED, Caught(6.0, "s", "p"))
    assert {"unseen"} == rules(*GOOD[:7], kill(3.5), LOST, *RESUMED, Caught(6.0, "s", "p"))


def test_a_gap_reports_all_that_was_lost_before_it() -> None:
    """Of any epoch: `f` began, and ended with its last event, while the subscriber had come no further than `e-2`."""
    other = published(3.2, "other", "f-4")
    lost_too = (*GOOD[:7], published(3.1, "four", "f-3"), other, kill(3.5), opened(4.0, asked="e-2"), hello(4.1, "e-2"))
    behind = (seen(4.3, "f-3", "four"), published(5.0, "five", "g-4"), seen(5.1, "g-4", "five"), Caught(6.0, "s", "p"))
    assert {"unseen"} == rules(*lost_too, *behind)
    assert set() == rules(*lost_too, gap(4.2, "e-2", "f-3", None, "restart"), *behind)


def test_what_is_kept_comes_again_after_a_gap() -> None:
    """Under the ids it had, which belong to the epoch before."""
    gap_and_all = (gap(4.2, "e-2", "e-1", None, "restart"), seen(4.3, "e-1", "one"), seen(4.4, "e-2", "two"))
    assert set() == rules(*GOOD[:7], LOST, kill(3.5), *RESUMED[:2], *gap_and_all, *RESUMED[2:], Caught(6.0, "s", "p"))


def audit(*tokens: str) -> tuple[Record, ...]:
    """What is still held at the end, as one reads it who comes then."""
    frames = (seen(9.2, f"f-{number}", token, "t") for number, token in enumerate(tokens, 1))
    return opened(9.0, "t"), hello(9.1, "f-0", "t"), *frames, Caught(9.3, "t", "p")


def test_an_event_that_is_not_kept() -> None:
    assert {"gone"} == rules(*GOOD, *audit("one", "two"))
    assert set() == rules(*GOOD, kill(8.0), *audit("one", "two"))


def test_a_middle_that_is_gone_while_what_is_behind_it_is_kept() -> None:
    assert {"tail"} == rules(*GOOD, kill(8.0), *audit("one", "three"))
    assert set() == rules(*GOOD, kill(8.0), published(8.5, "three", "f-2"), *audit("one", "three"))


EVICTED = (
    *GOOD[:8],
    opened(4.0, asked="e-1"),
    hello(4.1, "e-1"),
    gap(4.2, "e-2", "e-4", 1, "evicted"),
    published(4.2, "four", "e-4"),
    seen(4.3, "e-4", "four"),
    Caught(4.5, "s", "p"),
)


def test_an_eviction_that_a_gap_reports() -> None:
    assert set() == rules(*EVICTED, promise=Promise(evicts=True))


def test_an_eviction_from_a_ring_that_holds_all() -> None:
    assert {"loss"} == rules(*EVICTED)


def test_a_gap_that_counts_wrong() -> None:
    wrong = tuple(replace(each, lost=7) if isinstance(each, Gap) else each for each in EVICTED)
    assert {"gap-count"} == rules(*wrong, promise=Promise(evicts=True))


def test_an_id_that_was_issued_is_not_unknown() -> None:
    wrong = tuple(replace(each, lost=None, reason="unknown") if isinstance(each, Gap) else each for each in EVICTED)
    assert "unknown-id" in rules(*wrong, promise=Promise(evicts=True))


def test_a_hello_without_an_id() -> None:
    assert "hello-id" in rules(opened(0.0), hello(0.1, ""))


@pytest.mark.parametrize(
    "sent",
    [
        published(1.0, "x", outcome="refused", status=409, code="no_connection"),
        published(1.0, "x", outcome="refused", status=507, code="store_unavailable"),
        published(1.0, "x", outcome="unsent", status=0),
    ],
)
def test_what_was_refused_or_never_sent_is_not_seen(sent: Sent) -> None:
    assert "unpublished" in rules(*GOOD, sent, seen(5.0, "e-4", "x"))
    assert "unpublished" in rules(*GOOD, seen(5.0, "e-4", "x"))


def test_what_was_refused_and_then_accepted_is_seen() -> None:
    refused = published(1.0, "x", outcome="refused", status=503, code="draining")
    assert set() == rules(*GOOD, refused, published(4.5, "x", "e-4"), seen(5.0, "e-4", "x"))


def test_an_answer_of_redis_may_be_lost_on_its_way() -> None:
    sent = published(4.5, "x", outcome="refused", status=503, code="store_unavailable")
    assert set() == rules(*GOOD, sent, seen(5.0, "e-4", "x"), promise=Promise(refusals_final=False))


def test_a_late_subscriber_sees_nothing_of_what_was_before() -> None:
    late = (opened(5.0, "t", since="none"), hello(5.1, "e-3", "t"), published(6.0, "four", "e-4"))
    behind = (seen(6.1, "e-4", "four", "t"), Caught(6.2, "t", "p"), seen(6.1, "e-4", "four"))
    assert set() == rules(*GOOD, *late, *behind)


def test_an_event_that_no_subscriber_saw_and_no_counter_has() -> None:
    forgetful = (
        opened(0.0, since="missed"),
        hello(0.1, "e-0"),
        published(1.0, "one", "e-1"),
        published(2.0, "two", "e-2"),
        opened(3.0, since="missed"),
        hello(3.1, "e-1"),
        seen(3.2, "e-2", "two"),
        Caught(3.3, "s", "p"),
    )
    assert {"vanished"} == rules(*forgetful)
    assert set() == rules(*forgetful, Misses(4.0, "n", "p", total=1, recovered=0, lost=1, pending=0))
    assert set() == rules(kill(2.5), *forgetful)


def test_a_key_is_answered_the_same() -> None:
    first = published(1.0, "k", "e-1", key="k", body="a")
    assert set() == rules(first, replace(first, at=2.0, until=2.1, replayed=True))


@pytest.mark.parametrize(
    "second",
    [
        published(2.0, "k", "e-2", key="k", body="a", replayed=True),
        published(2.0, "k", "e-1", key="k", body="b", replayed=True),
        published(2.0, "k", "e-1", key="k", body="a"),
        published(2.0, "k", key="k", outcome="refused", status=422, code="idempotency_mismatch"),
        published(2.0, "k", key="k", outcome="refused", status=502, code="dispatch_failed", may_have_started=True),
    ],
)
def test_a_key_is_not_answered_otherwise(second: Sent) -> None:
    first = published(1.0, "k", "e-1", key="k", body="a")
    assert "key" in rules(first, second)


def test_a_key_may_be_lost_with_its_event() -> None:
    first, second = published(1.0, "k", "e-1", key="k"), published(2.0, "k", "f-1", key="k")
    assert set() == rules(first, kill(1.5), second)
    assert {"key"} == rules(first, Fault(1.5, "SIGTERM"), second)


def test_an_answer_may_be_forgotten_where_it_is_not_kept_at_once() -> None:
    first = triggered(1.0, "k", "job1", key="k")
    uncertain = replace(first, at=2.0, until=2.1, outcome="refused", status=502, may_have_started=True)
    arrival, gentle = job(1.05, "k", "job1"), Promise(answers_kept=False)
    assert set() == rules(first, arrival, Fault(1.5, "Redis is killed"), uncertain, promise=gentle)
    assert {"key"} == rules(first, arrival, Fault(1.5, "SIGTERM"), uncertain)
    assert {"key"} == rules(first, arrival, uncertain, promise=gentle)


def test_a_job_is_started_once() -> None:
    asked = triggered(1.0, "j", "job1")
    assert set() == rules(asked, job(1.05, "j", "job1"))
    assert set() == rules(asked, job(1.05, "j", "job1", 503), job(1.07, "j", "job1", 429), job(1.08, "j", "job1"))
    assert {"job"} == rules(asked)
    assert {"job"} == rules(asked, job(1.05, "j", "job1"), job(2.0, "j", "job1"))
    assert {"job"} == rules(asked, job(1.05, "j", "job1"), job(2.0, "j", "job2"))
    assert {"job"} == rules(asked, job(1.05, "j", "job1", 0), job(2.0, "j", "job1"))


def test_a_job_may_be_started_again_when_its_key_is_lost() -> None:
    asked, arrivals = triggered(1.0, "j", "job1"), (job(1.05, "j", "job1"), job(3.0, "j", "job2"))
    assert set() == rules(asked, *arrivals, Fault(2.0, "an older copy", loses_events=True, loses_keys=True))
    assert {"job"} == rules(asked, *arrivals, kill(2.0))


def test_a_refused_trigger_starts_nothing() -> None:
    refused = triggered(1.0, "j", "", "", outcome="refused", status=409, code="no_connection")
    assert {"job"} == rules(refused, job(1.05, "j", "job1"))
    uncertain = triggered(
        1.0, "j", "", "", outcome="refused", status=502, code="dispatch_failed", may_have_started=True
    )
    assert set() == rules(uncertain, job(1.05, "j", "job1"))


def test_two_jobs_with_one_webhook_id() -> None:
    asked = (triggered(1.0, "j", "job1"), triggered(2.0, "i", "job1"))
    assert {"job"} == rules(*asked, job(1.05, "j", "job1"), job(2.05, "i", "job1"))


def test_a_job_on_the_own_stream_is_an_event() -> None:
    asked = triggered(4.0, "j", "job1", STREAM)
    assert set() == rules(*GOOD[:-1], asked, seen(4.25, "e-4", "j"), GOOD[-1])
    assert {"unseen"} == rules(*GOOD[:-1], asked, GOOD[-1])


def test_a_job_that_was_answered_again_happened_when_it_was_first_triggered() -> None:
    later = (*GOOD[:-1], opened(5.0, "late", since="none"), hello(5.1, "e-4", "late"))
    first, ends = triggered(4.0, "j", "job1", STREAM), (GOOD[-1], Caught(GOOD[-1].at, "late", "p"))
    again = replace(first, at=6.0, until=6.1, replayed=True)
    assert set() == rules(*later, first, seen(4.25, "e-4", "j"), again, *ends)
    assert {"unseen"} == rules(*later, seen(4.25, "e-4", "j"), replace(again, replayed=False), *ends)


def poll(at: float, life: int, *misses: float, **others: float) -> Polled:
    return Polled(at, "n", life, dict(zip(LEDGER, misses, strict=True)) | others)


def test_an_uneven_ledger() -> None:
    assert set() == rules(poll(1.0, 1, 3, 1, 1, 1), Misses(1.0, "n", "p", 3, 1, 1, 1))
    assert {"ledger"} == rules(poll(1.0, 1, 3, 1, 1, 0))
    assert {"ledger"} == rules(Misses(1.0, "n", "p", 3, 1, 1, 2))
    assert set() == rules(poll(1.0, 1, 0, 1, 0, 0), promise=Promise(even_hub=False))


def test_a_counter_that_comes_back_smaller() -> None:
    first = poll(1.0, 1, 9, 9, 0, 0, edge_events_published_total=9.0)
    assert set() == rules(first, replace(first, at=2.0))
    assert {"counter"} == rules(first, poll(2.0, 1, 9, 9, 0, 0, edge_events_published_total=8.0))
    # A new process begins at zero or goes on, and nowhere between.
    assert set() == rules(first, Started(1.5, "n", 2), poll(2.0, 2, 0, 0, 0, 0, edge_events_published_total=0.0))
    lost = poll(1.0, 1, 9, 0, 9, 0)
    assert set() == rules(lost, Started(1.5, "n", 2), poll(2.0, 2, 0, 0, 0, 0))
    assert set() == rules(lost, Started(1.5, "n", 2), poll(2.0, 2, 9, 0, 9, 0))
    assert {"counter"} == rules(lost, Started(1.5, "n", 2), poll(2.0, 2, 5, 0, 5, 0))


def test_what_the_harness_saw_break() -> None:
    assert {"stuck"} == rules(Broken(1.0, "stuck", "not ready"))
    assert {"internal"} == rules(published(1.0, "x", outcome="refused", status=500, code="internal"))
