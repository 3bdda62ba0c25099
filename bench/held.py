"""`edge serve`, with a watch on its event loop: how long is one turn of it?

A callback that schedules itself again runs once in every turn; the processor time between two of its runs is how long
everybody else had to wait (wall-clock time would add what other programs took of the core meanwhile). It keeps a core
busy, so the cost of work is not measured with it. On SIGUSR1 the turns longer than a millisecond, in milliseconds, go
to the file that BENCH_HELD_FILE names, and counting begins anew.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from edge.cli import main
from edge.server import process

_COUNTED_FROM_SECONDS = 0.001


class Watch:
    def __init__(self, loop: asyncio.AbstractEventLoop, path: Path) -> None:
        self._loop = loop
        self._path = path
        self._turns: list[float] = []
        self._last = time.thread_time()
        loop.add_signal_handler(signal.SIGUSR1, self._tell)
        self._turn()

    def _turn(self) -> None:
        now = time.thread_time()
        if now - self._last >= _COUNTED_FROM_SECONDS:
            self._turns.append(round((now - self._last) * 1000, 3))
        self._last = now
        self._loop.call_soon(self._turn)

    def _tell(self) -> None:
        turns = self._path.with_suffix(".new")
        turns.write_text(json.dumps(self._turns))
        turns.rename(self._path)
        self._turns = []
        self._last = time.thread_time()


def _watched(live: Callable[..., Coroutine[Any, Any, int]]) -> Callable[..., Coroutine[Any, Any, int]]:
    async def live_and_watch(*arguments: Any) -> int:
        Watch(asyncio.get_running_loop(), Path(os.environ["BENCH_HELD_FILE"]))
        return await live(*arguments)

    return live_and_watch


if __name__ == "__main__":
    process.Process.live = _watched(process.Process.live)  # type: ignore[method-assign]
    sys.exit(main.main(sys.argv[1:]))
