"""`edge serve`, which counts what it holds when it gets SIGUSR1: tasks, and objects the collector knows."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from edge.cli import main
from edge.server import process


def _count(path: Path) -> None:
    gc.collect()
    counts = path.with_suffix(".new")
    counts.write_text(json.dumps({"tasks": len(asyncio.all_tasks()), "objects": len(gc.get_objects())}))
    counts.rename(path)


def _counting(live: Callable[..., Coroutine[Any, Any, int]]) -> Callable[..., Coroutine[Any, Any, int]]:
    async def live_and_count(*arguments: Any) -> int:
        path = Path(os.environ["BENCH_COUNTS_FILE"])
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, lambda: _count(path))
        return await live(*arguments)

    return live_and_count


if __name__ == "__main__":
    process.Process.live = _counting(process.Process.live)  # type: ignore[method-assign]
    sys.exit(main.main(sys.argv[1:]))
