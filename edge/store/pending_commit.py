"""An event that is on its way to the disk, and on no ring before it is there."""

from __future__ import annotations

import asyncio

from edge.core.errors import StoreUnavailable
from edge.core.observer import Receipt
from edge.core.project import Project


class PendingCommit:
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
