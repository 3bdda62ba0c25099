"""Two nodes around one Redis, next to one node alone: what an event costs each, and how long it is on its way.

A subscriber on another node than the publisher's receives its events through Redis.
"""

from __future__ import annotations

import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Any, NamedTuple

from bench import peers, process
from bench.load import Load
from bench.peers import EDGE, LOAD_CORE, Server

Figures = dict[str, float]
READERS = 200
_SETTLE_SECONDS = 0.5


class _Setup(NamedTuple):
    redis: bool
    other: bool
    """Readers are on another node than the publisher's."""
    both: bool = False
    """As many are on the publisher's, too."""


SETUPS = {
    "one node, memory": _Setup(redis=False, other=False),
    "one node, Redis": _Setup(redis=True, other=False),
    "two nodes, readers on the other": _Setup(redis=True, other=True),
    "two nodes, readers on both": _Setup(redis=True, other=True, both=True),
}


class Redis:
    """A Redis server on the load's core, without any persistence."""

    def __enter__(self) -> Redis:
        self._folder = tempfile.TemporaryDirectory(prefix="edge-bench-redis-")
        port = peers.free_ports()
        command = ["redis-server", "--port", str(port), "--save", "", "--appendonly", "no", "--dir", self._folder.name]
        self._server = subprocess.Popen(
            ["taskset", "--cpu-list", str(LOAD_CORE), *command], stdout=subprocess.DEVNULL, start_new_session=True
        )
        self.settings = {"EDGE_STORE_URL": f"redis://127.0.0.1:{port}/0"}
        time.sleep(_SETTLE_SECONDS)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.kill()
        self._server.wait()
        self._folder.cleanup()

    def cpu_seconds(self) -> float:
        return process.cpu_seconds([self._server.pid])


@contextmanager
def running(settings: Mapping[str, str]) -> Iterator[Server]:
    """A node, killed at the end."""
    server = Server(EDGE, env=settings)
    try:
        yield server
    finally:
        server.stop()


@contextmanager
def _reading(setup: _Setup) -> Iterator[tuple[Redis, Server, Server, Load]]:
    """Redis, the publisher's node, the readers' node (it may be the same), and who reads there and publishes."""
    with Redis() as redis:
        settings = redis.settings if setup.redis else {}
        with running(settings) as publishers, running(settings) as others:
            readers = others if setup.other else publishers
            # A load reads at its server's port and publishes at another, so many ports away.
            readers.peer = EDGE._replace(control_port=publishers.port - readers.port)
            with Load(readers) as load, Load(publishers) as beside:
                load.open(READERS)
                if setup.both:
                    beside.open(READERS)
                held = threading.Thread(target=_read_on, args=(beside,), daemon=True)
                held.start()
                time.sleep(_SETTLE_SECONDS)
                yield redis, publishers, readers, load
            held.join()


def _read_on(load: Load) -> None:
    """Until it is ended."""
    try:
        load.hold(3600)
    except RuntimeError:
        return


def fan_out(name: str, events: int = 300) -> Figures:
    """One event at a time, each awaited by its readers."""
    setup = SETUPS[name]
    with _reading(setup) as (redis, publishers, readers, load):
        load.post(10, group=1)
        measured: list[Server | Redis] = [publishers, readers, redis]
        before = [each.cpu_seconds() for each in measured]
        answer: Any = load.post(events, group=1)
        if answer["delivered"] != answer["expected"]:
            raise RuntimeError(f"{name}: {answer}")
        here, there, in_redis = (
            (each.cpu_seconds() - began) / events * 1e6 for each, began in zip(measured, before, strict=True)
        )
        return {"publisher_us": here, "delivery_us": there / READERS, "redis_us": in_redis if setup.redis else 0.0}


def latency(name: str, rate: float = 50, seconds: float = 10) -> Figures:
    """From the publisher's write to the reader's read."""
    with _reading(SETUPS[name]) as (_, _, _, load):
        load.post(10, group=1)
        answer: Any = load.post(round(rate * seconds), conns=4, rate=rate)
        return {"p50_ms": answer["delivery_ms"]["p50"], "p99_ms": answer["delivery_ms"]["p99"]}
