"""What ought to be true of a hub, kept event by event: who was handed it, who acknowledged it, is it still held.

It shares nothing with the core but the words. Facts come from the wires (parsed by the oracle in `eventstream`), the
numbers of the miss ledger from the facts, one event at a time. `tests/core/test_machine.py` drives both.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from edge.core.ring import EVENT_OVERHEAD_BYTES
from tests.core.eventstream import Comment, Item, Message, Retry, lines_of
from tests.core.fakes import FakeConnection

GOT, WAITING, PENDING, LOST = "got", "waiting", "pending", "lost"


@dataclass
class ModelEvent:
    seq: int
    type: str
    data: str
    at: float
    size_bytes: int
    evicted: bool = False
    holders: set[str] = field(default_factory=set)
    """Connections still there on whose wire it is."""
    received: bool = False
    """Acknowledged by one that has left."""
    status: str = ""


@dataclass
class Expected:
    """Where a reader ought to start: which of the old events it wants, and the gap that is reported to it first."""

    wanted: list[int]
    gap: dict[str, Any] | None = None
    tells_from: int | None = None
    position: int = 0
    """Where hello says that the stream goes on."""
    takes_missed: bool = False
    comes_back_with: str | None = None
    """The id of hello where it isn't that position: a gap follows that is to be reported again."""


def item_of_project(item: Item) -> Message | None:
    """`item`, if it is an event that was published."""
    return item if isinstance(item, Message) and not item.type.startswith("edge.") else None


class ModelProject:
    """One life of a project. `past`: the life before it, if that ended by itself."""

    def __init__(self, name: str, past: ModelProject | None = None) -> None:
        self.name = name
        self.epoch: str = past.epoch if past else ""
        self.base: int = past.newest if past else 0
        """The newest number of the life before."""
        self.past_times: list[float] = [*past.past_times, *(event.at for event in past.events)] if past else []
        self.events: list[ModelEvent] = []
        self.oldest = self.base + 1
        self.reserved = 0
        self.readers: list[ModelReader] = []
        self.misses = self.recovered = self.lost = 0
        self.unreported: set[int] = set(past.unreported) if past else set()
        self.finished: bool = past is not None and past.finished
        self.observers: list[ModelReader] = []

    @property
    def newest(self) -> int:
        return self.base + len(self.events)

    @property
    def is_idle(self) -> bool:
        return not (self.readers or self.observers or self.reserved or self.with_status(PENDING))

    @property
    def held(self) -> list[ModelEvent]:
        return self.events[self.oldest - 1 - self.base :]

    @property
    def held_bytes(self) -> int:
        return sum(event.size_bytes for event in self.held)

    @property
    def memory_bytes(self) -> int:
        return self.held_bytes + len(self.held) * EVENT_OVERHEAD_BYTES

    def event(self, seq: int) -> ModelEvent:
        return self.events[seq - 1 - self.base]

    def is_in(self, epoch: str) -> None:
        """The hub says that the project's epoch is this."""
        assert self.epoch in ("", epoch), "a history that ended by itself goes on"
        self.epoch = epoch

    def with_status(self, status: str) -> list[int]:
        return [event.seq for event in self.events if event.status == status]

    def id_of(self, seq: int) -> str | None:
        return f"{self.epoch}-{seq}" if self.held else None

    def evict_oldest(self) -> ModelEvent:
        event = self.event(self.oldest)
        event.evicted = True
        self.oldest += 1
        return event

    def gap_reported(self, seq: int | None, reader: ModelReader) -> None:
        if seq is not None and self.unreported and seq <= min(self.unreported):
            reader.reported(self.unreported)
            self.unreported = set()

    def settle(self) -> None:
        """Work out anew what became of each event; what has changed is counted."""
        for event in self.events:
            before, after = event.status, self._status(event)
            event.status = after
            if before == after:
                continue
            assert before != LOST, f"{event} was lost and came back"
            if before != PENDING and after in (PENDING, LOST):
                self.misses += 1
            if before == PENDING and after == GOT:
                self.recovered += 1
            if after == LOST:
                self.lost += 1
                self.unreported.add(event.seq)

    def _status(self, event: ModelEvent) -> str:
        if event.holders or event.received:
            return GOT
        if event.evicted:
            return LOST
        if event.status == PENDING:
            return PENDING
        if any(reader.still_to_get(event.seq) for reader in self.readers):
            return WAITING
        return PENDING


class ModelReader:
    """What one connection ought to see; `look` compares that with what is on its wire."""

    def __init__(self, connection: FakeConnection, project: ModelProject, expected: Expected, now: float) -> None:
        self.connection = connection
        self.project = project
        self.observes = connection.observes
        self.head = project.newest
        self.wanted = set(expected.wanted)
        self.last = min(self.wanted, default=self.head + 1) - 1
        """Everything up to here is accounted for: seen, reported as lost, or not wanted."""
        self.expected = self.promised = expected
        self.takes_missed = expected.takes_missed and not self.observes
        self.last_id = ""
        """What its client would come back with."""
        self.sent_to = 0
        """The last event it has seen."""
        self.greeted = False
        self.was_paused = False
        self.closed = False
        self.last_write = self.drained_at = now
        self.looked_at = 0
        self.gaps: set[int] = set()
        """What it was the first to be notified of, in the write that begins at byte `gap_begins`."""
        self.gap_begins = self.write_begins = 0

    def reported(self, lost: set[int]) -> None:
        """It is the first to be notified of these, in the write that is looked at."""
        if self.connection.known_acked_bytes > self.gap_begins:
            self.gaps = set()
        if not self.gaps:
            self.gap_begins = self.write_begins
        self.gaps |= lost

    def wants(self, seq: int) -> bool:
        return seq > self.head or seq in self.wanted

    def still_to_get(self, seq: int) -> bool:
        return seq > self.last and self.wants(seq)

    def could_take(self, events: list[int]) -> list[int]:
        """Those of `events` that it never had, and that it can be given in order."""
        return [seq for seq in events if seq > self.sent_to and not self.wants(seq)]

    def offer(self, events: list[int]) -> None:
        """It is to get these after all."""
        self.wanted.update(events)
        self.last = min(self.last, *(seq - 1 for seq in events))

    def wanted_between(self, after: int, until: int) -> list[int]:
        return [seq for seq in range(after + 1, until + 1) if self.wants(seq)]

    def look(self, now: float, seen: Counter[str], heartbeat_seconds: float) -> None:
        """Check what has been written since the last look; count it in `seen`, but for what an observer sees."""
        seen = Counter() if self.observes else seen
        items = self.connection.items[self.looked_at :]
        ends = self.connection.ends
        for place, item in enumerate(items, self.looked_at):
            self.write_begins = max((end for end in ends[:place] if end < ends[place]), default=0)
            assert not self.closed or isinstance(item, Message) is False, "something behind edge.closing"
            if isinstance(item, Comment):
                assert " ping" == item.text
                assert now - self.last_write >= heartbeat_seconds, "a ping before its time"
                seen["heartbeats"] += 1
            elif isinstance(item, Message):
                self._message(item, seen)
            else:
                assert isinstance(item, Retry)
        self.looked_at += len(items)
        if items:
            self.last_write = now
        self.was_paused = self.was_paused or self.connection.paused

    def _message(self, message: Message, seen: Counter[str]) -> None:
        if not message.type.startswith("edge."):
            self._event(message, seen)
            return
        name = message.type.removeprefix("edge.")
        assert message.own_id == (name == "hello"), "hello has an id, and no other control event"
        if name == "hello":
            position = f"{self.project.epoch}-{self.expected.position}"
            assert (self.expected.comes_back_with or position) == message.id
            self.last_id = message.id
            self._hello(message.json)
        elif name == "gap":
            seen["gap:" + message.json["reason"]] += 1
            self._gap(message.json)
        elif name == "ping":
            seen["heartbeats"] += 1
        else:
            assert "closing" == name
            if message.json["reason"] == "finished":
                assert self.project.finished
                assert [] == self.wanted_between(self.last, self.project.newest), "ended before it had all"
            self.closed = True

    def _hello(self, fields: dict[str, Any]) -> None:
        assert not self.greeted, "two hellos"
        self.greeted = True
        project = self.project
        assert fields == {
            "project": project.name,
            "connection": self.connection.id,
            "heartbeat_seconds": fields["heartbeat_seconds"],
            "oldest": project.id_of(project.oldest),
            "newest": project.id_of(project.newest),
            "replayed": len(self.wanted),
        }

    def _gap(self, fields: dict[str, Any]) -> None:
        expected, self.expected = self.expected.gap, Expected([])
        if expected is not None:
            assert expected == {name: fields[name] for name in ("asked", "reason", "lost")}
            return
        assert self.was_paused, "a subscriber that kept up got a gap"
        assert "evicted" == fields["reason"]
        oldest = self.project.newest + 1 if fields["oldest"] is None else int(fields["oldest"].rpartition("-")[2])
        lost = self.wanted_between(self.last, oldest - 1)
        assert lost, "a gap where nothing was lost"
        assert len(lost) == fields["lost"]
        assert self.project.oldest >= oldest, "reported as lost, but still held"
        if len(lost) == oldest - 1 - self.last and not self.observes:
            self.project.gap_reported(lost[0], self)
        self.last = oldest - 1

    def _event(self, message: Message, seen: Counter[str]) -> None:
        assert self.expected.gap is None, "an event before the gap that was due"
        project = self.project
        epoch, _, number = message.id.rpartition("-")
        seq = int(number)
        assert project.epoch == epoch
        assert message.own_id
        if self.takes_missed and project.event(seq).status == PENDING and not self.wants(seq):
            # Its transport has drained: it is given all that became pending meanwhile.
            self.offer(self.could_take(project.with_status(PENDING)))
            assert self.wants(seq)
        skipped = self.wanted_between(self.last, seq - 1)
        # What it wanted and was not reported can only be missing where the core has put it among what it skips.
        assert [] == skipped, "a hole without a gap"
        assert seq > self.last, "twice, or out of order"
        assert self.wants(seq), "it did not ask for this one"
        event = project.event(seq)
        assert (event.type, lines_of(event.data)) == (message.type, message.data)
        if not self.observes:
            event.holders.add(self.connection.id)
        self.last = self.sent_to = seq
        self.last_id = message.id
        seen["delivered"] += 1
        if seq <= self.head:
            seen["replayed"] += 1

    def leave(self) -> None:
        """The connection is gone: what was acknowledged has been received, the rest it no longer holds."""
        if self.observes:
            self.project.observers.remove(self)
            return
        acked_bytes = self.connection.known_acked_bytes
        acknowledged = {
            message.id
            for item, end in zip(self.connection.items, self.connection.ends, strict=True)
            if (message := item_of_project(item)) and end <= acked_bytes
        }
        for event in self.project.events:
            if self.connection.id in event.holders:
                event.holders.discard(self.connection.id)
                event.received = event.received or f"{self.project.epoch}-{event.seq}" in acknowledged
        self.project.readers.remove(self)
