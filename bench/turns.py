"""The longest turn of the event loop for work on all connections or projects, in processor time.

    python -m bench.turns [--rounds 3] [--write]

One thing is made larger, everything else stays. `--write` puts the table into docs/performance.md.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from statistics import median

from bench import peers
from bench.load import Load
from bench.peers import EDGE, ROOT, Server
from bench.workloads import held_turns

_SIZES = (250, 1000, 4000)
_MARKS = "<!-- figures turns -->\n", "<!-- end -->"


def delete(server: Server, load: Load, size: int) -> None:
    load.open(size)
    held_turns(server)
    _ask(server, "/projects/p0", "DELETE")


def drain(server: Server, load: Load, size: int) -> None:
    load.open(size)
    load.post(1)
    held_turns(server)
    _ask(server, "/projects/p0/events?final=true", "POST", b'{"data": 1}')  # each stream is closed, as by a drain


def explain(server: Server, load: Load, size: int) -> None:
    load.open(size)
    held_turns(server)
    _ask(server, "/projects/p0/explain")
    _ask(server, f"/projects/p0/ready?connections={size}&timeout=10s")


def listed(server: Server, load: Load, size: int) -> None:
    load.post(10 * size, 10 * size, conns=8)
    held_turns(server)
    _ask(server, "/projects")
    _ask(server, "/projects?sort=pending&offset=100")


def overrun(server: Server, load: Load, size: int) -> None:
    load.open(size)
    held_turns(server)
    load.post(2, lines=500)  # ten rings full


def expired(server: Server, load: Load, size: int) -> None:
    load.post(10 * size, 10 * size, conns=8)
    held_turns(server)
    time.sleep(8)


KINDS: dict[str, tuple[str, Callable[[Server, Load, int], None], dict[str, str]]] = {
    "delete": ("DELETE of a project", delete, {}),
    "drain": ("closing all streams", drain, {}),
    "explain": ("`explain`, and `ready` for all of them", explain, {}),
    "overrun": ("a burst of ten rings", overrun, {"EDGE_RING_MAX_EVENTS": "100"}),
    "listed": ("`GET /projects`, ten projects for each", listed, {}),
    "expired": ("ten projects for each expire", expired, {"EDGE_RING_MAX_AGE_SECONDS": "5"}),
}


def longest_ms(kind: str, size: int) -> float:
    """The longest turn while it lasts, and until a second later."""
    _, work, env = KINDS[kind]
    held = Path(f"/tmp/edge-bench-turns-{time.monotonic_ns()}.json")
    server = Server(EDGE, env={**env, "BENCH_HELD_FILE": str(held)}, module="bench.held")
    server.held_path = held
    try:
        with Load(server) as load:
            work(server, load, size)
            time.sleep(1)
            return max(held_turns(server), default=1.0)
    finally:
        server.stop()


def _ask(server: Server, path: str, method: str = "GET", body: bytes | None = None) -> None:
    headers = {"Content-Type": "application/json"} if body else {}
    request = urllib.request.Request(f"http://127.0.0.1:{server.port}{path}", body, headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            answer.read()
    except urllib.error.HTTPError as error:
        raise RuntimeError(f"{path}: {error.code} {error.read()!r}") from error


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--only", nargs="*", default=list(KINDS), choices=KINDS)
    arguments = parser.parse_args()
    peers.prepare()
    rows = ["| longest turn, ms | " + " | ".join(f"{size:,}" for size in _SIZES) + " |"]
    rows.append("| --- |" + " ---: |" * len(_SIZES))
    for kind in arguments.only:
        cells = []
        for size in _SIZES:
            found = [longest_ms(kind, size) for _ in range(arguments.rounds)]
            cells.append(f"{median(found):.1f} ({min(found):.1f} - {max(found):.1f})")
            print(json.dumps([kind, size, found]), flush=True)
        rows.append(f"| {KINDS[kind][0]} | " + " | ".join(cells) + " |")
    table = "\n".join(rows) + "\n"
    print(table)
    if arguments.write:
        page = ROOT / "docs" / "performance.md"
        before, _, rest = page.read_text().partition(_MARKS[0])
        page.write_text(before + _MARKS[0] + table + _MARKS[1] + rest.partition(_MARKS[1])[2])
    return 0


if __name__ == "__main__":
    sys.exit(main())
