"""Supervision of background tasks: no task fails silently, and none ends for good because of one exception.

Every task that outlives one request is started here, under a name in `TASKS`. An exception in one is logged
(`background_task_failed`) and counted (`edge_background_task_failures_total{task}`, alert EdgeBackgroundTaskFailing);
`TASKS` says how the hub goes on. Invariant: a task is referenced until it has ended, so that none is collected early.

    self._task = supervisor.keep_running("redis_listener", self._listen)  # restarted when it raises
    supervisor.start("redis_presence", self._report())                    # runs once
    supervisor.failed("flush", error)                                     # a callback's exception
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar

from edge.core.errors import EdgeError
from edge.logs.setup import LogDeduplicator, get_logger

_log = get_logger("tasks")
Result = TypeVar("Result")

TASKS: Final = {
    "tick": "The other connections and the next tick go on; a connection whose heartbeat fails is closed.",
    "flush": "The other projects are flushed in the next turn of the event loop.",
    "each_second": "The other callbacks run, and this one runs again a second later.",
    "memory": "Restarted: the memory that is free is compared again after the pause.",
    "systemd": "Restarted: the watchdog gets its next message after the pause.",
    "request": "The caller has disconnected; the idempotency key says what happened to the job.",
    "readiness": "Callers that wait for the project get 500, and the next caller starts a new task.",
    "jwks": "The keys in use stay, and the next token fetches them again.",
    "reload": "The settings in use stay.",
    "store_open": "Restarted: the store is opened again, and /readyz answers 503 until then.",
    "store_writer": "Restarted: what was not written is written again.",
    "redis_heartbeat": "Restarted: the node's next heartbeat follows after the pause.",
    "redis_listener": "Restarted: the node subscribes again, and its streams load what they missed.",
    "redis_sender": "Publishers that wait get 503, and the next publish starts a new task.",
    "redis_presence": "Restarted: what was not reported is reported again.",
    "redis_replication": "Streams that wait for the project get 503; their clients reconnect.",
    "redis_readiness": "The asking node waits for the other nodes, or until its timeout.",
    "hooks": "Restarted: the webhook is sent again.",
}
"""Each task that outlives a request, and how the hub goes on after an exception in it. None ends the process: streams
and history live in it. A loop that hangs instead of failing is the systemd watchdog's case.
"""

FIRST_PAUSE_SECONDS: Final = 0.1
LONGEST_PAUSE_SECONDS: Final = 5.0
_LOG_PERIOD_SECONDS = 10.0
_CANCEL_AGAIN_SECONDS = 0.1


class Supervisor:
    """Starts background tasks, restarts those that are to run forever, and counts their failures."""

    def __init__(self) -> None:
        self.failures: dict[str, int] = dict.fromkeys(TASKS, 0)
        """Exceptions by task, for the metric."""
        self._tasks: set[asyncio.Task[Any]] = set()
        self._deduplicator: LogDeduplicator[tuple[str, str]] = LogDeduplicator(
            period_seconds=_LOG_PERIOD_SECONDS, max_keys=4 * len(TASKS)
        )

    def keep_running(self, name: str, run: Callable[[], Coroutine[Any, Any, None]]) -> asyncio.Task[None]:
        """Run `run()` until it returns or the task is cancelled; after an exception again, after a growing pause."""
        return self._hold(asyncio.create_task(self._keep_running(name, run), name=name))

    def start(self, name: str, work: Coroutine[Any, Any, Result]) -> asyncio.Task[Result]:
        """Run `work` once. Refusals (EdgeError) are left to the task's owner."""
        task = self._hold(asyncio.create_task(work, name=name))
        self.report(name, task)
        return task

    def report(self, name: str, task: asyncio.Task[Any]) -> None:
        """Report the exception of `task` when it ends: its caller no longer awaits it."""

        def ended(task: asyncio.Task[Any]) -> None:
            error = None if task.cancelled() else task.exception()
            if error is not None and not isinstance(error, EdgeError):
                self.failed(name, error)

        task.add_done_callback(ended)

    def failed(self, name: str, error: BaseException) -> None:
        """Log and count an exception in the task or callback `name`."""
        self.failures[name] += 1
        now = asyncio.get_running_loop().time()
        if (suppressed := self._deduplicator.admit((name, type(error).__name__), now)) is not None:
            _log.error(
                "background_task_failed", task=name, consequence=TASKS[name], suppressed=suppressed, exc_info=error
            )

    def _hold(self, task: asyncio.Task[Result]) -> asyncio.Task[Result]:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _keep_running(self, name: str, run: Callable[[], Coroutine[Any, Any, None]]) -> None:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None
        pause_seconds = FIRST_PAUSE_SECONDS
        while True:
            began = loop.time()
            try:
                return await run()
            except (Exception, asyncio.CancelledError) as error:
                # If this task was not cancelled, a CancelledError came from what it awaited, and is a failure.
                if isinstance(error, asyncio.CancelledError) and task.cancelling():
                    raise
                self.failed(name, error)
            if loop.time() - began > LONGEST_PAUSE_SECONDS:
                pause_seconds = FIRST_PAUSE_SECONDS
            await asyncio.sleep(pause_seconds)
            pause_seconds = min(2 * pause_seconds, LONGEST_PAUSE_SECONDS)


async def end(task: asyncio.Task[Any] | None) -> None:
    """Cancel `task` until it has ended, unless it is the one that runs now. Cancelled repeatedly: before Python 3.12
    `asyncio.wait_for`, with which redis-py sends, swallows a cancellation that comes as its work ends (measured: 9 of
    1,500 that came in the milliseconds of a reconnect).
    """
    while task is not None and not task.done() and task is not asyncio.current_task():
        task.cancel()
        await asyncio.wait((task,), timeout=_CANCEL_AGAIN_SECONDS)
