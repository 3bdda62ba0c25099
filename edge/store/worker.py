"""A thread that may hang in the disk: the process doesn't wait for it when it ends."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, TypeVar

Result = TypeVar("Result")


class Worker:
    """Calls functions one after another, on a thread of its own."""

    def __init__(self) -> None:
        self._calls: SimpleQueue[tuple[Future[Any], Callable[..., Any], tuple[Any, ...]] | None] = SimpleQueue()
        self.thread = threading.Thread(target=self._run, name="edge-store", daemon=True)
        self.thread.start()

    def call(self, function: Callable[..., Result], *arguments: Any) -> asyncio.Future[Result]:
        future: Future[Result] = Future()
        self._calls.put((future, function, arguments))
        return asyncio.wrap_future(future)

    def end(self) -> None:
        self._calls.put(None)

    def _run(self) -> None:
        while (call := self._calls.get()) is not None:
            future, function, arguments = call
            if not future.set_running_or_notify_cancel():
                continue
            try:
                result = function(*arguments)
            except BaseException as error:  # noqa: BLE001 - it is raised where the result is awaited
                future.set_exception(error)
            else:
                future.set_result(result)
