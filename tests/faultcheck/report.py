"""A report that a person can follow: each violation, and what was recorded of the event it is about."""

from __future__ import annotations

from itertools import chain

from tests.faultcheck.records import Broken, Fault, Gap, History, Received, Record, Seen, Sent, Started, line, mentions
from tests.faultcheck.rounds import Result
from tests.faultcheck.walk import Violation

MOST_LINES = 40
MOST_OF_A_RULE = 3


def report(result: Result, command: str) -> str:
    """What was violated, a few examples of each rule, and the command that plays the round again."""
    plan = ", ".join(fault.__name__ for fault in result.plan.faults)
    text = [f"{command}\n  faults: {plan}\n  scant={result.plan.scant} webhook={result.plan.webhook}"]
    rules: dict[str, list[Violation]] = {}
    for violation in result.violations:
        rules.setdefault(violation.rule, []).append(violation)
    for rule, violations in rules.items():
        text.append(f"\n== {rule}: {len(violations)}")
        for violation in violations[:MOST_OF_A_RULE]:
            text.append(f"\n{violation.text}")
            text += excerpt(result.history, violation)
    return "\n".join(text)


def excerpt(history: History, violation: Violation) -> list[str]:
    """Requests, frames and jobs that name what the violation is about, and the faults around them."""
    subscribers = {each for each in violation.about if any(each == seen.subscriber for seen in history.of(Seen))}
    things = frozenset(violation.about - subscribers)
    mine: list[Record] = [
        record
        for record in history.records
        if isinstance(record, Sent | Seen | Received | Gap)
        and mentions(record, things)
        and (not subscribers or not isinstance(record, Seen | Gap) or record.subscriber in subscribers)
    ]
    begin, end = (
        min((x.at for x in mine), default=violation.at) - 1,
        max((x.at for x in mine), default=violation.at) + 1,
    )
    around = (x for x in history.records if isinstance(x, Fault | Started | Broken) and begin <= x.at <= end)
    lines = sorted(chain(mine, around), key=lambda record: record.at)
    shown = lines if len(lines) <= MOST_LINES else [*lines[: MOST_LINES // 2], *lines[-MOST_LINES // 2 :]]
    return [f"  {line(record)[:300]}" for record in shown]
