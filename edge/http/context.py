"""What the handlers share: the hub and everything that stands around it. Built once per process, in `app.build`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar, overload

from edge.auth.tokens import Verifier
from edge.cluster.local import Nodes
from edge.config.schema import Config
from edge.core.counters import TriggerCounters
from edge.core.errors import Draining, StoreUnavailable, TooSlow
from edge.core.hub import Hub
from edge.core.idempotency import Receipts
from edge.diagnose.observer import ProjectHistory
from edge.http.source import ClientAddresses
from edge.store.base import Store
from edge.supervisor import Supervisor
from edge.triggers.job import Target

Result = TypeVar("Result")


class Context:
    """The parts, and the few things only the whole can say. `exposition` reads the others: it is set last."""

    exposition: Callable[[str], tuple[bytes, str]]
    """`/metrics` for a client that accepts so: body and content type."""

    def __init__(
        self,
        config: Config,
        hub: Hub,
        nodes: Nodes,
        target: Target,
        store: Store,
        receipts: Receipts,
        history: ProjectHistory,
        clock: Callable[[], float],
        verifier: Verifier,
        supervisor: Supervisor,
    ) -> None:
        self.config = config
        self.hub = hub
        self.readiness = nodes.readiness
        self.target = target
        self.targets = [target]
        """The target in use, and those that a reload has replaced."""
        self.store = store
        self.nodes = nodes
        self.receipts = receipts
        self.history = history
        self.clock = clock
        """Seconds that never fall; the wall clock may be set back, the hub's may not."""
        self.client_addresses = ClientAddresses(config.server.trusted_proxies)
        self.verifier = verifier
        self.supervisor = supervisor
        self.opening: StoreUnavailable | None = None
        """Why the store has not been opened yet: until it is, nothing can be published, read or triggered."""
        self.on_reload: list[Callable[[Config], None]] = []
        """Called with the new configuration when it was loaded again."""
        self.began_seconds = clock()
        self.triggers = TriggerCounters()
        self.openapi: bytes | None = None
        """The document, once it was asked for."""
        self._leashes: set[asyncio.Timeout] = set()
        self._tasks: set[asyncio.Task[Any]] = set()

    def spawn(self, work: Coroutine[Any, Any, Result]) -> asyncio.Task[Result]:
        """Run `work` in a task of its own, which goes on when its caller disconnects. Shutting down waits for it.

        The caller awaits it with `outcome`, which reports its exception where the caller can't.
        """
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def outcome(self, task: asyncio.Task[Result]) -> Result:
        """Wait for a task of `spawn`. Raises what it raised, and CancelledError when it or the caller was cancelled."""
        try:
            await asyncio.wait((task,))
        except asyncio.CancelledError:
            self.supervisor.report("request", task)
            raise
        return task.result()

    @property
    def store_problem(self) -> StoreUnavailable | None:
        """Why nothing can be published at the moment."""
        return self.opening or self.store.problem

    @property
    def running(self) -> set[asyncio.Task[Any]]:
        """Work that was spawned and isn't done."""
        return set(self._tasks)

    @asynccontextmanager
    async def until_drain(self, limit_seconds: float, too_slow: str) -> AsyncIterator[None]:
        """Run the block; end it where it waits once the process begins to leave (raise Draining) or `limit_seconds`
        have passed (raise TooSlow, with the sentence `too_slow`).
        """
        if self.hub.draining:
            raise _draining()
        try:
            async with asyncio.timeout(limit_seconds) as leash:
                self._leashes.add(leash)
                try:
                    yield
                finally:
                    self._leashes.discard(leash)
        except TimeoutError:
            raise self._refusal(too_slow) from None

    def _refusal(self, too_slow: str) -> Draining | TooSlow:
        return _draining() if self.hub.draining else TooSlow(too_slow)

    @overload
    def iso_time(self, moment: float) -> str: ...
    @overload
    def iso_time(self, moment: None) -> None: ...
    def iso_time(self, moment: float | None) -> str | None:
        """A moment of the hub's clock as ISO 8601 in UTC, to the millisecond."""
        if moment is None:
            return None
        return self.wall_time(time.time() - self.clock() + moment)

    @staticmethod
    def wall_time(wall: float) -> str:
        """Seconds since 1970 as ISO 8601 in UTC, to the millisecond."""
        return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(wall)) + f".{int(wall % 1 * 1000):03d}Z"

    def drain(self) -> None:
        """Begin the drain: refuse new requests, answer the waiting ones, close every stream."""
        self.hub.drain(self.clock())
        self.readiness.drain()
        for leash in self._leashes:
            if not leash.expired():  # what is on its way out can't be hurried
                leash.reschedule(asyncio.get_running_loop().time())


def _draining() -> Draining:
    return Draining("The hub is shutting down; send the rest again in a second.", retry_after_seconds=1)
