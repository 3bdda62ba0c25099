"""Wait until somebody is really there.

A project is ready when enough of its connections are *confirmed*: the replay is written, and every byte so far has
been acknowledged by the peer's TCP stack, the last of them less than a second ago. A quiet connection is sent a
comment first, so that a half-open one never counts. All who wait for one project share one watch, which is woken by
connections and asks the kernel in steps that grow from "the next turn of the loop" to 50 ms. (Measured: p50 0.18
ms, p99 2.7 ms, 42 ms where the peer delays its acknowledgements.)

Invariant: nobody waits beyond their time-out, and a watch lives exactly as long as somebody waits on it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Literal, Protocol, cast

import msgspec

from edge.core import sse
from edge.core.connection import Connection
from edge.core.errors import Draining, LimitReached, NotReady
from edge.core.hub import Hub

FRESH_SECONDS = 1.0
"""An acknowledgement of bytes written this long ago still proves that the peer is there."""
_SPIN_TURNS = 5
_FIRST_PAUSE_SECONDS = 0.001
_LONGEST_PAUSE_SECONDS = 0.05
_FIRST_ROUND = 8

Confirmed = Literal["acknowledged", "written"]


class Confirmable(Protocol):
    """What readiness needs to know beyond `Connection`."""

    @property
    def confirmable(self) -> bool: ...


class Confirmation(msgspec.Struct, frozen=True):
    """How many confirmed connections there were, how they were confirmed (None: not at all), how long that took."""

    connections: int
    confirmed: Confirmed | None
    waited_ms: float


class _Waiter:
    __slots__ = ("count", "future")

    def __init__(self, count: int, future: asyncio.Future[tuple[int, Confirmed]]) -> None:
        self.count = count
        self.future = future


class _Watch:
    """One project's waiters and the task that serves them."""

    __slots__ = ("changed", "probed", "task", "waiters")

    def __init__(self) -> None:
        self.waiters: list[_Waiter] = []
        self.changed = asyncio.Event()
        self.probed: dict[str, int] = {}
        """For each connection that was sent a probe, the byte that has to be acknowledged."""
        self.task: asyncio.Task[None] | None = None


class Readiness:
    """Answers `wait`; told of new connections by `connection_added`."""

    def __init__(self, hub: Hub, clock: Callable[[], float], max_waiting: int) -> None:
        self._hub = hub
        self._clock = clock
        self._max_waiting = max_waiting
        self._watches: dict[str, _Watch] = {}
        self.waiting = 0

    async def wait(self, project: str, count: int, timeout_seconds: float) -> Confirmation:
        """Block until `count` connections of `project` are confirmed.

        Raises:
            NotReady: `no_connection`, after `timeout_seconds`.
            Draining: the process is leaving.
            LimitReached: `too_many_waiting`.
        """
        if self._hub.draining:
            raise _draining()
        if self.waiting >= self._max_waiting:
            raise LimitReached(
                f"{self.waiting} callers wait already (limits.max_waiting); try again soon.",
                code="too_many_waiting",
                retry_after_seconds=1,
                limit=self._max_waiting,
            )
        began = self._clock()
        waiter = _Waiter(count, asyncio.get_running_loop().create_future())
        watch = self._watches.get(project)
        if watch is None:
            watch = self._watches[project] = _Watch()
            watch.task = asyncio.create_task(self._serve(project, watch))
        watch.waiters.append(waiter)
        watch.changed.set()
        self.waiting += 1
        try:
            # Not asyncio.timeout: with a time-out of nothing it would not look even once.
            done, _ = await asyncio.wait((waiter.future,), timeout=timeout_seconds)
        finally:
            self.waiting -= 1
            if waiter in watch.waiters:
                watch.waiters.remove(waiter)
                watch.changed.set()
        if not done:
            raise self._nobody(project, count, timeout_seconds)
        connections, confirmed = waiter.future.result()
        return Confirmation(connections, confirmed, round((self._clock() - began) * 1000, 3))

    def connection_added(self, project: str) -> None:
        """A reader of `project` has come."""
        watch = self._watches.get(project)
        if watch is not None:
            watch.changed.set()

    def drain(self) -> None:
        """Answer everybody who waits: the process is leaving."""
        for watch in self._watches.values():
            for waiter in watch.waiters:
                if not waiter.future.done():
                    waiter.future.set_exception(_draining())
            watch.changed.set()

    async def _serve(self, name: str, watch: _Watch) -> None:
        turn = 0
        try:
            while watch.waiters:
                watch.changed.clear()
                probing = self._look(name, watch, turn)
                watch.waiters = [waiter for waiter in watch.waiters if not waiter.future.done()]
                if not watch.waiters:
                    break
                if watch.changed.is_set() or not probing:
                    await watch.changed.wait()
                    turn = 0
                    continue
                turn += 1
                await self._pause(watch, turn)
        except Exception as error:  # noqa: BLE001 - whoever waits is told, none waits in vain
            for waiter in watch.waiters:
                if not waiter.future.done():
                    waiter.future.set_exception(error)
        finally:
            del self._watches[name]

    @staticmethod
    async def _pause(watch: _Watch, turn: int) -> None:
        if turn <= _SPIN_TURNS:
            await asyncio.sleep(0)
            return
        pause_seconds = min(_FIRST_PAUSE_SECONDS * 2 ** min(turn - _SPIN_TURNS - 1, 10), _LONGEST_PAUSE_SECONDS)
        try:
            async with asyncio.timeout(pause_seconds):
                await watch.changed.wait()
        except TimeoutError:
            return

    def _look(self, name: str, watch: _Watch, turn: int) -> bool:
        """Release whom the confirmed connections suffice; returns whether some are still being probed."""
        project = self._hub.projects.get(name)
        if project is None:
            return False
        now = self._clock()
        acknowledged = written = 0
        open_probes = 0
        # Each round asks twice as many, the newest first: one confirmed reader among a thousand dead ones is found
        # soon.
        most = max(waiter.count for waiter in watch.waiters) + (_FIRST_ROUND << min(max(0, turn - _SPIN_TURNS), 20))
        for connection in reversed(project.connections):
            if connection.leaving:
                continue
            if open_probes + acknowledged + written >= most:
                break
            if connection.paused or connection.cursor < connection.replay_to:
                open_probes += 1
            elif not cast(Confirmable, connection).confirmable:
                written += 1
            elif self._acknowledged(connection, watch, now):
                acknowledged += 1
            else:
                open_probes += 1
        for waiter in watch.waiters:
            if waiter.future.done():
                continue
            if waiter.count <= acknowledged:
                waiter.future.set_result((acknowledged, "acknowledged"))
            elif waiter.count <= acknowledged + written:
                waiter.future.set_result((acknowledged + written, "written"))
        return open_probes > 0

    @staticmethod
    def _acknowledged(connection: Connection, watch: _Watch, now: float) -> bool:
        target_bytes = watch.probed.pop(connection.id, connection.written_bytes)
        if connection.acked_bytes() < target_bytes:
            watch.probed[connection.id] = target_bytes
            return False
        if now - connection.last_write_seconds <= FRESH_SECONDS:
            return True
        connection.control(sse.PROBE_COMMENT, now)
        watch.probed[connection.id] = connection.written_bytes
        return False

    def _nobody(self, name: str, count: int, timeout_seconds: float) -> NotReady:
        there = self._hub.connected(name)
        seen = "nobody is connected" if not there else f"{there} connected, but fewer than {count} confirmed"
        return NotReady(
            f"No ready connection within {timeout_seconds:g} s: {seen}. "
            f"Open GET /projects/{name}/events, then try again.",
            retry_after_seconds=1,
            project=name,
            connections=there,
        )


def _draining() -> Draining:
    return Draining("The hub is shutting down; try again in a second.", retry_after_seconds=1)
