"""The answer to "why was no subscriber connected?" in plain sentences.

`explain` is pure: a `Situation` in, an `Explanation` out, with the reasons and remedies of `edge/static/explain.json`.
The answer starts with the current state, then gives the likeliest cause and what to do about it, then every fact,
newest first. A test holds `LEFT` to the reasons that are counted and `REFUSED` to the error codes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import resources
from typing import Literal

import msgspec

from edge.diagnose.history import Fact
from edge.logs.text import one_line

Cause = Literal["connected", "unconfirmed", "timing", "dropped", "refused", "never_connected", "unknown"]
_SHORT_SECONDS = 2.0
"""A connection that lasted no longer may have been closed before its page saw an event."""


class Reason(msgspec.Struct, frozen=True):
    """`what` happened, as the end of a sentence; `remedy` is a sentence of its own."""

    what: str
    remedy: str


class _Texts(msgspec.Struct, frozen=True):
    left: dict[str, Reason]
    refused: dict[str, Reason]
    trigger: dict[str, str]


_TEXTS = msgspec.json.decode(resources.files("edge").joinpath("static/explain.json").read_bytes(), type=_Texts)
LEFT = _TEXTS.left
"""By the reason of `edge_connections_removed_total`."""
REFUSED = _TEXTS.refused
"""By error code."""
_CONFIRMED = {
    "acknowledged": "confirmed: its TCP stack acknowledged a probe just now",
    "client": "confirmed: the client itself answered a probe just now",
    "written": "confirmed as far as this platform shows (written)",
}


class Misses(msgspec.Struct, frozen=True):
    """As in the project's status, with the first and last time in seconds of the hub's clock."""

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
    cause, why, remedy = _cause(situation)
    misses = situation.misses
    todo = [remedy] if remedy else []
    if cause == "refused":
        todo.append("Browsers hide the reason from the page (EventSource only fires `error`): show the state there.")
    if misses.lost:
        held = "ring.max_events, ring.max_bytes or ring.max_age_seconds"
        todo.append(f"{count(misses.lost, 'event')} evicted before any subscriber received it: raise {held}.")
    return Explanation(
        project=situation.project,
        connections=situation.connections,
        confirmed=situation.confirmed,
        cause=cause,
        answer=_answer(situation),
        why=why,
        todo=todo,
        misses={name: getattr(misses, name) for name in ("total", "recovered", "lost", "pending")},
        facts=_facts(situation, iso_time),
        known_since=iso_time(situation.began_seconds),
    )


def _answer(situation: Situation) -> str:
    project, there = situation.project, situation.connections
    if not there:
        waiting = f" {count(situation.waiting, 'request')} waiting for a subscriber." if situation.waiting else ""
        return f"{project}: no subscriber is connected.{waiting}"
    if situation.confirmed is None:
        return f"{project}: {count(there, 'subscriber')} connected, none of them confirmed."
    how = _CONFIRMED[situation.confirmed]
    return f"{project}: {count(there, 'subscriber')} connected, and at least one is {how}."


# --- the cause: its name, the sentence that says it, what to do about it ---


def _cause(situation: Situation) -> tuple[Cause, str, str]:
    if situation.connections:
        return _while_connected(situation)
    now, project = situation.now, situation.project
    left, refused = _newest(situation, "left"), _newest(situation, "refused")
    if refused is not None and (left is None or refused.last_seconds > left.last_seconds):
        text = _refusal(refused.reason)
        times = "" if refused.count == 1 else f", {refused.count} times in all"
        detail = f" ({refused.detail})" if refused.detail else ""
        when = ago(now - refused.last_seconds)
        return "refused", f"A subscriber was refused {when}{times}: {text.what}{detail}.", text.remedy
    if left is not None:
        pending = situation.misses.pending
        held = f" {count(pending, 'event')} kept for the next one." if pending else ""
        reason = LEFT[left.reason]
        why = f"The last subscriber disconnected {ago(now - left.last_seconds)}: {reason.what}.{held}"
        return "dropped", why, reason.remedy
    since = f"the hub started {ago(now - situation.began_seconds)}"
    if not situation.known and not situation.facts:
        return (
            "unknown",
            f"The project is unknown: since {since}, nothing was published to it and no subscriber connected.",
            "Check the id letter by letter (it is case-sensitive), and that publisher and subscriber use this hub.",
        )
    return (
        "never_connected",
        f"No subscriber has connected to this project since {since}.",
        (
            f"Look for GET /projects/{project}/events in the page's network tab. If there is no such request, the page "
            "never subscribes, or uses another id (ids are case-sensitive). If it fails, it goes elsewhere, or "
            "something in between stops it: `edge selftest --url https://...` says what."
        ),
    )


def _while_connected(situation: Situation) -> tuple[Cause, str, str]:
    if situation.confirmed is None:
        return (
            "unconfirmed",
            "A connection is open, but its peer did not acknowledge a probe: it is half-open, or the machine sleeps.",
            "Wait: it is closed within stream.dead_after_seconds; the next subscriber gets what it did not receive.",
        )
    late = _newest(situation, "late")
    if late is None:
        return "connected", "Nothing is wrong: no event and no trigger had to wait for a subscriber.", ""
    when, how_late = ago(situation.now - late.last_seconds), duration(late.seconds or 0.0)
    if late.reason == "trigger":
        return (
            "timing",
            f"The subscriber connected {when}, {how_late} after a trigger began to wait; the trigger had timed out.",
            "Connect before triggering, or let the trigger wait longer (?timeout=, trigger.max_wait_seconds).",
        )
    outcome = _outcome(situation, late)
    left = _newest(situation, "left")
    if late.reason == "dropped" and left is not None:
        reason = LEFT[left.reason]
        why = (
            f"The last subscriber had disconnected ({reason.what}). One reconnected {when}, {how_late} after the first "
            f"event it missed: {outcome}."
        )
        return "dropped", why, reason.remedy
    return (
        "timing",
        f"The first subscriber connected {when}, {how_late} after the first event: {outcome}.",
        (
            f"Start the work with POST /projects/{situation.project}/trigger, which waits for a subscriber, or publish "
            "with ?wait=3s."
        ),
    )


# --- the facts ---


def _facts(situation: Situation, iso_time: Callable[[float], str]) -> list[ShownFact]:
    """Every fact, newest first."""
    found: list[tuple[float, str, str, int, str]] = [
        (fact.last_seconds, fact.kind, fact.reason, fact.count, _sentence(situation, fact)) for fact in situation.facts
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
    found.sort(key=lambda fact: fact[0], reverse=True)
    return [ShownFact(iso_time(moment), kind, reason, times, text) for moment, kind, reason, times, text in found]


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
            return _TEXTS.trigger[fact.reason].format(seconds=seconds) + f"{often}."
        case "forgotten":
            return (
                f"The last of {count(fact.missed, 'missed event')} before the hub dropped the project: "
                f"{fact.recovered} recovered, {fact.lost} lost{often}."
            )


def _outcome(situation: Situation, late: Fact) -> str:
    of = f"{late.recovered} of " if late.recovered < late.missed else ""
    text = f"{of}{count(late.missed, 'missed event')} recovered on arrival"
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


# --- numbers ---

_STEPS = ((120.0, 1.0, "s"), (7200.0, 60.0, "min"), (172_800.0, 3600.0, "h"))


def duration(seconds: float) -> str:
    """`2 ms`, `0.35 s`, `12 s`, `3 min`, `5 h`, `4 days`."""
    if seconds < 0.1:
        return f"{max(seconds, 0.0) * 1000:.0f} ms"
    if seconds < 1:
        return f"{seconds:.2f} s"
    if seconds < 10:
        return f"{seconds:.1f} s"
    for below, unit_seconds, unit in _STEPS:
        if seconds < below:
            return f"{seconds / unit_seconds:.0f} {unit}"
    return f"{seconds / 86_400:.0f} days"


def ago(seconds: float) -> str:
    return f"{duration(seconds)} ago"


def count(number: int, noun: str) -> str:
    """`1 subscriber`, `2 subscribers`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
