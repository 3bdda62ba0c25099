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
# What each picture shows: title and unit of its axis.
_CPU_CHARTS = {
    "fan_out": ("1 event to 1,000 subscribers", "CPU µs per delivery"),
    "burst": ("100 events to 1,000 subscribers", "CPU µs per delivery"),
    "projects": ("POST to 1 of 1,000 projects", "CPU µs per event"),
    "posts": ("POST without a subscriber", "CPU µs per event"),
    "storm": ("Reconnect storm (edge and nchan replay)", "CPU µs per subscriber"),
}
_MEMORY_CHARTS = {
    "memory": ("8,000 idle streams, 8 projects", "KiB per stream"),
    "memory_own": ("8,000 idle streams, a project each", "KiB per stream"),
}
_GROWTH_CHARTS = {
    "deliveries": ("Delivery", "subscribers of the project, logarithmic", "CPU µs per delivery"),
    "publishes": ("Publish", "projects, logarithmic", "CPU µs per event"),
    "evictions": ("Publish to a full ring", "events in the ring, logarithmic", "CPU µs per event"),
    "scrapes": ("Scrape of /metrics", "projects, logarithmic", "ms per scrape"),
    "heartbeats": ("Heartbeats every 5 s", "idle streams", "% of a core"),
}
_SOAK_CHARTS = {
    "pss_bytes": ("Memory", "MiB", 1 << 20),
    "objects": ("Python objects", "objects", 1),
    "descriptors": ("File descriptors", "open", 1),
}
_LOG_ABOVE = 30  # the largest bar in smallest ones, above which only a logarithmic axis shows both
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
    _bars(figures["results"], _CPU_CHARTS, "cpu_us", images / "perf-cpu.png")
    _bars(figures["results"], _MEMORY_CHARTS, "kib", images / "perf-memory.png")
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


def _bars(results: dict[str, Any], charts: dict[str, tuple[str, str]], figure_name: str, path: Path) -> None:
    """A chart for each workload, three in a row."""
    shown = [name for name in charts if name in results]
    columns = min(len(shown), 3)
    rows = -(-len(shown) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(3.5 * columns, 2.9 * rows), squeeze=False)
    for axis in axes.flat[len(shown) :]:
        axis.remove()
    for axis, name in zip(axes.flat, shown, strict=False):
        title, unit = charts[name]
        _bar(axis, results[name], figure_name, unit)
        axis.set_title(title, fontsize=10, loc="left")
    _save(figure, path)


def _bar(axis: Any, measured: dict[str, list[dict[str, float]]], figure_name: str, unit: str) -> None:
    names = list(measured)
    values = [[each[figure_name] for each in measured[name]] for name in names]
    middles = [median(each) for each in values]
    spread = [
        [middle - min(each) for middle, each in zip(middles, values, strict=True)],
        [max(each) - middle for middle, each in zip(middles, values, strict=True)],
    ]
    colours = [COLOURS[name] for name in names]
    axis.barh(names, middles, xerr=spread, height=0.7, color=colours, ecolor="#5f6368", capsize=2)
    axis.invert_yaxis()
    if max(middles) > _LOG_ABOVE * min(middles):
        axis.set_xscale("log")
        axis.set_xlim(min(middles) / 5, max(map(max, values)) * 8)
        axis.xaxis.set_major_formatter("{x:g}")
        axis.minorticks_off()
        unit += ", logarithmic"
    else:
        axis.set_xlim(0, max(map(max, values)) * 1.25)
    axis.set_xlabel(unit)
    for row, (middle, each) in enumerate(zip(middles, values, strict=True)):
        axis.text(max(each), row, f"  {number(middle)}", va="center", fontsize=9)


def _curves(grown: dict[str, list[tuple[int, list[float]]]], path: Path) -> None:
    figure, axes = plt.subplots(2, 3, figsize=(10.5, 5.6))
    for axis in axes.flat[len(grown) :]:
        axis.remove()
    for axis, (name, points) in zip(axes.flat, grown.items(), strict=False):
        sizes = [size for size, _ in points]
        lowest, middles, highest = ([of(values) for _, values in points] for of in (min, median, max))
        axis.fill_between(sizes, lowest, highest, alpha=0.2, color=COLOURS["edge"])
        axis.plot(sizes, middles, marker="o", markersize=4, color=COLOURS["edge"])
        title, size, unit = _GROWTH_CHARTS[name]
        if name != "heartbeats":  # they grow with the streams, which only a linear axis shows as a line
            axis.set_xscale("log")
        axis.xaxis.set_major_formatter("{x:,.0f}")
        axis.set_ylim(bottom=0, top=max(highest) * 1.15)
        axis.set_title(title, fontsize=10, loc="left")
        axis.set_xlabel(size)
        axis.set_ylabel(unit)
    _save(figure, path)


def _soak(samples: list[dict[str, float]], path: Path) -> None:
    figure, axes = plt.subplots(1, 3, figsize=(10.5, 2.9))
    minutes = [sample["minutes"] for sample in samples]
    for axis, (name, (title, unit, divisor)) in zip(axes, _SOAK_CHARTS.items(), strict=True):
        axis.plot(minutes, [sample[name] / divisor for sample in samples], color=COLOURS["edge"])
        axis.set_ylim(bottom=0)
        axis.yaxis.set_major_formatter("{x:,.0f}")
        axis.set_title(f"{title} at rest", fontsize=10, loc="left")
        axis.set_xlabel("minutes")
        axis.set_ylabel(unit)
    _save(figure, path)


def _save(figure: Any, path: Path) -> None:
    figure.tight_layout()
    figure.savefig(path, dpi=110, metadata={"Software": None})
    plt.close(figure)


if __name__ == "__main__":
    sys.exit(main())
