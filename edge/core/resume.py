"""Where a new reader starts: from the id it last saw, or from what `since` asks for.

Invariant: whatever is asked, the answer is a cursor on the ring plus, when something asked for can't be given any
more, a gap that says so; everything still held follows.
"""

from __future__ import annotations

import re
from itertools import islice
from typing import Literal, Protocol

import msgspec

from edge.core import sse
from edge.core.intervals import Intervals
from edge.core.ledger import Ledger
from edge.core.ring import Ring

GapReason = Literal["evicted", "restart", "unknown"]
_EVENT_ID = re.compile(r"([0-9a-z]{1,32})-(0|[1-9][0-9]{0,17})", re.ASCII)
_PLACE = r"[A-Za-z0-9][A-Za-z0-9._~-]{0,127}:[0-9a-z]{1,32}-(?:0|[1-9][0-9]{0,17})"
_STREAM_ID = re.compile(f"{_PLACE}(?:,{_PLACE}){{0,31}}", re.ASCII)
"""An id on a stream of several projects: the position in each."""
_MAX_ECHOED = 128


class History(Protocol):
    """What of a project decides where a reader starts."""

    epoch: str
    first_seq: int
    ring: Ring
    ledger: Ledger

    def epoch_of(self, seq: int) -> str: ...
    def continues(self, epoch: str, seq: int) -> bool: ...
    def begins(self, epoch: str, seq: int) -> bool: ...


class Gap(msgspec.Struct, frozen=True):
    """History that can't be given: `lost` events, or `None` where the number can't be known.

    `first`: it tells of everything from this number up to the oldest that is held; None where it doesn't.
    """

    asked: str
    reason: GapReason
    lost: int | None
    first: int | None = None

    def fields(self, oldest_id: str | None, newest_id: str | None) -> dict[str, object]:
        """The gap as it is reported, with the ids of the oldest and newest event held."""
        return {
            "asked": self.asked,
            "oldest": oldest_id,
            "newest": newest_id,
            "lost": self.lost,
            "reason": self.reason,
        }


class Start(msgspec.Struct, frozen=True):
    """A place on the ring: deliver what comes after `cursor` but for `skips`; report `gap` first."""

    cursor: int
    skips: Intervals | None = None
    gap: Gap | None = None
    resume_from: int | None = None
    """The position that `edge.hello` names, where it isn't `cursor`: a client that is cut off between hello and gap
    comes back with it, and the gap is reported again.
    """
    resume_id: str | None = None
    """The same, where no event held has that position: the id that the client came with, or the start of an epoch."""
    takes_missed: bool = False
    """Events that become pending later are for this subscriber, too, as long as it can be given them in order."""


def is_event_id(text: str) -> bool:
    """Whether `text` has the form `<epoch>-<seq>`."""
    return _EVENT_ID.fullmatch(text) is not None


def is_stream_id(text: str) -> bool:
    """Whether `text` has the form `<project>:<id>,<project>:<id>`, as ids on a stream of several projects have."""
    return _STREAM_ID.fullmatch(text) is not None


def id_in(name: str, asked: str) -> str:
    """What `asked` says of project `name`: its own id out of one of several projects, empty where that has none; any
    other id as it is.
    """
    if not is_stream_id(asked):
        return asked
    return dict(place.split(":") for place in asked.split(",")).get(name, "")


def knows(project: History, asked: str) -> bool:
    """Whether the event `asked` has been here."""
    match = _EVENT_ID.fullmatch(asked)
    return match is not None and (seq := int(match[2])) <= project.ring.newest and match[1] == project.epoch_of(seq)


def after_id(project: History, asked: str) -> Start:
    """Continue behind the event `asked`; an id that isn't this project's is a gap, never an error."""
    ring = project.ring
    everything = ring.oldest - 1
    match = _EVENT_ID.fullmatch(asked)
    epoch, seq = (match[1], int(match[2])) if match is not None else ("", 0)
    if match is None or (epoch == project.epoch and seq > ring.newest):
        # An event may have this id one day, so hello must not give it to the client.
        return Start(everything, gap=Gap(asked[:_MAX_ECHOED], "unknown", None))
    if not project.continues(epoch, seq):
        if seq == ring.newest and epoch == project.epoch_of(seq):  # the client has all that is held
            return Start(seq, gap=Gap(asked, "restart", None), resume_id=f"{project.epoch}-{seq}")
        return _with_all(ring, Gap(asked, "restart", None))
    if epoch != project.epoch_of(seq) and not project.begins(epoch, seq):
        return _with_all(ring, Gap(asked, "unknown", None))
    if seq < everything:
        return _with_evicted(ring, Gap(asked, "evicted", everything - seq, seq + 1), seq)
    return Start(seq, resume_id=asked)


def _with_all(ring: Ring, gap: Gap) -> Start:
    """All that is held, behind a gap for an id that doesn't lead here. As below."""
    return Start(ring.oldest - 1, gap=gap, resume_id=gap.asked if len(ring) else None)


def _with_evicted(ring: Ring, gap: Gap, position: int) -> Start:
    """All that is held, behind `gap`.

    A client that is cut off before the events comes back to the gap. With no events held it would do so for ever.
    """
    return Start(ring.oldest - 1, gap=gap, resume_from=position if len(ring) else None)


def everything(project: History) -> Start:
    """All that was ever published in this epoch: what is held, and a gap for the rest."""
    ring, first = project.ring, project.first_seq
    if ring.oldest == first:
        return Start(first - 1)
    return _with_evicted(ring, Gap("all", "evicted", ring.oldest - first, first), first - 1)


def nothing(project: History) -> Start:
    """Only what comes from now on."""
    return Start(project.ring.newest)


def newest(project: History, asked: str, count: int) -> Start:
    """The `count` newest events."""
    ring = project.ring
    first = max(project.first_seq, ring.newest - count + 1)
    if first < ring.oldest:
        return _with_evicted(ring, Gap(asked, "evicted", ring.oldest - first, first), first - 1)
    return Start(first - 1)


def missed(project: History) -> Start:
    """What no subscriber has received yet; lost events that were not yet reported are reported now."""
    ledger, ring = project.ledger, project.ring
    gap = Gap("missed", "evicted", ledger.unreported_lost, ledger.unreported_from) if ledger.unreported_lost else None
    if not ledger.pending.size:
        return Start(ring.newest, gap=gap, takes_missed=True)
    first = ledger.pending.first
    skips = Intervals(ledger.pending.outside(first, ring.newest))
    return Start(first - 1, skips or None, gap, takes_missed=True)


def events_from(ring: Ring, start: Start, count: int) -> list[tuple[float, sse.Decoded]]:
    """Read the first `count` events held from `start` on, each with the time it was published. It is not a delivery."""
    skips = Intervals() if start.skips is None else start.skips
    held = (
        seq for lo, hi in skips.outside(max(start.cursor + 1, ring.oldest), ring.newest) for seq in range(lo, hi + 1)
    )
    return [(ring.published_at(seq), sse.decode(ring.frame(seq))) for seq in islice(held, count)]


def younger_than(project: History, asked: str, seconds: float, now: float) -> Start:
    """What was published in the last `seconds`; `lost` can't be counted for a span of time."""
    ring, moment = project.ring, now - seconds
    cut = ring.evicted_until_seconds
    gap = Gap(asked, "evicted", None) if cut is not None and cut >= moment else None
    return Start(ring.oldest - 1 + ring.older_than(moment), gap=gap)
