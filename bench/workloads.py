"""The work that is measured, one function a row of the table: a running server in, figures out.

Figures are named with their unit. `cpu_us` is what one operation costs the server (all its processes, user and kernel)
in microseconds; rates and latencies are wall-clock and seen from the load's side.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from bench import tls as bench_tls
from bench.load import Load
from bench.peers import EDGE, FLOOR, NCHAN, PEERS, PUSHPIN, ROOT, Peer, Server

Figures = dict[str, float]
Work = Callable[[Server], Figures]
_HELD = "bench.held"
_MANY = {"EDGE_LIMITS_MAX_CONNECTIONS": "50000"}
"""The default follows the limit on descriptors."""


class Workload(NamedTuple):
    """A row: who is measured at it, how, and with which configuration of `edge`."""

    name: str
    title: str
    peers: tuple[Peer, ...]
    work: Work
    rounds: int = 5
    env: Mapping[str, str] = {}
    module: str | None = None
    """Run this module in the place of `edge`."""


def run(workload: Workload, peer: Peer) -> Figures:
    """Start `peer`, do the work, stop it."""
    if peer is EDGE:
        held = Path("/tmp") / f"edge-bench-held-{time.monotonic_ns()}.json"
        env = {**workload.env, **({"BENCH_HELD_FILE": str(held)} if workload.module else {})}
        server = Server(peer, env=env, module=workload.module)
        server.held_path = held
    else:
        server = Server(peer)
    try:
        time.sleep(peer.settle_seconds)
        return workload.work(server)
    finally:
        server.stop()


def fan_out(server: Server, readers: int = 1000, events: int = 100) -> Figures:
    with Load(server) as load:
        _all_open(server, load.open(readers), readers)
        load.post(5, group=1)
        return _measured(server, load, lambda: load.post(events, group=1), readers * events)


def burst(server: Server, readers: int = 1000, events: int = 100, bursts: int = 5) -> Figures:
    if not server.peer.ndjson:
        bursts = 2  # each takes a hundred times as long
    with Load(server) as load:
        _all_open(server, load.open(readers), readers)
        if server.peer.ndjson:

            def work() -> Any:
                return load.post(bursts, group=1, lines=events)
        else:

            def work() -> Any:
                return load.post(bursts * events, conns=50, group=events)

        return _measured(server, load, work, readers * events * bursts)


def projects(server: Server, count: int = 1000, events: int = 5_000) -> Figures:
    with Load(server) as load:
        _all_open(server, load.open(count, count), count)
        load.post(count, count, conns=8)
        return _measured(server, load, lambda: load.post(events, count, conns=8), events)


def posts(server: Server, events: int = 10_000) -> Figures:
    with Load(server) as load:
        load.post(500, conns=8)
        return _measured(server, load, lambda: load.post(events, conns=8), events)


def ndjson(server: Server, events: int = 300_000) -> Figures:
    with Load(server) as load:
        _all_open(server, load.open(1), 1)
        load.post(1, lines=2000)
        figures = _measured(server, load, lambda: load.post(1, lines=events), events)
        return {
            **figures,
            "events_per_cpu_second": 1e6 / figures["cpu_us"],
            "rate": events / figures["answer_p50_ms"] * 1e3,
        }


def memory(server: Server, streams: int = 8000, count: int = 8) -> Figures:
    with Load(server) as load:
        load.open(10, 1)
        load.shut()
        time.sleep(0.5)
        before = server.pss_bytes()
        _all_open(server, load.open(streams, count), streams)
        load.hold(1.5)
        return {"kib": (server.pss_bytes() - before) / streams / 1024, "before_mib": before / (1 << 20)}


def memory_own(server: Server, streams: int = 8000) -> Figures:
    return memory(server, streams, streams)


def storm(
    server: Server, readers: int = 10_000, replay: int = 100, count: int = 10, *, watched: bool = False
) -> Figures:
    subscribe, suffix = None, ""
    if server.peer is EDGE:
        suffix = "?since=all"
    elif server.peer is NCHAN:
        subscribe = "/all/%P"
    else:
        replay = 0
    with Load(server, subscribe=subscribe) as load:
        if replay:
            load.post(replay * count, count, conns=4)
        cpu = server.cpu_seconds()
        opened = load.open(
            readers, count, window=readers if server.peer is not PUSHPIN else None, replay=replay, suffix=suffix
        )
        cpu = server.cpu_seconds() - cpu
        held = _held(held_turns(server)) if watched else {}
        return {
            **held,
            "per_second": opened["ready"] / opened["seconds"],
            "cpu_us": cpu / readers * 1e6,
            "lost": readers - opened["ready"],
            "slowest_ms": opened["ready_ms"]["max"],
        }


def storm_held(server: Server) -> Figures:
    held_turns(server)
    figures = storm(server, watched=True)
    left = held_turns(server)  # and then they are all gone at once
    return {
        **{name: figures[name] for name in ("longest_ms", "p99_ms", "lost")},
        "longest_leaving_ms": max(left, default=0),
    }


def latency(server: Server, readers: int = 200, rate: int = 200, seconds: int = 5) -> Figures:
    with Load(server) as load:
        _all_open(server, load.open(readers), readers)
        load.post(50, rate=rate)
        return _measured(server, load, lambda: load.post(rate * seconds, conns=4, rate=rate), readers * rate * seconds)


def publish_held(server: Server, readers: int = 10_000, events: int = 50) -> Figures:
    with Load(server) as load:
        _all_open(server, load.open(readers), readers)
        load.post(5, group=1)
        held_turns(server)
        done = load.post(events, group=1)
        _all_delivered(done)
        return _held(held_turns(server))


def heartbeats(server: Server, streams: int = 19_900, seconds: float = 30) -> Figures:
    with Load(server) as load:
        _all_open(server, load.open(streams, 100), streams)
        load.hold(1)
        cpu = server.cpu_seconds()
        load.hold(seconds)
        cpu = server.cpu_seconds() - cpu
        return {"percent": cpu / seconds * 100, "cpu_us": cpu / (streams * seconds / 15) * 1e6}


def trigger(server: Server, count: int = 500) -> Figures:
    with Load(server) as load:
        load.trigger(20)
        done = load.trigger(count)
        if done["accepted"] != count:
            raise RuntimeError(f"triggers failed: {done}")
        return {f"{name}_ms": done["released_ms"][name] for name in ("p50", "p99", "max")}


def idle(server: Server, seconds: float = 10) -> Figures:
    time.sleep(1)
    cpu = server.cpu_seconds()
    time.sleep(seconds)
    return {"percent": (server.cpu_seconds() - cpu) / seconds * 100, "mib": server.pss_bytes() / (1 << 20)}


def start(server: Server) -> Figures:
    cpu = server.start_cpu_seconds
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import edge"], cwd=ROOT, check=True)
    imported = time.perf_counter() - began
    return {"start_cpu_ms": cpu * 1000, "listening_ms": server.start_seconds * 1000, "import_edge_ms": imported * 1000}


def tokens(server: Server, count: int = 100, rate: int = 50, seconds: int = 4) -> Figures:
    """Answers of language models: many projects, one subscriber each, small events at a steady rate."""
    events = count * rate * seconds
    with Load(server, data_bytes=50) as load:
        _all_open(server, load.open(count, count), count)
        load.post(count, count, conns=8)
        figures = _measured(server, load, lambda: load.post(events, count, conns=16, rate=count * rate), events)
        return {**figures, "percent": figures["cpu_us"] * count * rate / 1e4}


def tls(server: Server, streams: int = 400, events: int = 50) -> Figures:
    """Streams over TLS of the server's own. The load is Python's, so only the server's side means anything."""
    readers = bench_tls.Readers(server.port)
    try:
        readers.open(8)
        time.sleep(0.5)
        before = server.pss_bytes()
        readers.open(streams)
        time.sleep(1.0)
        kib = (server.pss_bytes() - before) / streams / 1024
        cpu = server.cpu_seconds()
        readers.publish(events)
        cpu = server.cpu_seconds() - cpu
        return {"kib": kib, "cpu_us": cpu / (events * (streams + 8)) * 1e6}
    finally:
        readers.close()


_EVERYONE = tuple(PEERS.values())
_HUBS = tuple(peer for peer in _EVERYONE if peer is not FLOOR)
WORKLOADS = (
    Workload("fan_out", "1,000 readers, one event at a time", _EVERYONE, fan_out),
    Workload("burst", "bursts of 100 events to 1,000 readers", _EVERYONE, burst),
    Workload("projects", "1,000 projects with a reader each, a POST an event", _EVERYONE, projects),
    Workload("posts", "a POST an event, no subscriber connected", _EVERYONE, posts),
    Workload("tokens", "100 projects with a subscriber each, 50 events a second", _EVERYONE, tokens, 3),
    Workload("tls", "400 streams over TLS of its own", (EDGE,), tls, 3, bench_tls.ENV),
    Workload("ndjson", "NDJSON in, one reader", (EDGE,), ndjson),
    Workload("memory", "8,000 idle streams of 8 projects", _HUBS, memory, 3),
    Workload("memory_own", "8,000 idle streams, each of its own project", _HUBS, memory_own, 3),
    Workload("storm", "10,000 connects at once, 100 events of replay each", _EVERYONE, storm, 3),
    Workload("storm_held", "the same: how long the loop is held", (EDGE,), storm_held, 3, {}, _HELD),
    Workload("latency", "200 readers, 200 events a second", _EVERYONE, latency),
    Workload(
        "publish_held", "one publish to 10,000 readers: how long the loop is held", (EDGE,), publish_held, 3, {}, _HELD
    ),
    Workload("heartbeats", "19,900 idle streams", (FLOOR, EDGE), heartbeats, 2, _MANY),
    Workload("trigger", "a reader comes, the waiting trigger is released", (EDGE,), trigger, 3),
    Workload("idle", "no subscriber", (EDGE,), idle, 1),
    Workload("start", "from exec to listening", (EDGE,), start, 7),
)


def held_turns(server: Server) -> list[float]:
    """The turns of the loop longer than a millisecond since the last call, in milliseconds."""
    path = server.held_path
    path.unlink(missing_ok=True)
    server.signal(signal.SIGUSR1)
    for _ in range(1000):
        if path.exists():
            turns: list[float] = msgspec.json.decode(path.read_bytes())
            path.unlink()
            return turns
        time.sleep(0.01)
    raise RuntimeError("the watch on the loop does not answer")


def _held(turns: list[float]) -> Figures:
    turns = sorted(turns) or [0.0]
    return {"longest_ms": turns[-1], "p99_ms": turns[len(turns) * 99 // 100], "turns": len(turns)}


def _all_open(server: Server, opened: dict[str, float], count: int) -> None:
    if opened["ready"] != count:
        raise RuntimeError(f"readers could not connect: {opened}")
    time.sleep(server.peer.settle_seconds)


def _all_delivered(done: dict[str, Any]) -> None:
    if done["answers"] != done["status_2xx"] or done["delivered"] < done["expected"]:
        raise RuntimeError(f"not everything was answered and delivered: {done}")


def _measured(server: Server, load: Load, work: Callable[[], Any], operations: int) -> Figures:
    cpu, load_cpu = server.cpu_seconds(), load.cpu_seconds()
    done = work()
    cpu, load_cpu = server.cpu_seconds() - cpu, load.cpu_seconds() - load_cpu
    _all_delivered(done)
    figures = {
        "cpu_us": cpu / operations * 1e6,
        "per_second": operations / done["seconds"],
        "busy": cpu / done["seconds"],
        "load_busy": load_cpu / done["seconds"],
    }
    for name in ("answer", "delivery"):
        for quantile, value in done.get(f"{name}_ms", {}).items():
            figures[f"{name}_{quantile}_ms"] = value
    return figures
