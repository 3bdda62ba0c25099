"""The hub's integers as Prometheus metrics: one collector that reads them when somebody scrapes.

Nothing is counted here, so a scrape costs the same with one connection and with ten thousand. No label holds a project
id, but for the busiest few where `metrics.top_projects` asks for them. Each help text says what to do with the number.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Iterator, Mapping

import msgspec
from prometheus_client import CollectorRegistry, GCCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4 as PLAIN
from prometheus_client.exposition import generate_latest as generate_plain
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics.exposition import CONTENT_TYPE_LATEST as OPENMETRICS
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics

from edge import __version__
from edge.core.histogram import Histogram
from edge.core.hub import Hub
from edge.core.idempotency import Receipts
from edge.core.ledger import MissTotals
from edge.core.trigger_counters import TriggerCounters
from edge.logs import setup
from edge.metrics.busiest import BusiestProjects
from edge.metrics.process import ProcessCollector

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
    """What is read at each scrape. `limits` are by the setting's name, `webhook` gives attempts and retries,
    `store` whether it is available and its errors, `rejected_messages` how many messages of other nodes were not
    understood, `task_failures` the exceptions in each background task, `hooks` the webhooks by outcome and those
    that wait."""

    hub: Hub
    clock: Callable[[], float]
    triggers: TriggerCounters
    receipts: Receipts
    waiting: Callable[[], int]
    webhook: Callable[[], tuple[int, int]]
    store: Callable[[], tuple[bool, int]]
    loop_lag_seconds: Histogram
    limits: Mapping[str, float]
    task_failures: Mapping[str, int]
    hooks: Callable[[], tuple[Mapping[str, int], int]]
    top: BusiestProjects | None = None
    rejected_messages: Callable[[], int] = lambda: 0


class HubCollector:
    """Reads the hub at each scrape."""

    def __init__(self, watched: Watched) -> None:
        self._watched = watched

    def collect(self) -> Iterator[Metric]:
        yield from self._readers()
        yield from self._misses()
        yield from self._events()
        yield from self._triggers()
        yield from self._hooks()
        yield from self._bounds()
        if self._watched.top is not None:
            yield from _top(self._watched.top)
        yield _counter(
            "log_lines_dropped",
            "Log lines dropped as nobody read them. Growing: what reads standard error is stuck or too slow.",
            setup.dropped_lines,
        )
        yield _histogram(
            "loop_lag_seconds",
            "How late the hub's beat came. Above a tenth of a second: the process lacks CPU, or is flooded.",
            self._watched.loop_lag_seconds,
        )
        yield _labelled(
            "background_task_failures",
            "Exceptions in background tasks, by task. Each is a bug: the log line background_task_failed has it, and "
            "the page on operations says how the hub goes on.",
            "task",
            self._watched.task_failures,
        )
        build = GaugeMetricFamily(
            "edge_build_info", "1, with the versions that run as labels.", labels=("version", "python")
        )
        build.add_metric((__version__, platform.python_version()), 1)
        yield build

    def _readers(self) -> Iterator[Metric]:
        hub, counters = self._watched.hub, self._watched.hub.counters
        yield _gauge("connections", "Open streams. Zero while triggers arrive: nobody listens.", len(hub.connections))
        yield _gauge(
            "observers", "Open streams that only look (`?observe=true`): they count as nothing.", len(hub.observers)
        )
        yield _counter(
            "connections_added",
            "Streams opened. Much faster than edge_connections changes: readers come back again and again, so look at "
            "why they leave (edge_connections_removed_total).",
            counters.added,
        )
        yield _labelled(
            "connections_removed",
            "Streams that ended, by why. client: it closed. dead: its network vanished. slow: it did not keep up. "
            "error: its transport failed. lifetime, expired, finished, deleted, restart, shutdown: the hub ended it.",
            "reason",
            counters.removed,
        )
        yield _histogram(
            "dead_detection_seconds",
            "From the last sign of life of a vanished peer to its removal. Too long: lower stream.dead_after_seconds.",
            counters.dead_detection_seconds,
        )
        yield _labelled(
            "connections_rejected",
            "Streams refused, by the error code they got; the page on errors says what to do about each. Their pages "
            "show nothing.",
            "reason",
            counters.rejected,
        )

    def _misses(self) -> Iterator[Metric]:
        misses = self._watched.hub.counters.misses
        yield from () if misses.reported_elsewhere else self._miss_totals(misses)
        oldest = self._watched.hub.counters.oldest_miss.oldest()
        yield _gauge(
            "misses_oldest_pending_seconds",
            "Age of the oldest pending miss, 0 if there is none. At ring.max_age_seconds it is lost.",
            0.0 if oldest is None else round(max(0.0, self._watched.clock() - oldest), 3),
        )

    @staticmethod
    def _miss_totals(misses: MissTotals) -> Iterator[Metric]:
        yield _counter(
            "misses",
            "Events published while nobody was connected, or written only to readers that were lost before they had "
            "them. Growing while triggers succeed: look at edge_connections_removed_total.",
            misses.misses,
        )
        yield _counter(
            "misses_recovered",
            "Missed events that a later reader got. As fast as edge_misses_total: readers come late, but lose nothing.",
            misses.recovered,
        )
        yield _counter(
            "misses_lost",
            "Missed events evicted before anybody got them. Growing: raise ring.* as edge_ring_evicted_total says.",
            misses.lost,
        )
        yield _gauge(
            "misses_pending",
            "Missed events held for the next reader. Growing: readers don't come at all.",
            misses.pending,
        )

    def _events(self) -> Iterator[Metric]:
        counters = self._watched.hub.counters
        yield _counter("events_published", "Events taken. Standing still: look at the publishers.", counters.published)
        yield _counter(
            "events_delivered",
            "Events written to streams: one event to ten readers counts ten. Standing still while events are "
            "published: nobody listens.",
            counters.delivered,
        )
        yield _counter(
            "events_replayed",
            "Of those delivered, the ones from before the reader came. A large share: readers drop and come back.",
            counters.replayed,
        )
        yield _labelled(
            "gaps",
            "Times a reader was told that history it asked for is gone, by why. evicted: raise ring.*. restart: the "
            "hub began anew. unknown: it asked for an id this hub never gave.",
            "reason",
            counters.gaps,
        )
        yield _counter(
            "heartbeats",
            "Heartbeats written to quiet streams. Standing still while streams are open and quiet: the process hangs.",
            counters.heartbeats,
        )

    def _triggers(self) -> Iterator[Metric]:
        triggers = self._watched.triggers
        yield _labelled(
            "triggers",
            "Triggers, by what became of them. no_connection: nobody came in time, ask explain. failed: the target did "
            "not take the job. cancelled: the caller left while waiting. replayed: answered from memory.",
            "outcome",
            triggers.outcomes,
        )
        yield _histogram(
            "trigger_wait_seconds",
            "How long triggers waited for a confirmed connection. Near trigger.wait_seconds: readers connect too late.",
            triggers.wait_seconds,
        )
        attempts, retries = self._watched.webhook()
        yield _counter(
            "webhook_attempts",
            "Requests sent to trigger.url. More than triggers: see edge_webhook_retries_total.",
            attempts,
        )
        yield _counter(
            "webhook_retries",
            "Of those, the repeated ones. Growing: the target answers 429 or 5xx, or not at all.",
            retries,
        )
        yield _gauge(
            "waiting",
            "Requests that wait for a reader now. limits.max_waiting bounds them.",
            self._watched.waiting(),
        )

    def _hooks(self) -> Iterator[Metric]:
        outcomes, queued = self._watched.hooks()
        yield _labelled(
            "hooks",
            "Webhooks to hooks.url, by outcome. failed: the receiver did not accept it after all retries. dropped: too "
            "many were waiting, or the hub stopped.",
            "outcome",
            outcomes,
        )
        yield _gauge("hooks_queued", "Webhooks that wait to be sent. Growing: the receiver is too slow.", queued)

    def _bounds(self) -> Iterator[Metric]:
        hub, receipts = self._watched.hub, self._watched.receipts
        counters = hub.counters
        yield _gauge("projects", "Projects the hub knows. limits.max_projects bounds them.", len(hub.projects))
        yield _gauge(
            "ring_events", "Events held for replay. Falling to 0 without a restart: they aged.", counters.ring_events
        )
        yield _gauge(
            "ring_bytes",
            "Memory of events held for replay: their bytes, and 96 for each. At ring.total_bytes the project idle "
            "longest loses its history.",
            counters.ring_memory_bytes,
        )
        yield _labelled(
            "ring_evicted",
            "Events given up, by which bound. count, bytes: raise ring.max_*. age: as configured. total: raise "
            "ring.total_bytes. deleted: somebody deleted the project.",
            "reason",
            counters.evicted,
        )
        yield _gauge(
            "idempotency_keys",
            "Idempotency keys remembered. limits.max_idempotency_keys bounds them.",
            len(receipts),
        )
        yield _counter(
            "idempotency_keys_refused",
            "Keys refused as limits.max_idempotency_keys was reached. Raise it, or lower limits.idempotency_seconds.",
            receipts.refused,
        )
        available, errors = self._watched.store()
        yield _gauge("store_available", "1 while history can be kept, 0 while publishing is refused for it.", available)
        yield _counter("store_errors", "Times the store could not write. See the store_error log lines.", errors)
        yield _counter(
            "cluster_messages_rejected",
            "Messages from Redis that this node did not understand; no event is lost by one. Growing after all nodes "
            "have the same version: something else publishes to the hub's channels.",
            self._watched.rejected_messages(),
        )
        yield _gauge(
            "draining",
            "1 while the process leaves. For minutes: streams don't end, look at their clients.",
            hub.draining,
        )
        limit = GaugeMetricFamily(
            "edge_limit", "What is configured as the most, by setting: to compare with.", labels=("setting",)
        )
        for setting, value in self._watched.limits.items():
            limit.add_metric((setting,), value)
        yield limit


def _top(top: BusiestProjects) -> Iterable[Metric]:
    connections = GaugeMetricFamily(
        "edge_project_connections",
        "Open streams of the busiest projects (metrics.top_projects); the rest is _other.",
        labels=("project",),
    )
    published = CounterMetricFamily(
        "edge_project_events_published",
        "Events taken since the project became one of the busiest; the rest is _other.",
        labels=("project",),
    )
    misses = CounterMetricFamily(
        "edge_project_misses",
        "Misses since the project became one of the busiest; the rest is _other. Ask explain about a growing one.",
        labels=("project",),
    )
    for figures in top.figures():
        label = (OTHERS if figures.project is None else figures.project,)
        connections.add_metric(label, figures.connections)
        published.add_metric(label, figures.published)
        misses.add_metric(label, figures.misses)
    return connections, published, misses


class Exposition:
    """The registry of one process, and its text."""

    def __init__(self, watched: Watched) -> None:
        self.watched = watched
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(HubCollector(watched))
        self._registry.register(ProcessCollector())
        GCCollector(registry=self._registry)

    def text(self, accept: str) -> tuple[bytes, str]:
        """`(body, content type)`: OpenMetrics for who asks for it, else the plain format."""
        if "application/openmetrics-text" in accept:
            body: bytes = generate_openmetrics(self._registry)  # type: ignore[no-untyped-call]
            return body, OPENMETRICS
        return generate_plain(self._registry), PLAIN


def _gauge(name: str, help_text: str, value: float) -> Metric:
    return GaugeMetricFamily(f"edge_{name}", help_text, value=value)


def _counter(name: str, help_text: str, value: float) -> Metric:
    return CounterMetricFamily(f"edge_{name}", help_text, value=value)


def _labelled(name: str, help_text: str, label: str, values: Mapping[str, int]) -> Metric:
    family = CounterMetricFamily(f"edge_{name}", help_text, labels=(label,))
    for key, value in values.items():
        family.add_metric((key,), value)
    return family


def _histogram(name: str, help_text: str, histogram: Histogram) -> Metric:
    buckets: list[tuple[str, float]] = []
    below = 0
    for bound, count in zip((*histogram.bounds, float("inf")), histogram.counts, strict=True):
        below += count
        buckets.append(("+Inf" if bound == float("inf") else str(bound), below))
    return HistogramMetricFamily(f"edge_{name}", help_text, buckets=buckets, sum_value=histogram.total)
