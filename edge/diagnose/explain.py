"""The answer to "why was no subscriber connected?" in plain sentences, which are in `edge/static/explain.json`.

`explain` is pure: a `Situation` in, a document out. The answer starts with the current state, then gives the
likeliest cause and what to do about it, then every fact, newest first. A test holds `LEFT` to the reasons that are
counted and `REFUSED` to the error codes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from types import MappingProxyType
from typing import Any

import msgspec

from edge.diagnose.observer import Fact
from edge.logs.text import one_line

_SHORT_SECONDS = 2.0
"""A connection that lasted no longer may have been closed before its page saw an event."""
_TEXTS: dict[str, dict[str, Any]] = msgspec.json.decode(
    resources.files("edge").joinpath("static/explain.json").read_bytes()
)
LEFT: dict[str, dict[str, str]] = _TEXTS["left"]
"""`what` happened, as the end of a sentence, and its `remedy`, by the reason of `edge_connections_removed_total`."""
REFUSED: dict[str, dict[str, str]] = _TEXTS["refused"]
"""The same, by error code."""
_UNKNOWN_REMEDY = "Look up the error code in docs/errors.md."


class Situation(msgspec.Struct, frozen=True):
    """Everything known about a project. `confirmed` is how a connection was confirmed just now, None if none was."""

    project: str
    now: float
    began_seconds: float
    """When the hub started; nothing is known from before."""
    known: bool
    connections: int = 0
    confirmed: str | None = None
    waiting: int = 0
    misses: Mapping[str, int] = MappingProxyType({"total": 0, "recovered": 0, "lost": 0, "pending": 0})
    first_miss_seconds: float | None = None
    last_miss_seconds: float | None = None
    facts: Sequence[Fact] = ()

    def newest(self, kind: str) -> Fact | None:
        return next((fact for fact in self.facts if fact.kind == kind), None)


def explain(situation: Situation, iso_time: Callable[[float], str]) -> dict[str, Any]:
    """Explain `situation`, as the JSON document of the response; `iso_time` formats a moment of the hub's clock."""
    misses, pending = situation.misses, situation.misses["pending"]
    left, refused, late = (situation.newest(kind) for kind in ("left", "refused", "late"))
    words: dict[str, Any] = {
        "project": situation.project,
        "connected": count(situation.connections, "subscriber"),
        "waiting": _if(situation.waiting, f" {count(situation.waiting, 'request')} waiting for a subscriber."),
        "kept": _if(pending, f" {count(pending, 'event')} kept for the next one."),
        "lost": count(misses["lost"], "event"),
        "began": ago(situation.now - situation.began_seconds),
        **{fact.kind: _words(situation, fact) for fact in (left, refused, late) if fact is not None},
    }
    answer = situation.confirmed or "unconfirmed" if situation.connections else "none"
    case = _TEXTS["cases"][_case(situation, left, refused, late)]
    cause, hints = case["cause"], _TEXTS["hints"]
    todo = [case["remedy"], _if(cause == "refused", hints["refused"]), _if(misses["lost"], hints["lost"])]
    return {
        "project": situation.project,
        "connections": situation.connections,
        "confirmed": situation.confirmed,
        "cause": cause,
        "answer": _TEXTS["answers"][answer].format(**words),
        "why": case["why"].format(**words),
        "todo": [text.format(**words) for text in todo if text],
        "misses": dict(misses),
        "facts": _facts(situation, iso_time),
        "known_since": iso_time(situation.began_seconds),
    }


def as_text(explanation: dict[str, Any]) -> str:
    """An explanation for a terminal."""
    lines = [explanation["answer"], "", f"Why: {explanation['why']}"]
    lines += [f"What to do: {step}" for step in explanation["todo"]]
    lines += ["", "Newest first:", *(f"  {fact['at']}  {fact['text']}" for fact in explanation["facts"])]
    lines += [f"  {explanation['known_since']}  The hub started; nothing is known from before."]
    return "\n".join(one_line(line) for line in lines) + "\n"


def _case(situation: Situation, left: Fact | None, refused: Fact | None, late: Fact | None) -> str:
    """The first case that applies."""
    late_for = None if late is None else late.reason
    cases: tuple[tuple[str, bool], ...] = (
        ("refused", refused is not None and (left is None or refused.last_seconds > left.last_seconds)),
        ("left", left is not None),
        ("never_connected", situation.known or bool(situation.facts)),
        ("unknown", True),
    )
    if situation.connections:
        cases = (
            ("unconfirmed", situation.confirmed is None),
            ("connected", late_for is None),
            ("late_for_trigger", late_for == "trigger"),
            ("reconnected", late_for == "dropped" and left is not None),
            ("late", True),
        )
    return next(name for name, applies in cases if applies)


def _facts(situation: Situation, iso_time: Callable[[float], str]) -> list[dict[str, object]]:
    """Every fact, newest first."""
    facts, misses, last_seconds = list(situation.facts), situation.misses, situation.last_miss_seconds
    if last_seconds is not None:
        missed = Fact("missed", "", last_seconds, misses["total"], recovered=misses["recovered"], lost=misses["lost"])
        facts.append(missed)
    facts.sort(key=lambda fact: fact.last_seconds, reverse=True)
    texts = _TEXTS["facts"]
    return [
        {
            "at": iso_time(fact.last_seconds),
            "kind": fact.kind,
            "reason": fact.reason,
            "count": fact.count,
            "text": (texts.get(f"{fact.kind}_{fact.reason}") or texts[fact.kind]).format(**_words(situation, fact)),
        }
        for fact in facts
    ]


def _words(situation: Situation, fact: Fact) -> dict[str, str]:
    misses = situation.misses
    since_first_miss = situation.now - (situation.first_miss_seconds or 0.0)
    reason = {"left": LEFT, "refused": REFUSED}.get(fact.kind, {}).get(fact.reason)
    return {
        **(reason or {"what": fact.reason, "remedy": _UNKNOWN_REMEDY}),
        "ago": ago(situation.now - fact.last_seconds),
        "after": duration(fact.seconds or 0.0),
        "from": _if(fact.address, f" from {fact.address}"),
        "often": _if(fact.count > 1, f" ({fact.count} times so far)"),
        "in_all": _if(fact.count > 1, f", {fact.count} times in all"),
        "detail": _if(fact.detail, f": {fact.detail}"),
        "compared": _if(fact.detail, f" ({fact.detail})"),
        "unread": _if(fact.missed, f" {count(fact.missed, 'event')} had not reached it."),
        "missed": count(fact.missed, "missed event"),
        "recovered": str(fact.recovered),
        "lost": str(fact.lost),
        "outcome": _outcome(situation, fact),
        "total": count(misses["total"], "event"),
        "pending": str(misses["pending"]),
        "first": _if(misses["total"] > 1, f", the first {ago(since_first_miss)}"),
    }


def _outcome(situation: Situation, late: Fact) -> str:
    of = _if(late.recovered < late.missed, f"{late.recovered} of ")
    text = f"{of}{count(late.missed, 'missed event')} recovered on arrival"
    left = situation.newest("left")
    if late.connection is not None and left is not None and left.connection == late.connection:
        lasted_seconds = left.seconds or 0.0
        # Chromium closes with FIN after its kernel has taken the bytes: no one can tell whether the page saw them.
        text += _if(lasted_seconds < _SHORT_SECONDS, f", by a connection that lasted only {duration(lasted_seconds)}")
    return text


def _if(applies: object, text: str) -> str:
    return text if applies else ""


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
