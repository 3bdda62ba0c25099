"""What history that lasts costs: the same publishing against each store, in turns, as ratios to memory.

python -m bench.stores [--rounds 3] [--only memory,sqlite-async]

Processor seconds are the hub's, all its threads; Redis's own are told beside them. Redis runs on the load's core.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from bench import peers, process
from bench.load import Load
from bench.peers import EDGE, LOAD_CORE, Server

STORES = ("memory", "sqlite-async", "sqlite-commit", "redis")
LINES_A_REQUEST = 500
Figures = dict[str, float]


@contextmanager
def redis_server(folder: Path) -> Iterator[tuple[int, int]]:
    """Its port and pid."""
    port = peers.free_ports()
    command = ["redis-server", "--port", str(port), "--save", "", "--appendonly", "no", "--dir", str(folder)]
    server = subprocess.Popen(["taskset", "--cpu-list", str(LOAD_CORE), *command], stdout=subprocess.DEVNULL)
    time.sleep(0.5)
    try:
        yield port, server.pid
    finally:
        server.kill()
        server.wait()


def settings(store: str, folder: Path, redis_port: int) -> dict[str, str]:
    if store == "memory":
        return {}
    if store == "redis":
        return {"EDGE_STORE_URL": f"redis://127.0.0.1:{redis_port}/0"}
    return {
        "EDGE_STORE_URL": f"sqlite:{folder / 'history.db'}",
        "EDGE_STORE_DURABILITY": store.partition("-")[2],
    }


def measure(store: str, redis_port: int, redis_pid: int) -> dict[str, Figures]:
    folder = Path(tempfile.mkdtemp(prefix="edge-bench-store-"))
    server = Server(EDGE, env=settings(store, folder, redis_port))
    try:
        found = {}
        with Load(server) as load:
            load.post(50, conns=8)
            for name, events, options in (
                ("a POST each, 8 connections", 4_000, {"conns": 8}),
                ("a POST each, 64 connections", 8_000, {"conns": 64}),
                ("NDJSON, 500 lines a request", 60_000, {"lines": LINES_A_REQUEST}),
            ):
                requests = events // options.get("lines", 1)
                before, redis_before = process.cpu_seconds(server.pids), process.cpu_seconds([redis_pid])
                began = time.perf_counter()
                answer: Any = load.post(requests, **options)
                time.sleep(0.3)  # what is still on its way to the disk counts, too
                cpu = process.cpu_seconds(server.pids) - before
                seconds = answer.get("seconds", time.perf_counter() - began)
                found[name] = {
                    "cpu_us": cpu / events * 1e6,
                    "redis_cpu_us": (process.cpu_seconds([redis_pid]) - redis_before) / events * 1e6,
                    "events_per_second": events / seconds,
                }
        return found
    finally:
        server.stop()
        shutil.rmtree(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default=",".join(STORES))
    arguments = parser.parse_args()
    peers.prepare()
    stores = arguments.only.split(",")
    results: dict[str, list[dict[str, Figures]]] = {store: [] for store in stores}
    with tempfile.TemporaryDirectory() as folder, redis_server(Path(folder)) as (port, pid):
        for _ in range(arguments.rounds):
            for store in stores:
                results[store].append(measure(store, port, pid))
    works = list(results[stores[0]][0])
    print("| work | store | CPU of the hub, µs an event | to memory | CPU of Redis | events/s |")
    print("| --- | --- | --- | --- | --- | --- |")
    for work in works:
        for store in stores:
            ratios = [
                round_of[work]["cpu_us"] / base[work]["cpu_us"]
                for round_of, base in zip(results[store], results[stores[0]], strict=True)
            ]
            figures = {
                key: median(round_of[work][key] for round_of in results[store]) for key in results[store][0][work]
            }
            redis = f"{figures['redis_cpu_us']:.1f}" if store == "redis" else "-"
            print(
                f"| {work} | {store} | {figures['cpu_us']:.1f} | {median(ratios):.2f} | {redis} "
                f"| {figures['events_per_second']:,.0f} |"
            )


if __name__ == "__main__":
    main()
