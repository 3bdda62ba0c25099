"""The gate: fails when an operation costs more processor time, against the floor in the same run, than it may.

    python -m bench.check [--rounds 5]

Both are measured in turns and the cheapest round of each counts: noise only ever adds. The bounds leave about half as
much again over what was measured when they were set (docs/performance.md), which noise doesn't cross and an accident
such as a task, a timer or a copy for each reader does.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import NamedTuple

from bench import peers
from bench.peers import EDGE, FLOOR, Server
from bench.workloads import Figures, Workload, burst, fan_out, memory, ndjson, posts, projects, run, storm


class Bound(NamedTuple):
    """`at_most`: the figure of `edge`, divided by the floor's where `against_floor`."""

    name: str
    work: Callable[[Server], Figures]
    figure: str
    at_most: float
    against_floor: bool = True


BOUNDS = (
    Bound("fan_out", lambda server: fan_out(server, 500, 100), "cpu_us", 1.9),
    Bound("burst", lambda server: burst(server, 500, 100, 10), "cpu_us", 2.4),
    Bound("projects", lambda server: projects(server, 300, 3000), "cpu_us", 3.5),
    Bound("posts", lambda server: posts(server, 5000), "cpu_us", 6.0),
    Bound("storm", lambda server: storm(server, 3000), "cpu_us", 4.5),
    Bound("ndjson", lambda server: ndjson(server, 60_000), "cpu_us", 5.0, against_floor=False),
    Bound("memory", lambda server: memory(server, 2000, 8), "kib", 2.5, against_floor=False),
    Bound("memory_own", lambda server: memory(server, 2000, 2000), "kib", 3.5, against_floor=False),
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    peers.prepare()
    failed = 0
    for bound in BOUNDS:
        ours, floors = [], []
        for _ in range(rounds):
            ours.append(_figure(bound, EDGE))
            if bound.against_floor:
                floors.append(_figure(bound, FLOOR))
        value = min(ours) / min(floors) if floors else min(ours)
        unit = "x floor" if floors else bound.figure
        within = value <= bound.at_most
        failed += not within
        print(f"{'ok  ' if within else 'FAIL'} {bound.name:12} {value:6.2f} {unit:8} (at most {bound.at_most:g})")
    return 1 if failed else 0


def _figure(bound: Bound, peer: peers.Peer) -> float:
    return run(Workload(bound.name, bound.name, (peer,), bound.work), peer)[bound.figure]


if __name__ == "__main__":
    sys.exit(main())
