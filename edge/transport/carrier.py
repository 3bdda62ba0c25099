"""Several projects over one stream: one transport, and a connection of the core for each project.

The `Carrier` owns the transport and is attached to no project. The hub knows its `Part`s only, one for each project, so
cursors, gaps, limits, readiness, the ledger and finished projects are those of single streams.

Invariants:
    * the id of each event names the position in all projects: `<project>:<id>,<project>:<id>`. The first hello has all
      positions already, so a client that is cut off anywhere resumes each project where it was;
    * a part is paused exactly while the transport accepts nothing;
    * bytes are counted once, on the carrier: what was written to a part ends at a byte of the stream.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

from edge.core import sse
from edge.core.connection import Connection
from edge.core.hub import Hub
from edge.transport.stream import NOT_DIRECTLY, Stream, Traced

_ID = re.compile(rb"^id: (.+)$", re.MULTILINE)
_FIELDS = re.compile(rb"^(event: edge\.(?:closing|gap|probe)\ndata: \{)", re.MULTILINE)
_TYPE = re.compile(rb"^event: ", re.MULTILINE)
_OF_ONE_PROJECT = ("deleted", "restart")


class Part(Connection):
    """A subscriber of one project on a stream of several."""

    __slots__ = ("_carrier", "named", "place_in_stream")

    _fd = NOT_DIRECTLY
    """`Stream.write_each` may be given parts, too."""

    def __init__(self, carrier: Carrier, name: str, connection_id: str, now: float, **options: Any) -> None:
        self._carrier = carrier
        self.named = name.encode()
        self.place_in_stream = carrier.add(self)
        super().__init__(connection_id, carrier.address, now, chunked=carrier.chunked, **options)
        # The core writes plain frames, to each part by itself, and the carrier makes the chunk. A ping has its chunk.
        self.chunked = False
        self.alone = True
        # Nothing is replayed before all hellos are written.
        self.paused = True

    @property
    def written_bytes(self) -> int:
        return self._carrier.written_bytes

    @written_bytes.setter
    def written_bytes(self, written_bytes: int) -> None:
        self._carrier.written_bytes = written_bytes

    @property
    def last_write_seconds(self) -> float:
        return self._carrier.last_write_seconds

    @last_write_seconds.setter
    def last_write_seconds(self, now: float) -> None:
        self._carrier.last_write_seconds = now

    @property
    def confirmable(self) -> bool:
        return self._carrier.confirmable

    @property
    def unacked_bytes(self) -> int:
        return self._carrier.unacked_bytes

    @property
    def round_trip_seconds(self) -> float | None:
        return self._carrier.round_trip_seconds

    def write_events(self, wire: bytes, seq: int, now: float) -> None:
        super().write_events(self._carrier.encode_events(self, wire), seq, now)

    def write_control(self, wire: bytes, now: float) -> None:
        if not self._carrier.holds_greeting(self, wire):
            super().write_control(self._carrier.encode(self, wire), now)

    def write(self, wire: bytes) -> None:
        self._carrier.write_for(self, wire)

    def acked_bytes(self) -> int:
        return self._carrier.acked_bytes()

    def moved_bytes(self) -> int:
        return self._carrier.moved_bytes()

    def answers(self) -> bool:
        return self._carrier.answers()

    def silent_seconds(self, now: float) -> float:
        self._carrier.progress_seconds = self.progress_seconds
        return self._carrier.silent_seconds(now)

    def cork(self) -> None:
        self._carrier.cork()

    def finish(self) -> None:
        """End the stream; but where only this project is finished, the others go on, and it may be reopened."""
        if self.leaving == "finished":
            self.leaving, self.finished_at = None, self.cursor
        self._carrier.end(self.leaving)

    def abort(self) -> None:
        self._carrier.leaving = self._carrier.leaving or self.leaving
        self._carrier.abort()


class TracedPart(Traced, Part):
    """A `Part` that logs what is written to it."""

    __slots__ = ()


class _Encoded(NamedTuple):
    """Frames of the core as a stream with the positions `before` sends them, and the part's position after them."""

    frames: bytes
    form: tuple[int, bool, bool]
    before: list[bytes]
    position: bytes
    wire: bytes


class Carrier(Stream):
    """The stream. `prefixes`: events have the name of their project in front of their type."""

    __slots__ = ("_greetings", "_next", "_positions", "_prefixes", "parts")

    _encoded: ClassVar[_Encoded | None] = None
    """The events that were encoded last: in a fan-out the next stream most often needs the same (2.5 µs a delivery)."""

    def __init__(
        self, hub: Hub, clock: Callable[[], float], address: str, *, chunked: bool = True, prefixes: bool = False
    ) -> None:
        super().__init__(hub, clock, "", address, chunked=chunked)
        self._prefixes = prefixes
        self.parts: list[Part] = []
        self._positions: list[bytes] = []
        """For each part `<project>:<id>`: where its client stands."""
        self._greetings: list[tuple[Part, bytes]] | None = []
        """Hellos and gaps, until the positions of all parts are known."""
        self._next = 0
        """The part that is the first to catch up when the transport has drained."""

    def add(self, part: Part) -> int:
        """Take in a new part. Returns its place."""
        self.parts.append(part)
        self._positions.append(b"")
        return len(self.parts) - 1

    def begin(self) -> None:
        """All parts are attached: write the hellos, then the replays."""
        greetings, self._greetings = self._greetings, None
        now = self._clock()
        for part, greeting in greetings or ():
            part.write_control(greeting, now)
        self._catch_up(now)
        self.uncork()

    def holds_greeting(self, part: Part, wire: bytes) -> bool:
        """Keep `wire` until `begin`, if that is to come. Returns whether it is kept."""
        if self._greetings is None:
            return False
        self.encode(part, wire)
        self._greetings.append((part, wire))
        return True

    def _catch_up(self, now: float) -> None:
        """Let the parts write in turns until the transport is full."""
        for _ in self.parts:
            if self.paused:
                return
            part = self.parts[self._next % len(self.parts)]
            self._next += 1
            if part.paused:
                self._hub.drained(part, now)

    # The form of the frames

    def encode_events(self, part: Part, frames: bytes) -> bytes:
        """`encode` for events, with a gap in front of them perhaps. Streams at the same positions share the bytes."""
        positions, place = self._positions, part.place_in_stream
        form = (place, self.chunked, self._prefixes)
        known = Carrier._encoded
        if known is not None and known.frames is frames and known.form == form and known.before == positions:
            positions[place] = known.position
            return known.wire
        before, text = positions.copy(), frames
        if self._prefixes:
            text = b"".join(_prefixed(part.named, frame) for frame in frames.split(b"\n\n")[:-1])
        wire = self.encode(part, text)
        Carrier._encoded = _Encoded(frames, form, before, positions[place], wire)
        return wire

    def encode(self, part: Part, frames: bytes) -> bytes:
        """`frames` of one project as this stream sends them."""
        positions = self._positions

        def position(own: re.Match[bytes]) -> bytes:
            positions[part.place_in_stream] = b"%b:%b" % (part.named, own[1])
            return b"id: " + b",".join(positions)

        text = _ID.sub(position, frames)
        if b"event: edge." in text:
            text = _FIELDS.sub(rb'\1"project":"%b",' % part.named, text)
        return sse.chunk(text) if self.chunked else text

    def write_for(self, part: Part, wire: bytes) -> None:
        """Write what is counted in `written_bytes` already."""
        self.write(wire)
        if self._record_cost_bytes:
            self._hub.pending_acks(part)

    # What the hub asks of the parts, and the transport says

    def refresh(self) -> bool:
        return sum(part.refresh() for part in self.parts) > 0

    def end(self, reason: str | None) -> None:
        """End the stream for `reason`, or for None if all projects are finished: what the parts hold is still sent."""
        if self.leaving:
            return
        if reason is None:
            if not all(part.project is None or _is_over(part) for part in self.parts):
                self.uncork()
                return
            reason = "finished"
        self.leaving = reason
        now = self._clock()
        for part in self.parts:
            if part.leaving is None and reason == "finished":
                part.leaving = reason
            elif part.leaving is None:
                self._hub.end(part, "restart" if reason in _OF_ONE_PROJECT else reason, now)
        self.finish()

    def pause_writing(self) -> None:
        self._fd = NOT_DIRECTLY
        self.paused = True
        now = self._clock()
        for part in self.parts:
            self._hub.paused(part, now)

    def resume_writing(self) -> None:
        self._write_directly_if_empty()
        self.paused = False
        self._catch_up(self._clock())

    def connection_lost(self, exc: BaseException | None) -> None:
        self._fd = NOT_DIRECTLY
        reason = self.leaving or self._reason(exc)
        now = self._clock()
        for part in self.parts:
            self._hub.detach(part, part.leaving or reason, now, reset=isinstance(exc, ConnectionError))
        self._transport = None
        self._sock = None


def _is_over(part: Part) -> bool:
    return part.project is not None and part.project.finished and part.finished_at == part.cursor


def _prefixed(project: bytes, frame: bytes) -> bytes:
    if frame.startswith(b"event: edge."):
        return frame + b"\n\n"
    named, types = _TYPE.subn(b"event: %b/" % project, frame, 1)
    return (named if types else b"event: %b/message\n%b" % (project, frame)) + b"\n\n"
