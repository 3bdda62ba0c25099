"""The gate: fails when an operation costs more processor time than it may.

    python -m bench.check [--rounds 5]

A cost has two parts that no machine keeps in proportion: the kernel's, which the floor (`bench/floor.c`) has as well,
and the interpreter's, which a naive aiohttp handler (`bench/naive.py`) has as well. So what is bounded is what the hub
adds to the floor, in POSTs of the naive handler: `(edge - floor) / naive`. All are measured in turns in one run, and
the cheapest round of each counts: noise only ever adds.

The bounds leave about half as much again over what was measured when they were set, which noise doesn't cross and an
accident such as a task, a timer or a copy for each subscriber does. They were drawn on two virtual processors of an
Intel Xeon (Sapphire Rapids or near it), and hold on a processor that runs Python half as fast (AMD EPYC, family 23
model 1): both with kernel 6.18 and CPython 3.11.2 of Debian. The run prints its own.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import NamedTuple

from bench import machine, peers
from bench.forms import FORMS, NAIVE, ask_each, measured
from bench.peers import EDGE, FLOOR, Server
from bench.workloads import Figures, Workload, burst, fan_out, memory, ndjson, posts, projects, run, storm

_NAIVE_POSTS = 1600


class Bound(NamedTuple):
    """`at_most`: what `edge` adds to the floor, in naive POSTs; where `alone`, its figure as it is."""

    name: str
    work: Callable[[Server], Figures]
    figure: str
    at_most: float
    alone: bool = False


BOUNDS = (
    Bound("fan_out", lambda server: fan_out(server, 500, 100), "cpu_us", 0.04),
    Bound("burst", lambda server: burst(server, 500, 100, 10), "cpu_us", 0.001),
    Bound("projects", lambda server: projects(server, 300, 3000), "cpu_us", 1.1),
    Bound("posts", lambda server: posts(server, 5000), "cpu_us", 0.85),
    Bound("storm", lambda server: storm(server, 3000), "cpu_us", 2.0),
    Bound("ndjson", lambda server: ndjson(server, 60_000), "cpu_us", 0.06),
    Bound("memory", lambda server: memory(server, 2000, 8), "kib", 2.5, alone=True),
    Bound("memory_own", lambda server: memory(server, 2000, 2000), "kib", 3.5, alone=True),
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    peers.prepare()
    print(f"processor: {machine.describe()['processor']}")
    failed = 0
    for bound in BOUNDS:
        ours, floors, naives = [], [], []
        for _ in range(rounds):
            ours.append(_figure(bound, EDGE))
            if not bound.alone:
                floors.append(_figure(bound, FLOOR) if bound.name != "ndjson" else 0.0)
                naives.append(_naive_us())
        value = min(ours) if bound.alone else (min(ours) - min(floors)) / min(naives)
        within = value <= bound.at_most
        failed += not within
        parts = "" if bound.alone else f"edge {min(ours):.2f}, floor {min(floors):.2f}, naive {min(naives):.1f} µs"
        print(f"{'ok  ' if within else 'FAIL'} {bound.name:12} {value:7.4f} (at most {bound.at_most:g}) {parts}")
        sys.stdout.flush()
    return 1 if failed else 0


def _figure(bound: Bound, peer: peers.Peer) -> float:
    return run(Workload(bound.name, bound.name, (peer,), bound.work), peer)[bound.figure]


def _naive_us() -> float:
    """A POST of the naive handler."""
    server = Server(NAIVE)
    try:
        ask_each(server.port, FORMS[0], _NAIVE_POSTS, 0)
        return measured(server, FORMS[0], _NAIVE_POSTS, 1)
    finally:
        server.stop()


if __name__ == "__main__":
    sys.exit(main())
