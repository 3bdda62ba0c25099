"""Draws the dashboard's main panels into docs/images/dashboard.png, from what a Prometheus scrapes of a hub under load.

    python monitoring/draw_dashboard.py [SECONDS]

Needs matplotlib (the dependency group `bench`) and Debian's prometheus. Titles, expressions, legends and units are read
from grafana/edge.json: what is drawn is what Grafana asks.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))
from tests.observability import live  # noqa: E402 - found only now

PICTURE = HERE.parent / "docs/images/dashboard.png"
SHOWN = (
    "Events published and delivered",
    "Open streams by instance",
    "Misses, recovered and lost",
    "Streams closed, by reason",
    "Streams refused, by error code",
    "Triggers, by outcome",
    "Time triggers waited",
    "Trigger wait, p50 and p95",
    "Events evicted, by reason",
)
PANELS = {
    panel["title"]: panel for panel in json.loads((HERE / "grafana/edge.json").read_text(encoding="utf-8"))["panels"]
}
UNITS = {"ops": "{:g}/s", "s": "{:g} s", "bytes": "{:.3g} B", "percentunit": "{:.0%}", "short": "{:g}"}
BACKGROUND, TEXT, GRID = "#181b1f", "#ccccdc", "#2c3235"
COLOURS = {"text": TEXT, "orange": "#ff9830", "red": "#f2495c"}
STROKES = ((3.2, "-"), (1.4, "--"), (1.4, "-"))
"""Widths and patterns of the lines of one panel: two that have the same values are both seen."""


async def measure(seconds: float) -> dict[str, list[tuple[str, list[dict[str, Any]]]]]:
    """For each shown panel its queries, as `(legend, series)`."""
    panels = PANELS.values()
    environ = {
        "EDGE_STREAM_MAX_LIFETIME_SECONDS": "20s",
        "EDGE_STREAM_HEARTBEAT_SECONDS": "1s",
        "EDGE_RING_MAX_EVENTS": "20",
    }
    with tempfile.TemporaryDirectory() as folder:
        async with (
            live.hub(environ) as url,
            live.prometheus(Path(folder), live.host(url), interval="1s") as prometheus,
        ):
            await asyncio.sleep(6)  # Prometheus takes five seconds before it scrapes a target at all
            begin = time.time()
            third = seconds / 3
            for pace in (4.0, 20.0, 8.0):
                await live.load(url, third, pace=pace)
            end = time.time()
            found = {}
            for panel in panels:
                if panel["title"] in SHOWN or panel["type"] == "stat":
                    found[panel["title"]] = [
                        (
                            target["legendFormat"],
                            await prometheus.history(live.asked(target["expr"], "10s"), begin, end, 1),
                        )
                        for target in panel["targets"]
                    ]
            return found


def draw(found: dict[str, list[tuple[str, list[dict[str, Any]]]]]) -> None:
    plt.rcParams.update({"text.color": TEXT, "axes.labelcolor": TEXT, "xtick.color": TEXT, "ytick.color": TEXT})
    figure = plt.figure(figsize=(15, 10.5), facecolor="#111217", layout="constrained")
    top, below = figure.subfigures(2, 1, height_ratios=(1, 9), facecolor="#111217")
    stats = [panel for panel in PANELS.values() if panel["type"] == "stat"]
    for panel, axis in zip(stats, top.subplots(1, len(stats)).flat, strict=True):
        _stat(axis, panel, found[panel["title"]][0][1])
    for title, axis in zip(SHOWN, below.subplots(3, 3).flat, strict=True):
        panel = PANELS[title]
        axis.set_facecolor(BACKGROUND)
        axis.set_title(title, loc="left", fontsize=10, fontweight="bold")
        axis.tick_params(labelsize=8)
        axis.xaxis.set_major_formatter(FuncFormatter(lambda at, _: time.strftime("%H:%M:%S", time.localtime(at))))
        axis.locator_params(axis="x", nbins=5)
        for side in axis.spines.values():
            side.set_color(GRID)
        if panel["type"] == "heatmap":
            _heatmap(axis, found[title][0][1])
            continue
        axis.grid(color=GRID, linewidth=0.6)
        unit = UNITS[panel["fieldConfig"]["defaults"]["unit"]]
        axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _, unit=unit: unit.format(value)))
        _lines(axis, found[title], stacked=panel["fieldConfig"]["defaults"]["custom"]["stacking"]["mode"] == "normal")
    PICTURE.parent.mkdir(exist_ok=True)
    figure.savefig(PICTURE, dpi=80, pil_kwargs={"optimize": True})


def _stat(axis: Axes, panel: dict[str, Any], series: list[dict[str, Any]]) -> None:
    value = float(series[-1]["values"][-1][1])
    defaults = panel["fieldConfig"]["defaults"]
    colour = [
        step["color"] for step in defaults["thresholds"]["steps"] if step["value"] is None or value >= step["value"]
    ]
    axis.set_facecolor(BACKGROUND)
    axis.set(xticks=[], yticks=[])
    for side in axis.spines.values():
        side.set_color(GRID)
    axis.set_title(panel["title"], loc="left", fontsize=8, fontweight="bold")
    text = UNITS[defaults["unit"]].format(round(value, 3))
    axis.text(0.5, 0.45, text, fontsize=19, ha="center", va="center", color=COLOURS[colour[-1]])


def _lines(axis: Axes, queries: list[tuple[str, list[dict[str, Any]]]], *, stacked: bool) -> None:
    curves = []
    for legend, series in queries:
        for one in series:
            name = legend
            for label, value in one["metric"].items():
                # A port that the test took is not a name for a hub.
                name = name.replace("{{" + label + "}}", "hub-1" if label == "instance" else value)
            times, values = _points(one)
            if not stacked or np.nanmax(values) > 0:  # what never happened would only fill the legend
                curves.append((name, times, values))
    if stacked and curves:
        axis.stackplot(
            curves[0][1], [np.nan_to_num(values) for _, _, values in curves], labels=[c[0] for c in curves], alpha=0.75
        )
    else:
        for number, (name, times, values) in enumerate(curves):
            width, style = STROKES[min(number, len(STROKES) - 1)]
            axis.plot(times, values, label=name, linewidth=width, linestyle=style)
    axis.set_ylim(bottom=0)
    axis.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.1), frameon=False, labelcolor=TEXT, ncols=4)


def _heatmap(axis: Axes, series: list[dict[str, Any]]) -> None:
    bounds = sorted(series, key=lambda one: float(one["metric"]["le"]))
    below = np.array([np.nan_to_num(_points(one)[1]) for one in bounds])
    each = np.diff(below, axis=0, prepend=0)
    seen = np.ma.masked_less_equal(each, 0)
    axis.pcolormesh(_points(bounds[0])[0], np.arange(len(bounds)), seen, cmap="inferno", shading="nearest")
    axis.set_yticks(np.arange(len(bounds)), [one["metric"]["le"] for one in bounds], fontsize=7)
    axis.set_ylabel("seconds, at the most", fontsize=8)


def _points(one: dict[str, Any]) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    times = np.array([when for when, _ in one["values"]])
    return times, np.array([float(value) for _, value in one["values"]])


if __name__ == "__main__":
    draw(asyncio.run(measure(float(sys.argv[1]) if len(sys.argv) > 1 else 120.0)))
