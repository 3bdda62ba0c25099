"""The hub's integers as Prometheus metrics: one collector that reads them at each scrape.

Nothing is counted here, so a scrape costs the same with one connection and with ten thousand. No label holds a project
id, but for the busiest few with `metrics.top_projects`. Types, labels and help texts are in `edge/static/metrics.json`;
each text says what to do with the number.
"""

from __future__ import annotations

import json
import os
import platform
import resource
from collections.abc import Callable, Iterator, Mapping
from importlib import resources
from itertools import accumulate
from pathlib import Path
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

_METRICS = {
    name: (each["type"], each["labels"], each["help"])
    for name, each in json.loads(resources.files("edge").joinpath("static/metrics.json").read_bytes()).items()
}
_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = resource.getpagesize()
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


# --- the process ---


class ProcessCollector:
    """The usual `process_*`, from `/proc/self/stat`; where there is none (not Linux) it has nothing to show.

    prometheus_client's own collector lists `/proc/self/fd` at each scrape: with 10,000 streams that held the loop for 9
    to 28 ms (measured). Since Linux 6.2 the folder's size is the number of its entries, and asking for it takes 2 µs;
    before that it has to be listed here, too. Invariant: `/metrics` answers when no file descriptor is left to read
    them with; they are left out then.
    """

    def __init__(self) -> None:
        self._booted_seconds = _boot_time_seconds()

    def collect(self) -> Iterator[Metric]:
        try:
            stat = Path("/proc/self/stat").read_bytes()
        except OSError:
            return
        # What follows the last bracket: the name of the program may hold anything, spaces and brackets too.
        fields = stat.rpartition(b")")[2].split()
        yield GaugeMetricFamily("process_virtual_memory_bytes", "Virtual memory size in bytes.", float(fields[20]))
        yield GaugeMetricFamily(
            "process_resident_memory_bytes", "Resident memory size in bytes.", float(fields[21]) * _PAGE_BYTES
        )
        yield GaugeMetricFamily(
            "process_start_time_seconds",
            "Start time of the process since unix epoch in seconds. A change is a restart.",
            float(fields[19]) / _TICKS + self._booted_seconds,
        )
        yield CounterMetricFamily(
            "process_cpu_seconds",
            "Total user and system CPU time spent in seconds. Near 1 a second the hub is full: it uses one core.",
            (float(fields[11]) + float(fields[12])) / _TICKS,
        )
        open_fds = open_descriptors()
        if open_fds is not None:
            yield GaugeMetricFamily(
                "process_open_fds", "Number of open file descriptors; a stream takes one.", float(open_fds)
            )
        yield GaugeMetricFamily(
            "process_max_fds",
            "Maximum number of open file descriptors: keep limits.max_connections below it.",
            float(resource.getrlimit(resource.RLIMIT_NOFILE)[0]),
        )


def resident_bytes() -> int | None:
    """Resident memory of the process; None where there is no `/proc`, or no descriptor left to read it with."""
    try:
        return int(Path("/proc/self/statm").read_bytes().split()[1]) * _PAGE_BYTES
    except OSError:
        return None


def open_descriptors() -> int | None:
    """How many descriptors the process has open; None where that takes a descriptor, and none is left."""
    try:
        return os.stat("/proc/self/fd").st_size or len(os.listdir("/proc/self/fd"))  # noqa: PTH116, PTH208 - the cheap way
    except OSError:
        return None


def _boot_time_seconds() -> float:
    try:
        lines = Path("/proc/stat").read_bytes().splitlines()
    except OSError:
        lines = []
    return next((float(line.split()[1]) for line in lines if line.startswith(b"btime ")), 0.0)
