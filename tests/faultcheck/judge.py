"""Says what in a history breaks a promise: a pure function over the records of one round.

A violation names the rule, what happened, and the ids, tokens and names by which its records are found in the history.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby, pairwise

from tests.faultcheck.records import (
    Broken,
    Caught,
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
from tests.faultcheck.walk import FORGETFUL, Violation, Walk, follow, split, violation

LEDGER = ("edge_misses_total", "edge_misses_recovered_total", "edge_misses_lost_total", "edge_misses_pending")
_WITH_REDIS_SECONDS = 6.0
"""A node without a heartbeat for 3 s is no longer awaited when Redis starts; the rest is a busy machine."""


@dataclass(frozen=True, slots=True)
class Promise:
    """What holds for the store and settings of a round, beside what its faults may lose."""

    evicts: bool = False
    """The rings are so small that events leave them."""
    refusals_final: bool = True
    """A request refused with `store_unavailable` stored nothing. (An answer of Redis may be lost on its way.)"""
    answers_kept: bool = True
    """No fault separates the answer of a trigger from what is remembered of it."""
    even_hub: bool = True
    """The totals of one node's /metrics are even at every poll. (Around Redis only those of all nodes together are.)"""


Rule = Callable[["_Case"], Iterator[Violation]]


def judge(history: History, promise: Promise) -> list[Violation]:
    """Every violation once, in the order of the rules below."""
    case = _Case(history, promise)
    found = (violation for rule in RULES for violation in rule(case))
    return list({(violation.rule, violation.text): violation for violation in found}.values())


class _Case:
    def __init__(self, history: History, promise: Promise) -> None:
        self.history = history
        self.promise = promise
        self.faults = list(history.of(Fault))
        self.sent = sorted(history.of(Sent), key=lambda sent: sent.until)
        self.seen = list(history.of(Seen))
        self.by_token: defaultdict[tuple[str, str], list[Sent]] = defaultdict(list)
        for sent in self.sent:
            self.by_token[sent.project, sent.token].append(sent)
        frames: defaultdict[tuple[str, str], list[Record]] = defaultdict(list)
        for record in history.records:
            if isinstance(record, Opened | Hello | Seen | Gap | Caught):
                frames[record.project, record.subscriber].append(record)
        issued = {seen.id for seen in self.seen} | {hello.id for hello in history.of(Hello)}
        answers: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
        for sent in self.sent:
            if _published(sent) and sent.id:
                answers[sent.project, sent.token].add(sent.id)
        self.redone = {token for (_, token), ids in answers.items() if len(ids) > 1}
        """Published once more after a loss, under another id."""
        self.epoch_began: dict[str, float] = {}
        """When an event or a hello first showed it. A slow subscriber reads its first event after it has ended."""
        showing: list[Seen | Hello] = [*self.seen, *history.of(Hello)]
        for shown in sorted(showing, key=lambda each: each.at):
            if shown.id:
                self.epoch_began.setdefault(split(shown.id)[0], shown.at)
        self.walks = [follow(each, issued) for each in frames.values()]

    def lossy(self, since: float, until: float, *, keys: bool = False) -> bool:
        """Whether a fault in between may have lost events (or `keys`)."""
        return any((f.loses_keys if keys else f.loses_events) and since < f.at < until for f in self.faults)

    def doubtful(self, since: float, until: float) -> bool:
        """Whether a node ended with Redis in between: what it knew of can't be known (docs/scaling.md)."""
        return any(
            ended.ends_redis
            and since < ended.at < until
            and any(f.kills and abs(f.at - ended.at) < _WITH_REDIS_SECONDS for f in self.faults)
            for ended in self.faults
        )


# ---------------------------------------------------------------- one order, no hole


def in_step(case: _Case) -> Iterator[Violation]:
    """Each subscriber sees every event once, in order, with no hole but those that gaps report."""
    for walk in case.walks:
        yield from walk.faults


def gaps_have_reasons(case: _Case) -> Iterator[Violation]:
    """A gap reports an allowed loss: an eviction where rings are small, a restart after what may lose."""
    for walk in case.walks:
        for position, gap in walk.leaps:
            # A hub can't know whether an id of an earlier epoch was read before the loss or in a replay behind it.
            since = case.epoch_began.get(split(position)[0], walk.began)
            if not (case.lossy(since, gap.at) or (gap.reason == "restart" and case.doubtful(since, gap.at))):
                text = f"{walk.name} read a gap `{gap.reason}` after {position}, and no fault before it may lose events"
                yield violation("loss", text, gap, walk.name, position)
        for gap in walk.evictions if not case.promise.evicts else ():
            text = f"{walk.name} read that {gap.lost} were evicted from a ring that holds them all"
            yield violation("loss", text, gap, walk.name)


def one_meaning(case: _Case) -> Iterator[Violation]:
    """An id never means two events, and within an epoch an event has one id."""
    meaning: dict[tuple[str, str], str] = {}
    ids: defaultdict[tuple[str, str, str], set[str]] = defaultdict(set)
    claims = [(s.at, s.project, s.id, s.token) for s in case.seen]
    claims += [(s.until, s.project, s.id, s.token) for s in case.sent if _published(s) and s.id]
    for at, project, event_id, token in sorted(claims):
        known = meaning.setdefault((project, event_id), token)
        if known != token:
            text = f"{event_id} of {project} means {known} and {token}"
            yield Violation("one-meaning", text, frozenset({event_id, known, token}), at)
        same = ids[project, token, split(event_id)[0]]
        same.add(event_id)
        if len(same) == 2:
            yield Violation("twice", f"{token} has the ids {sorted(same)}", frozenset({token, *same}), at)


# ---------------------------------------------------------------- receipts and what was seen


def seen_was_sent(case: _Case) -> Iterator[Violation]:
    """Nothing is seen that was not published, or whose publishing was refused."""
    reported: set[str] = set()
    for seen in case.seen:
        attempts = case.by_token.get((seen.project, seen.token), [])
        if seen.token in reported or any(_may_be_there(sent, case.promise) for sent in attempts):
            continue
        reported.add(seen.token)
        last = attempts[-1] if attempts else None
        how = f"{last.outcome} ({last.status} {last.code})" if last else "never sent"
        yield violation("unpublished", f"{seen.id} ({seen.token}) was seen, and it was {how}", seen, seen.token)


def _may_be_there(sent: Sent, promise: Promise) -> bool:
    if sent.outcome in {"accepted", "unknown"} or sent.may_have_started:
        return True
    return sent.code == "store_unavailable" and not promise.refusals_final


def receipts_were_seen(case: _Case) -> Iterator[Violation]:
    """What has a receipt is seen by every subscriber that was there, or a gap reports it."""
    for walk in case.walks:
        if not walk.caught or walk.since == FORGETFUL:
            continue
        for sent in case.sent:
            if sent.project != walk.project or sent.token in walk.tokens or not _promised(sent):
                continue
            if any(case.lossy(sent.at, gap.at) for _, gap in walk.leaps):
                continue  # the loss that this gap reports may have taken it
            if sent.id and sent.way != "trigger":
                excused = sent.until < walk.began or walk.excuses(*split(sent.id))
            else:
                # A repetition is answered with what an earlier request did.
                at = min(each.at for each in case.by_token[sent.project, sent.token]) if sent.replayed else sent.at
                excused = at < walk.began or bool(walk.leaps or walk.evicted)
            if not excused:
                text = f"{walk.name} never saw {sent.token} ({sent.id or sent.way}), and no gap reports it"
                yield violation("unseen", text, sent, walk.name, sent.token, sent.id)


def what_is_kept_has_no_hole(case: _Case) -> Iterator[Violation]:
    """A ring that holds all has everything at the end; where the end may be lost, a beginning without a hole."""
    auditors = [walk for walk in case.walks if walk.caught and walk.since == "all"]
    latest = {walk.project: walk for walk in sorted(auditors, key=lambda walk: walk.began)}
    for project, walk in latest.items() if not case.promise.evicts else ():
        mine = [sent for sent in case.sent if sent.project == project and _promised(sent) and sent.until < walk.began]
        for sent in mine:
            if sent.token not in walk.tokens and not case.lossy(sent.at, walk.began):
                text = f"{sent.token} ({sent.id}) is gone, and no fault before it may lose events"
                yield violation("gone", text, sent, sent.token, sent.id)
        numbered = sorted(((split(s.id), s) for s in mine if s.id and s.way != "trigger"), key=lambda each: each[0])
        for _, epoch in groupby(numbered, key=lambda each: each[0][0]):
            for (_, one), (_, other) in pairwise(epoch):
                if one.token not in walk.tokens and other.token in walk.tokens.keys() - case.redone:
                    text = f"{one.token} ({one.id}) is gone, and {other.token} ({other.id}) behind it is kept"
                    yield violation("tail", text, one, one.token, one.id, other.token)


def each_was_seen(case: _Case) -> Iterator[Violation]:
    """Where no subscriber resumes by id, each event is seen by one of them, or counted as lost or pending."""
    forgetful: defaultdict[str, list[Walk]] = defaultdict(list)
    for walk in case.walks:
        if walk.since == FORGETFUL:
            forgetful[walk.project].append(walk)
    for project, walks in forgetful.items():
        if any(fault.kills or fault.loses_events for fault in case.faults) or not any(walk.caught for walk in walks):
            continue
        tokens = {token for walk in walks for token in walk.tokens}
        unseen = [s for s in case.sent if s.project == project and _promised(s) and s.token not in tokens]
        status = [misses for misses in case.history.of(Misses) if misses.project == project]
        counted = status[-1].lost + status[-1].pending if status else 0
        if len({sent.token for sent in unseen}) > counted:
            text = (
                f"{len(unseen)} of {project} were seen by no subscriber, and {counted} are counted as lost or pending"
            )
            yield violation("vanished", text, unseen[0], *(sent.token for sent in unseen))


def _promised(sent: Sent) -> bool:
    return sent.outcome == "accepted" and (sent.way != "trigger" or '"kind":"stream"' in sent.body.replace(" ", ""))


def _published(sent: Sent) -> bool:
    return sent.outcome == "accepted" and sent.way != "trigger"


# ---------------------------------------------------------------- keys and jobs


def keys_act_once(case: _Case) -> Iterator[Violation]:
    """A key that was answered is answered the same for ever, and marked as a repetition."""
    keyed: defaultdict[tuple[str, str], list[Sent]] = defaultdict(list)
    for sent in case.sent:
        if sent.key:
            keyed[sent.project, sent.key].append(sent)
    for (_, key), attempts in keyed.items():
        first: Sent | None = None
        for sent in attempts:
            if sent.code == "idempotency_mismatch":
                yield violation("key", f"{key}: the same request was called another", sent, key)
            if first is None:
                first = sent if sent.outcome == "accepted" else None
                continue
            problem = _not_the_first(first, sent)
            # What was sent can be remembered although its answer can't: then a repetition is not sent, and says why.
            forgotten = sent.may_have_started and not case.promise.answers_kept
            forgotten = forgotten and any(first.at < fault.at < sent.until for fault in case.faults)
            if problem and not forgotten and not case.lossy(first.at, sent.until):
                yield violation("key", f"{key} was answered {first.id}, then {problem}", sent, key, first.id, sent.id)


def _not_the_first(first: Sent, sent: Sent) -> str:
    if sent.outcome == "accepted":
        if sent.id != first.id:
            return f"another: {sent.id}"
        if sent.body != first.body:
            return f"another answer: {sent.body} instead of {first.body}"
        # Requests that were under way together: the one that waited may have had its answer first.
        return "" if sent.replayed or first.replayed or sent.at < first.until else "the same, not as a repetition"
    return f"{sent.status} {sent.code}" if sent.outcome == "refused" and sent.status not in {429, 503} else ""


def jobs_start_once(case: _Case) -> Iterator[Violation]:
    """A trigger is one job at the target, whatever happened; one that was refused is none; an answered one is there."""
    jobs: defaultdict[tuple[str, str], list[Received]] = defaultdict(list)
    owners: dict[str, str] = {}
    for received in sorted(case.history.of(Received), key=lambda job: job.at):
        jobs[received.project, received.token].append(received)
        owner = owners.setdefault(received.webhook_id, received.token)
        if owner != received.token:
            text = f"webhook-id {received.webhook_id} means {owner} and {received.token}"
            yield violation("job", text, received, received.webhook_id, owner, received.token)
    for (project, token), arrivals in jobs.items():
        # One that the hub left before it was answered (status 0) is at work like one that was answered with 2xx.
        for one, other in pairwise(job for job in arrivals if job.status < 300):
            asked = max((s.at for s in case.by_token[project, token] if s.at <= one.at), default=one.at)
            if not case.lossy(asked, other.at, keys=True):
                text = f"{token} came to the target as {one.webhook_id} and again as {other.webhook_id}"
                yield violation("job", text, other, token, one.webhook_id, other.webhook_id)
    for (project, token), attempts in case.by_token.items():
        triggers = [sent for sent in attempts if sent.way == "trigger" and '"kind":"stream"' not in sent.body]
        if not triggers:
            continue
        arrivals = jobs.get((project, token), [])
        answered = [sent for sent in triggers if sent.outcome == "accepted" and "webhook" in sent.body]
        if answered and not any(job.status < 300 for job in arrivals):
            yield violation("job", f"{token} was answered, and never came to the target", answered[0], token)
        if arrivals and not any(_may_be_there(sent, case.promise) for sent in triggers):
            last = triggers[-1]
            text = f"{token} came to the target, and its trigger was refused: {last.status} {last.code}"
            if any(job.status < 300 for job in arrivals):
                yield violation("job", text, last, token)


# ---------------------------------------------------------------- the ledger and the counters


def ledger_is_even(case: _Case) -> Iterator[Violation]:
    """misses = recovered + lost + pending, at every poll."""
    for misses in case.history.of(Misses):
        if misses.total != misses.recovered + misses.lost + misses.pending:
            yield violation("ledger", f"{misses.project} at {misses.node}: {misses}", misses, misses.project)
    for polled in case.history.of(Polled) if case.promise.even_hub else ():
        total, *parts = (polled.samples.get(name, 0.0) for name in LEDGER)
        if total != sum(parts):
            yield violation("ledger", f"{polled.node}: {total} misses, of them {parts}", polled, polled.node)


def counters_grow(case: _Case) -> Iterator[Violation]:
    """Within one process no counter comes back smaller. Those of a new one begin at zero or go on: losses that come
    back smaller have counted no more than was published since its start.
    """
    before: dict[str, Polled] = {}
    started = {(record.node, record.life): record.at for record in case.history.of(Started)}
    for polled in case.history.of(Polled):
        last = before.get(polled.node)
        before[polled.node] = polled
        if last is None:
            continue
        fresh = last.life != polled.life
        for name, value in polled.samples.items():
            known = last.samples.get(name, 0.0)
            if value >= known or not name.partition("{")[0].endswith("_total"):
                continue
            if fresh and (name != "edge_misses_lost_total" or not case.promise.even_hub):
                continue
            since = started.get((polled.node, polled.life), 0.0)
            if fresh and value <= sum(since <= sent.until and sent.at <= polled.at for sent in case.sent):
                continue
            text = f"{polled.node}: {name} was {known:g}, and is {value:g}"
            yield violation("counter", text, polled, polled.node)


# ---------------------------------------------------------------- what must never happen


def nothing_broke(case: _Case) -> Iterator[Violation]:
    """No request ends in 500, and the harness saw nothing end or hang that should not."""
    for sent in case.sent:
        if sent.status == 500:
            yield violation("internal", f"{sent.way} of {sent.token}: 500 {sent.body}", sent, sent.token)
    for broken in case.history.of(Broken):
        yield violation(broken.rule, broken.text, broken)


RULES: tuple[Rule, ...] = (
    one_meaning,
    in_step,
    gaps_have_reasons,
    seen_was_sent,
    receipts_were_seen,
    what_is_kept_has_no_hole,
    each_was_seen,
    keys_act_once,
    jobs_start_once,
    ledger_is_even,
    counters_grow,
    nothing_broke,
)


def counts(history: History, violations: Iterable[Violation]) -> dict[str, int]:
    """What a round was made of, for the report."""
    sent = list(history.of(Sent))
    return {
        "faults": len(list(history.of(Fault))),
        "kills": sum("kill -9" in fault.what for fault in history.of(Fault)),
        "stalls": sum("SIGSTOP" in fault.what for fault in history.of(Fault)),
        "receipts": sum(each.outcome == "accepted" for each in sent),
        "refused": sum(each.outcome == "refused" for each in sent),
        "unknown": sum(each.outcome == "unknown" for each in sent),
        "repeated": sum(each.replayed for each in sent),
        "jobs": len(list(history.of(Received))),
        "deliveries": len(list(history.of(Seen))),
        "gaps": len(list(history.of(Gap))),
        "connections": len(list(history.of(Opened))),
        "polls": len(list(history.of(Polled))) + len(list(history.of(Misses))),
        "violations": len(list(violations)),
    }
