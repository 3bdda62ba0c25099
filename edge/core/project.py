"""One project: its ring, its connections, its ledger, and the one operation that moves events to readers.

Invariant: a connection that is neither paused nor leaving stands at the ring's newest event whenever the project is not
dirty. There is no other way for an event to reach a reader than `deliver`, and so no seam between replay and live.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

import msgspec

from edge.core import sse
from edge.core.batches import BatchLog
from edge.core.connection import Connection
from edge.core.counters import Counters
from edge.core.event import Event
from edge.core.intervals import Intervals
from edge.core.ledger import Ledger, LedgerState
from edge.core.resume import Gap, Start
from edge.core.ring import Ring

MAX_BATCH_BYTES = 64 * 1024
"""A write hands over about this much, so that a slow reader costs one batch and not the whole ring."""


class FrameCache:
    """The few batches last joined, shared by all connections that stand at the same place (bounded over the hub)."""

    __slots__ = ("_held",)

    _MAX_HELD = 16

    def __init__(self) -> None:
        self._held: dict[tuple[str, int, int, bool], tuple[bytes, int, int]] = {}

    def get(self, project: Project, cursor: int, until: int, *, chunked: bool) -> tuple[bytes, int, int]:
        """The wire form of the events after `cursor`, towards `until`; the last number in it; its bytes unchunked."""
        if len(project.connections) <= 1:
            return self._make(project, cursor, until, chunked=chunked)
        key = (project.epoch, cursor, until, chunked)
        found = self._held.get(key)
        if found is None:
            found = self._make(project, cursor, until, chunked=chunked)
            if len(self._held) >= self._MAX_HELD:
                self._held.clear()
            self._held[key] = found
        return found

    @staticmethod
    def _make(project: Project, cursor: int, until: int, *, chunked: bool) -> tuple[bytes, int, int]:
        body, last = project.ring.batch(cursor, until, MAX_BATCH_BYTES)
        if project.had_final:
            body = sse.without_final(body)
        return (sse.chunk(body) if chunked else body), last, len(body)


class PastEpoch(msgspec.Struct, frozen=True, array_like=True):
    """An epoch of an earlier process whose history this one goes on with. `last_seq` is the last number given in it.

    `whole`: it is known that no event was lost between this epoch and the next.
    """

    epoch: str
    last_seq: int
    whole: bool


class SavedProject(msgspec.Struct, frozen=True):
    """A project as an earlier process left it: `frames` end with number `newest`, `times` are the hub's seconds.

    New events get ids of `epoch`; held ones keep theirs, which `earlier` names, oldest first.
    """

    name: str
    epoch: str
    first_seq: int
    newest: int
    frames: list[bytes]
    times: list[float]
    ledger: LedgerState
    pinned: bool = False
    earlier: tuple[PastEpoch, ...] = ()
    finished: bool = False


class Project:
    """What the hub knows of one project. Everything that moves its cursors is in this class."""

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

    def __init__(self, name: str, epoch: str, counters: Counters, wires: FrameCache, *, newest: int = 0) -> None:
        self.name = name
        self.epoch = epoch
        self.id_prefix = f"{epoch}-".encode()
        self.ring = Ring(newest)
        self.first_seq = newest + 1
        self.earlier: tuple[PastEpoch, ...] = ()
        """Epochs of earlier processes that this history goes on with, oldest first."""
        self.ledger = Ledger(counters.misses, name, newest)
        self.finished = False
        """Its newest event is its last: streams end behind it. Publishing opens it again."""
        self.had_final = False
        """The ring may hold an event that finished it."""
        self.connections: list[Connection] = []
        self.observers: list[Connection] = []
        """Streams that count as nothing."""
        self.batches = BatchLog()
        """What readers that keep up were written."""
        self.reserved = 0
        """Events numbered that a store has not taken yet."""
        self.pinned = False
        """Kept elsewhere and followed from here: it is not forgotten by itself."""
        self.dirty = False
        """It stands in the hub's queue of those to be flushed."""
        self.expiry_slot: int | None = None
        """Where `ExpiryWheel` keeps it."""
        self.last_connect_seconds: float | None = None
        self.last_disconnect: tuple[float, str] | None = None
        """When the last reader left, and the reason."""
        self.last_ready: tuple[float, int, str] | None = None
        """When it was last found ready, with how many connections, and how they were confirmed."""
        self.pending_entry_seconds: float | None = None
        """Its entry in `OldestMiss`."""
        self._counters = counters
        self._frame_cache = wires
        self._flushed = newest
        """Up to here every connection that was not paused has been brought."""
        self._sweep: list[Connection] | None = None
        self._sweep_at = 0
        self._sweep_head = 0

    @classmethod
    def restored(cls, past: SavedProject, counters: Counters, wires: FrameCache, now: float) -> Project:
        """The project that `past` tells of."""
        project = cls(past.name, past.epoch, counters, wires, newest=past.newest)
        project.first_seq = past.first_seq
        project.pinned = past.pinned
        project.earlier = past.earlier
        project.ring.load(past.frames, past.times)
        project.had_final = any(map(sse.is_final, past.frames))
        project.finished = past.finished or (project.had_final and sse.is_final(past.frames[-1]))
        counters.ring_events += len(project.ring)
        counters.ring_bytes += project.ring.size_bytes
        project.ledger.restore(past.ledger, project.ring.oldest, now)
        counters.oldest_miss.add(project)
        return project

    @property
    def empty(self) -> bool:
        """Nothing is left to know: no connection, no event (and so no pending miss)."""
        return not (self.connections or self.observers or len(self.ring) or self.reserved or self.pinned)

    @property
    def is_idle(self) -> bool:
        """Whether no stream and no store is at it, and nothing that it holds is pending."""
        return not (self.connections or self.observers or self.reserved or self.pinned or self.ledger.pending)

    @property
    def streams(self) -> list[Connection]:
        """Connections and observers."""
        return [*self.connections, *self.observers] if self.observers else self.connections

    def has_all(self, connection: Connection) -> bool:
        """Whether nothing that is held is left to write to `connection`."""
        return connection.cursor == self.ring.newest and not connection.paused

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

    @property
    def oldest_id(self) -> str | None:
        return self.event_id(self.ring.oldest) if len(self.ring) else None

    @property
    def newest_id(self) -> str | None:
        return self.event_id(self.ring.newest) if len(self.ring) else None

    def frame(self, event: Event) -> bytes:
        """`event` as the bytes that every reader gets, with the next free number."""
        return sse.event_frame(self.id_prefix, self.ring.newest + self.reserved + 1, event)

    def frames(self, events: Sequence[Event]) -> list[bytes]:
        """`frame` for many."""
        prefix, first = self.id_prefix, self.ring.newest + self.reserved + 1
        return [sse.event_frame(prefix, seq, event) for seq, event in enumerate(events, first)]

    def extend(self, frames: list[bytes], now: float) -> int:
        """`append` for many; returns the number of the last."""
        ring, counters = self.ring, self._counters
        before_bytes = ring.size_bytes
        seq = ring.extend(frames, now)
        self._note_final(frames[-1])
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
        """Hold the next frame; who is to get it is `flush`'s business. Returns its number."""
        seq = self.ring.append(frame, now)
        self._note_final(frame)
        counters = self._counters
        counters.ring_events += 1
        counters.ring_bytes += len(frame)
        if not self.connections:
            self.ledger.event_missed(seq, now)
            if self.pending_entry_seconds is None:
                counters.oldest_miss.add(self)
        return seq

    def _note_final(self, newest: bytes) -> None:
        self.finished = sse.is_final(newest)
        if self.finished:
            self.had_final = True

    def evict(self, count: int, reason: str, now: float) -> None:
        """Give up the `count` oldest events."""
        if count <= 0:
            return
        oldest = self.ring.oldest
        if (self.connections or self.observers) and oldest + count - 1 > self._flushed:
            # A burst larger than the ring: whoever keeps up gets it before it goes.
            while self.has_undelivered:
                self._sweep_on(now, len(self.connections) + len(self.observers))
        counters = self._counters
        counters.ring_bytes -= self.ring.evict(count)
        counters.ring_events -= count
        counters.evicted[reason] += count
        if counters.misses.touched is not None:
            counters.misses.touch(self.name)
        self.ledger.evicted(oldest, oldest + count - 1, now)

    def attach(self, connection: Connection, start: Start, hello: dict[str, object], retry_ms: int, now: float) -> None:
        """Take a reader in: hello, a gap where there is one, the replay; from then on it is like any other."""
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
        hello |= {
            "oldest": self.oldest_id,
            "newest": self.newest_id,
            "replayed": ring.newest - start.cursor - skipped,
        }
        position = start.cursor if start.resume_from is None else start.resume_from
        event_id = start.resume_id or self.event_id(position)
        greeting = sse.control_frame("hello", hello, retry_ms=retry_ms, event_id=event_id)
        if start.gap is not None:
            greeting += self._gap_frame(start.gap, connection)
        connection.control(greeting, now)
        self.deliver(connection, ring.newest, now)

    def history(self, start: Start, count: int) -> list[tuple[float, sse.Decoded]]:
        """The first `count` events held from `start` on, with the time of each. It is not a delivery."""
        skips = Intervals() if start.skips is None else start.skips
        first = max(start.cursor + 1, self.ring.oldest)
        held = (seq for lo, hi in skips.outside(first, self.ring.newest) for seq in range(lo, hi + 1))
        return [(self.ring.published_at(seq), sse.decode(self.ring.frame(seq))) for seq in islice(held, count)]

    def gap_fields(self, gap: Gap) -> dict[str, object]:
        """`gap` as it is reported."""
        return {
            "asked": gap.asked,
            "oldest": self.oldest_id,
            "newest": self.newest_id,
            "lost": gap.lost,
            "reason": gap.reason,
        }

    def detach(self, connection: Connection, reason: str, now: float, *, reset: bool) -> int:
        """Let a connection go; what it alone had and did not acknowledge is missed. Returns how much that was."""
        if connection.observes:
            self.observers.remove(connection)
            return 0
        last = self.connections.pop()
        if last is not connection:
            last.index = connection.index
            self.connections[last.index] = last
        connection.refresh()
        if reset:
            connection.doubt_replay(now)
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
        """Give what is pending to those of `connections` that asked for missed events and never had them.

        Each event goes to one of them, the newest that can take it. Only in order: one that was already written a later
        event would have its `Last-Event-ID` set back. What none can take stays pending.
        """
        left = Intervals(self.ledger.pending)
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
                connection.turn_back(events)
                self.deliver(connection, self.ring.newest, now)

    @property
    def oldest_pending_seconds(self) -> float | None:
        """When its oldest pending miss was published; None if there is none that this process holds."""
        pending, ring = self.ledger.pending, self.ring
        held = pending.size and ring.oldest <= pending.first <= ring.newest
        return ring.published_at(pending.first) if held else None

    @property
    def has_undelivered(self) -> bool:
        """Whether events are held that readers have not been brought to."""
        return self._flushed < self.ring.newest

    def flush(self, now: float, budget: int) -> int:
        """Bring at most `budget` connections up to the head, or to where it stood when the sweep under way began.

        Returns how many were looked at. The project stays `has_undelivered` until a whole sweep has met no newer event.
        """
        return self._sweep_on(now, budget) if self.has_undelivered else 0

    def _sweep_on(self, now: float, budget: int) -> int:
        """Bring the next `budget` connections to where the head stood when this sweep began."""
        if self._sweep is None:
            self._sweep_head = self.ring.newest
            streams = self.streams
            if len(streams) <= budget:
                self._deliver_all(streams, self._sweep_head, now)
                self._flushed = self._sweep_head
                return len(streams)
            self._sweep, self._sweep_at = streams.copy(), 0
        part = self._sweep[self._sweep_at : self._sweep_at + budget]
        self._deliver_all(part, self._sweep_head, now)
        self._sweep_at += len(part)
        if self._sweep_at >= len(self._sweep):
            self._sweep, self._flushed = None, self._sweep_head
        return len(part)

    def _deliver_all(self, connections: list[Connection], head: int, now: float) -> None:
        """`deliver` for many; those that keep up, and stand where the last sweep left them, get the very same bytes.

        Whoever stands there skips none of what lies ahead, which is held.
        """
        start = self._flushed
        in_step: tuple[list[Connection], list[Connection]] = ([], [])
        """Those without chunks, those with."""
        for connection in connections:
            cursor = connection.cursor
            if cursor >= head or connection.paused or connection.leaving:
                continue
            if cursor != start or connection.observes:
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
        """Write what lies between `connection`'s cursor and `head`, as far as its transport takes it."""
        ring = self.ring
        counters = self._counters
        while connection.cursor < head and not connection.paused and not connection.leaving:
            # A gap goes out with what follows it: however slow a reader is, it gets events and not gaps alone.
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
        """Set a connected reader that the ring has moved past to the oldest event held.

        Returns the gap that tells it so, in its wire form; nothing where it missed nothing it was to get.
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
        """Fold what the peer acknowledged into the ledger, so that `skips` stays short."""
        connection.refresh()
        for lo, hi in connection.covered(0, connection.acknowledged):
            self.ledger.acknowledged(lo, hi)
        connection.forget_until(connection.acknowledged)

    def _gap_frame(self, gap: Gap, connection: Connection) -> bytes:
        if not connection.observes:
            self._counters.gaps[gap.reason] += 1
            if gap.first is not None:
                self.ledger.gap_reported(gap.first)
        return sse.control_frame("gap", self.gap_fields(gap))


def _connected_at(connection: Connection) -> tuple[float, int]:
    return connection.connected_at_seconds, connection.index
