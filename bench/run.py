"""Measure: every peer in turns, round by round, so that whatever else the machine does hits all alike.

python -m bench.run [--only fan_out,posts] [--rounds 3] [--peers edge,nchan] [--out docs/performance.json]
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from statistics import median
from typing import Any

import msgspec

from bench import machine, peers
from bench.workloads import WORKLOADS, Figures, run

Results = dict[str, dict[str, list[Figures]]]


def main() -> int:
    arguments = _arguments()
    peers.prepare()
    missing = [peer.name for peer in peers.PEERS.values() if not peers.installed(peer)]
    if missing:
        print(f"Not on this machine and left out: {', '.join(missing)}", file=sys.stderr)
    wanted = arguments.peers.split(",") if arguments.peers else list(peers.PEERS)
    only = arguments.only.split(",") if arguments.only else [workload.name for workload in WORKLOADS]
    results: Results = {}
    before: Results = {}
    if arguments.keep and arguments.out and arguments.out.exists():
        before = msgspec.json.decode(arguments.out.read_bytes(), type=dict[str, Any])["results"]
    for workload in WORKLOADS:
        if workload.name not in only:
            continue
        there = [peer for peer in workload.peers if peer.name in wanted and peer.name not in missing]
        for _ in range(arguments.rounds or workload.rounds):
            for peer in there:
                try:
                    figures = run(workload, peer)
                except RuntimeError as error:
                    print(f"{workload.name}: {peer.name}: {error}", file=sys.stderr)
                    continue
                results.setdefault(workload.name, {}).setdefault(peer.name, []).append(figures)
        print(f"\n{workload.name}: {workload.title}")
        for line in table(results.get(workload.name, {})):
            print("  " + line)
        sys.stdout.flush()
        if arguments.out:
            _write(arguments.out, results, before)
    return 0


def _write(path: Path, results: Results, before: Results) -> None:
    merged = {name: {**before.get(name, {}), **results.get(name, {})} for name in {**before, **results}}
    document = {"machine": machine.describe(), "results": merged}
    path.write_bytes(msgspec.json.format(msgspec.json.encode(document), indent=1) + b"\n")


def table(measured: dict[str, list[Figures]]) -> list[str]:
    """A line for each peer: median, and the lowest and highest of all rounds."""
    lines = []
    for name, rounds in measured.items():
        cells = []
        for figure in rounds[0]:
            values = [figures[figure] for figures in rounds if figure in figures]
            cells.append(f"{figure} {median(values):.4g} ({min(values):.4g}-{max(values):.4g})")
        lines.append(f"{name:12} " + "  ".join(cells))
    for other, rounds in measured.items():
        if other != "edge" and "edge" in measured and "cpu_us" in rounds[0]:
            ratios = ratio(measured["edge"], rounds, "cpu_us")
            lines.append(f"edge / {other}: {median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})")
    return lines


def ratio(ours: list[Figures], theirs: list[Figures], figure: str) -> list[float]:
    """Round by round."""
    return [mine[figure] / other[figure] for mine, other in zip(ours, theirs, strict=False)]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help="names of workloads, with commas between them")
    parser.add_argument("--peers", help="names of peers, with commas between them")
    parser.add_argument("--rounds", type=int, help="rounds of each workload")
    parser.add_argument("--out", type=Path, help="write all figures into this file")
    parser.add_argument("--keep", action="store_true", help="keep what the file has of others")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
