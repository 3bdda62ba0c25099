"""What the SQLite store has gathered and not yet written."""

from __future__ import annotations

import asyncio

from edge.core.errors import StoreUnavailable
from edge.core.observer import Receipt
from edge.core.project import Project


class Run:
    """Events of one project, gathered for one segment."""

    __slots__ = ("at_seconds", "first_seq", "frames")

    def __init__(self, first_seq: int, at_seconds: float) -> None:
        self.first_seq = first_seq
        self.at_seconds = at_seconds
        self.frames: list[bytes] = []


class Held:
    """A publisher who waits for the disk."""

    __slots__ = ("frame", "future", "project")

    def __init__(self, project: Project, frame: bytes, future: asyncio.Future[Receipt]) -> None:
        self.project = project
        self.frame = frame
        self.future = future

    def done(self, receipt: Receipt) -> None:
        if not self.future.done():
            self.future.set_result(receipt)

    def refuse(self, error: StoreUnavailable) -> None:
        if not self.future.done():
            self.future.set_exception(error)
