"""The hub's integers as Prometheus metrics: one collector that reads them at each scrape.

Nothing is counted here, so a scrape costs the same with one connection and with ten thousand. No label holds a project
id, but for the busiest few with `metrics.top_projects`. Types, labels and help texts are in `edge/static/metrics.json`;
each text says what to do with the number.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Iterator, Mapping
from importlib import resources
from itertools import accumulate
from typing import Any, TypeAlias

import msgspec
from prometheus_client import CollectorRegistry, GCCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4 as PLAIN
from prometheus_client.exposition import generate_latest as generate_plain
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics.exposition import CONTENT_TYPE_LATEST as OPENMETRICS
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics

from edge import __version__
from edge.core.counters import Histogram, TriggerCounters
from edge.core.hub import Hub
from edge.core.idempotency import Receipts
from edge.logs import setup
from edge.metrics.busiest import BusiestProjects
from edge.metrics.process import ProcessCollector

_METRICS = {
    name: (each["type"], each["labels"], each["help"])
    for name, each in json.loads(resources.files("edge").joinpath("static/metrics.json").read_bytes()).items()
}
Value: TypeAlias = float | Histogram | Mapping[Any, float]
"""A mapping is by label, or by labels."""
OTHERS = "_other"
"""The label of all projects that have none of their own; no project id begins so."""


LIMITS = (
    "limits.max_connections",
    "limits.max_projects",
    "limits.max_waiting",
    "limits.max_idempotency_keys",
    "ring.total_bytes",
)
"""The settings that `edge_limit` shows."""


class Watched(msgspec.Struct, frozen=True):
    """What is read at each scrape. `limits` are by the setting's name, `webhook` gives attempts and retries, `store`
    whether it is available and its errors, `rejected_messages` how many messages of other nodes could not be decoded,
    `task_failures` the exceptions in each background task, `hooks` the webhooks by outcome and those that wait.
    """

    hub: Hub
    clock: Callable[[], float]
    triggers: TriggerCounters
    receipts: Receipts
    waiting: Callable[[], int]
    webhook: Callable[[], tuple[int, int]]
    store: Callable[[], tuple[bool, int]]
    loop_lag_seconds: Histogram
    limits: Callable[[], Mapping[str, float]]
    task_failures: Mapping[str, int]
    hooks: Callable[[], tuple[Mapping[str, int], int]]
    top: BusiestProjects | None = None
    rejected_messages: Callable[[], int] = lambda: 0


class HubCollector:
    """Reads the hub at each scrape."""

    def __init__(self, watched: Watched) -> None:
        self._watched = watched

    def collect(self) -> Iterator[Metric]:
        for name, value in self._values():
            yield _family(name, value)

    def _values(self) -> Iterator[tuple[str, Value]]:
        """Each metric with its value, in the order of the exposition."""
        watched, hub, receipts = self._watched, self._watched.hub, self._watched.receipts
        counters, misses = hub.counters, hub.counters.misses
        yield "connections", len(hub.connections)
        yield "observers", len(hub.observers)
        yield "connections_added", counters.added
        yield "connections_removed", counters.removed
        yield "dead_detection_seconds", counters.dead_detection_seconds
        yield "connections_rejected", counters.rejected
        if not misses.reported_elsewhere:
            yield "misses", misses.misses
            yield "misses_recovered", misses.recovered
            yield "misses_lost", misses.lost
            yield "misses_pending", misses.pending
        oldest = counters.oldest_miss.oldest()
        age_seconds = 0.0 if oldest is None else round(max(0.0, watched.clock() - oldest), 3)
        yield "misses_oldest_pending_seconds", age_seconds
        yield "events_published", counters.published
        yield "events_delivered", counters.delivered
        yield "events_replayed", counters.replayed
        yield "gaps", counters.gaps
        yield "heartbeats", counters.heartbeats
        yield "triggers", watched.triggers.outcomes
        yield "trigger_wait_seconds", watched.triggers.wait_seconds
        yield from zip(("webhook_attempts", "webhook_retries"), watched.webhook(), strict=True)
        yield "waiting", watched.waiting()
        yield from zip(("hooks", "hooks_queued"), watched.hooks(), strict=True)
        yield "projects", len(hub.projects)
        yield "projects_displaced", counters.projects_displaced
        yield "ring_events", counters.ring_events
        yield "ring_bytes", counters.ring_memory_bytes
        yield "ring_evicted", counters.evicted
        yield "idempotency_keys", len(receipts)
        yield "idempotency_keys_refused", receipts.refused
        yield from zip(("store_available", "store_errors"), watched.store(), strict=True)
        yield "cluster_messages_rejected", watched.rejected_messages()
        yield "draining", hub.draining
        yield "limit", watched.limits()
        yield from _busiest(watched.top)
        yield "log_lines_dropped", setup.dropped_lines
        yield "loop_lag_seconds", watched.loop_lag_seconds
        yield "background_task_failures", watched.task_failures
        yield "build_info", {(__version__, platform.python_version()): 1}


def _busiest(top: BusiestProjects | None) -> Iterator[tuple[str, Value]]:
    if top is not None:
        figures = {OTHERS if each.project is None else each.project: each for each in top.figures()}
        yield "project_connections", {name: each.connections for name, each in figures.items()}
        yield "project_events_published", {name: each.published for name, each in figures.items()}
        yield "project_misses", {name: each.misses for name, each in figures.items()}


def _family(name: str, value: Value) -> Metric:
    kind, labels, help_text = _METRICS[name]
    if isinstance(value, Histogram):
        return HistogramMetricFamily(f"edge_{name}", help_text, buckets=_buckets(value), sum_value=value.total)
    family = (GaugeMetricFamily if kind == "gauge" else CounterMetricFamily)(f"edge_{name}", help_text, labels=labels)
    for label, number in value.items() if isinstance(value, Mapping) else (((), value),):
        family.add_metric((label,) if isinstance(label, str) else label, number)
    return family


def _buckets(histogram: Histogram) -> list[tuple[str, float]]:
    bounds = (*map(str, histogram.bounds), "+Inf")
    return list(zip(bounds, accumulate(histogram.counts), strict=True))


class Exposition:
    """The registry of one process, and its text."""

    def __init__(self, watched: Watched) -> None:
        self.watched = watched
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(HubCollector(watched))
        self._registry.register(ProcessCollector())
        GCCollector(registry=self._registry)

    def text(self, accept: str) -> tuple[bytes, str]:
        """`(body, content type)`: OpenMetrics where `Accept` names it, else the plain format."""
        if "application/openmetrics-text" in accept:
            body: bytes = generate_openmetrics(self._registry)  # type: ignore[no-untyped-call]
            return body, OPENMETRICS
        return generate_plain(self._registry), PLAIN
