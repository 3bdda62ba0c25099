"""A hub with a store around it, on a loop, without HTTP; and a reader that keeps what it is sent."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

from edge.core import resume, sse
from edge.core.connection import Connection
from edge.core.event import Event
from edge.core.hub import Hub
from edge.core.idempotency import Receipts
from edge.core.limits import Limits
from edge.core.observer import Observer, Receipt
from edge.store.sqlite import SqliteStore

_boots = (f"b{number:x}x" for number in itertools.count())


class Silent:
    """An observer that has nothing to say."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_: None


class Reader(Connection):
    """Takes everything, acknowledges everything, unless told otherwise."""

    __slots__ = ("acked", "sent")

    def __init__(self, now: float = 0.0) -> None:
        super().__init__(f"c{id(self)}", "local", now, chunked=False)
        self.sent = b""
        self.acked: int | None = None

    def write(self, wire: bytes) -> None:
        self.sent += wire

    def acked_bytes(self) -> int:
        return self.written_bytes if self.acked is None else self.acked

    def moved_bytes(self) -> int:
        return self.written_bytes

    def silent_seconds(self, now: float) -> float:
        return 0.0

    def finish(self) -> None: ...
    def abort(self) -> None: ...

    @property
    def ids(self) -> list[str]:
        """Of the events it was sent."""
        frames = [frame + b"\n\n" for frame in self.sent.split(b"\n\n")[:-1]]
        return [frame.id for frame in map(sse.decode, frames) if not frame.type.startswith("edge.")]


class Rig:
    """One life of a hub on a file."""

    def __init__(self, path: Path, *, commit: bool, limits: Limits | None = None, flush_seconds: float = 0.005) -> None:
        loop = asyncio.get_running_loop()
        self.clock = loop.time
        self.hub = Hub(
            limits or Limits(),
            boot=next(_boots),
            wake=self._wake,
            observer=cast(Observer, Silent()),
        )
        self.receipts = Receipts(1000, 600.0)
        self.store = SqliteStore(
            path,
            self.hub,
            self.receipts,
            self.clock,
            commit=commit,
            flush_seconds=flush_seconds,
            keep_receipts_seconds=600.0,
        )

    def _wake(self) -> None:
        asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        self.hub.flush(self.clock())

    async def publish(self, data: str, project: str = "p") -> Receipt:
        given: Receipt | Awaitable[Receipt] = self.store.publish(project, Event("message", data.encode()), self.clock())
        return given if isinstance(given, Receipt) else await given

    def read(self, project: str = "p", start: Any = resume.missed) -> Reader:
        reader = Reader(self.clock())
        self.hub.attach(project, reader, start, self.clock())
        return reader

    async def healed(self) -> None:
        """Wait until the store takes events again."""
        async with asyncio.timeout(60):
            while self.store.problem is not None:  # noqa: ASYNC110 - it tells nobody when it does
                await asyncio.sleep(0.05)

    def leave(self, reader: Reader, reason: str = "client") -> None:
        self.hub.detach(reader, reason, self.clock())

    def ledger(self, project: str = "p") -> tuple[int, int, int, int]:
        ledger = self.hub.projects[project].ledger
        return ledger.misses, ledger.recovered, ledger.lost, len(ledger.pending)


@asynccontextmanager
async def life(path: Path, *, commit: bool, **options: Any) -> AsyncIterator[Rig]:
    """A hub from opening its file to closing it."""
    rig = Rig(path, commit=commit, **options)
    await rig.store.open()
    try:
        yield rig
    finally:
        await rig.store.close()
