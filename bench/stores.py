"""What history that lasts costs: publishing with each store, opening a file, and two nodes around one Redis.

    python -m bench.stores [--rounds 3] [--only publishing,opening,fan_out,latency] [--out docs/stores.json]

Stores and setups take turns, round by round. Processor time is that of the hub, all its threads and the kernel for
them; Redis's own is shown beside it. Nodes are pinned to one core, Redis and the load to the other: a node's processor
time is its own, but what waits for two nodes waits for one core. Redis keeps nothing on disk here.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from bench import machine, nodes, peers, store_tables
from bench.load import Load
from bench.nodes import Figures, Redis
from bench.peers import Server

_SETTLE_SECONDS = 0.3
_OPENED_EVENTS = 1_000_000
_OPENED_PROJECTS = 1000
_LINES_A_REQUEST = 500
STORES = ("memory", "sqlite, async", "sqlite, commit", "redis")
PUBLISHING: dict[str, tuple[int, dict[str, int]]] = {
    "a POST each, 8 connections": (10_000, {"conns": 8}),
    "a POST each, 64 connections": (20_000, {"conns": 64}),
    "the same over 200 projects": (20_000, {"conns": 64, "projects": 200}),
    "the same over 5,000 projects": (20_000, {"conns": 64, "projects": 5000}),
    "NDJSON, 500 lines a request": (200_000, {"lines": _LINES_A_REQUEST}),
    "the same over 50 projects": (200_000, {"lines": _LINES_A_REQUEST, "projects": 50}),
}
"""Events, and how they are published."""


def publishing(store: str) -> dict[str, Figures]:
    """Each way to publish, no subscriber connected."""
    folder = Path(tempfile.mkdtemp(prefix="edge-bench-store-"))
    try:
        with Redis() as redis, nodes.running(_settings(store, folder, redis)) as server, Load(server) as load:
            return {work: _published(server, redis, load, *how) for work, how in PUBLISHING.items()}
    finally:
        shutil.rmtree(folder)


def _published(server: Server, redis: Redis, load: Load, events: int, options: Mapping[str, int]) -> Figures:
    load.post(max(50, options.get("projects", 1)), options.get("projects", 1), conns=8)
    time.sleep(_SETTLE_SECONDS)
    before, redis_before = server.cpu_seconds(), redis.cpu_seconds()
    answer: Any = load.post(events // options.get("lines", 1), **options)
    time.sleep(_SETTLE_SECONDS)  # what is still on its way to the disk counts, too
    return {
        "cpu_us": (server.cpu_seconds() - before) / events * 1e6,
        "redis_us": (redis.cpu_seconds() - redis_before) / events * 1e6,
        "per_second": events / answer["seconds"],
    }


def _settings(store: str, folder: Path, redis: Redis) -> dict[str, str]:
    kind, _, durability = store.partition(", ")
    if kind == "memory":
        return {}
    if kind == "redis":
        return redis.settings
    return {"EDGE_STORE_URL": f"sqlite:{folder / 'history.db'}", "EDGE_STORE_DURABILITY": durability}


class Opening:
    """Files as hubs that were killed have left them, by what is in them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        every_project = {"projects": _OPENED_PROJECTS}
        self.files = {
            "none": self._file("none", 0, {}),
            "a million events, published as NDJSON": self._file(
                "ndjson", _OPENED_EVENTS // _LINES_A_REQUEST, {"lines": _LINES_A_REQUEST, **every_project}
            ),
            "a million events, a POST each": self._file("posts", _OPENED_EVENTS, {"conns": 64, **every_project}),
        }

    def _file(self, name: str, requests: int, options: Mapping[str, int]) -> Path:
        path = self._folder / f"{name}.db"
        with nodes.running({"EDGE_STORE_URL": f"sqlite:{path}"}) as server, Load(server) as load:
            if requests:
                load.post(requests, **options)
            time.sleep(1)
        return path

    def measure(self, history: str) -> Figures:
        """From the start of the process to its line that says it listens."""
        path = self._folder / "measured.db"
        for suffix in ("", "-wal"):
            source = self.files[history].with_name(self.files[history].name + suffix)
            if source.exists():
                shutil.copy(source, path.with_name(path.name + suffix))
        began = time.perf_counter()
        with nodes.running({"EDGE_STORE_URL": f"sqlite:{path}"}) as server:
            while b"edge: listening" not in server.log_path.read_bytes():
                time.sleep(0.005)
            figures = {"seconds": time.perf_counter() - began, "cpu_seconds": server.cpu_seconds()}
            figures["mib"] = server.pss_bytes() / (1 << 20)
            figures["events"] = _ring_events(server)
        with sqlite3.connect(path) as database:
            figures["segments"] = database.execute("SELECT count(*) FROM segments").fetchone()[0]
        database.close()
        return figures


def _ring_events(server: Server) -> float:
    with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/metrics", timeout=60) as answer:
        lines = answer.read().decode().splitlines()
    return float(next(line for line in lines if line.startswith("edge_ring_events ")).split()[1])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", help="names of measurements, with commas between them")
    parser.add_argument(
        "--out", type=Path, help="write all figures into this file, and the tables into the pages beside it"
    )
    arguments = parser.parse_args()
    peers.prepare()
    results: dict[str, Any] = {}
    if arguments.out and arguments.out.exists():
        results = msgspec.json.decode(arguments.out.read_bytes())
    with tempfile.TemporaryDirectory(prefix="edge-bench-open-") as folder:
        measurements: dict[str, Callable[[], dict[str, Any]]] = {
            "publishing": lambda: _in_turns(arguments.rounds, dict.fromkeys(STORES, publishing)),
            "opening": lambda: _in_turns(arguments.rounds, _openings(Path(folder))),
            "fan_out": lambda: _in_turns(arguments.rounds, dict.fromkeys(nodes.SETUPS, nodes.fan_out)),
            "latency": lambda: _in_turns(arguments.rounds, dict.fromkeys(nodes.SETUPS, nodes.latency)),
        }
        for name in arguments.only.split(",") if arguments.only else measurements:
            load_average = os.getloadavg()[0]
            results[name] = measurements[name]()
            print(f"\n{name}\n", *store_tables.TABLES[name](results[name]), sep="\n", flush=True)
            if arguments.out:
                before = results.get("machine", {})
                results["machine"] = before | _machine() | {f"load average before {name}": f"{load_average:.1f}"}
                arguments.out.write_bytes(msgspec.json.format(msgspec.json.encode(results), indent=1) + b"\n")
    if arguments.out:
        store_tables.write(results, arguments.out.parent)
    return 0


def _openings(folder: Path) -> dict[str, Callable[[str], Figures]]:
    opening = Opening(folder)
    return dict.fromkeys(opening.files, opening.measure)


def _in_turns(rounds: int, measured: Mapping[str, Callable[[str], Any]]) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {name: [] for name in measured}
    for _ in range(rounds):
        for name, measure in measured.items():
            found[name].append(measure(name))
    return found


def _machine() -> dict[str, str]:
    known = machine.describe()
    asked = subprocess.run(["redis-server", "--version"], capture_output=True, text=True, check=True).stdout
    return {
        **{name: known[name] for name in ("date", "processor", "kernel", "python", "uvloop")},
        "sqlite": sqlite3.sqlite_version,
        "redis": asked.partition("v=")[2].partition(" ")[0],
    }


if __name__ == "__main__":
    sys.exit(main())
