"""What happened around each project, for whoever asks why nobody was connected: a few facts, of a few projects.

It outlives the projects: the hub forgets one as soon as nothing is left of it, and then is when somebody asks.
Nothing is noted while all is well: an event delivered, a trigger that found its reader, a first reader who missed
nothing leave no fact.

Invariant: whatever callers do, it holds at most `max_projects` projects and `max_strangers` names that were only ever
refused, each with at most `_MAX_FACTS` facts: one for each kind and reason, with how often and when last. Strangers
have a pool of their own, so that refused requests under made-up names push out no project's facts.
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
MAX_STRANGERS = 1_000
_MAX_FACTS = 12
_MAX_NAME_CHARS = 128

Kind = Literal["left", "refused", "late", "trigger", "forgotten"]


class Fact(msgspec.Struct, gc=False):
    """Something that happened `count` times, last at `last_seconds`; the rest tells of the last time.

    kind       reason                                 seconds                       missed, recovered
    left       why (`REMOVAL_REASONS`)                how long it was there         events that it did not get
    refused    the error code                         -                             -
    late       `first`, `dropped` or `trigger`        how late the reader came      events missed, and got then
    trigger    `waited` or an outcome                 how long it waited            -
    forgotten  -                                      -                             in all its life
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


class _Record:
    __slots__ = ("awaited_since_seconds", "facts")

    def __init__(self) -> None:
        self.facts: dict[tuple[str, str], Fact] = {}
        self.awaited_since_seconds: float | None = None
        """Since when a trigger waited in vain, and nobody has come."""

    def has(self, kind: Kind) -> bool:
        return any(known == kind for known, _ in self.facts)


class ProjectHistory:
    """Told of facts as they happen; `facts` gives them back. Times are seconds of the hub's clock."""

    def __init__(self, max_projects: int = MAX_PROJECTS, max_strangers: int = MAX_STRANGERS) -> None:
        self._max_projects = max_projects
        self._max_strangers = max_strangers
        self._projects: OrderedDict[str, _Record] = OrderedDict()
        self._strangers: OrderedDict[str, _Record] = OrderedDict()

    def came(self, project: Project, connection: Connection) -> None:
        """A reader of `project` has come; noted when it is the first after something went amiss."""
        if len(project.connections) != 1:
            return
        now = connection.connected_at_seconds
        record = self._projects.get(project.name)
        absence = project.ledger.absence_ends()
        if absence is not None:
            # The hub forgets a project that has nothing left, and with it that a reader has been there.
            was_there = project.last_disconnect is not None or (record is not None and record.has("left"))
            record = self._project(project.name)
            late = Fact(
                "late",
                "dropped" if was_there else "first",
                now,
                now,
                seconds=now - absence.since_seconds,
                missed=absence.missed,
                recovered=absence.recovered,
            )
            self._note(record, late)
        if record is not None and record.awaited_since_seconds is not None:
            self._note(record, Fact("late", "trigger", now, now, seconds=now - record.awaited_since_seconds))
            record.awaited_since_seconds = None

    def left(self, project: Project, connection: Connection, reason: str, missed: int, now: float) -> None:
        """A reader of `project` has left; `missed` events went with it."""
        self._note(
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

    def refused(self, name: str, code: str, address: str | None, now: float) -> None:
        """Somebody wanted to read `name`, which may be anything, and was refused."""
        name = name[:_MAX_NAME_CHARS]
        record = self._projects.get(name) or self._strangers.get(name)
        if record is None:
            record = self._strangers[name] = _Record()
            if len(self._strangers) > self._max_strangers:
                self._strangers.popitem(last=False)
        elif name in self._strangers:
            self._strangers.move_to_end(name)
        self._note(record, Fact("refused", code, now, now, address=address))

    def trigger(self, name: str, outcome: str, waited_seconds: float, now: float) -> None:
        """A trigger of `name` had to wait (`waited`), or came to nothing (`no_connection`, `dispatched_anyway`,
        `failed`, `cancelled`).
        """
        record = self._project(name)
        self._note(record, Fact("trigger", outcome, now, now, seconds=waited_seconds))
        if outcome in ("no_connection", "dispatched_anyway") and record.awaited_since_seconds is None:
            record.awaited_since_seconds = now - waited_seconds

    def forgotten(self, project: Project) -> None:
        """The hub has forgotten `project`, and its ledger with it: its sums are kept, if anything was missed."""
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
            self._note(self._project(project.name), total)

    def facts(self, name: str) -> list[Fact]:
        """What is known of `name`, newest first."""
        found = [pool[name] for pool in (self._projects, self._strangers) if name in pool]
        return sorted(
            (fact for record in found for fact in record.facts.values()),
            key=lambda fact: fact.last_seconds,
            reverse=True,
        )

    def names(self) -> Iterator[str]:
        """Every name something is known of; those that were only ever refused among them."""
        yield from list(self._projects)
        yield from list(self._strangers)

    def _project(self, name: str) -> _Record:
        record = self._projects.get(name)
        if record is not None:
            self._projects.move_to_end(name)
            return record
        record = self._strangers.pop(name) if name in self._strangers else _Record()
        self._projects[name] = record
        if len(self._projects) > self._max_projects:
            self._projects.popitem(last=False)
        return record

    @staticmethod
    def _note(record: _Record, fact: Fact) -> None:
        key = fact.kind, fact.reason
        before = record.facts.pop(key, None)
        if before is not None:
            fact.first_seconds = before.first_seconds
            fact.count = before.count + 1
        elif len(record.facts) >= _MAX_FACTS:
            del record.facts[next(iter(record.facts))]
        record.facts[key] = fact
