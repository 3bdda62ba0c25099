"""Streams of several projects next to streams of one: what a delivery costs each, in one run.

    python -m bench.several

A delivery is one event of one project on one stream.
"""

from __future__ import annotations

from collections.abc import Callable
from statistics import median
from typing import Any

from bench.load import Load
from bench.peers import EDGE, Server, prepare

STREAMS, EVENTS, ROUNDS = 1000, 100, 5
_KINDS = {
    "one project": EDGE.subscribe,
    "four projects": "/events?project=%P&project=q&project=r&project=s",
    "four projects, with `prefix`": "/events?project=%P&project=q&project=r&project=s&prefix=true",
}


def fan_out(kind: str) -> float:
    """Processor time of a delivery, in microseconds."""
    server = Server(EDGE)
    try:
        with Load(server, subscribe=_KINDS[kind]) as load:
            opened = load.open(STREAMS)
            if opened["ready"] != STREAMS:
                raise RuntimeError(f"{kind}: {opened}")
            load.post(5, group=1)
            return _cpu_us(server, lambda: load.post(EVENTS, group=1))
    finally:
        server.stop()


def _cpu_us(server: Server, work: Callable[[], Any]) -> float:
    before = server.cpu_seconds()
    done = work()
    if done["delivered"] != STREAMS * EVENTS:
        raise RuntimeError(str(done))
    return (server.cpu_seconds() - before) / (STREAMS * EVENTS) * 1e6


def main() -> None:
    prepare()
    figures: dict[str, list[float]] = {kind: [] for kind in _KINDS}
    for _ in range(ROUNDS):
        for kind, found in figures.items():
            found.append(fan_out(kind))
    alone = figures["one project"]
    for kind, found in figures.items():
        ratios = sorted(each / one for each, one in zip(found, alone, strict=True))
        spread = f"({min(found):.3g} - {max(found):.3g})"
        print(f"| {kind} | {median(found):.3g} {spread} | {median(ratios):.3g} ({ratios[0]:.3g} - {ratios[-1]:.3g}) |")


if __name__ == "__main__":
    main()
