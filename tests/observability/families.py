"""Every metric the code can show: the hub's with all options on."""

from __future__ import annotations

from typing import NamedTuple

from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from tests.observability.rig import running


class Shown(NamedTuple):
    """A metric as it is scraped: a counter's name ends in `_total`."""

    name: str
    kind: str
    labels: tuple[str, ...]
    help: str


async def families() -> list[Shown]:
    """In the order of the exposition."""
    async with running(metrics={"top_projects": 1}) as hub:
        text, _ = hub.context.exposition("application/openmetrics-text")
    found = text_string_to_metric_families(text.decode())  # type: ignore[no-untyped-call]
    return [_shown(metric) for metric in found if not metric.name.startswith("python_gc_")]


def _shown(metric: Metric) -> Shown:
    labels = {label for sample in metric.samples for label in sample.labels} - {"le"}
    name = f"{metric.name}_total" if metric.type == "counter" else metric.name
    return Shown(name, metric.type, tuple(sorted(labels)), metric.documentation)
