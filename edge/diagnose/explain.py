"""The answer to "why was nobody connected?" in plain sentences: the one place where they are made.

`explain` is pure: a `Situation` in, an `Explanation` out. What it says first is the state now, then the likeliest
cause, then what to do; after that every fact, newest first, each with its time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import msgspec

from edge.diagnose.causes import LEFT, REFUSED, Advice, ago, count, duration
from edge.diagnose.history import Fact
from edge.logs.text import one_line

Cause = Literal[
    "connected",
    "unconfirmed",
    "timing",
    "dropped",
    "refused",
    "look_alike",
    "never_connected",
    "unknown",
]


class Misses(msgspec.Struct, frozen=True):
    """As in the project's status; times are seconds of the hub's clock."""

    total: int = 0
    recovered: int = 0
    lost: int = 0
    pending: int = 0
    first_seconds: float | None = None
    last_seconds: float | None = None


class LookAlike(msgspec.Struct, frozen=True):
    """Another id that may mean the same project. `refused`: somebody asked for it in vain."""

    project: str
    connections: int
    events: int
    refused: bool
    differs: str


class Situation(msgspec.Struct, frozen=True):
    """All that is known. `confirmed` is how a reader was confirmed just now, None when none was."""

    project: str
    now: float
    began_seconds: float
    """When the hub started: before that, nothing is known."""
    known: bool
    connections: int = 0
    confirmed: str | None = None
    newest_connection_seconds: float | None = None
    newest_event_seconds: float | None = None
    waiting: int = 0
    misses: Misses = Misses()
    facts: Sequence[Fact] = ()
    look_alikes: Sequence[LookAlike] = ()


class Told(msgspec.Struct, frozen=True):
    """A fact as it is shown: `at` is ISO 8601 in UTC."""

    at: str
    kind: str
    reason: str
    count: int
    text: str


class Explanation(msgspec.Struct, frozen=True):
    """What is answered; its fields are those of the JSON document."""

    project: str
    connections: int
    confirmed: str | None
    cause: Cause
    answer: str
    why: str
    todo: list[str]
    misses: dict[str, int]
    look_alikes: list[LookAlike]
    facts: list[Told]
    known_since: str

    def text(self) -> str:
        """For a terminal."""
        lines = [self.answer, "", f"Why: {self.why}"]
        lines += [f"What to do: {step}" for step in self.todo]
        lines += ["", "Newest first:", *(f"  {fact.at}  {fact.text}" for fact in self.facts)]
        lines += [f"  {self.known_since}  The hub started; nothing is known from before."]
        return "\n".join(one_line(line) for line in lines) + "\n"


def explain(situation: Situation, iso_time: Callable[[float], str]) -> Explanation:
    """The explanation of `situation`; `iso_time` writes a moment of the hub's clock."""
    cause, why, todo = _cause(situation)
    misses = situation.misses
    if misses.lost:
        todo = [
            *todo,
            (
                f"Given up before anybody got it: {count(misses.lost, 'event')}. Raise ring.max_events, "
                "ring.max_bytes or ring.max_age_seconds."
            ),
        ]
    return Explanation(
        project=situation.project,
        connections=situation.connections,
        confirmed=situation.confirmed,
        cause=cause,
        answer=_answer(situation),
        why=why,
        todo=todo,
        misses={
            "total": misses.total,
            "recovered": misses.recovered,
            "lost": misses.lost,
            "pending": misses.pending,
        },
        look_alikes=list(situation.look_alikes),
        facts=[
            Told(iso_time(moment), kind, reason, times, text)
            for moment, kind, reason, times, text in sorted(_facts(situation), key=lambda fact: fact[0], reverse=True)
        ],
        known_since=iso_time(situation.began_seconds),
    )


def _answer(situation: Situation) -> str:
    project, there = situation.project, situation.connections
    if not there:
        waiting = f" Waiting for a reader: {count(situation.waiting, 'request')}." if situation.waiting else ""
        return f"{project}: nobody is connected.{waiting}"
    if situation.confirmed is None:
        return f"{project}: {count(there, 'reader')} connected, none of them confirmed."
    how = {
        "acknowledged": "confirmed: its TCP stack acknowledged a probe just now",
        "written": "confirmed as far as this platform can tell (written)",
    }
    return f"{project}: {count(there, 'reader')} connected, and at least one is {how[situation.confirmed]}."


# --- the cause ---


def _cause(situation: Situation) -> tuple[Cause, str, list[str]]:
    if situation.connections:
        return _with_readers(situation)
    left, refused = _newest(situation, "left"), _newest(situation, "refused")
    if left is None and situation.look_alikes and situation.look_alikes[0].connections:
        return _misspelt(situation.look_alikes[0])
    if refused is not None and (left is None or refused.last_seconds > left.last_seconds):
        return _refused(situation, refused)
    if left is not None:
        return _dropped(situation, left)
    if situation.look_alikes:
        return _misspelt(situation.look_alikes[0])
    return _never(situation)


def _with_readers(situation: Situation) -> tuple[Cause, str, list[str]]:
    if situation.confirmed is None:
        return (
            "unconfirmed",
            "A connection is open, but its peer did not acknowledge a probe: it is half-open, or its machine sleeps.",
            ["Wait: it is removed within stream.dead_after_seconds, and what it did not get is held for the next one."],
        )
    late = _newest(situation, "late")
    if late is None:
        return "connected", "Nothing is amiss: no event and no trigger has had to wait for a reader.", []
    when, how_late = ago(situation.now - late.last_seconds), duration(late.seconds or 0.0)
    if late.reason == "trigger":
        return (
            "timing",
            f"The reader came {when}, {how_late} after a trigger had begun to wait for it; the trigger gave up before.",
            ["Connect before triggering, or let the trigger wait longer (?timeout=, trigger.max_wait_seconds)."],
        )
    outcome = _outcome(late)
    left = _newest(situation, "left")
    if late.reason == "dropped" and left is not None:
        return (
            "dropped",
            (
                f"The reader had gone ({LEFT[left.reason].what}) and one came back {when}, {how_late} after the first "
                f"event it missed: {outcome}."
            ),
            [LEFT[left.reason].todo],
        )
    return (
        "timing",
        f"The first reader came {when}, {how_late} after the first event: {outcome}.",
        [
            (
                f"Start the work with POST /projects/{situation.project}/trigger, which waits for the reader; or "
                "publish with ?wait=3s."
            ),
        ],
    )


def _refused(situation: Situation, refused: Fact) -> tuple[Cause, str, list[str]]:
    advice = _advice(refused.reason)
    times = "" if refused.count == 1 else f", {refused.count} times in all"
    return (
        "refused",
        f"Somebody wanted to read {ago(situation.now - refused.last_seconds)}{times}, and was refused: {advice.what}.",
        [
            advice.todo,
            "A browser shows no reason to the page: EventSource only says `error`. Show the user its state.",
        ],
    )


def _dropped(situation: Situation, left: Fact) -> tuple[Cause, str, list[str]]:
    pending = situation.misses.pending
    held = f" Held for the next one: {count(pending, 'event')}." if pending else ""
    return (
        "dropped",
        f"The last reader left {ago(situation.now - left.last_seconds)}: {LEFT[left.reason].what}.{held}",
        [LEFT[left.reason].todo],
    )


def _misspelt(other: LookAlike) -> tuple[Cause, str, list[str]]:
    if other.connections:
        what = f"{count(other.connections, 'reader')} connected to"
    else:
        what = "somebody wanted to read" if other.refused else "events were published to"
    return (
        "look_alike",
        (
            f"Nobody has ever read under this id, but {what} {other.project!r}, which differs in "
            f"{other.differs} only: another project to the hub."
        ),
        ["Use one spelling of the id on both sides; ids are compared byte for byte."],
    )


def _never(situation: Situation) -> tuple[Cause, str, list[str]]:
    since = f"the hub started {ago(situation.now - situation.began_seconds)}"
    if not situation.known and not situation.facts:
        return (
            "unknown",
            f"The hub knows nothing of it: since {since}, nothing was published to it and nobody asked for it.",
            ["Check the id, letter by letter, and that publisher and reader talk to this very hub."],
        )
    return (
        "never_connected",
        f"Nobody has asked for this project's events since {since}.",
        [
            (
                f"Look at the page's network tab for GET /projects/{situation.project}/events. No such request: "
                "the page never subscribes. One that fails: it goes elsewhere, or something on the way stops it "
                "(`edge selftest --url https://...` says what)."
            ),
        ],
    )


# --- the facts ---


def _facts(situation: Situation) -> list[tuple[float, str, str, int, str]]:
    found = [(fact.last_seconds, str(fact.kind), fact.reason, fact.count, _sentence(fact)) for fact in situation.facts]
    now, misses = situation.now, situation.misses
    if situation.newest_connection_seconds is not None:
        found.append((situation.newest_connection_seconds, "connected", "", 1, "The newest reader connected."))
    if situation.newest_event_seconds is not None:
        found.append((situation.newest_event_seconds, "published", "", 1, "The newest event held was published."))
    if misses.last_seconds is not None and misses.first_seconds is not None:
        span = f", the first {ago(now - misses.first_seconds)}" if misses.total > 1 else ""
        text = (
            f"{count(misses.total, 'event')} missed in all, the last {ago(now - misses.last_seconds)}{span}: "
            f"{misses.recovered} got to a later reader, {misses.pending} held, {misses.lost} lost."
        )
        found.append((misses.last_seconds, "missed", "", misses.total, text))
    for other in situation.look_alikes:
        what = [f"{count(other.connections, 'reader')}", f"{count(other.events, 'event')} held"]
        if other.refused:
            what.append("somebody was refused")
        text = f"There is also {other.project!r} (differs in {other.differs}): {', '.join(what)}."
        found.append((now, "look_alike", other.differs, 1, text))
    return found


def _sentence(fact: Fact) -> str:
    often = "" if fact.count == 1 else f" ({fact.count} times so far)"
    seconds = duration(fact.seconds or 0.0)
    who = f" from {fact.address}" if fact.address else ""
    match fact.kind:
        case "left":
            unread = f" {count(fact.missed, 'event')} had not reached it." if fact.missed else ""
            return f"A reader{who} left after {seconds}: {LEFT[fact.reason].what}{often}.{unread}"
        case "refused":
            return f"A reader{who} was refused: {_advice(fact.reason).what}{often}."
        case "late" if fact.reason == "trigger":
            return f"A reader came {seconds} after a trigger had begun to wait in vain{often}."
        case "late":
            return f"A reader came {seconds} after the first missed event: {_outcome(fact)}{often}."
        case "trigger":
            return _TRIGGERS[fact.reason].format(seconds=seconds) + f"{often}."
        case "forgotten":
            return (
                f"The last of {count(fact.missed, 'missed event')}, before the hub forgot the project: "
                f"{fact.recovered} got to a later reader, {fact.lost} lost{often}."
            )


def _outcome(late: Fact) -> str:
    if late.recovered >= late.missed:
        return f"it missed {count(late.missed, 'event')} and got them all on arrival"
    return f"{count(late.missed, 'event')} had been missed, and it got {late.recovered} of them on arrival"


def _advice(code: str) -> Advice:
    return REFUSED.get(code, Advice(f"{code}", "Look the error code up in docs/errors.md."))


def _newest(situation: Situation, kind: str) -> Fact | None:
    return next((fact for fact in situation.facts if fact.kind == kind), None)


_TRIGGERS = {
    "waited": "A trigger waited {seconds} for its reader",
    "no_connection": "A trigger gave up after {seconds}: nobody was connected and confirmed",
    "dispatched_anyway": "A trigger started its job with nobody there, after {seconds} (on_timeout=dispatch)",
    "cancelled": "A trigger's caller left after {seconds} of waiting",
    "failed": "A trigger's target did not take the job",
}
