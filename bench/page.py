"""Figures in pages: what stands between `<!-- figures NAME -->` and `<!-- end -->` is written by the benches."""

from __future__ import annotations

import re
from collections.abc import Iterable
from statistics import median


def put(text: str, name: str, lines: Iterable[str]) -> str:
    """`text` with `lines` as the figures called `name`."""
    pattern = re.compile(rf"(<!-- figures {name} -->\n).*?(<!-- end -->)", re.DOTALL)
    return pattern.sub(lambda match: match[1] + "\n".join(lines) + "\n" + match[2], text)


def described(machine: dict[str, str]) -> list[str]:
    """Where and when it was measured, as a list."""
    return [f"- {name}: {value}" for name, value in machine.items()]


def spread(values: list[float]) -> str:
    """Median, and the lowest and highest round."""
    if not values:
        return "-"
    low, middle, high = min(values), median(values), max(values)
    return number(middle) if low == high else f"{number(middle)} ({number(low)} - {number(high)})"


def number(value: float) -> str:
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"
