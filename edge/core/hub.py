"""All projects of one process: the global bounds, the order in which history is given up, the beat.

The hub is told what time it is and asks for nothing: `wake` says that `flush` is wanted soon, the observer hears of
every fact worth a log line, and whatever must be done to a transport is done through the connection itself.

Invariants:
    * between decoding an event and its place in the ring nothing waits, so a publisher can't leave half an event;
    * `counters.ring_memory_bytes` never stays above `limits.total_bytes`: the project idle longest gives first;
    * a project without connection and event is forgotten, and one that is deleted is gone at once: whoever still
      leaves it does so on the old object.
"""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, cast

from edge.core import sse
from edge.core.admission import Admission
from edge.core.closing import CloseQueue
from edge.core.connection import Connection
from edge.core.counters import Counters
from edge.core.epochs import Epochs, PastEpoch
from edge.core.errors import Draining
from edge.core.event import Event
from edge.core.flush_queue import FlushQueue
from edge.core.frame_cache import FrameCache
from edge.core.limits import Limits
from edge.core.observer import Batch, Observer, Receipt
from edge.core.project import Project
from edge.core.resume import Start
from edge.core.retention import Retention
from edge.core.saved import SavedProject, restored
from edge.core.timers import PendingAcks, StallDetector, TimingWheel

TICK_BUDGET = 512
_CLOSING_SPREAD = 2.0
"""Readers told to come back do so within `retry_ms` and this many times more, so that they don't come at once."""
_MAX_FORGOTTEN = 10_000
"""Of so many projects that were forgotten the hub knows where their history ended; about 300 bytes each."""
_MOST_FRAME_BYTES_BESIDE_DATA = 512
"""Id, type and field names; a line end in the data may become seven bytes."""


class Forgotten(NamedTuple):
    """What is known of a project of which nothing is left."""

    epoch: str
    newest: int
    finished: bool = False
    earlier: tuple[PastEpoch, ...] = ()


class Hub:
    """The machine. `boot` names this process's life in the epochs: lower-case letters and digits, new
    at every start.
    """

    def __init__(self, limits: Limits, *, boot: str, wake: Callable[[], None], observer: Observer) -> None:
        self.limits = limits
        self.counters = Counters()
        self.projects: dict[str, Project] = {}
        self.connections: dict[str, Connection] = {}
        self.observers: dict[str, Connection] = {}
        self.draining = False
        self._epochs = Epochs(boot)
        self._observer = observer
        self._surely_fits_bytes = (limits.max_frame_bytes - _MOST_FRAME_BYTES_BESIDE_DATA) // 7
        """Data so long makes a frame that fits its ring, whatever it holds; a longer one is looked at."""
        self.forgotten: OrderedDict[str, Forgotten] = OrderedDict()
        """Projects that were forgotten because nothing was left of them. One that is made anew goes on from there, so
        that a client that has seen everything gets no gap.
        """
        self._idle: OrderedDict[Project, None] = OrderedDict()
        """Projects whose last stream left with nothing pending, the one idle longest first. What has changed since then
        is looked at when one is to give way.
        """
        self._frame_cache = FrameCache()
        self._wake = wake
        self._turn_wanted = False
        self._closing = CloseQueue(self._want_turn, self.close, self.connection_failed, self._evict_deleted)
        self._flush_queue = FlushQueue(self._want_turn, self._end_streams)
        self._stalled = StallDetector(limits.dead_after_seconds)
        self._pending_acks = PendingAcks()
        self._admission = Admission(limits, self.counters, observer)
        self._retention = Retention(limits, self.counters)
        self._timing_wheel = TimingWheel(min(1.0, limits.heartbeat_seconds / 16))

    @property
    def tick_seconds(self) -> float:
        """How often `tick` wants to be called."""
        return self._timing_wheel.tick_seconds

    def project(self, name: str, now: float) -> Project | None:
        """The project as it stands: what is over age is given up first. None when the hub knows nothing of it."""
        project = self.projects.get(name)
        if project is not None:
            self._expire(project, now)
        return self.projects.get(name)

    def connected(self, name: str) -> int:
        """How many connections `name` has."""
        project = self.projects.get(name)
        return 0 if project is None else len(project.connections)

    def has_streams(self, name: str) -> bool:
        """Whether `name` has a connection or an observer."""
        project = self.projects.get(name)
        return project is not None and bool(project.connections or project.observers)

    @property
    def streams(self) -> list[Connection]:
        """All connections and observers."""
        return [*self.connections.values(), *self.observers.values()]

    def is_over(self, name: str, start: Callable[[Project], Start]) -> bool:
        """Whether `name` is finished, with nothing left to replay to a subscriber that starts at `start`."""
        project = self.projects.get(name)
        if project is None:
            left = self.forgotten.get(name)
            if left is None or not left.finished:
                return False
            project = self._from_forgotten(name, left)
        elif not project.finished:
            return False
        where = start(project)
        return where.gap is None and project.ring.newest - where.cursor == len(where.skips or ())

    # Publishing

    def publish(self, name: str, event: Event, now: float) -> Receipt:
        """Give `event` the next number of project `name` and hold it.

        Raises:
            Draining: the process is leaving.
            LimitReached: `too_many_projects`, or `event_too_large` for a frame that no ring could hold.
        """
        project = self._open(name, event, now)
        return self._take_in(project, project.frame(event), now)

    def check(self, event: Event) -> None:
        """Raise what `publish` raises for `event` itself: Draining, or LimitReached (`event_too_large`)."""
        if self.draining:
            raise Draining("The hub is shutting down; publish again in a second.", retry_after_seconds=1)
        if len(event.data) > self._surely_fits_bytes:
            self._admission.frame(event)

    def publish_many(self, name: str, events: Sequence[Event], now: float) -> Batch:
        """Publish `events` (not empty) together: all of them, or none when it raises what `publish` raises."""
        if max(len(event.data) for event in events) > self._surely_fits_bytes:
            for event in events:
                self._admission.frame(event)
        project = self._open(name, events[0], now)
        last = project.extend(project.frames(events), now)
        first = last - len(events) + 1
        self._enforce(project, now)
        connections = len(project.connections)
        if connections or project.observers:
            self._flush_queue.add(project)
        if not connections:
            for seq in range(first, last + 1):
                self._observer.event_missed(project, project.event_id(seq), now)
        return Batch(project.event_id(first), project.event_id(last), len(events), connections == 0)

    def reserve(self, name: str, event: Event, now: float) -> tuple[Project, bytes]:
        """The next frame of project `name`, numbered but not held: for a store that must have it before any reader.

        `deliver` or `cancel_reservations` follows, in the order of the reservations. Raises what `publish` raises.
        """
        project = self._open(name, event, now)
        frame = project.frame(event)
        project.reserved += 1
        return project, frame

    def commit(self, project: Project, frame: bytes, now: float) -> Receipt:
        """Hold a reserved frame. In a project that was deleted meanwhile it is a miss, lost at once."""
        project.reserved -= 1
        if self.projects.get(project.name) is not project:
            self.counters.published += 1
            seq = project.append(frame, now)
            project.evict(1, "deleted", now)
            return Receipt(project.name, project.event_id(seq), 0, True)
        return self._take_in(project, frame, now)

    def append_replicated(self, project: Project, frame: bytes, now: float) -> None:
        """Hold the next frame of a project that is numbered elsewhere; it was counted there, too."""
        project.append(frame, now)
        self._enforce(project, now)
        if project.connections or project.observers:
            self._flush_queue.add(project)

    def forget(self, name: str) -> None:
        """Drop what is here of a project that is kept elsewhere: nothing is lost by it, nothing counted."""
        project = self.projects.pop(name, None)
        if project is not None:
            project.pinned = False
            self._idle.pop(project, None)
            self._retention.drop(project)
            self._observer.project_forgotten(project)

    def restore(self, past: SavedProject, now: float) -> None:
        """Take in a project as an earlier process left it, before anybody else does. It must not be there yet."""
        project = restored(past, self.counters, self._frame_cache, now)
        self.projects[past.name] = project
        if len(project.ring):
            self._enforce(project, now)
        self._forget_if_empty(project)

    def new_epoch(self) -> str:
        """An epoch that was never given before, in any process."""
        return self._epochs.new()

    def cancel_reservations(self, project: Project) -> None:
        """Give up all reservations of a project: its store could not take them."""
        project.reserved = 0
        self._forget_if_empty(project)

    def flush(self, now: float) -> bool:
        """Bring dirty projects up to date and close streams, what fits into one turn. Returns whether more is to do."""
        self._turn_wanted = False
        try:
            self._flush_queue.flush(now)
        finally:
            self._closing.run(now)
        return self._turn_wanted

    def _want_turn(self) -> None:
        """Have `flush` called in the next turn of the loop, once."""
        if not self._turn_wanted:
            self._turn_wanted = True
            self._wake()

    # Readers

    def admit(self, name: str, address: str, now: float) -> None:
        """Raise unless one more reader of `name` from `address` may come in.

        Raises:
            Draining, LimitReached: `too_many_connections`, `too_many_project_connections`,
                `too_many_address_connections`, `too_many_projects`.
        """
        if self.draining:
            self.counters.rejected["draining"] += 1
            raise Draining("The hub is shutting down; connect again in a second.", retry_after_seconds=1)
        if name not in self.projects and not self._may_give_way():
            self._admission.project(len(self.projects), name, address, now)
        self._admission.connection(*self._there(name), name, address, now)

    def _there(self, name: str) -> tuple[int, int]:
        """How many streams there are, on all projects and of `name`. To the limits an observer is one, too."""
        project = self.projects.get(name)
        of_project = 0 if project is None else len(project.connections) + len(project.observers)
        return len(self.connections) + len(self.observers), of_project

    def attach(self, name: str, connection: Connection, start: Callable[[Project], Start], now: float) -> None:
        """Take `connection` in as a reader of `name`, standing where `start` says; its hello and replay are written."""
        self.admit(name, connection.address, now)
        project = self.projects.get(name)
        if project is None:
            project = self._create(name, connection.address, now)
        else:
            # Not `_expire`: a project that has just become empty is not forgotten under a reader who comes back to it.
            self._retention.expire(project, now)
            self._idle.pop(project, None)
        (self.observers if connection.observes else self.connections)[connection.id] = connection
        self._admission.entered(connection.address)
        self.counters.added += not connection.observes
        project.attach(
            connection,
            start(project),
            {"project": name, "connection": connection.id, "heartbeat_seconds": self.limits.heartbeat_seconds},
            self.limits.retry_ms,
            now,
        )
        self._timing_wheel.put(connection, min(now + self.limits.heartbeat_seconds, connection.ends_at_seconds))
        if connection.paused:  # its transport was full before it came here
            self._stalled.paused[connection] = None
        if not connection.observes:
            self._observer.connection_added(project, connection)
        if project.finished and project.has_all(connection):
            self.close(connection, "finished", now)

    def detach(self, connection: Connection, reason: str, now: float, *, reset: bool = False) -> None:
        """Forget a connection whose transport is gone; calling twice does no harm.

        `reason` is one of `REMOVAL_REASONS`; `reset`: its peer has ended it without a FIN.
        """
        if (self.observers if connection.observes else self.connections).pop(connection.id, None) is None:
            return
        project = cast("Project | None", connection.project)
        assert project is not None
        missed = project.detach(connection, reason, now, reset=reset)
        connection.project = None
        connection.leaving = reason
        self._stalled.paused.pop(connection, None)
        self._pending_acks.forget(connection)
        self._admission.left(connection.address)
        if connection.observes:
            self._observer.observer_removed(project, connection)
            self._forget_if_empty(project)
            return
        self.counters.removed[reason] += 1
        if reason == "dead":
            self.counters.dead_detection_seconds.observe(connection.silent_seconds(now))
        self._observer.connection_removed(project, connection, reason, missed, now)
        self._forget_if_empty(project)

    def paused(self, connection: Connection, now: float) -> None:
        """`connection`'s transport takes no more for now."""
        connection.paused = True
        connection.progress_seconds = now
        connection.progress_bytes = connection.moved_bytes()
        if connection.project is not None:
            self._stalled.paused[connection] = None

    def drained(self, connection: Connection, now: float) -> None:
        """`connection`'s transport takes bytes again: it catches up from the ring."""
        connection.paused = False
        self._stalled.paused.pop(connection, None)
        project = cast("Project | None", connection.project)
        if project is not None:
            project.deliver(connection, project.ring.newest, now)
            if connection.takes_missed and project.ledger.pending:
                project.offer_missed([connection], now)
            if project.finished and project.has_all(connection):
                self.close(connection, "finished", now)

    def refused(self, code: str, address: str | None, now: float) -> None:
        """A client was turned away before it could say what it wanted."""
        self.counters.rejected[code] += 1
        self._observer.limit_reached(code, None, address, now)

    def pending_acks(self, connection: Connection) -> None:
        """`connection` was written to, and has to be asked in time what of it was acknowledged."""
        self._pending_acks.add(connection)

    # Time

    def tick(self, now: float) -> bool:
        """Close stalled connections, read acknowledgements, expire events, send heartbeats. Returns whether it wants
        another turn at once. An exception in one step, project or connection is reported and doesn't stop the others.
        """
        more = False
        for step in (self._close_stalled, self._read_acks, self._expire_due, self._send_heartbeats):
            try:
                more = step(now) or more
            except Exception as error:  # noqa: BLE001 - see above
                self._observer.failed("tick", error)
        return more

    def connection_failed(self, connection: Connection, error: Exception, task: str = "tick") -> None:
        """Report `error` and abort `connection` (reason `error`): its state can't be trusted any more."""
        self._observer.failed(task, error)
        connection.leaving = connection.leaving or "error"
        try:
            connection.abort()
        except Exception as second:  # noqa: BLE001 - the other connections go on
            self._observer.failed(task, second)

    def _close_stalled(self, now: float) -> bool:
        for connection in list(self._stalled.paused):
            try:
                self._stalled.end_if_stuck(connection, now)
            except Exception as error:  # noqa: BLE001 - the other connections go on
                self.connection_failed(connection, error)
        return False

    def _read_acks(self, _now: float) -> bool:
        for connection in self._pending_acks.take(TICK_BUDGET):
            try:
                if connection.project is not None and connection.refresh():
                    self._pending_acks.add(connection)
            except Exception as error:  # noqa: BLE001 - the other connections go on
                self.connection_failed(connection, error)
        return False

    def _expire_due(self, now: float) -> bool:
        due = self._retention.due(now, TICK_BUDGET)
        for project in due:
            try:
                self._expire(project, now)
            except Exception as error:  # noqa: BLE001 - the other projects go on
                self._observer.failed("tick", error)
            finally:
                self._retention.look_again(project)
        return len(due) == TICK_BUDGET

    def _send_heartbeats(self, now: float) -> bool:
        due = self._timing_wheel.due(now, TICK_BUDGET)
        silent: dict[bytes, list[Connection]] = {}
        for connection in due:
            if connection.project is None:
                continue
            try:
                look_again = self._look_at(connection, silent, now)
            except Exception as error:  # noqa: BLE001 - the other connections go on
                self.connection_failed(connection, error)
                look_again = now
            self._timing_wheel.put(connection, max(look_again, now + self._timing_wheel.tick_seconds))
        for ping, connections in silent.items():
            try:
                connections[0].write_each(connections, ping)
                self.counters.heartbeats += sum(not connection.observes for connection in connections)
            except Exception as error:  # noqa: BLE001 - the other heartbeats go out
                self._observer.failed("tick", error)
        return len(due) == TICK_BUDGET

    def _look_at(self, connection: Connection, silent: dict[bytes, list[Connection]], now: float) -> float:
        """Close `connection` or note it as silent where its time has come. Returns when to look at it again."""
        heartbeat_seconds = self.limits.heartbeat_seconds
        connection.refresh()
        stalls_at = self._stalled.ends(connection, now)
        if stalls_at <= now:
            self._stalled.give_up(connection)
        elif connection.ends_at_seconds <= now and not connection.leaving:
            self.close(connection, connection.ends_reason, now)
        elif connection.last_write_seconds + heartbeat_seconds <= now and not (connection.paused or connection.leaving):
            connection.announce(len(connection.ping), now)
            silent.setdefault(connection.ping, []).append(connection)
        return min(stalls_at, connection.last_write_seconds + heartbeat_seconds, connection.ends_at_seconds)

    def close(self, connection: Connection, reason: str, now: float) -> None:
        """Tell a reader that it is to go and why, then end its stream; `detach` follows when its transport is gone."""
        if connection.leaving:
            return
        retry_ms = self._retry_ms()
        connection.control(
            sse.control_frame("closing", {"reason": reason, "retry_ms": retry_ms}, retry_ms=retry_ms), now
        )
        connection.leaving = reason
        connection.finish()

    def delete(self, name: str, now: float) -> tuple[int, int] | None:
        """Close a project's streams and drop its history. Returns `(connections, events)`; None when it isn't there."""
        project = self.projects.get(name)
        if self.forgotten.pop(name, None) is not None:
            self.counters.misses.touch(name)
        if project is None:
            return None
        connections, events = len(project.connections), len(project.ring)
        del self.projects[name]
        self._idle.pop(project, None)
        self.counters.misses.touch(name)
        self._closing.add(project.streams, "deleted", project)
        self._closing.run(now)
        return connections, events

    def drain(self, now: float) -> None:
        """The process is shutting down: deliver what is there, close every stream, take nothing new.

        What doesn't fit into this turn is done by the next calls of `flush`.
        """
        self.draining = True
        self._closing.add(self.streams, "shutdown")
        self._closing.run(now)

    def _end_streams(self, project: Project) -> None:
        self._closing.add(project.streams, "finished")

    def _evict_deleted(self, project: Project, now: float) -> None:
        self._retention.evict(project, len(project.ring), "deleted", now)
        self._observer.project_forgotten(project)

    def busiest(self) -> Iterator[Project]:
        """Projects with most connections first, then those without, the one published to last first."""
        yield from sorted(
            (project for project in self.projects.values() if project.connections),
            key=lambda project: (-len(project.connections), project.name),
        )
        yield from (project for project in self._retention.newest_first() if not project.connections)

    # Inside

    def _open(self, name: str, event: Event, now: float) -> Project:
        """The project that `event` may be published to."""
        self.check(event)
        project = self.projects.get(name)
        return project if project is not None else self._create(name, None, now)

    def _take_in(self, project: Project, frame: bytes, now: float) -> Receipt:
        self.counters.published += 1
        seq = project.append(frame, now)
        self._enforce(project, now)
        connections = len(project.connections)
        if connections or project.observers:
            self._flush_queue.add(project)
        receipt = Receipt(project.name, project.event_id(seq), connections, connections == 0)
        if not connections:
            self._observer.event_missed(project, receipt.id, now)
        return receipt

    def _create(self, name: str, address: str | None, now: float) -> Project:
        if len(self.projects) >= self.limits.max_projects and (idlest := self._may_give_way()) is not None:
            self._retention.evict(idlest, len(idlest.ring), "projects", now)
            self._forget_if_empty(idlest)
            self.counters.projects_displaced += 1
            self._observer.project_displaced(idlest, now)
        self._admission.project(len(self.projects), name, address, now)
        left = self.forgotten.pop(name, None)
        project = self._from_forgotten(name, left or Forgotten(self.new_epoch(), 0))
        self.projects[name] = project
        self.counters.misses.touch(name)
        return project

    def _may_give_way(self) -> Project | None:
        """The project idle longest that has no stream and nothing pending: it makes room for a new one."""
        while self._idle:
            project = next(iter(self._idle))
            if self.projects.get(project.name) is project and project.is_idle:
                return project
            del self._idle[project]
        return None

    def _from_forgotten(self, name: str, left: Forgotten) -> Project:
        project = Project(name, left.epoch, self.counters, self._frame_cache, newest=left.newest)
        project.finished = left.finished
        project.earlier = left.earlier
        return project

    def _enforce(self, project: Project, now: float) -> None:
        for emptied in self._retention.enforce(project, now):
            self._forget_if_empty(emptied)

    def _expire(self, project: Project, now: float) -> None:
        self._retention.expire(project, now)
        self._forget_if_empty(project)

    def _forget_if_empty(self, project: Project) -> None:
        if self.projects.get(project.name) is not project:
            return
        if project.is_idle:
            self._idle[project] = None
        if project.empty:
            self._idle.pop(project, None)
            del self.projects[project.name]
            self.forgotten[project.name] = Forgotten(
                project.epoch, project.ring.newest, project.finished, project.earlier
            )
            if len(self.forgotten) > _MAX_FORGOTTEN:
                self.counters.misses.touch(self.forgotten.popitem(last=False)[0])
            self._observer.project_forgotten(project)
            self.counters.misses.touch(project.name)

    def _retry_ms(self) -> int:
        base_ms = self.limits.retry_ms
        return base_ms + int(random.random() * _CLOSING_SPREAD * base_ms)  # noqa: S311  # jitter, no secret
