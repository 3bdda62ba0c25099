"""One project: its ring, its connections, its ledger, and the one operation that delivers events.

Invariant: while the project is not dirty, the cursor of every connection that is neither paused nor leaving is at the
ring's newest event. Only `deliver` writes events, so there is no seam between replay and live delivery.
"""

from __future__ import annotations

from collections.abc import Sequence

from edge.core import sse
from edge.core.batches import MAX_BATCH_BYTES, BatchLog, FrameCache
from edge.core.connection import Connection, share_missed
from edge.core.counters import Counters
from edge.core.event import FINAL, Event
from edge.core.intervals import Intervals
from edge.core.ledger import Ledger
from edge.core.resume import Gap, Start
from edge.core.ring import Ring
from edge.core.saved import PastEpoch

BYTES_A_UNIT = 4096
"""To send so much more takes as long as one more write (measured on loopback)."""


class Project:
    """The state of one project. All code that moves the cursors of its connections is in this class."""

    __slots__ = (
        "_counters",
        "_flushed",
        "_frame_cache",
        "_sweep",
        "_sweep_at",
        "_sweep_head",
        "batches",
        "connections",
        "dirty",
        "earlier",
        "epoch",
        "expiry_slot",
        "finished",
        "first_seq",
        "had_final",
        "id_prefix",
        "last_connect_seconds",
        "last_disconnect",
        "last_ready",
        "ledger",
        "name",
        "observers",
        "pending_entry_seconds",
        "pinned",
        "reserved",
        "ring",
    )

    def __init__(self, name: str, epoch: str, counters: Counters, frame_cache: FrameCache, *, newest: int = 0) -> None:
        self.name = name
        self.epoch = epoch
        self.id_prefix = f"{epoch}-".encode()
        self.ring = Ring(newest)
        self.first_seq = newest + 1
        self.earlier: tuple[PastEpoch, ...] = ()
        """Epochs of earlier processes that this history continues, oldest first."""
        self.ledger = Ledger(counters.misses, name, newest)
        self.finished = False
        """The newest event is the last: streams end after it. Publishing reopens the project."""
        self.had_final = False
        """The ring may hold an event that finished it."""
        self.connections: list[Connection] = []
        self.observers: list[Connection] = []
        """Streams that don't count as subscribers."""
        self.batches = BatchLog()
        """What subscribers that keep up were written."""
        self.reserved = 0
        """Events that have a number but are not committed to the store yet."""
        self.pinned = False
        """A replica of a project that another node holds: it is not dropped when it is empty."""
        self.dirty = False
        """Whether it is in the hub's flush queue."""
        self.expiry_slot: int | None = None
        """Its slot in `ExpiryWheel`."""
        self.last_connect_seconds: float | None = None
        self.last_disconnect: tuple[float, str] | None = None
        """When the last subscriber disconnected, and the reason."""
        self.last_ready: tuple[float, int, str] | None = None
        """When it was last ready, with how many connections, and how they were confirmed."""
        self.pending_entry_seconds: float | None = None
        """Its entry in `OldestMiss`."""
        self._counters = counters
        self._frame_cache = frame_cache
        self._flushed = newest
        """Every connection that was not paused was delivered the events up to this number."""
        self._sweep: list[Connection] | None = None
        self._sweep_at = 0
        self._sweep_head = 0

    @property
    def empty(self) -> bool:
        """Whether it has no stream, no event (and so no pending miss) and no reservation."""
        return not (self.connections or self.observers or len(self.ring) or self.reserved or self.pinned)

    @property
    def is_idle(self) -> bool:
        """Whether it has no stream, no reservation and no pending miss."""
        return not (self.connections or self.observers or self.reserved or self.pinned or self.ledger.pending)

    @property
    def streams(self) -> list[Connection]:
        """Connections and observers."""
        return [*self.connections, *self.observers] if self.observers else self.connections

    def completes(self, connection: Connection) -> bool:
        """Whether the project is finished, `connection` was written all of it, and its client is yet to learn that."""
        at_end = self.finished and connection.cursor == self.ring.newest and not connection.paused
        return at_end and connection.finished_at != connection.cursor

    @property
    def published(self) -> int:
        """How many events were published in this epoch."""
        return self.ring.newest - self.first_seq + 1

    def event_id(self, seq: int) -> str:
        return f"{self.epoch_of(seq)}-{seq}"

    def epoch_of(self, seq: int) -> str:
        """The epoch in which number `seq` was given."""
        if self.earlier and seq <= self.earlier[-1].last_seq:
            return next(past.epoch for past in self.earlier if seq <= past.last_seq)
        return self.epoch

    def continues(self, epoch: str, seq: int) -> bool:
        """Whether all that followed event `seq` of `epoch` is known to be in this history."""
        if epoch == self.epoch:
            return True
        for place, past in enumerate(self.earlier):
            if past.epoch == epoch:
                return seq <= past.last_seq and all(one.whole for one in self.earlier[place:])
        return False

    def begins(self, epoch: str, seq: int) -> bool:
        """Whether `epoch` follows an earlier one that ended with number `seq`."""
        epochs = [*(past.epoch for past in self.earlier), self.epoch]
        return epoch in epochs[1:] and self.earlier[epochs.index(epoch) - 1].last_seq == seq

    @property
    def oldest_id(self) -> str | None:
        return self.event_id(self.ring.oldest) if len(self.ring) else None

    @property
    def newest_id(self) -> str | None:
        return self.event_id(self.ring.newest) if len(self.ring) else None

    def frame(self, event: Event) -> bytes:
        """`event` encoded for all subscribers, with the next free number."""
        return event.frame(self.id_prefix, self.ring.newest + self.reserved + 1)

    def frames(self, events: Sequence[Event]) -> list[bytes]:
        """`frame` for many."""
        prefix, first = self.id_prefix, self.ring.newest + self.reserved + 1
        return [event.frame(prefix, seq) for seq, event in enumerate(events, first)]

    def extend(self, frames: list[bytes], now: float) -> int:
        """`append` for many; returns the number of the last."""
        ring, counters = self.ring, self._counters
        before_bytes = ring.size_bytes
        seq = ring.extend(frames, now)
        self.finished = frames[-1].startswith(FINAL)
        if self.finished:
            self.had_final = True
        counters.published += len(frames)
        counters.ring_events += len(frames)
        counters.ring_bytes += ring.size_bytes - before_bytes
        if not self.connections:
            for each in range(seq - len(frames) + 1, seq + 1):
                self.ledger.event_missed(each, now)
            if self.pending_entry_seconds is None:
                counters.oldest_miss.add(self)
        return seq

    def append(self, frame: bytes, now: float) -> int:
        """Add the next frame to the ring; `flush` delivers it. Returns its number."""
        seq = self.ring.append(frame, now)
        self.finished = frame.startswith(FINAL)
        if self.finished:
            self.had_final = True
        counters = self._counters
        counters.ring_events += 1
        counters.ring_bytes += len(frame)
        if not self.connections:
            self.ledger.event_missed(seq, now)
            if self.pending_entry_seconds is None:
                counters.oldest_miss.add(self)
        return seq

    def evict(self, count: int, reason: str, now: float) -> None:
        """Evict the `count` oldest events. `FlushQueue.deliver_first` comes before it."""
        if count <= 0:
            return
        oldest = self.ring.oldest
        counters = self._counters
        counters.ring_bytes -= self.ring.evict(count)
        counters.ring_events -= count
        counters.evicted[reason] += count
        if counters.misses.touched is not None:
            counters.misses.touch(self.name)
        self.ledger.evicted(oldest, oldest + count - 1, now)

    def attach(self, connection: Connection, start: Start, hello: dict[str, object], retry_ms: int, now: float) -> None:
        """Add a connection and write its hello, its gap if there is one, and its replay."""
        ring = self.ring
        connection.project = self
        connection.place(start, ring.newest)
        if connection.observes:
            connection.takes_missed = False
            self.observers.append(connection)
        else:
            connection.index = len(self.connections)
            self.connections.append(connection)
            self.last_connect_seconds = now
        skipped = len(start.skips) if start.skips is not None else 0
        oldest = newest = None
        if ring.newest >= ring.oldest:
            oldest, newest = self.event_id(ring.oldest), self.event_id(ring.newest)
        hello |= {"oldest": oldest, "newest": newest, "replayed": ring.newest - start.cursor - skipped}
        position = start.cursor if start.resume_from is None else start.resume_from
        event_id = start.resume_id or (newest if newest and position == ring.newest else self.event_id(position))
        greeting = sse.control_frame("hello", hello, retry_ms=retry_ms, event_id=event_id)
        if start.gap is not None:
            greeting += self._gap_frame(start.gap, connection)
        connection.control(greeting, now)
        if start.cursor < ring.newest:
            self.deliver(connection, ring.newest, now)

    def detach(self, connection: Connection, reason: str, now: float, *, reset: bool) -> int:
        """Remove a connection. Events written only to it and not acknowledged become misses; returns how many."""
        if connection.observes:
            self.observers.remove(connection)
            return 0
        last = self.connections.pop()
        if last is not connection:
            last.index = connection.index
            self.connections[last.index] = last
        connection.refresh()
        connection.return_losses(self.ledger, doubted=reset and connection.doubt_replay(now))
        self.last_disconnect = (now, reason)
        ring = self.ring
        missed = self.ledger.disconnected(
            acknowledged=connection.covered(0, connection.acknowledged),
            unacknowledged=connection.covered(connection.acknowledged + 1, connection.cursor),
            unwritten=connection.covered(max(connection.cursor + 1, ring.oldest), ring.newest),
            others=self.connections,
            oldest=ring.oldest,
            newest=ring.newest,
            now=now,
        )
        if missed:
            self._counters.oldest_miss.add(self)
            self.offer_missed(self.connections, now)
        return missed

    def offer_missed(self, connections: list[Connection], now: float) -> None:
        """Deliver pending misses to those of `connections` that asked for missed events; see `share_missed`."""
        for connection, events in share_missed(self.ledger.pending, connections):
            connection.turn_back(events)
            self.deliver(connection, self.ring.newest, now)

    @property
    def oldest_pending_seconds(self) -> float | None:
        """When the oldest pending miss was published; None if this process holds none."""
        pending, ring = self.ledger.pending, self.ring
        held = pending.size and ring.oldest <= pending.first <= ring.newest
        return ring.published_at(pending.first) if held else None

    @property
    def has_undelivered(self) -> bool:
        """Whether the ring holds events that are still to be delivered."""
        return self._flushed < self.ring.newest

    def owes(self, count: int) -> bool:
        """Whether one of the `count` oldest events is still to be delivered to connections that keep up."""
        return self.ring.oldest + count - 1 > self._flushed and bool(self.connections or self.observers)

    def flush(self, now: float, budget: int) -> int:
        """Deliver to connections, up to where the head was when the current sweep began. A connection takes one of
        `budget`, and one more for each `BYTES_A_UNIT` that it is written.

        Returns what was taken. `has_undelivered` stays true until a whole sweep has found no newer event.
        """
        if not self.has_undelivered:
            return 0
        ring = self.ring
        if self._sweep is None:
            self._sweep, self._sweep_at, self._sweep_head = self.streams.copy(), 0, ring.newest
        ahead, each = self._sweep_head - self._flushed, 1
        if ahead > 1 and len(ring):
            each += min(MAX_BATCH_BYTES, ring.size_bytes * ahead // len(ring)) // BYTES_A_UNIT
        part = self._sweep[self._sweep_at : self._sweep_at + max(1, budget // each)]
        self._deliver_all(part, self._sweep_head, now)
        self._sweep_at += len(part)
        if self._sweep_at >= len(self._sweep):
            self._sweep, self._flushed = None, self._sweep_head
        return len(part) * each

    def _deliver_all(self, connections: list[Connection], head: int, now: float) -> None:
        """`deliver` for many. Connections still where the last sweep left them share the same bytes.

        Such a connection skips none of the events ahead.
        """
        start = self._flushed if self._flushed + 1 >= self.ring.oldest else -1  # or the ring has overtaken them
        in_step: tuple[list[Connection], list[Connection]] = ([], [])
        """Those without chunked encoding, those with it."""
        for connection in connections:
            cursor = connection.cursor
            if cursor >= head or connection.paused or connection.leaving:
                continue
            if cursor != start or connection.alone:
                self.deliver(connection, head, now)
                continue
            in_step[connection.chunked].append(connection)
        for chunked, readers in enumerate(in_step):
            if not readers:
                continue
            wire, last, body_bytes = self._frame_cache.get(self, start, head, chunked=bool(chunked))
            self.batches.record(start, last, body_bytes)
            self.ledger.delivered(start + 1, last)
            self._counters.delivered += (last - start) * len(readers)
            readers[0].write_batch(readers, wire, last, now)
            if last < head:
                for connection in readers:
                    self.deliver(connection, head, now)

    def deliver(self, connection: Connection, head: int, now: float) -> None:
        """Write the events between `connection`'s cursor and `head` until its transport is full."""
        ring = self.ring
        counters = self._counters
        while connection.cursor < head and not connection.paused and not connection.leaving:
            # A gap is written with the events after it: even a very slow subscriber gets events, not only gaps.
            gap = self._handle_overrun(connection) if connection.cursor + 1 < ring.oldest else b""
            first, until = connection.cursor + 1, head
            if connection.skips is not None:
                first, until = connection.skips.hole(first, until) or (until + 1, until)
            cursor = first - 1
            if cursor != connection.cursor:
                connection.pass_over(cursor)
            if cursor == until:
                if gap:
                    connection.write_control(gap, now)
                return
            wire, last, _ = self._frame_cache.get(self, cursor, until, chunked=connection.chunked)
            connection.write_events(gap + wire, last, now)
            if connection.observes:
                continue
            self.ledger.delivered(cursor + 1, last)
            counters.delivered += last - cursor
            if cursor < connection.replay_to:
                counters.replayed += min(last, connection.replay_to) - cursor

    def _handle_overrun(self, connection: Connection) -> bytes:
        """Move the cursor of a connection that the ring has overtaken to the oldest event held.

        Returns the encoded gap, empty if no event for this connection was evicted.
        """
        last_gone = self.ring.oldest - 1
        cursor = connection.cursor
        asked = self.event_id(cursor)
        lost = sum(hi - lo + 1 for lo, hi in connection.covered(cursor + 1, last_gone))
        if connection.skips is None:
            connection.skips = Intervals()
        connection.skips.add(cursor + 1, last_gone)
        connection.pass_over(last_gone)
        if not connection.observes:
            self._settle(connection)
        if not lost:
            return b""
        everything = lost == last_gone - cursor
        frame = self._gap_frame(Gap(asked, "evicted", lost, cursor + 1 if everything else None), connection)
        return sse.chunk(frame) if connection.chunked else frame

    def _settle(self, connection: Connection) -> None:
        """Record what the peer acknowledged in the ledger, so that `skips` stays short."""
        connection.refresh()
        for lo, hi in connection.covered(0, connection.acknowledged):
            self.ledger.acknowledged(lo, hi)
        connection.forget_until(connection.acknowledged)

    def _gap_frame(self, gap: Gap, connection: Connection) -> bytes:
        if gap.reason == "restart":
            self._counters.misses.touch(self.name)  # hello may name its epoch, so later processes have to know it
        if not connection.observes:
            self._counters.gaps[gap.reason] += 1
            if gap.first is not None:
                connection.report_losses(self.ledger, gap.first)
        return sse.control_frame("gap", gap.fields(self.oldest_id, self.newest_id))
