"""Follows one subscriber from frame to frame: what it saw, what gaps reported, and where a frame doesn't fit.

A position is the id behind which its stream goes on. It moves with events and gaps, and stays when the subscriber
comes back: only what it has read counts.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from tests.faultcheck.records import Gap, Hello, Opened, Record, Seen

FORGETFUL = "missed"
"""The `since` of subscribers that never resume: all of them together are to see every event."""


@dataclass(frozen=True, slots=True)
class Violation:
    rule: str
    text: str
    about: frozenset[str]
    at: float


@dataclass(slots=True)
class Walk:
    """What one subscriber was shown, followed from frame to frame."""

    name: str
    project: str
    since: str
    began: float
    """From when on it is to see everything."""
    tokens: dict[str, str] = field(default_factory=dict)
    """By token the last id under which it came."""
    ranges: list[tuple[str, int, int]] = field(default_factory=list)
    """Epoch, first and last number of what came without a hole."""
    evicted: list[tuple[int, int]] = field(default_factory=list)
    """Numbers that gaps reported as evicted."""
    leaps: list[tuple[str, Gap]] = field(default_factory=list)
    """The position before a gap `restart`."""
    evictions: list[Gap] = field(default_factory=list)
    caught: bool = False
    faults: list[Violation] = field(default_factory=list)

    def excuses(self, epoch: str, number: int) -> bool:
        """Whether it may have missed it: it lies before its beginning, a gap reported it, or its epoch ended."""
        if any(low <= number <= high for low, high in self.evicted):
            return True
        if any(epoch == split(before)[0] and number > split(before)[1] for before, _ in self.leaps):
            return True
        mine = [low for known, low, _ in self.ranges if known == epoch]
        return number < min(mine) if mine else bool(self.leaps)


def follow(frames: list[Record], issued: set[str]) -> Walk:  # noqa: PLR0912 - one frame after the other is one story
    first = next(frame for frame in frames if isinstance(frame, Opened))
    walk = Walk(first.subscriber, first.project, first.since, first.at)
    position, hello, opened = "", "", first
    before: Record = first
    for frame in frames:
        if isinstance(frame, Opened):
            unread = isinstance(before, Opened) or (isinstance(before, Hello) and frame.asked == hello)
            if unread and _another_epoch(position, frame.asked):
                # Cut off behind the id of hello, it comes back with the position behind a gap that it hasn't read.
                gap = Gap(frame.at, frame.subscriber, frame.project, position, "", frame.asked, None, "restart")
                walk.leaps.append((position, gap))
                position = frame.asked
            elif isinstance(before, Gap) and frame.asked:
                position = frame.asked  # cut off behind a gap, which has no id, it is to read the gap again
            opened = frame
            position = (position or frame.asked) if frame.asked else ""
        elif isinstance(frame, Hello):
            if not frame.id:
                walk.faults.append(violation("hello-id", "a hello had no id", frame))
            hello = frame.id
            if not opened.asked and walk.since != "all":
                walk.began = frame.at
            if not position and walk.since != FORGETFUL:
                position = _before(frame.oldest) if walk.since == "all" and frame.oldest else frame.id
        elif isinstance(frame, Gap):
            if frame.reason == "unknown" and frame.asked in issued:
                text = f"{frame.asked} was issued, and a gap calls it unknown"
                walk.faults.append(violation("unknown-id", text, frame, frame.subscriber, frame.asked))
            # Of a project that holds nothing only the hello can say where it goes on.
            next_position = _before(frame.oldest) if frame.oldest else frame.newest or hello
            if frame.reason == "restart" and frame.asked == frame.newest:
                next_position = frame.asked  # all that is held it has
            # Without an id to resume from the position is that of the hello, which is behind the gap already.
            if position and frame.asked not in {"all", "missed", "none"}:
                epoch, number = split(position)
                if frame.reason == "evicted":
                    following = split(next_position)[1]
                    if frame.lost != following - number:
                        text = f"a gap after {position} says {frame.lost} lost, and goes on after {next_position}"
                        walk.faults.append(violation("gap-count", text, frame, frame.subscriber, position))
                    walk.evicted.append((number + 1, following))
                    walk.evictions.append(frame)
                else:
                    walk.leaps.append((position, frame))
            position = next_position
        elif isinstance(frame, Seen):
            epoch, number = split(frame.id)
            problem = _out_of_step(position, number, holes=walk.since == FORGETFUL)
            if problem:
                text = f"{frame.subscriber} was sent {frame.id} ({frame.token}) after {position}: {problem}"
                walk.faults.append(violation("order", text, frame, frame.subscriber, frame.id, position))
            if problem or not walk.ranges or walk.ranges[-1][0] != epoch or walk.ranges[-1][2] + 1 != number:
                walk.ranges.append((epoch, number, number))
            else:
                walk.ranges[-1] = (epoch, walk.ranges[-1][1], number)
            walk.tokens[frame.token] = frame.id
            position = frame.id
        else:
            walk.caught = True
        before = frame
    return walk


def _another_epoch(position: str, hello: str) -> bool:
    return bool(position and hello) and split(position)[0] != split(hello)[0]


def _out_of_step(position: str, number: int, *, holes: bool) -> str:
    """What is wrong with this event after that position; "" if nothing. `missed` leaves out what another has.

    Numbers go on where a store lost nothing, whatever the epoch: a later one may follow without a gap.
    """
    last = split(position)[1] if position else number - 1
    if number <= last:
        return "not in order, or twice"
    return "" if holes or number == last + 1 else f"a hole of {number - last - 1} without a gap"


def violation(rule: str, text: str, record: Record, *about: str) -> Violation:
    return Violation(rule, text, frozenset(word for word in about if word), record.at)


def split(event_id: str) -> tuple[str, int]:
    epoch, _, number = event_id.rpartition("-")
    return epoch, int(number)


def _before(event_id: str) -> str:
    epoch, number = split(event_id)
    return f"{epoch}-{number - 1}"
