"""The hub's integers as Prometheus metrics: one collector that reads them at each scrape.

Nothing is counted here, so a scrape costs the same with one connection and with ten thousand. No label holds a project
id, but for the busiest few with `metrics.top_projects`. Types, labels and help texts are in `edge/static/metrics.json`;
each text says what to do with the number.
"""

from __future__ import annotations

import heapq
import json
import os
import platform
import resource
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from importlib import resources
from itertools import accumulate
from pathlib import Path
from typing import Any, TypeAlias, cast

from prometheus_client import CollectorRegistry, GCCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4 as PLAIN
from prometheus_client.exposition import generate_latest as generate_plain
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics.exposition import CONTENT_TYPE_LATEST as OPENMETRICS
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics

from edge import __version__
from edge.config.schema import value_of
from edge.core.counters import Histogram
from edge.core.hub import Hub
from edge.core.project import Project
from edge.http.context import Context
from edge.logs import setup
from edge.server.event_loop import EventLoopDriver
from edge.triggers.hooks import OUTCOMES, Hooks
from edge.triggers.webhook import WebhookTarget

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
PROJECTS_A_LOOK = 2000
"""How many projects one look for the busiest goes through: about two milliseconds."""
LIMITS = (
    "limits.max_connections",
    "limits.max_projects",
    "limits.max_waiting",
    "limits.max_idempotency_keys",
    "ring.total_bytes",
)
"""The settings that `edge_limit` shows."""


def exposition(context: Context, driver: EventLoopDriver, hooks: Hooks | None) -> Callable[[str], tuple[bytes, str]]:
    """What answers `/metrics`: from `Accept` to `(body, content type)`, OpenMetrics where it is named."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(HubCollector(context, driver, hooks))
    registry.register(ProcessCollector())
    GCCollector(registry=registry)

    def text(accept: str) -> tuple[bytes, str]:
        if "application/openmetrics-text" in accept:
            body: bytes = generate_openmetrics(registry)  # type: ignore[no-untyped-call]
            return body, OPENMETRICS
        return generate_plain(registry), PLAIN

    return text


class HubCollector:
    """Reads the hub at each scrape."""

    def __init__(self, context: Context, driver: EventLoopDriver, hooks: Hooks | None) -> None:
        self._context = context
        self._loop_lag_seconds = driver.lag_seconds
        self._hooks = hooks
        self._busiest: BusiestProjects | None = None
        if count := context.config.metrics.top_projects:
            self._busiest = BusiestProjects(context.hub, count)
            driver.each_second.append(self._busiest.look)

    def collect(self) -> Iterator[Metric]:
        for name, value in self._values():
            yield _family(f"edge_{name}", value)

    def _values(self) -> Iterator[tuple[str, Value]]:
        """Each metric with its value, in the order of the exposition."""
        context, hub, receipts = self._context, self._context.hub, self._context.receipts
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
        age_seconds = 0.0 if oldest is None else round(max(0.0, context.clock() - oldest), 3)
        yield "misses_oldest_pending_seconds", age_seconds
        yield "events_published", counters.published
        yield "events_delivered", counters.delivered
        yield "events_replayed", counters.replayed
        yield "gaps", counters.gaps
        yield "heartbeats", counters.heartbeats
        yield "triggers", context.triggers.outcomes
        yield "trigger_wait_seconds", context.triggers.wait_seconds
        # Of the targets that a reload has replaced, too: it doesn't turn the counters back.
        webhooks = [target for target in context.targets if isinstance(target, WebhookTarget)]
        yield "webhook_attempts", sum(target.attempts for target in webhooks)
        yield "webhook_retries", sum(target.retries for target in webhooks)
        yield "waiting", context.readiness.waiting
        yield "hooks", dict.fromkeys(OUTCOMES, 0) if self._hooks is None else self._hooks.outcomes
        yield "hooks_queued", 0 if self._hooks is None else self._hooks.queued
        yield "projects", len(hub.projects)
        yield "projects_displaced", counters.projects_displaced
        yield "ring_events", counters.ring_events
        yield "ring_bytes", counters.ring_memory_bytes
        yield "ring_evicted", counters.evicted
        yield "idempotency_keys", len(receipts)
        yield "idempotency_keys_refused", receipts.refused
        yield "store_available", context.store_problem is None
        yield "store_errors", context.store.errors
        yield "cluster_messages_rejected", context.nodes.rejected_messages
        yield "draining", hub.draining
        limits = {key: cast(float, value_of(context.config, key)) for key in LIMITS}
        # Lower than its setting after memory was low.
        yield "limit", limits | {"ring.total_bytes": hub.limits.total_bytes}
        if self._busiest is not None:
            figures = self._busiest.figures()
            for column, name in enumerate(("connections", "events_published", "misses")):
                yield f"project_{name}", {project: each[column] for project, each in figures.items()}
        yield "log_lines_dropped", setup.dropped_lines
        yield "loop_lag_seconds", self._loop_lag_seconds
        yield "background_task_failures", context.supervisor.failures
        yield "build_info", {(__version__, platform.python_version()): 1}


def _family(name: str, value: Value) -> Metric:
    kind, labels, help_text = _METRICS[name]
    if isinstance(value, Histogram):
        bounds = (*map(str, value.bounds), "+Inf")
        buckets = list(zip(bounds, accumulate(value.counts), strict=True))
        return HistogramMetricFamily(name, help_text, buckets=buckets, sum_value=value.total)
    family = (GaugeMetricFamily if kind == "gauge" else CounterMetricFamily)(name, help_text, labels=labels)
    for label, number in value.items() if isinstance(value, Mapping) else (((), value),):
        family.add_metric((label,) if isinstance(label, str) else label, number)
    return family


# --- the busiest projects ---


class BusiestProjects:
    """The few projects with most connections (among equals, those that published most), picked a slice at a time, and
    what they have counted since they were picked.

    A counter may not fall, or Prometheus takes the fall for a restart and shows a burst that never was. So a project's
    count begins at zero when it is picked, and what was shown under its name stays out of "the others" for good.
    Invariant: whatever is counted is shown once: under its project's name, or among the others. The others never fall.
    """

    def __init__(self, hub: Hub, count: int) -> None:
        self._hub = hub
        self._count = count
        self._picked: dict[str, tuple[Project, int, int]] = {}
        """By name: the project, and what it had published and missed when it was picked."""
        self._dropped = (0, 0, 0)
        """What was shown of projects that are no longer picked."""
        self._round: list[Project] = []
        self._best: list[Project] = []

    def look(self, _now: float) -> None:
        """Go through the next slice of projects; at the end of a round, pick anew. Call it about once a second."""
        if not self._round:
            self._round = list(self._hub.projects.values())
        part = self._round[-PROJECTS_A_LOOK:]
        del self._round[-PROJECTS_A_LOOK:]
        self._best = heapq.nlargest(
            self._count,
            [*self._best, *part],
            key=lambda project: (len(project.connections), project.published, project.name),
        )
        if not self._round:
            self._pick({each.name: each for each in self._best if self._hub.projects.get(each.name) is each})
            self._best = []

    def figures(self) -> dict[str, tuple[int, ...]]:
        """`(connections, events published, misses)` of each picked project, and last of `OTHERS`."""
        shown = {name: _since(*picked) for name, picked in self._picked.items()}
        counters = self._hub.counters
        totals = (len(self._hub.connections), counters.published, counters.misses.misses)
        columns = zip(totals, self._dropped, *shown.values(), strict=True)
        return shown | {OTHERS: tuple(total - sum(apart) for total, *apart in columns)}

    def _pick(self, best: dict[str, Project]) -> None:
        for name, picked in list(self._picked.items()):
            if best.get(name) is not picked[0]:
                _, published, misses = _since(*picked)
                self._dropped = (0, self._dropped[1] + published, self._dropped[2] + misses)
                del self._picked[name]
        for name, project in best.items():
            self._picked.setdefault(name, (project, project.published, project.ledger.misses))


def _since(project: Project, published: int, misses: int) -> tuple[int, ...]:
    return len(project.connections), project.published - published, project.ledger.misses - misses


# --- the process ---


class ProcessCollector:
    """The usual `process_*`, from `/proc/self/stat`; where there is none (not Linux) it has nothing to show.

    prometheus_client's own collector lists `/proc/self/fd` at each scrape: with 10,000 streams that held the loop for 9
    to 28 ms (measured). Since Linux 6.2 the folder's size is the number of its entries, and asking for it takes 2 µs;
    before that it has to be listed here, too. Invariant: `/metrics` answers when no file descriptor is left to read
    them with; they are left out then.
    """

    def __init__(self) -> None:
        try:
            lines = Path("/proc/stat").read_bytes().splitlines()
        except OSError:
            lines = []
        self._booted_seconds = next((float(line.split()[1]) for line in lines if line.startswith(b"btime ")), 0.0)

    def collect(self) -> Iterator[Metric]:
        try:
            stat = Path("/proc/self/stat").read_bytes()
        except OSError:
            return
        # What follows the last bracket: the name of the program may hold anything, spaces and brackets too.
        fields = [float(field) for field in stat.rpartition(b")")[2].split()[1:]]
        yield _family("process_virtual_memory_bytes", fields[19])
        yield _family("process_resident_memory_bytes", fields[20] * _PAGE_BYTES)
        yield _family("process_start_time_seconds", fields[18] / _TICKS + self._booted_seconds)
        yield _family("process_cpu_seconds", (fields[10] + fields[11]) / _TICKS)
        with suppress(OSError):
            open_fds = os.stat("/proc/self/fd").st_size or len(os.listdir("/proc/self/fd"))  # noqa: PTH116, PTH208 - a Path for each scrape costs more
            yield _family("process_open_fds", open_fds)
        yield _family("process_max_fds", resource.getrlimit(resource.RLIMIT_NOFILE)[0])
