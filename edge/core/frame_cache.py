"""The encoded batches that connections at the same position share.

Invariant: the cache holds at most `_MAX_HELD` batches for the whole hub.
"""

from __future__ import annotations

from typing import Protocol

from edge.core import sse
from edge.core.connection import Connection
from edge.core.ring import Ring

MAX_BATCH_BYTES = 64 * 1024
"""About the size of one write: a slow subscriber then costs one batch and not the whole ring."""


class Source(Protocol):
    """The part of a project that batches are made from."""

    epoch: str
    ring: Ring
    connections: list[Connection]
    had_final: bool


class FrameCache:
    """Joins events into batches and keeps the latest ones."""

    __slots__ = ("_held",)

    _MAX_HELD = 16

    def __init__(self) -> None:
        self._held: dict[tuple[str, int, int, bool], tuple[bytes, int, int]] = {}

    def get(self, project: Source, cursor: int, until: int, *, chunked: bool) -> tuple[bytes, int, int]:
        """The bytes to write for the events after `cursor`, at most up to `until`; the last number in them; their
        length without chunk framing.
        """
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
    def _make(project: Source, cursor: int, until: int, *, chunked: bool) -> tuple[bytes, int, int]:
        body, last = project.ring.batch(cursor, until, MAX_BATCH_BYTES)
        if project.had_final:
            body = sse.without_final(body)
        return (sse.chunk(body) if chunked else body), last, len(body)
