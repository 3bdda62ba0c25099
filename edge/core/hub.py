"""All projects of one process: publishing, subscribing, and the global limits.

The hub has no clock and doesn't wait: time is an argument. It calls `wake` when `flush` must be called soon, and the
observer for every fact worth a log line. It reaches a transport only through its connection.

Invariants:
    * nothing waits between decoding an event and adding it to the ring, so a publisher can't leave half an event;
    * `counters.ring_memory_bytes` never stays above `limits.total_bytes`: the longest idle project is evicted first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from edge.core.errors import Draining
from edge.core.event import Event
from edge.core.observer import Batch, Receipt
from edge.core.project import Project
from edge.core.resume import Start
from edge.core.saved import SavedProject
from edge.core.streams import Streams


class Hub(Streams):
    """The core of one process."""

    def project(self, name: str, now: float) -> Project | None:
        """Project `name` after expiry, or None if it doesn't exist."""
        project = self.projects.get(name)
        if project is not None:
            self._expire(project, now)
        return self.projects.get(name)

    def is_over(self, name: str, start: Callable[[Project], Start]) -> bool:
        """Whether `name` is finished and has nothing to replay to a subscriber that starts at `start`."""
        project = self.projects.get(name)
        if project is None:
            project = self._registry.finished(name)
        if project is None or not project.finished:
            return False
        where = start(project)
        return where.gap is None and project.ring.newest - where.cursor == len(where.skips or ())

    def publish(self, name: str, event: Event, now: float) -> Receipt:
        """Number `event` and add it to project `name`.

        Raises:
            Draining: the process is shutting down.
            LimitReached: `too_many_projects`, or `event_too_large` for a frame that exceeds every ring.
        """
        if self.draining or len(event.data) > self._admission.fits_bytes:
            self.check(event)
        project = self.projects.get(name) or self._create(name, None, now)
        frame = event.frame(project.id_prefix, project.ring.newest + project.reserved + 1)
        return self._take_in(project, frame, now)

    def check(self, event: Event) -> None:
        """Raise what `publish` raises for `event` itself: Draining, or LimitReached (`event_too_large`)."""
        if self.draining:
            raise Draining("The hub is shutting down; publish again in a second.", retry_after_seconds=1)
        if len(event.data) > self._admission.fits_bytes:
            self._admission.frame(event)

    def publish_many(self, name: str, events: Sequence[Event], now: float) -> Batch:
        """Publish `events` (not empty) together: all of them, or none when it raises what `publish` raises."""
        if max(len(event.data) for event in events) > self._admission.fits_bytes:
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
        """Number the next frame of project `name` without adding it, for a store that must commit it before delivery.

        The caller then calls `commit` in the order of the reservations, or `cancel_reservations`. Raises what `publish`
        raises.
        """
        project = self._open(name, event, now)
        frame = project.frame(event)
        project.reserved += 1
        return project, frame

    def commit(self, project: Project, frame: bytes, now: float) -> Receipt:
        """Add a reserved frame. If its project was deleted meanwhile, the event is a miss and lost at once."""
        project.reserved -= 1
        if self.projects.get(project.name) is not project:
            self.counters.published += 1
            seq = project.append(frame, now)
            self._retention.evict(project, 1, "deleted", now)
            return Receipt(project.name, project.event_id(seq), 0, True)
        return self._take_in(project, frame, now)

    def append_replicated(self, project: Project, frame: bytes, now: float) -> None:
        """Add the next frame of a replica. The node that holds the project has numbered and counted the event."""
        project.append(frame, now)
        self._enforce(project, now)
        if project.connections or project.observers:
            self._flush_queue.add(project)

    def forget(self, name: str) -> None:
        """Drop a replica. The project is held by another node, so nothing is counted as evicted or lost."""
        project = self._registry.remove(name)
        if project is not None:
            project.pinned = False
            self._retention.drop(project)
            self._observer.project_forgotten(project)

    def restore(self, saved: SavedProject, now: float) -> None:
        """Add a project in the state an earlier process saved, before anything is published to it."""
        project = self._registry.restore(saved, now)
        if len(project.ring):
            self._enforce(project, now)
        self._registry.update(project)

    def new_epoch(self) -> str:
        """An epoch that was never given before, in any process."""
        return self._epochs.new()

    def cancel_reservations(self, project: Project) -> None:
        """Cancel all reservations of a project, because the store could not commit them."""
        project.reserved = 0
        self._registry.update(project)

    def is_crowded(self, name: str) -> bool:
        """Whether `name` holds more than its ring may, until its connections have been written a burst."""
        return bool(self._retention.crowded) and self.projects.get(name) in self._retention.crowded

    def delete(self, name: str, now: float) -> tuple[int, int] | None:
        """Close a project's streams and evict its events. Returns `(connections, events)`, None if it doesn't exist."""
        if self.dropped.pop(name, None) is not None:
            self.counters.misses.touch(name)
        project = self._registry.remove(name)
        if project is None:
            return None
        connections, events = len(project.connections), len(project.ring)
        self.counters.misses.touch(name)
        self._closing.add(project.streams, "deleted", project)
        self._closing.run(now)
        return connections, events

    def shrink(self, total_bytes: int, max_events: int, now: float) -> bool:
        """Evict at most `max_events` events because memory is low. Returns whether more than `total_bytes` is left."""
        for emptied in self._retention.shrink(total_bytes, "memory", now, max_events):
            self._registry.update(emptied)
        return self.counters.ring_memory_bytes > total_bytes

    def _open(self, name: str, event: Event, now: float) -> Project:
        """Get or create the project to publish `event` to."""
        self.check(event)
        project = self.projects.get(name)
        return project if project is not None else self._create(name, None, now)

    def _take_in(self, project: Project, frame: bytes, now: float) -> Receipt:
        self.counters.published += 1
        event_id = f"{project.epoch}-{project.append(frame, now)}"
        if self._retention.enforce(project, now):
            self._make_room(now)
        connections = len(project.connections)
        if (connections or project.observers) and not project.dirty:
            self._flush_queue.add(project)
        if not connections:
            self._observer.event_missed(project, event_id, now)
        return Receipt(project.name, event_id, connections, connections == 0)
