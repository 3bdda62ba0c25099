"""Ten minutes of churn: readers come, stall and drop, events come in bursts, rings overflow, projects are deleted.

    python -m bench.soak [--minutes 10] [--keys 0] [--out docs/soak.json]

With `--keys`, so many publishes a round have an idempotency key, each to a project of its own. Keys are kept for ten
minutes, and so is what the hub remembers of dropped projects, up to its bounds: then the growth is shown beside both
numbers, and only descriptors and tasks are judged.

After each round everybody leaves and everything is deleted; then memory, descriptors, tasks and objects are counted.
Memory that was once needed stays with the allocator, so plateaus are compared: the last fifth of the rounds against the
second fifth. Exits non-zero when anything grew.
"""

from __future__ import annotations

import argparse
import http.client
import os
import random
import signal
import socket
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from statistics import median
from typing import Any

import msgspec

from bench import peers, process
from bench.load import Load
from bench.peers import EDGE, Server

_ENV = {"EDGE_RING_MAX_EVENTS": "200", "EDGE_STREAM_HEARTBEAT_SECONDS": "1", "EDGE_STREAM_DEAD_AFTER_SECONDS": "2"}
_PROJECTS = 50
_MEMORY_MARGIN_BYTES = 2 << 20
_OBJECTS_MARGIN = 500


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--keys", type=int, default=0)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    peers.prepare()
    counts = Path(f"/tmp/edge-bench-counts-{os.getpid()}.json")
    server = Server(EDGE, env={**_ENV, "BENCH_COUNTS_FILE": str(counts)}, module="bench.counted")
    samples: list[dict[str, float]] = []
    began = time.monotonic()
    try:
        while time.monotonic() - began < arguments.minutes * 60:
            _round(server)
            _publish_with_keys(server.port, len(samples), arguments.keys)
            samples.append({"minutes": (time.monotonic() - began) / 60, **_look(server, counts)})
    finally:
        server.stop()
    if arguments.out:
        arguments.out.write_bytes(msgspec.json.encode(samples) + b"\n")
    return _judge(samples, grows=arguments.keys > 0)


def _round(server: Server) -> None:
    """A few seconds of everything at once."""
    with Load(server) as load:
        slow = [_slow_reader(server.port, number) for number in range(20)]
        load.open(600, _PROJECTS)
        for _ in range(3):
            load.post(500, _PROJECTS, conns=8, rate=1000)
            load.post(10, _PROJECTS, lines=300)  # more than a ring holds
            load.shut()
            load.open(600, _PROJECTS, suffix=random.choice(("?since=all", "?since=none", "", "?last_event_id=x-1")))
        load.trigger(20)
        for reader in slow:
            reader.close()
        load.shut()
        for name in [*(f"p{number}" for number in range(_PROJECTS)), *(f"t{number}" for number in range(20))]:
            _ask(server.port, f"/projects/{name}", "DELETE")


def _publish_with_keys(port: int, number: int, count: int) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port)
    for key in range(count):
        headers = {"Content-Type": "application/json", "Idempotency-Key": f"{number}-{key}"}
        connection.request("POST", f"/projects/k{number}-{key}/events", b'{"data":1}', headers)
        connection.getresponse().read()
        connection.request("DELETE", f"/projects/k{number}-{key}")
        connection.getresponse().read()
    connection.close()


def _slow_reader(port: int, number: int) -> socket.socket:
    reader = socket.create_connection(("127.0.0.1", port))
    reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    reader.sendall(f"GET /projects/p{number % _PROJECTS}/events HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode())
    return reader


def _ask(port: int, path: str, method: str = "GET") -> bytes:
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", method=method)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            body: bytes = answer.read()
            return body
    except urllib.error.HTTPError as error:  # 404: nothing was published to it
        return error.read()


def _look(server: Server, counts: Path) -> dict[str, float]:
    for _ in range(200):
        if b"\nedge_connections 0.0\n" in _ask(server.port, "/metrics"):
            break
        time.sleep(0.05)
    time.sleep(0.3)
    counts.unlink(missing_ok=True)
    server.signal(signal.SIGUSR1)
    while not counts.exists():
        time.sleep(0.01)
    counted: dict[str, Any] = msgspec.json.decode(counts.read_bytes())
    numbers = dict(line.split() for line in _ask(server.port, "/metrics").decode().splitlines() if line[0] != "#")
    return {
        **counted,
        "pss_bytes": server.pss_bytes(),
        "descriptors": process.descriptors(server.pid),
        "keys": float(numbers["edge_idempotency_keys"]),
    }


def _judge(samples: list[dict[str, float]], *, grows: bool) -> int:
    fifth = max(1, len(samples) // 5)
    early, late = samples[fifth : 2 * fifth] or samples, samples[-fifth:]
    failed = 0
    for name, margin in {
        "pss_bytes": _MEMORY_MARGIN_BYTES,
        "objects": _OBJECTS_MARGIN,
        "descriptors": 0,
        "tasks": 0,
    }.items():
        before, after = (median(sample[name] for sample in part) for part in (early, late))
        grew = after - before > margin and not (grows and name in ("pss_bytes", "objects"))
        failed += grew
        print(f"{'FAIL' if grew else 'ok  '} {name:12} {before:12.0f} -> {after:12.0f}")
    print(f"{len(samples)} rounds; at the end {samples[-1]['keys']:.0f} keys, {samples[-1]['pss_bytes']:.0f} bytes")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
