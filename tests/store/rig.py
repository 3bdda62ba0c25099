"""A hub with a store around it, on a loop, without HTTP; and a subscriber that keeps what it is sent."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

from edge.core import resume, sse
from edge.core.connection import Connection
from edge.core.errors import StoreUnavailable
from edge.core.event import Event
from edge.core.hub import Hub
from edge.core.idempotency import Answer, Key, Receipts
from edge.core.limits import Limits
from edge.core.observer import Observer, Receipt
from edge.store.base import Keyed
from edge.store.sqlite import SqliteStore

_boots = (f"b{number:x}x" for number in itertools.count())


class Silent:
    """An observer that has nothing to say."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_: None


class Subscriber(Connection):
    """Takes everything, acknowledges everything, by default."""

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

    def cork(self) -> None: ...
    def finish(self) -> None: ...
    def abort(self) -> None: ...

    @property
    def ids(self) -> list[str]:
        """Of the events it was sent."""
        frames = [frame + b"\n\n" for frame in self.sent.split(b"\n\n")[:-1]]
        return [frame.id for frame in map(sse.decode, frames) if not frame.type.startswith("edge.")]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.005)


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
        self.refusal: StoreUnavailable | None = None
        self.store = SqliteStore(
            self.hub,
            self.receipts,
            self.clock,
            path,
            commit=commit,
            flush_seconds=flush_seconds,
        )

    def _wake(self) -> None:
        asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        self.hub.flush(self.clock())

    async def publish(self, data: str, project: str = "p") -> Receipt:
        given: Receipt | Awaitable[Receipt] = self.store.publish(project, Event("message", data.encode()), self.clock())
        return given if isinstance(given, Receipt) else await given

    def read(self, project: str = "p", start: Any = resume.missed) -> Subscriber:
        subscriber = Subscriber(self.clock())
        self.hub.attach(project, subscriber, start, self.clock())
        return subscriber

    async def answered(self, key: Key, fingerprint: bytes, answer: Answer) -> None:
        """A request with `key` was done."""
        await self.store.claim(Keyed(key, fingerprint, lambda _receipts, _besides: answer))
        await self.store.settle(key, answer)

    async def crash(self) -> None:
        """End as a process that is killed: nothing more is written, nothing is closed in order."""
        store = self.store
        if store._writer is not None:
            store._writer.cancel()
            await asyncio.wait([store._writer])
        if store._file is not None:
            await store._worker.call(store._file.abandon)
        store._file = None

    def resumed(self, event_id: str, project: str = "p") -> tuple[list[str], list[str]]:
        """The ids, and the reasons of gaps, that a subscriber with `event_id` gets."""
        subscriber = self.read(project, lambda history: resume.after_id(history, event_id))
        gaps = [line for line in subscriber.sent.decode().splitlines() if line.startswith('data: {"asked"')]
        ids = subscriber.ids
        self.leave(subscriber)
        return ids, [json.loads(gap.removeprefix("data: "))["reason"] for gap in gaps]

    async def healed(self) -> None:
        """Wait until the store takes events again."""
        await until(lambda: self.store.problem is None)

    async def written(self) -> None:
        """Wait until the store has nothing left to write."""
        store = self.store

        def idle() -> bool:
            if store._gathered or store._gathered.touched:
                store._wanted.set()
            # What is being written is false where it holds no event, though it may hold changes of projects.
            return not (store._gathered or store._gathered.touched) and store._writing is None

        await until(idle)

    async def events_written(self) -> None:
        """Wait until every event is written. While a subscriber is behind, something is left for the next write."""
        await until(lambda: not (self.store._gathered or self.store._writing))

    async def publish_until_refused(self, data: str = "x") -> list[str]:
        """The ids of the events that were taken."""
        ids = []
        try:
            async with asyncio.timeout(60):
                while True:
                    ids.append((await self.publish(data)).id)
                    await asyncio.sleep(0.005)
        except StoreUnavailable as refusal:
            self.refusal = refusal
            return ids

    def leave(self, subscriber: Subscriber, reason: str = "client") -> None:
        self.hub.detach(subscriber, reason, self.clock())

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
