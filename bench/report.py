"""Pictures and tables of docs/performance.md, from the figures beside it.

    python -m bench.report

The page is written by hand but for its figures (`bench/page.py`).
"""

from __future__ import annotations

import sys
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib as mpl
import msgspec

mpl.use("Agg")
from matplotlib import pyplot as plt

from bench.page import described, number, put, spread
from bench.peers import ROOT
from bench.workloads import WORKLOADS

DOCS = ROOT / "docs"
COLOURS = {
    "floor": "#9aa0a6",
    "edge": "#1a73e8",
    "nchan": "#188038",
    "pushpin": "#e37400",
    "aiohttp-sse": "#a142f4",
    "r3labs/sse": "#00838f",
    "better-sse": "#c2185b",
    "Mercure": "#5d4037",
    "Centrifugo": "#455a64",
}
_CPU_CHARTS = {
    "fan_out": "one event to 1,000 readers\nµs a delivery",
    "burst": "100 events at once to 1,000\nµs a delivery",
    "projects": "POST to 1 of 1,000 projects\nµs an event",
    "posts": "POST, no subscriber connected\nµs an event",
    "storm": "connect (with replay*)\nµs a reader",
}
_SHOWN = {
    "cpu_us": "CPU µs",
    "per_second": "a second",
    "delivery_p50_ms": "p50 ms",
    "delivery_p99_ms": "p99 ms",
    "kib": "KiB each",
    "longest_ms": "longest ms",
    "p99_ms": "p99 ms",
    "p50_ms": "p50 ms",
    "longest_leaving_ms": "when all leave, ms",
    "slowest_ms": "slowest ms",
    "lost": "lost",
    "percent": "% of a core",
    "mib": "MiB",
    "events_per_cpu_second": "events a CPU second",
    "start_cpu_ms": "CPU until listening, ms",
    "listening_ms": "listening ms",
    "import_edge_ms": "import edge ms",
}


def main() -> int:
    page = DOCS / "performance.md"
    text = page.read_text()
    figures = msgspec.json.decode((DOCS / "performance.json").read_bytes())
    text = put(text, "machine", described(figures["machine"]))
    for workload in WORKLOADS:
        if workload.name in figures["results"]:
            text = put(text, workload.name, _table(figures["results"][workload.name]))
    page.write_text(text)
    images = DOCS / "images"
    images.mkdir(exist_ok=True)
    plt.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "svg.hashsalt": "edge"})
    _bars(figures["results"], images / "perf-cpu.png")
    _memory(figures["results"], images / "perf-memory.png")
    if (DOCS / "growth.json").exists():
        _curves(msgspec.json.decode((DOCS / "growth.json").read_bytes()), images / "perf-growth.png")
    if (DOCS / "soak.json").exists():
        _soak(msgspec.json.decode((DOCS / "soak.json").read_bytes()), images / "perf-soak.png")
    return 0


def _table(measured: dict[str, list[dict[str, float]]]) -> list[str]:
    first = next(iter(measured.values()))[0]
    shown = [name for name in _SHOWN if name in first]
    ratios = "cpu_us" in shown and len(measured) > 1
    lines = [
        "| | " + " | ".join([*(_SHOWN[name] for name in shown), *(["edge to it"] if ratios else [])]) + " |",
        "| --- |" + " ---: |" * (len(shown) + ratios),
    ]
    for peer, rounds in measured.items():
        cells = [spread([each[name] for each in rounds if name in each]) for name in shown]
        if ratios:
            pairs = zip(measured.get("edge", []), rounds, strict=False)
            ratio = [ours["cpu_us"] / theirs["cpu_us"] for ours, theirs in pairs]
            cells.append("" if peer == "edge" else spread(ratio))
        lines.append(f"| {peer} | " + " | ".join(cells) + " |")
    return lines


def _bars(results: dict[str, Any], path: Path) -> None:
    charts = {name: title for name, title in _CPU_CHARTS.items() if name in results}
    figure, axes = plt.subplots(1, len(charts), figsize=(2.5 * len(charts), 2.9), squeeze=False)
    for axis, (name, title) in zip(axes[0], charts.items(), strict=True):
        _bar(axis, results[name], "cpu_us")
        axis.set_title(title, fontsize=9)
    _save(figure, path)


def _memory(results: dict[str, Any], path: Path) -> None:
    titles = {"memory": "8,000 idle streams of 8 projects\nKiB each", "memory_own": "each of its own project\nKiB each"}
    figure, axes = plt.subplots(1, 2, figsize=(6, 2.7))
    for axis, (name, title) in zip(axes, titles.items(), strict=True):
        _bar(axis, results.get(name, {}), "kib")
        axis.set_title(title, fontsize=9)
    _save(figure, path)


def _bar(axis: Any, measured: dict[str, list[dict[str, float]]], figure_name: str) -> None:
    names = list(measured)
    values = [[each[figure_name] for each in measured[name]] for name in names]
    middles = [median(each) for each in values]
    spread = [
        [middle - min(each) for middle, each in zip(middles, values, strict=True)],
        [max(each) - middle for middle, each in zip(middles, values, strict=True)],
    ]
    axis.barh(names, middles, xerr=spread, color=[COLOURS[name] for name in names], ecolor="#5f6368", capsize=2)
    axis.invert_yaxis()
    for row, middle in enumerate(middles):
        axis.text(middle, row, f" {number(middle)}", va="bottom", fontsize=8)
    axis.margins(x=0.25)


def _curves(grown: dict[str, list[tuple[int, list[float]]]], path: Path) -> None:
    titles = {
        "deliveries": ("readers of a project", "µs a delivery"),
        "publishes": ("projects", "µs a publish"),
        "evictions": ("events a full ring holds", "µs a publish"),
        "scrapes": ("projects", "ms a scrape"),
        "heartbeats": ("idle streams", "% of a core, every 5 s"),
    }
    figure, axes = plt.subplots(1, len(grown), figsize=(2.6 * len(grown), 2.7), squeeze=False)
    for axis, (name, points) in zip(axes[0], grown.items(), strict=True):
        sizes = [size for size, _ in points]
        middles = [median(values) for _, values in points]
        axis.fill_between(
            sizes, [min(values) for _, values in points], [max(values) for _, values in points], alpha=0.2
        )
        axis.plot(sizes, middles, marker="o", markersize=3, color=COLOURS["edge"])
        if name != "heartbeats":
            axis.set_xscale("log")
        axis.set_ylim(bottom=0)
        axis.set_xlabel(titles[name][0])
        axis.set_title(titles[name][1], fontsize=9)
    _save(figure, path)


def _soak(samples: list[dict[str, float]], path: Path) -> None:
    figure, axes = plt.subplots(1, 3, figsize=(8, 2.4))
    minutes = [sample["minutes"] for sample in samples]
    for axis, (name, title, divisor) in zip(
        axes,
        (("pss_bytes", "memory at rest, MiB", 1 << 20), ("objects", "objects", 1), ("descriptors", "descriptors", 1)),
        strict=True,
    ):
        axis.plot(minutes, [sample[name] / divisor for sample in samples], color=COLOURS["edge"])
        axis.set_ylim(bottom=0)
        axis.set_xlabel("minutes")
        axis.set_title(title, fontsize=9)
    _save(figure, path)


def _save(figure: Any, path: Path) -> None:
    figure.tight_layout()
    figure.savefig(path, dpi=110, metadata={"Software": None})
    plt.close(figure)


if __name__ == "__main__":
    sys.exit(main())
