"""Stand-ins for what stands around the core: a transport one can stall, cut and half acknowledge; an observer that
remembers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from hypothesis import settings

from edge.core.connection import Connection
from edge.core.event import Event
from edge.core.hub import Hub
from edge.core.limits import Limits
from edge.supervisor import TASKS
from tests.core.eventstream import Item, Message, Parser, unchunk

if TYPE_CHECKING:
    from edge.core.project import Project

UNLIMITED = 1 << 60


class FakeConnection(Connection):
    """A connection over an in-memory wire.

    The peer takes `room_bytes`; the write that goes beyond pauses the connection, as a transport over its high-water
    mark does. It acknowledges what it has taken on command. Whatever is written is parsed at once, so `items` is
    what a reader sees; `ends` holds, for each item, the byte of the wire at which the write that held it ended.
    """

    def __init__(self, hub: Hub, connection_id: str, now: float = 0.0, *, address: str = "::1", **options: Any) -> None:
        super().__init__(connection_id, address, now, **options)
        self.hub = hub
        self.clock: Callable[[], float] = lambda: now
        """What time it is when the transport pauses or drains."""
        self.room_bytes = UNLIMITED
        self.known_acked_bytes = 0
        self.wire = bytearray()
        self.items: list[Item] = []
        self.ends: list[int] = []
        self.writes = 0
        self.finished = False
        self.aborted = False
        self.answering = True
        self._parser = Parser()

    # What the core asks

    def write(self, wire: bytes) -> None:
        assert wire, "an empty write"
        assert not self.finished, "a write behind the end of the stream"
        self.writes += 1
        self.wire += wire
        self.room_bytes -= len(wire)
        assert len(self.wire) == self.written_bytes
        items = self._parser.feed(unchunk(wire) if self.chunked else wire)
        assert self._parser.at_rest, "a write does not end with the end of an event"
        self.items += items
        self.ends += [len(self.wire)] * len(items)
        if self.room_bytes < 0 and not self.paused:
            self.hub.paused(self, self.clock())

    def acked_bytes(self) -> int:
        return self.known_acked_bytes

    def moved_bytes(self) -> int:
        return len(self.wire) + min(0, self.room_bytes)

    def answers(self) -> bool:
        return self.answering

    def silent_seconds(self, now: float) -> float:
        return now - self.progress_seconds

    def cork(self) -> None:
        """What it is written counts at once."""

    def finish(self) -> None:
        self.finished = True

    def abort(self) -> None:
        self.aborted = True

    # What a test does to it

    def stall(self, room_bytes: int = 0) -> None:
        """Let the peer take `room_bytes` more and then no more."""
        self.room_bytes = room_bytes

    def drain(self, room_bytes: int = UNLIMITED) -> None:
        """The peer has taken all there was, and takes `room_bytes` more."""
        self.room_bytes = room_bytes
        if self.paused:
            self.hub.drained(self, self.clock())

    def acknowledge(self, acked_bytes: int | None = None) -> None:
        """The peer acknowledges everything it took, or what it took up to `acked_bytes`."""
        taken_bytes = self.moved_bytes()
        self.known_acked_bytes = max(
            self.known_acked_bytes, taken_bytes if acked_bytes is None else min(acked_bytes, taken_bytes)
        )

    # What a test asks

    @property
    def messages(self) -> list[Message]:
        return [item for item in self.items if isinstance(item, Message)]

    @property
    def events(self) -> list[Message]:
        """The project's events, without the hub's own."""
        return [message for message in self.messages if not message.type.startswith("edge.")]

    @property
    def last_id(self) -> str:
        """What the client would come back with."""
        return self.messages[-1].id

    @property
    def seqs(self) -> list[int]:
        return [int(message.id.rpartition("-")[2]) for message in self.events]

    def controls(self, name: str) -> list[dict[str, Any]]:
        """The data of the control events `edge.<name>`."""
        return [message.json for message in self.messages if message.type == f"edge.{name}"]


class Recorder:
    """An observer that remembers what was reported to it."""

    def __init__(self) -> None:
        self.added: list[str] = []
        self.removed: list[tuple[str, str, int]] = []
        self.forgotten: list[str] = []
        self.displaced: list[str] = []
        self.missed_ids: list[str] = []
        self.limits: Counter[str] = Counter()
        self.failures: list[tuple[str, Exception]] = []

    def connection_added(self, project: Project, connection: Connection) -> None:
        self.added.append(connection.id)

    def connection_removed(
        self, project: Project, connection: Connection, reason: str, missed: int, now: float
    ) -> None:
        self.removed.append((connection.id, reason, missed))

    def observer_removed(self, project: Project, connection: Connection) -> None:
        assert connection.observes

    def project_forgotten(self, project: Project) -> None:
        self.forgotten.append(project.name)

    def project_displaced(self, project: Project, now: float) -> None:
        self.displaced.append(project.name)

    def event_missed(self, project: Project, event_id: str, now: float) -> None:
        self.missed_ids.append(event_id)

    def failed(self, task: str, error: Exception) -> None:
        assert task in TASKS
        self.failures.append((task, error))

    def limit_reached(self, code: str, project: str | None, address: str | None, now: float) -> None:
        self.limits[code] += 1


class Woken:
    """Counts how often a hub wanted a turn."""

    def __init__(self) -> None:
        self.times = 0

    def __call__(self) -> None:
        self.times += 1


def make_hub(**limits: Any) -> Hub:
    return Hub(Limits(**limits), boot="boot", wake=Woken(), observer=Recorder())


def text(data: str = "x", event_type: str = "message", *, final: bool = False) -> Event:
    return Event(event_type, data.encode(), final)


def machine_settings(examples: int, *, steps: int) -> settings:
    """So many examples in a usual run, in proportion more in a thorough one."""
    return settings(max_examples=examples * settings().max_examples // 100, stateful_step_count=steps)


def woken(hub: Hub) -> Woken:
    """What `hub` asks for turns."""
    wake = hub._turn._wake
    assert isinstance(wake, Woken)
    return wake
