"""The bounded history of one project: frames numbered one by one, oldest evicted first.

Invariant: the ring holds exactly the frames `oldest..newest`, `size_bytes` is the sum of their lengths, and a
number once given is never given again in this epoch. What is evicted is counted by the caller, who learns the
range.
"""

from __future__ import annotations

from bisect import bisect_left

_COMPACT_AT = 64
EVENT_OVERHEAD_BYTES = 96
"""What a held event occupies besides its frame: the headers of two objects and their places in lists (measured)."""


class Ring:
    """Frames by sequence number. Times are the caller's seconds, never falling."""

    __slots__ = ("_frames", "_start", "_times", "evicted_until_seconds", "newest", "oldest", "size_bytes")

    def __init__(self, newest: int = 0) -> None:
        self._frames: list[bytes] = []
        self._times: list[float] = []
        self._start = 0
        self.newest = newest
        """The last number given; the ring may hold nothing and still have one."""
        self.oldest = newest + 1
        """The number of the oldest frame held; `newest + 1` when none is."""
        self.size_bytes = 0
        self.evicted_until_seconds: float | None = None
        """When the newest evicted event was published: nothing before that moment is surely held."""

    def __len__(self) -> int:
        return self.newest - self.oldest + 1

    def load(self, frames: list[bytes], times: list[float]) -> None:
        """Hold `frames`, the newest of which has the number `newest`; the ring must be empty."""
        self._frames, self._times = frames, times
        self.oldest = self.newest - len(frames) + 1
        self.size_bytes = sum(map(len, frames))

    def append(self, frame: bytes, now: float) -> int:
        """Hold `frame`; returns its number."""
        self._frames.append(frame)
        self._times.append(now)
        self.size_bytes += len(frame)
        self.newest += 1
        return self.newest

    def extend(self, frames: list[bytes], now: float) -> int:
        """Hold `frames`, all published `now`; returns the number of the last."""
        self._frames += frames
        self._times += [now] * len(frames)
        self.size_bytes += sum(map(len, frames))
        self.newest += len(frames)
        return self.newest

    def evict(self, count: int) -> int:
        """Evict the `count` oldest frames; returns how many bytes they had."""
        frames = self._frames
        first, last = self._start, self._start + count
        if count == 1:
            freed_bytes, frames[first] = len(frames[first]), b""
        else:
            freed_bytes = sum(map(len, frames[first:last]))
            frames[first:last] = [b""] * count
        if count:
            self.evicted_until_seconds = self._times[last - 1]
        self._start = last
        self.oldest += count
        if last >= _COMPACT_AT and last * 2 >= len(frames):
            del frames[:last]
            del self._times[:last]
            self._start = 0
        self.size_bytes -= freed_bytes
        return freed_bytes

    def excess(self, max_events: int, max_bytes: int) -> tuple[int, int]:
        """How many of the oldest frames stand over the two bounds: `(by count, more by bytes)`."""
        over = self.newest - self.oldest + 1 - max_events
        by_count = max(0, over)
        if self.size_bytes <= max_bytes:
            return by_count, 0
        left_bytes = self.size_bytes
        index = self._start
        while left_bytes > max_bytes or index - self._start < by_count:
            left_bytes -= len(self._frames[index])
            index += 1
        return by_count, index - self._start - by_count

    def freeing(self, size_bytes: int) -> int:
        """How many of the oldest frames occupy `size_bytes` of memory, or all where they occupy less."""
        index = self._start
        while size_bytes > 0 and index < len(self._frames):
            size_bytes -= len(self._frames[index]) + EVENT_OVERHEAD_BYTES
            index += 1
        return index - self._start

    def older_than(self, moment: float) -> int:
        """How many frames were published before `moment`."""
        return bisect_left(self._times, moment, lo=self._start) - self._start

    def published_at(self, seq: int) -> float:
        """When the held event `seq` was published."""
        return self._times[self._start + seq - self.oldest]

    def frame(self, seq: int) -> bytes:
        """The held event `seq`."""
        return self._frames[self._start + seq - self.oldest]

    def batch(self, cursor: int, until: int, max_bytes: int) -> tuple[bytes, int]:
        """The held frames after `cursor` up to `until`, joined: at least one, and no more than `max_bytes` beyond it.

        Returns the bytes and the number of the last frame in them.
        """
        frames = self._frames
        first = self._start + cursor + 1 - self.oldest
        end = first + until - cursor
        if end - first == 1:
            return frames[first], until
        if self.size_bytes <= max_bytes:
            return b"".join(frames[first:end]), until
        size_bytes = len(frames[first])
        last = first + 1
        while last < end and size_bytes + len(frames[last]) <= max_bytes:
            size_bytes += len(frames[last])
            last += 1
        return b"".join(frames[first:last]), cursor + last - first

    def newest_frames(self, count: int) -> list[bytes]:
        """The `count` newest frames, or all where fewer are held; oldest first."""
        return self._frames[max(self._start, len(self._frames) - count) :]

    def frames(self) -> list[tuple[int, float, bytes]]:
        """What is held, oldest first: `(seq, published_at, frame)`."""
        return [
            (seq, self.published_at(seq), self._frames[self._start + offset])
            for offset, seq in enumerate(range(self.oldest, self.newest + 1))
        ]
