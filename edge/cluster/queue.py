"""What waits to be sent to Redis, and in what pieces it goes."""

from __future__ import annotations

import asyncio

from edge.core.observer import Receipt

_MAX_SCRIPT_EVENTS = 500
_MAX_SCRIPT_BYTES = 1 << 20


class Queued:
    """An event; `holds` is where the key it is published under is kept, and the claim."""

    __slots__ = ("future", "holds", "text")

    def __init__(self, text: bytes, future: asyncio.Future[Receipt], holds: tuple[str, str] | None) -> None:
        self.text = text
        self.future = future
        self.holds = holds


def in_parts(queue: list[Queued]) -> list[list[Queued]]:
    """A project's queue in pieces that one script may take."""
    parts: list[list[Queued]] = []
    size_bytes = 0
    for queued in queue:
        if not parts or len(parts[-1]) >= _MAX_SCRIPT_EVENTS or size_bytes + len(queued.text) > _MAX_SCRIPT_BYTES:
            parts.append([])
            size_bytes = 0
        parts[-1].append(queued)
        size_bytes += len(queued.text)
    return parts
