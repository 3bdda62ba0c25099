"""What happened around each project, for the question why no subscriber was connected: a few facts, of a few projects.

It outlives the projects: the hub drops one as soon as nothing is left of it, just when it is asked for. Nothing is
recorded while all is well: a delivered event, a trigger that found its subscriber, a first subscriber without a miss.

Invariant: it holds at most `max_projects` projects and `max_unknown` names that were only ever refused, each with at
most `_MAX_FACTS` facts: one per kind and reason, with its count and latest time. Unknown names have a pool of their
own, so that refused requests under made-up names evict no project's facts.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import Literal

import msgspec

from edge.core.connection import Connection
from edge.core.project import Project

MAX_PROJECTS = 10_000
"""About 600 bytes each."""
MAX_UNKNOWN = 1_000
_MAX_FACTS = 12
_MAX_NAME_CHARS = 128

Kind = Literal["left", "refused", "late", "trigger", "forgotten"]


class Fact(msgspec.Struct, gc=False):
    """Something that happened `count` times, last at `last_seconds`; the other fields describe the last time.

    kind       reason                                 seconds                       missed, recovered
    left       why (`REMOVAL_REASONS`)                how long it was connected     events it did not receive
    refused    the error code                         -                             -
    late       `first`, `dropped` or `trigger`        how late it connected         events missed, and recovered
    trigger    `waited` or an outcome                 how long it waited            -
    forgotten  -                                      -                             in the project's whole life
    """

    kind: Kind
    reason: str
    first_seconds: float
    last_seconds: float
    count: int = 1
    seconds: float | None = None
    address: str | None = None
    connection: str | None = None
    missed: int = 0
    recovered: int = 0
    lost: int = 0
    detail: str | None = None
    """Of a refusal: what was compared."""


class _Record:
    __slots__ = ("awaited_since_seconds", "facts")

    def __init__(self) -> None:
        self.facts: dict[tuple[str, str], Fact] = {}
        self.awaited_since_seconds: float | None = None
        """Since when a trigger has waited without a subscriber connecting."""

    def has(self, kind: Kind) -> bool:
        return any(known == kind for known, _ in self.facts)


class ProjectHistory:
    """Records facts as they happen; `facts` returns them. Times are seconds of the hub's clock."""

    def __init__(self, max_projects: int = MAX_PROJECTS, max_unknown: int = MAX_UNKNOWN) -> None:
        self._max_projects = max_projects
        self._max_unknown = max_unknown
        self._projects: OrderedDict[str, _Record] = OrderedDict()
        self._unknown: OrderedDict[str, _Record] = OrderedDict()

    def connected(self, project: Project, connection: Connection) -> None:
        """A connection of `project` was added; recorded if it is the first after something went wrong."""
        if len(project.connections) != 1:
            return
        now = connection.connected_at_seconds
        record = self._projects.get(project.name)
        absence = project.ledger.absence_ends()
        if absence is not None:
            # The hub drops an empty project, and with it that there was a connection.
            was_there = project.last_disconnect is not None or (record is not None and record.has("left"))
            record = self._project(project.name)
            late = Fact(
                "late",
                "dropped" if was_there else "first",
                now,
                now,
                seconds=now - absence.since_seconds,
                connection=connection.id,
                missed=absence.missed,
                recovered=absence.recovered,
            )
            self._add(record, late)
        if record is not None and record.awaited_since_seconds is not None:
            self._add(record, Fact("late", "trigger", now, now, seconds=now - record.awaited_since_seconds))
            record.awaited_since_seconds = None

    def disconnected(self, project: Project, connection: Connection, reason: str, missed: int, now: float) -> None:
        """A connection of `project` was removed; `missed` events had not reached it."""
        self._add(
            self._project(project.name),
            Fact(
                "left",
                reason,
                now,
                now,
                seconds=now - connection.connected_at_seconds,
                address=connection.address,
                connection=connection.id,
                missed=missed,
            ),
        )

    def refused(self, name: str, code: str, address: str | None, now: float, detail: str | None = None) -> None:
        """A subscriber of `name`, which may be anything, was refused."""
        name = name[:_MAX_NAME_CHARS]
        record = self._projects.get(name) or self._unknown.get(name)
        if record is None:
            record = self._unknown[name] = _Record()
            if len(self._unknown) > self._max_unknown:
                self._unknown.popitem(last=False)
        elif name in self._unknown:
            self._unknown.move_to_end(name)
        self._add(record, Fact("refused", code, now, now, address=address, detail=detail))

    def trigger(self, name: str, outcome: str, waited_seconds: float, now: float) -> None:
        """A trigger of `name` had to wait (`waited`), or failed (`no_connection`, `dispatched_anyway`, `failed`,
        `cancelled`).
        """
        record = self._project(name)
        self._add(record, Fact("trigger", outcome, now, now, seconds=waited_seconds))
        if outcome in ("no_connection", "dispatched_anyway") and record.awaited_since_seconds is None:
            record.awaited_since_seconds = now - waited_seconds

    def dropped(self, project: Project) -> None:
        """The hub dropped `project` and its ledger; its totals are kept if anything was missed."""
        ledger = project.ledger
        missed_at = ledger.last_miss_seconds
        if missed_at is not None:
            total = Fact(
                "forgotten",
                "",
                missed_at,
                missed_at,
                missed=ledger.misses,
                recovered=ledger.recovered,
                lost=ledger.lost,
            )
            self._add(self._project(project.name), total)

    def facts(self, name: str) -> list[Fact]:
        """The facts of `name`, newest first."""
        found = [pool[name] for pool in (self._projects, self._unknown) if name in pool]
        return sorted(
            (fact for record in found for fact in record.facts.values()),
            key=lambda fact: fact.last_seconds,
            reverse=True,
        )

    def names(self) -> Iterator[str]:
        """Every name with facts, those that were only ever refused last."""
        yield from list(self._projects)
        yield from list(self._unknown)

    def _project(self, name: str) -> _Record:
        record = self._projects.get(name)
        if record is not None:
            self._projects.move_to_end(name)
            return record
        record = self._unknown.pop(name) if name in self._unknown else _Record()
        self._projects[name] = record
        if len(self._projects) > self._max_projects:
            self._projects.popitem(last=False)
        return record

    @staticmethod
    def _add(record: _Record, fact: Fact) -> None:
        key = fact.kind, fact.reason
        before = record.facts.pop(key, None)
        if before is not None:
            fact.first_seconds = before.first_seconds
            fact.count = before.count + 1
        elif len(record.facts) >= _MAX_FACTS:
            del record.facts[next(iter(record.facts))]
        record.facts[key] = fact
