"""One subscriber: a cursor on its project's ring.

Everything a connection is sent follows from `cursor`: first connect, reconnect, live event, slow subscriber and gap
are one operation: deliver what lies between it and the head (`Project.deliver`). The class says nothing about sockets:
the owner of the transport subclasses it and gives the five methods at the end their meaning.

Invariant: the connection covers every event after `start` that is not in `skips`. What it covers up to `cursor` has
been written; what it covers up to `acknowledged` has been acknowledged by its peer.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, Protocol

from edge.core import sse
from edge.core.batches import BatchLog
from edge.core.intervals import Intervals, Run
from edge.core.ledger import Ledger
from edge.core.resume import Start

_REFRESH_EVERY = 64
"""Ask what was acknowledged once in so many entries of `_marks` (two a write)."""
_MAX_MARKS = 8 * _REFRESH_EVERY
"""Beyond this the newest mark is moved along: what is acknowledged is then known later, never wrongly."""
_MAX_SKIPPED_RUNS = 64
_DOUBT_SECONDS = 1.0
"""A replay that was not read within this time, and then reset, counts as not received."""

NEVER = float("inf")


class Home(Protocol):
    """What a connection needs of its project."""

    name: str
    first_seq: int
    finished: bool
    batches: BatchLog

    def event_id(self, seq: int) -> str: ...


class UnreadGap(NamedTuple):
    """A gap that was the first to report `lost` events, from number `first` on, behind byte `begins_at`."""

    lost: int
    first: int
    begins_at: int


class Connection:
    """A subscriber of one project. `chunked`: its bytes are wrapped in HTTP/1.1 chunks."""

    __slots__ = (
        "_marks",
        "_passed_to",
        "_sent_before",
        "acknowledged",
        "address",
        "alone",
        "batched_since",
        "chunked",
        "connected_at_seconds",
        "cursor",
        "ends_at_seconds",
        "ends_reason",
        "finished_at",
        "id",
        "index",
        "last_write_seconds",
        "leaving",
        "observes",
        "passed_over",
        "paused",
        "ping",
        "placed_at",
        "progress_bytes",
        "progress_seconds",
        "project",
        "replay_to",
        "skips",
        "start",
        "subject",
        "takes_missed",
        "unread_gap",
        "written_bytes",
    )

    def __init__(
        self,
        connection_id: str,
        address: str,
        now: float,
        *,
        chunked: bool = True,
        ping_as_event: bool = False,
        observes: bool = False,
        subject: str | None = None,
        ends_at_seconds: float = NEVER,
        ends_reason: str = "lifetime",
    ) -> None:
        self.id = connection_id
        self.address = address
        self.subject = subject
        """Whom the token names that it was opened with (`sub`)."""
        self.chunked = chunked
        self.observes = observes
        """It counts as nothing: not in receipts, readiness, counters or the ledger."""
        self.alone = observes
        """It is written to by itself, never in one batch with others."""
        self.connected_at_seconds = now
        self.last_write_seconds = now
        self.ends_at_seconds = ends_at_seconds
        self.ends_reason = ends_reason
        self.ping = _PINGS[chunked, ping_as_event]
        self.project: Home | None = None
        self.index = -1
        """Its place in `project.connections`."""
        self.start = self.cursor = self.acknowledged = self.replay_to = 0
        self.skips: Intervals | None = None
        self.placed_at = 0
        """Where its cursor first stood."""
        self.passed_over = 0
        """How many events its cursor has passed without their being written."""
        self._passed_to = self._sent_before = 0
        """While the cursor stands at `_passed_to`, the last event written is `_sent_before`."""
        self.takes_missed = False
        """Whether it asked for what is missed (`Start.takes_missed`)."""
        self.written_bytes = 0
        """Bytes written since the hub took the transport over."""
        self._marks: list[int] | None = None
        """Byte offset and sequence number in turns: at that offset, everything up to that number was written."""
        self.batched_since = 0
        """What it was written after this event are `project.batches`; up to it, what isn't in `_marks` has arrived."""
        self.paused = False
        self.progress_bytes = 0
        self.progress_seconds = now
        self.leaving: str | None = None
        """Why it is to go (`slow`, `deleted`, …), once that is decided."""
        self.unread_gap: UnreadGap | None = None
        """The last one; whether it is still unread, `acked_bytes` says."""
        self.finished_at = -1
        """The event behind which its client knows that the project is finished, on a stream that stays open."""

    def place(self, start: Start, head: int) -> None:
        """Stand where `start` says, with everything up to `head` counting as replay."""
        self.start = self.cursor = self.acknowledged = self.placed_at = self.batched_since = start.cursor
        self._passed_to = start.cursor
        self.skips = start.skips
        self.takes_missed = start.takes_missed
        self.replay_to = head

    @property
    def sent_to(self) -> int:
        """The last event written to it; 0 for none."""
        return self._sent_before if self.cursor == self._passed_to else self.cursor

    def turn_back(self, events: Intervals) -> None:
        """Cover `events` after all: they lie between the last event written and the cursor, so order is kept."""
        before = events.first - 1
        skips = Intervals() if self.skips is None else self.skips
        for lo, hi in events.outside(before + 1, self.cursor):
            skips.add(lo, hi)
        for lo, hi in events:
            skips.remove(lo, hi)
        self.skips = skips
        self._sent_before = self.sent_to
        self.passed_over -= self.cursor - before
        self.start, self.acknowledged = min(self.start, before), min(self.acknowledged, before)
        self.cursor = self.batched_since = self._passed_to = before

    @property
    def events_sent(self) -> int:
        """How many events were written to it."""
        return self.cursor - self.placed_at - self.passed_over

    @staticmethod
    def write_batch(connections: Sequence[Connection], wire: bytes, seq: int, now: float) -> None:
        """Write the next of `project.batches` to connections that wait for it, in their wire form: it ends with `seq`.

        First all of them take the step, then all are written to: between two writes runs as little as can be, so that
        what the kernel needs for the next one is still in its caches (0.8 of 6.2 µs, measured).
        """
        size_bytes = len(wire)
        for connection in connections:
            connection.cursor = seq
            connection.last_write_seconds = now
            connection.written_bytes += size_bytes
        connections[0].write_each(connections, wire)

    def write_events(self, wire: bytes, seq: int, now: float) -> None:
        """Write events up to `seq`, in this connection's wire form, that aren't one of `project.batches`."""
        if self.batched_since < self.cursor:
            self._leave_batches()
        self.cursor = self.batched_since = seq
        self.last_write_seconds = now
        self.written_bytes += len(wire)
        if self._marks is None:
            self._marks = []
        self._marks += (self.written_bytes, seq)
        if not len(self._marks) % _REFRESH_EVERY or len(self._marks) > _MAX_MARKS:
            self._bound_marks()
        self.write(wire)

    def pass_over(self, seq: int) -> None:
        """Move the cursor to `seq` and write nothing: nothing up to there is for this connection, or still held."""
        if self.batched_since < self.cursor:
            self._leave_batches()
        self._sent_before = self.sent_to
        self._passed_to = seq
        self.passed_over += seq - self.cursor
        self.cursor = self.batched_since = seq

    def control(self, frame: bytes, now: float) -> None:
        """Write a frame that is not an event of the project."""
        self.write_control(sse.chunk(frame) if self.chunked else frame, now)

    def write_control(self, wire: bytes, now: float) -> None:
        """Write bytes that are in wire form and carry no event of the project."""
        if self.batched_since < self.cursor:
            self._leave_batches()
        self.last_write_seconds = now
        self.written_bytes += len(wire)
        self.write(wire)

    def announce(self, size_bytes: int, now: float) -> None:
        """So many bytes that carry no event of the project are about to be written."""
        if self.batched_since < self.cursor:
            self._leave_batches()
        self.last_write_seconds = now
        self.written_bytes += size_bytes

    def refresh(self) -> bool:
        """Learn from the transport what the peer has acknowledged. Returns whether events, or a gap that reported
        losses, are still on their way: some transports can't tell any more once they are lost.
        """
        cursor = self.cursor
        if self.acknowledged == cursor:
            return self.unread_gap is not None and self.acked_bytes() <= self.unread_gap.begins_at
        owed_bytes = self.written_bytes - self.acked_bytes()
        if owed_bytes <= 0:
            self.acknowledged, self._marks = cursor, None
            return False
        marks = self._marks
        if marks is not None:
            acked_bytes = self.written_bytes - owed_bytes
            passed = 0
            while passed < len(marks) and marks[passed] <= acked_bytes:
                passed += 2
            if passed < len(marks):
                if passed:
                    self.acknowledged = marks[passed - 1]
                    del marks[:passed]
                return True
            self._marks = None
        acknowledged = since = self.batched_since
        if since < cursor:
            assert self.project is not None
            acknowledged = self.project.batches.acknowledged(since, cursor, owed_bytes, chunked=self.chunked)
        self.acknowledged = max(self.acknowledged, acknowledged)
        return self.acknowledged < cursor

    def _leave_batches(self) -> None:
        """What comes next is written to this subscriber alone: remember what of the batches is still on its way."""
        if self.refresh():
            assert self.project is not None
            since = max(self.acknowledged, self.batched_since)
            marks = self.project.batches.marks(since, self.cursor, self.written_bytes, chunked=self.chunked)
            # At least that all has arrived when all has.
            self._marks = (self._marks or []) + (marks or [self.written_bytes, self.cursor])
            self._bound_marks()
        self.batched_since = self.cursor

    def _bound_marks(self) -> None:
        self.refresh()
        marks = self._marks
        if marks is not None and len(marks) > _MAX_MARKS:
            del marks[_MAX_MARKS - 2 : -2]

    def doubt_replay(self, now: float) -> bool:
        """Its peer has reset the connection: right after the replay, most likely with bytes unread. Then what its
        stack acknowledged counts for nothing. Returns whether it is so.
        """
        doubted = now - self.connected_at_seconds < _DOUBT_SECONDS
        if doubted and self.replay_to > self.placed_at:
            self.acknowledged = min(self.acknowledged, self.start)
        return doubted

    def report_losses(self, ledger: Ledger, seq: int) -> None:
        """It is about to be written a gap that says that everything from `seq` on is gone."""
        lost, first = ledger.unreported_lost, ledger.unreported_from
        ledger.gap_reported(seq)
        if first is None or ledger.unreported_lost:
            return
        begins_at, before = self.written_bytes, self.unread_gap
        if before is not None and self.acked_bytes() <= before.begins_at:
            lost, first, begins_at = lost + before.lost, min(first, before.first), before.begins_at
        self.unread_gap = UnreadGap(lost, first, begins_at)

    def return_losses(self, ledger: Ledger, *, doubted: bool) -> None:
        """It has gone: what its gap reported is unreported again if its peer received nothing of the gap. `doubted`:
        what the peer acknowledged counts for nothing.
        """
        gap = self.unread_gap
        if gap is not None and (doubted or self.acked_bytes() <= gap.begins_at):
            ledger.gap_unread(gap.lost, gap.first)

    def forget_until(self, seq: int) -> None:
        """Cover only what comes after `seq`, or later where so many runs are skipped that they must be bounded."""
        self.start = max(self.start, seq)
        if self.skips is not None:
            self.skips.remove(0, self.start)
            self.start = max(self.start, self.skips.keep_newest_runs(_MAX_SKIPPED_RUNS))

    def covered(self, lo: int, hi: int) -> list[Run]:
        """What it covers of `lo..hi`, as runs."""
        lo = max(lo, self.start + 1)
        if hi < lo:
            return []
        return [(lo, hi)] if self.skips is None else self.skips.outside(lo, hi)

    def write(self, wire: bytes) -> None:
        """Hand bytes to the transport; never raises, never blocks. May set `paused`."""
        raise NotImplementedError

    @staticmethod
    def write_each(connections: Sequence[Connection], wire: bytes) -> None:
        """`write` for several, in their order. All are of one class."""
        for connection in connections:
            connection.write(wire)

    @property
    def confirmable(self) -> bool:
        """Whether the platform tells what the peer has acknowledged."""
        raise NotImplementedError

    def acked_bytes(self) -> int:
        """How many of `written_bytes` the peer has acknowledged, as far as can be known."""
        raise NotImplementedError

    def moved_bytes(self) -> int:
        """A number that changes while the peer takes bytes, and is `written_bytes` when it has taken all."""
        raise NotImplementedError

    def answers(self) -> bool:
        """Whether the peer's stack still answers, though it takes nothing: slow, not dead."""
        raise NotImplementedError

    def silent_seconds(self, now: float) -> float:
        """For how long nothing has come back from the peer's stack, as far as can be known."""
        raise NotImplementedError

    def cork(self) -> None:
        """Hold back what is written next, until `finish`."""
        raise NotImplementedError

    def finish(self) -> None:
        """End the stream politely: what is buffered is still sent."""
        raise NotImplementedError

    def abort(self) -> None:
        """End the stream now."""
        raise NotImplementedError


_PINGS = {
    (False, False): sse.PING_COMMENT,
    (True, False): sse.chunk(sse.PING_COMMENT),
    (False, True): sse.PING_EVENT,
    (True, True): sse.chunk(sse.PING_EVENT),
}


def share_missed(pending: Intervals, connections: Iterable[Connection]) -> Iterator[tuple[Connection, Intervals]]:
    """Share the `pending` events among those of `connections` that asked for missed events and were never sent them.

    The newest connection that can take an event gets it. Events that no connection can take are left out.
    """
    left = Intervals(pending)
    able = [each for each in connections if each.takes_missed and not (each.paused or each.leaving)]
    while left:
        able = [each for each in able if each.sent_to < left.last and each.cursor >= left.first]
        if not able:
            return
        connection = max(able, key=_connected_at)
        able.remove(connection)
        events = Intervals(left.within(connection.sent_to + 1, connection.cursor))
        if events:
            left.remove(events.first, events.last)
            yield connection, events


def _connected_at(connection: Connection) -> tuple[float, int]:
    return connection.connected_at_seconds, connection.index
