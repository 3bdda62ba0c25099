"""Projects as an earlier process saved them, and how they are restored."""

from __future__ import annotations

import msgspec

from edge.core import sse
from edge.core.counters import Counters
from edge.core.epochs import PastEpoch
from edge.core.frame_cache import FrameCache
from edge.core.ledger import LedgerState
from edge.core.project import Project


class SavedProject(msgspec.Struct, frozen=True):
    """The state of a project: `frames` end with number `newest`, `times` are seconds of the hub's clock.

    New events get ids of `epoch`. Held events keep their epochs, which `earlier` lists, oldest first.
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


def restored(saved: SavedProject, counters: Counters, frame_cache: FrameCache, now: float) -> Project:
    """The project in its saved state, counted in `counters`."""
    project = Project(saved.name, saved.epoch, counters, frame_cache, newest=saved.newest)
    project.first_seq = saved.first_seq
    project.pinned = saved.pinned
    project.earlier = saved.earlier
    project.ring.load(saved.frames, saved.times)
    project.had_final = any(frame.startswith(sse.FINAL) for frame in saved.frames)
    project.finished = saved.finished or (project.had_final and saved.frames[-1].startswith(sse.FINAL))
    counters.ring_events += len(project.ring)
    counters.ring_bytes += project.ring.size_bytes
    project.ledger.restore(saved.ledger, project.ring.oldest, now)
    counters.oldest_miss.add(project)
    return project
