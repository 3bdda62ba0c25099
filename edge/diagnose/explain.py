"""The answer to "why was no subscriber connected?" in plain sentences.

`explain` is pure: a `Situation` in, an `Explanation` out. The answer starts with the current state, then gives the
likeliest cause and what to do about it, then every fact, newest first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import msgspec

from edge.diagnose.history import Fact
from edge.diagnose.reasons import LEFT, REFUSED, TRIGGERS, Reason, ago, count, duration
from edge.logs.text import one_line

Cause = Literal[
    "connected",
    "unconfirmed",
    "timing",
    "dropped",
    "refused",
    "never_connected",
    "unknown",
]
_SHORT_SECONDS = 2.0
"""A connection that lasted no longer may have been closed before its page saw an event."""


class Misses(msgspec.Struct, frozen=True):
    """As in the project's status; times are seconds of the hub's clock."""

    total: int = 0
    recovered: int = 0
    lost: int = 0
    pending: int = 0
    first_seconds: float | None = None
    last_seconds: float | None = None


class Situation(msgspec.Struct, frozen=True):
    """Everything known about a project. `confirmed` is how a connection was confirmed just now, None if none was."""

    project: str
    now: float
    began_seconds: float
    """When the hub started; nothing is known from before."""
    known: bool
    connections: int = 0
    confirmed: str | None = None
    newest_connection_seconds: float | None = None
    newest_event_seconds: float | None = None
    waiting: int = 0
    misses: Misses = Misses()
    facts: Sequence[Fact] = ()


class ShownFact(msgspec.Struct, frozen=True):
    """A fact as it is shown: `at` is ISO 8601 in UTC."""

    at: str
    kind: str
    reason: str
    count: int
    text: str


class Explanation(msgspec.Struct, frozen=True):
    """The response; its fields are those of the JSON document."""

    project: str
    connections: int
    confirmed: str | None
    cause: Cause
    answer: str
    why: str
    todo: list[str]
    misses: dict[str, int]
    facts: list[ShownFact]
    known_since: str

    def text(self) -> str:
        """For a terminal."""
        lines = [self.answer, "", f"Why: {self.why}"]
        lines += [f"What to do: {step}" for step in self.todo]
        lines += ["", "Newest first:", *(f"  {fact.at}  {fact.text}" for fact in self.facts)]
        lines += [f"  {self.known_since}  The hub started; nothing is known from before."]
        return "\n".join(one_line(line) for line in lines) + "\n"


def explain(situation: Situation, iso_time: Callable[[float], str]) -> Explanation:
    """Explain `situation`; `iso_time` formats a moment of the hub's clock."""
    cause, why, todo = _cause(situation)
    misses = situation.misses
    if misses.lost:
        held = "ring.max_events, ring.max_bytes or ring.max_age_seconds"
        todo = [*todo, f"{count(misses.lost, 'event')} evicted before any subscriber received it: raise {held}."]
    facts = sorted(_facts(situation), key=lambda fact: fact[0], reverse=True)
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
        facts=[ShownFact(iso_time(moment), kind, reason, times, text) for moment, kind, reason, times, text in facts],
        known_since=iso_time(situation.began_seconds),
    )


def _answer(situation: Situation) -> str:
    project, there = situation.project, situation.connections
    if not there:
        waiting = f" {count(situation.waiting, 'request')} waiting for a subscriber." if situation.waiting else ""
        return f"{project}: no subscriber is connected.{waiting}"
    if situation.confirmed is None:
        return f"{project}: {count(there, 'subscriber')} connected, none of them confirmed."
    how = {
        "acknowledged": "confirmed: its TCP stack acknowledged a probe just now",
        "client": "confirmed: the client itself answered a probe just now",
        "written": "confirmed as far as this platform can tell (written)",
    }
    return f"{project}: {count(there, 'subscriber')} connected, and at least one is {how[situation.confirmed]}."


# --- the cause ---


def _cause(situation: Situation) -> tuple[Cause, str, list[str]]:
    if situation.connections:
        return _while_connected(situation)
    left, refused = _newest(situation, "left"), _newest(situation, "refused")
    if refused is not None and (left is None or refused.last_seconds > left.last_seconds):
        return _refused(situation, refused)
    if left is not None:
        return _dropped(situation, left)
    return _never(situation)


def _while_connected(situation: Situation) -> tuple[Cause, str, list[str]]:
    if situation.confirmed is None:
        return (
            "unconfirmed",
            "A connection is open, but its peer did not acknowledge a probe: it is half-open, or the machine sleeps.",
            ["Wait: it is closed within stream.dead_after_seconds; the next subscriber gets what it did not receive."],
        )
    late = _newest(situation, "late")
    if late is None:
        return "connected", "Nothing is wrong: no event and no trigger had to wait for a subscriber.", []
    when, how_late = ago(situation.now - late.last_seconds), duration(late.seconds or 0.0)
    if late.reason == "trigger":
        return (
            "timing",
            f"The subscriber connected {when}, {how_late} after a trigger began to wait; the trigger had timed out.",
            ["Connect before triggering, or let the trigger wait longer (?timeout=, trigger.max_wait_seconds)."],
        )
    outcome = _outcome(situation, late)
    left = _newest(situation, "left")
    if late.reason == "dropped" and left is not None:
        return (
            "dropped",
            (
                f"The last subscriber had disconnected ({LEFT[left.reason].what}). One reconnected {when}, {how_late} "
                f"after the first event it missed: {outcome}."
            ),
            [LEFT[left.reason].remedy],
        )
    return (
        "timing",
        f"The first subscriber connected {when}, {how_late} after the first event: {outcome}.",
        [
            (
                f"Start the work with POST /projects/{situation.project}/trigger, which waits for a subscriber, or "
                "publish with ?wait=3s."
            ),
        ],
    )


def _refused(situation: Situation, refused: Fact) -> tuple[Cause, str, list[str]]:
    text = _refusal(refused.reason)
    times = "" if refused.count == 1 else f", {refused.count} times in all"
    detail = f" ({refused.detail})" if refused.detail else ""
    return (
        "refused",
        f"A subscriber was refused {ago(situation.now - refused.last_seconds)}{times}: {text.what}{detail}.",
        [
            text.remedy,
            "Browsers hide the reason from the page: EventSource only fires `error`. Show users the connection state.",
        ],
    )


def _dropped(situation: Situation, left: Fact) -> tuple[Cause, str, list[str]]:
    pending = situation.misses.pending
    held = f" {count(pending, 'event')} kept for the next one." if pending else ""
    return (
        "dropped",
        f"The last subscriber disconnected {ago(situation.now - left.last_seconds)}: {LEFT[left.reason].what}.{held}",
        [LEFT[left.reason].remedy],
    )


def _never(situation: Situation) -> tuple[Cause, str, list[str]]:
    since = f"the hub started {ago(situation.now - situation.began_seconds)}"
    if not situation.known and not situation.facts:
        return (
            "unknown",
            f"The project is unknown: since {since}, nothing was published to it and no subscriber asked for it.",
            ["Check the id letter by letter (it is case-sensitive), and that publisher and subscriber use this hub."],
        )
    return (
        "never_connected",
        f"No subscriber has asked for this project's events since {since}.",
        [
            (
                f"Look for GET /projects/{situation.project}/events in the page's network tab. If there is no such "
                "request, the page never subscribes, or uses another id (ids are case-sensitive). If it fails, it goes "
                "elsewhere, or something in between stops it: `edge selftest --url https://...` says what."
            ),
        ],
    )


# --- the facts ---


def _facts(situation: Situation) -> list[tuple[float, str, str, int, str]]:
    found = [
        (fact.last_seconds, str(fact.kind), fact.reason, fact.count, _sentence(situation, fact))
        for fact in situation.facts
    ]
    now, misses = situation.now, situation.misses
    if situation.newest_connection_seconds is not None:
        found.append((situation.newest_connection_seconds, "connected", "", 1, "The newest subscriber connected."))
    if situation.newest_event_seconds is not None:
        found.append((situation.newest_event_seconds, "published", "", 1, "The newest event held was published."))
    if misses.last_seconds is not None and misses.first_seconds is not None:
        span = f", the first {ago(now - misses.first_seconds)}" if misses.total > 1 else ""
        text = (
            f"{count(misses.total, 'event')} missed in all, the last {ago(now - misses.last_seconds)}{span}: "
            f"{misses.recovered} recovered, {misses.pending} pending, {misses.lost} lost."
        )
        found.append((misses.last_seconds, "missed", "", misses.total, text))
    return found


def _sentence(situation: Situation, fact: Fact) -> str:
    often = "" if fact.count == 1 else f" ({fact.count} times so far)"
    seconds = duration(fact.seconds or 0.0)
    where = f" from {fact.address}" if fact.address else ""
    match fact.kind:
        case "left":
            unread = f" {count(fact.missed, 'event')} had not reached it." if fact.missed else ""
            return f"A subscriber{where} disconnected after {seconds}: {LEFT[fact.reason].what}{often}.{unread}"
        case "refused":
            detail = f": {fact.detail}" if fact.detail else ""
            return f"A subscriber{where} was refused: {_refusal(fact.reason).what}{often}{detail}."
        case "late" if fact.reason == "trigger":
            return f"A subscriber connected {seconds} after a trigger began to wait; it had timed out{often}."
        case "late":
            outcome = _outcome(situation, fact)
            return f"A subscriber connected {seconds} after the first missed event: {outcome}{often}."
        case "trigger":
            return TRIGGERS[fact.reason].format(seconds=seconds) + f"{often}."
        case "forgotten":
            return (
                f"The last of {count(fact.missed, 'missed event')} before the hub dropped the project: "
                f"{fact.recovered} recovered, {fact.lost} lost{often}."
            )


def _outcome(situation: Situation, late: Fact) -> str:
    if late.recovered >= late.missed:
        text = f"{count(late.missed, 'missed event')} recovered on arrival"
    else:
        text = f"{late.recovered} of {count(late.missed, 'missed event')} recovered on arrival"
    left = _newest(situation, "left")
    if late.connection is not None and left is not None and left.connection == late.connection:
        lasted_seconds = left.seconds or 0.0
        if lasted_seconds < _SHORT_SECONDS:
            # Chromium closes with FIN after its kernel has taken the bytes: no one can tell whether the page saw them.
            text += f", by a connection that lasted only {duration(lasted_seconds)}"
    return text


def _refusal(code: str) -> Reason:
    return REFUSED.get(code, Reason(code, "Look up the error code in docs/errors.md."))


def _newest(situation: Situation, kind: str) -> Fact | None:
    return next((fact for fact in situation.facts if fact.kind == kind), None)
