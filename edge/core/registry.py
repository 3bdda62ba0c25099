"""The projects of the hub: those that exist, those that are idle, and the last ones dropped.

Invariants:
    * a project without stream, event and reservation is dropped, and a deleted one is removed at once;
    * a dropped project that is created again continues its epoch and numbers, so that a subscriber that has seen
      everything gets no gap, and one that has not gets the gap that it would have got before.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection
from itertools import islice
from typing import NamedTuple

from edge.core.batches import FrameCache
from edge.core.counters import Counters
from edge.core.event import FINAL
from edge.core.observer import Observer
from edge.core.project import Project
from edge.core.saved import PastEpoch, SavedProject

_MAX_DROPPED = 10_000
"""Dropped projects that are remembered; about 350 bytes each."""


class DroppedProject(NamedTuple):
    """What is remembered of a dropped project: where its history began and ended, and the losses not yet reported."""

    epoch: str
    newest: int
    finished: bool = False
    earlier: tuple[PastEpoch, ...] = ()
    first_seq: int = 1
    evicted_until_seconds: float | None = None
    unreported_lost: int = 0
    unreported_from: int | None = None


class Epochs:
    """Generates epochs for one process. `boot`: see `Hub`."""

    __slots__ = ("_boot", "_given")

    def __init__(self, boot: str) -> None:
        self._boot = boot
        self._given = 0

    def new(self) -> str:
        """The next epoch."""
        self._given += 1
        return self._boot + base36(self._given)


def base36(number: int) -> str:
    """A positive integer in digits and lower-case letters."""
    digits = ""
    while number:
        number, digit = divmod(number, 36)
        digits = "0123456789abcdefghijklmnopqrstuvwxyz"[digit] + digits
    return digits


class Registry:
    """Creates, restores and drops projects."""

    __slots__ = ("_counters", "_epochs", "_frame_cache", "_idle", "_observer", "current", "dropped")

    def __init__(self, epochs: Epochs, counters: Counters, observer: Observer) -> None:
        self._epochs = epochs
        self._counters = counters
        self._observer = observer
        self._frame_cache = FrameCache()
        self.current: dict[str, Project] = {}
        self.dropped: OrderedDict[str, DroppedProject] = OrderedDict()
        """The longest dropped first."""
        self._idle: OrderedDict[Project, None] = OrderedDict()
        """Projects that became idle, the longest idle first. An entry may be out of date: `displaceable` checks it."""

    def create(self, name: str) -> Project:
        """Add project `name`, which must not exist."""
        past = self.dropped.pop(name, None) or DroppedProject(self._epochs.new(), 0)
        project = self.current[name] = self._continued(name, past)
        self._counters.misses.touch(name)
        return project

    def restore(self, saved: SavedProject, now: float) -> Project:
        """Add a project in its saved state. It must not exist."""
        project = self.current[saved.name] = restored(saved, self._counters, self._frame_cache, now)
        return project

    def remove(self, name: str) -> Project | None:
        """Remove project `name` without remembering it as dropped."""
        project = self.current.pop(name, None)
        if project is not None:
            self.in_use(project)
        return project

    def in_use(self, project: Project) -> None:
        """`project` is not idle any more."""
        self._idle.pop(project, None)

    def update(self, project: Project) -> None:
        """Drop `project` if it is empty, and record whether it is idle. Does nothing once it was removed."""
        name = project.name
        if self.current.get(name) is not project:
            return
        if project.empty:
            self._idle.pop(project, None)
            del self.current[name]
            ring, ledger = project.ring, project.ledger
            self.dropped[name] = DroppedProject(
                *(project.epoch, ring.newest, project.finished, project.earlier),
                *(project.first_seq, ring.evicted_until_seconds, ledger.unreported_lost, ledger.unreported_from),
            )
            if len(self.dropped) > _MAX_DROPPED:
                self._counters.misses.touch(self.dropped.popitem(last=False)[0])
            self._observer.project_forgotten(project)
            self._counters.misses.touch(name)
        elif project.is_idle:
            self._idle[project] = None

    def displaceable(self) -> Project | None:
        """The longest idle project, which may be removed to make room for a new one."""
        while self._idle:
            project = next(iter(self._idle))
            if self.current.get(project.name) is project and project.is_idle:
                return project
            del self._idle[project]
        return None

    def can_displace(self, count: int, besides: Collection[str]) -> bool:
        """Whether `count` projects may be removed to make room, without those in `besides`."""
        idle = (project for project in self._idle if self.current.get(project.name) is project and project.is_idle)
        return sum(1 for _ in islice((project for project in idle if project.name not in besides), count)) == count

    def finished(self, name: str) -> Project | None:
        """Dropped project `name` as it was, if it was finished."""
        past = self.dropped.get(name)
        return self._continued(name, past) if past is not None and past.finished else None

    def _continued(self, name: str, past: DroppedProject) -> Project:
        project = Project(name, past.epoch, self._counters, self._frame_cache, newest=past.newest)
        project.finished = past.finished
        project.earlier = past.earlier
        project.first_seq = past.first_seq
        project.ring.evicted_until_seconds = past.evicted_until_seconds
        project.ledger.unreported_lost, project.ledger.unreported_from = past.unreported_lost, past.unreported_from
        return project


def restored(saved: SavedProject, counters: Counters, frame_cache: FrameCache, now: float) -> Project:
    """The project in its saved state, counted in `counters`."""
    project = Project(saved.name, saved.epoch, counters, frame_cache, newest=saved.newest)
    project.first_seq = saved.first_seq
    project.pinned = saved.pinned
    project.earlier = saved.earlier
    project.ring.load(saved.frames, saved.times)
    if saved.first_seq < project.ring.oldest:
        # At the latest: when the newest evicted event was published is not saved.
        project.ring.evicted_until_seconds = saved.times[0] if saved.times else now
    project.had_final = any(frame.startswith(FINAL) for frame in saved.frames)
    project.finished = saved.finished or (project.had_final and saved.frames[-1].startswith(FINAL))
    counters.ring_events += len(project.ring)
    counters.ring_bytes += project.ring.size_bytes
    project.ledger.restore(saved.ledger, project.ring.oldest, now)
    counters.oldest_miss.add(project)
    return project
