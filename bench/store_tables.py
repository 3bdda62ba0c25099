"""The tables of docs/durability.md and docs/scaling.md, from what `bench.stores` has measured."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from bench import page
from bench.page import number, spread

Rounds = dict[str, list[Any]]


def publishing(measured: Rounds) -> list[str]:
    stores = list(measured)
    base = measured[stores[0]]
    lines = ["| | " + " | ".join(stores) + " |", "| --- |" + " --- |" * len(stores)]
    for work in base[0]:
        cells = []
        for store in stores:
            rounds = [each[work] for each in measured[store]]
            cell = f"{_middle(rounds, 'cpu_us')} µs"
            if store != stores[0]:
                ratio = [each["cpu_us"] / other[work]["cpu_us"] for each, other in zip(rounds, base, strict=True)]
                low, middle, high = (number(each) for each in (min(ratio), median(ratio), max(ratio)))
                cell += f", **{middle} \N{MULTIPLICATION SIGN}** ({low} - {high})"
            if store == "redis":
                cell += f", Redis {_middle(rounds, 'redis_us')} µs"
            cells.append(f"{cell}, {_middle(rounds, 'per_second')}/s")
        lines.append(f"| {work} | " + " | ".join(cells) + " |")
    return lines


def opening(measured: Rounds) -> list[str]:
    lines = ["| history | segments | listening after, s | of that CPU, s | memory, MiB |", "| --- |" + " ---: |" * 4]
    for history, rounds in measured.items():
        cells = [_middle(rounds, "segments")] + [_spread(rounds, name) for name in ("seconds", "cpu_seconds", "mib")]
        lines.append(f"| {history} | " + " | ".join(cells) + " |")
    return lines


def fan_out(measured: Rounds) -> list[str]:
    lines = [
        "| | publisher's node, µs an event | readers' node, µs a delivery | to one in memory | Redis, µs an event |",
        "| --- |" + " ---: |" * 4,
    ]
    base = next(iter(measured.values()))
    for setup, rounds in measured.items():
        ratio = [each["delivery_us"] / other["delivery_us"] for each, other in zip(rounds, base, strict=True)]
        cells = [_spread(rounds, "publisher_us"), _spread(rounds, "delivery_us"), spread(ratio)]
        lines.append(f"| {setup} | " + " | ".join([*cells, _spread(rounds, "redis_us")]) + " |")
    return lines


def latency(measured: Rounds) -> list[str]:
    lines = ["| | p50, ms | p99, ms |", "| --- | ---: | ---: |"]
    for setup, rounds in measured.items():
        lines.append(f"| {setup} | {_spread(rounds, 'p50_ms')} | {_spread(rounds, 'p99_ms')} |")
    return lines


TABLES: dict[str, Callable[[Rounds], list[str]]] = {
    "publishing": publishing,
    "opening": opening,
    "fan_out": fan_out,
    "latency": latency,
}


def write(results: dict[str, Any], docs: Path) -> None:
    """Put the tables, and where and when they were measured, into the pages in `docs`."""
    for name in ("durability.md", "scaling.md"):
        path = docs / name
        text = page.put(path.read_text(), "machine", page.described(results["machine"]))
        for measurement, table in TABLES.items():
            if measurement in results:
                text = page.put(text, measurement, table(results[measurement]))
        path.write_text(text)


def _middle(rounds: list[dict[str, float]], figure: str) -> str:
    return number(median(each[figure] for each in rounds))


def _spread(rounds: list[dict[str, float]], figure: str) -> str:
    return spread([each[figure] for each in rounds])
