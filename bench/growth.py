"""How cost grows: one thing is made larger, everything else stays, and the processor time of an operation is taken.

python -m bench.growth [--out docs/growth.json]
"""

from __future__ import annotations

import argparse
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from statistics import median

import msgspec

from bench import peers
from bench.load import Load
from bench.peers import EDGE, Server

_ROUNDS = 3
_SCRAPES = 50


def deliveries(readers: int) -> float:
    """Microseconds a delivery: one project, one event at a time."""
    with _server() as server, Load(server) as load:
        load.open(readers)
        time.sleep(0.3)
        events = max(10, 40_000 // readers)
        load.post(3, group=1)
        return _cost(server, lambda: load.post(events, group=1), events * readers)


def publishes(projects: int) -> float:
    """Microseconds a publish: each to the next project, no subscriber connected."""
    with _server() as server, Load(server) as load:
        load.post(projects, projects, conns=8)
        return _cost(server, lambda: load.post(10_000, projects, conns=8), 10_000)


def scrapes(projects: int) -> float:
    """Milliseconds a scrape of /metrics."""
    with _server() as server, Load(server) as load:
        load.post(projects, projects, conns=8)
        return _cost(server, lambda: _scrape(server), _SCRAPES) / 1000


def heartbeats(streams: int) -> float:
    """Percent of a core for idle streams, a heartbeat every 5 s here (a third of that at the default of 15 s)."""
    with _server({"EDGE_STREAM_HEARTBEAT_SECONDS": "5"}) as server, Load(server) as load:
        load.open(streams, 100)
        load.hold(1)
        cpu = server.cpu_seconds()
        load.hold(10)
        return (server.cpu_seconds() - cpu) / 10 * 100


def evictions(max_events: int) -> float:
    """Microseconds a publish into a ring that is full: each event pushes out another one."""
    with _server({"EDGE_RING_MAX_EVENTS": str(max_events)}) as server, Load(server) as load:
        load.post(max(1, max_events // 1000 + 1), lines=1000)
        return _cost(server, lambda: load.post(10_000, conns=8), 10_000)


CURVES: dict[str, tuple[Callable[[int], float], tuple[int, ...]]] = {
    "deliveries": (deliveries, (10, 100, 1000, 5000, 10_000, 15_000)),
    "publishes": (publishes, (10, 100, 1000, 10_000, 50_000)),
    "scrapes": (scrapes, (10, 1000, 10_000, 50_000)),
    "heartbeats": (heartbeats, (1000, 5000, 10_000, 19_000)),
    "evictions": (evictions, (10, 100, 1000, 10_000, 100_000)),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--only")
    parser.add_argument("--rounds", type=int, default=_ROUNDS)
    arguments = parser.parse_args()
    peers.prepare()
    grown: dict[str, list[tuple[int, list[float]]]] = {}
    for name, (measure, sizes) in CURVES.items():
        if arguments.only and name not in arguments.only.split(","):
            continue
        # In turns: whatever else the machine does meanwhile hits small and large alike.
        values: dict[int, list[float]] = {size: [] for size in sizes}
        for _ in range(arguments.rounds if name != "heartbeats" else 1):
            for size in sizes:
                values[size].append(measure(size))
        grown[name] = list(values.items())
        for size, measured in grown[name]:
            print(f"{name:11} {size:7} {median(measured):9.3f} ({min(measured):.3f}-{max(measured):.3f})", flush=True)
    if arguments.out:
        arguments.out.write_bytes(msgspec.json.encode(grown) + b"\n")
    return 0


class _server:  # noqa: N801 - read as a function
    """A server that is stopped at the end."""

    def __init__(self, env: dict[str, str] | None = None) -> None:
        self._running = Server(EDGE, env=env or {})

    def __enter__(self) -> Server:
        return self._running

    def __exit__(self, *_: object) -> None:
        self._running.stop()


def _cost(server: Server, work: Callable[[], object], operations: int) -> float:
    cpu = server.cpu_seconds()
    work()
    return (server.cpu_seconds() - cpu) / operations * 1e6


def _scrape(server: Server) -> None:
    for _ in range(_SCRAPES):
        with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/metrics", timeout=30) as answer:
            answer.read()


if __name__ == "__main__":
    sys.exit(main())
