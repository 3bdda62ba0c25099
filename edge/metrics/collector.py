"""The hub's integers as Prometheus metrics: one collector that reads them at each scrape.

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
from edge.core.counters import Histogram, TriggerCounters
from edge.core.hub import Hub
from edge.core.idempotency import Receipts
from edge.core.ledger import MissTotals
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
        yield from self._connections()
        yield from self._misses()
        yield from self._events()
        yield from self._triggers()
        yield from self._hooks()
        yield from self._bounds()
        if self._watched.top is not None:
            yield from _top(self._watched.top)
        yield _counter(
            "log_lines_dropped",
            "Log lines that could not be written. Growing: the process that reads standard error is stuck or too slow.",
            setup.dropped_lines,
        )
        yield _histogram(
            "loop_lag_seconds",
            "How late the hub's periodic tick ran. Above 100 ms: the process lacks CPU, or one task holds the event "
            "loop.",
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
            "edge_build_info", "Always 1; the labels hold the running versions.", labels=("version", "python")
        )
        build.add_metric((__version__, platform.python_version()), 1)
        yield build

    def _connections(self) -> Iterator[Metric]:
        hub, counters = self._watched.hub, self._watched.hub.counters
        yield _gauge(
            "connections", "Open streams. Zero while triggers arrive: no subscriber is connected.", len(hub.connections)
        )
        yield _gauge("observers", "Open streams with ?observe=true. They count as nothing else.", len(hub.observers))
        yield _counter(
            "connections_added",
            "Streams opened. Growing much faster than edge_connections changes: clients reconnect in a loop; see "
            "edge_connections_removed_total for the reason.",
            counters.added,
        )
        yield _labelled(
            "connections_removed",
            "Streams closed, by reason. client: the client closed it. dead: the peer vanished. slow: the peer did not "
            "keep up. error: the transport failed. lifetime, expired, finished, deleted, restart, shutdown: the hub "
            "closed it.",
            "reason",
            counters.removed,
        )
        yield _histogram(
            "dead_detection_seconds",
            "Time from the last acknowledgement of a vanished peer to its removal. Too long: lower "
            "stream.dead_after_seconds.",
            counters.dead_detection_seconds,
        )
        yield _labelled(
            "connections_rejected",
            "Streams refused, by error code; the page on errors says what to do about each.",
            "reason",
            counters.rejected,
        )

    def _misses(self) -> Iterator[Metric]:
        misses = self._watched.hub.counters.misses
        yield from () if misses.reported_elsewhere else self._miss_totals(misses)
        oldest = self._watched.hub.counters.oldest_miss.oldest()
        yield _gauge(
            "misses_oldest_pending_seconds",
            "Age of the oldest pending miss, 0 without one. At ring.max_age_seconds it is lost.",
            0.0 if oldest is None else round(max(0.0, self._watched.clock() - oldest), 3),
        )

    @staticmethod
    def _miss_totals(misses: MissTotals) -> Iterator[Metric]:
        yield _counter(
            "misses",
            "Events published without a connected subscriber, or written only to connections that were lost before "
            "their peer acknowledged them. Growing while triggers succeed: see edge_connections_removed_total.",
            misses.misses,
        )
        yield _counter(
            "misses_recovered",
            "Missed events written to a later connection. As fast as edge_misses_total: subscribers are late, but "
            "lose nothing.",
            misses.recovered,
        )
        yield _counter(
            "misses_lost",
            "Missed events evicted before any subscriber received them. Growing: raise the ring.* limit that "
            "edge_ring_evicted_total names.",
            misses.lost,
        )
        yield _gauge(
            "misses_pending",
            "Missed events held for the next subscriber. Growing: no subscriber connects.",
            misses.pending,
        )

    def _events(self) -> Iterator[Metric]:
        counters = self._watched.hub.counters
        yield _counter("events_published", "Events published. Not growing: check the publishers.", counters.published)
        yield _counter(
            "events_delivered",
            "Events written to streams; one event to ten subscribers counts ten. Not growing while events are "
            "published: no subscriber is connected.",
            counters.delivered,
        )
        yield _counter(
            "events_replayed",
            "Delivered events that were published before the connection. A large share: clients drop and reconnect.",
            counters.replayed,
        )
        yield _labelled(
            "gaps",
            "Gaps reported to subscribers, by reason. evicted: raise the ring.* limits. restart: the history is from "
            "another epoch. unknown: the client sent an id that this hub never issued.",
            "reason",
            counters.gaps,
        )
        yield _counter(
            "heartbeats",
            "Heartbeats written to quiet streams. Not growing while quiet streams are open: the process hangs.",
            counters.heartbeats,
        )

    def _triggers(self) -> Iterator[Metric]:
        triggers = self._watched.triggers
        yield _labelled(
            "triggers",
            "Triggers, by outcome. no_connection: no subscriber was ready in time; ask explain. failed: the target did "
            "not accept the job. cancelled: the caller disconnected while waiting. replayed: a repeated request got "
            "the "
            "first response.",
            "outcome",
            triggers.outcomes,
        )
        yield _histogram(
            "trigger_wait_seconds",
            "Time triggers waited for a confirmed connection. Near trigger.wait_seconds: subscribers connect too late.",
            triggers.wait_seconds,
        )
        attempts, retries = self._watched.webhook()
        yield _counter(
            "webhook_attempts",
            "Requests sent to trigger.url, retries included.",
            attempts,
        )
        yield _counter(
            "webhook_retries",
            "Retries among them. Growing: the target answers 429 or 5xx, or not at all.",
            retries,
        )
        yield _gauge(
            "waiting",
            "Requests that are waiting for a subscriber, bounded by limits.max_waiting.",
            self._watched.waiting(),
        )

    def _hooks(self) -> Iterator[Metric]:
        outcomes, queued = self._watched.hooks()
        yield _labelled(
            "hooks",
            "Webhooks to hooks.url, by outcome. failed: not accepted after all retries. dropped: too many were "
            "waiting, or "
            "the hub stopped.",
            "outcome",
            outcomes,
        )
        yield _gauge("hooks_queued", "Webhooks that wait to be sent. Growing: the receiver is too slow.", queued)

    def _bounds(self) -> Iterator[Metric]:
        hub, receipts = self._watched.hub, self._watched.receipts
        counters = hub.counters
        yield _gauge("projects", "Known projects, bounded by limits.max_projects.", len(hub.projects))
        yield _counter(
            "projects_displaced",
            "Idle projects with nothing pending that gave way to new ones. Growing: raise limits.max_projects, or "
            "lower ring.max_age_seconds.",
            counters.projects_displaced,
        )
        yield _gauge(
            "ring_events", "Events held for replay. Falling to 0 without a restart: they expired.", counters.ring_events
        )
        yield _gauge(
            "ring_bytes",
            "Memory of events held for replay: their bytes, and 96 for each. At ring.total_bytes the history of the "
            "project that is idle longest is evicted.",
            counters.ring_memory_bytes,
        )
        yield _labelled(
            "ring_evicted",
            "Events evicted, by limit. count: ring.max_events. bytes: ring.max_bytes. age: ring.max_age_seconds. "
            "total: ring.total_bytes. memory: memory was low. projects: an idle project gave way to a new one. "
            "deleted: the project was deleted.",
            "reason",
            counters.evicted,
        )
        yield _gauge(
            "idempotency_keys",
            "Remembered idempotency keys, bounded by limits.max_idempotency_keys.",
            len(receipts),
        )
        yield _counter(
            "idempotency_keys_refused",
            "Idempotency keys refused at limits.max_idempotency_keys. Raise it, or lower limits.idempotency_seconds.",
            receipts.refused,
        )
        available, errors = self._watched.store()
        yield _gauge(
            "store_available",
            "1 while the store accepts events, 0 while publishing is refused because of it.",
            available,
        )
        yield _counter("store_errors", "Failed writes to the store. See the log lines store_error.", errors)
        yield _counter(
            "cluster_messages_rejected",
            "Messages from Redis that this node could not decode; no event is lost. Growing although all nodes have "
            "the "
            "same version: another program publishes to the hub's channels.",
            self._watched.rejected_messages(),
        )
        yield _gauge(
            "draining",
            "1 while the hub shuts down.",
            hub.draining,
        )
        limit = GaugeMetricFamily(
            "edge_limit", "Configured limits, by setting, to compare other metrics with.", labels=("setting",)
        )
        for setting, value in self._watched.limits().items():
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
        "Events published since the project became one of the busiest; the rest is _other.",
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
        """`(body, content type)`: OpenMetrics where `Accept` names it, else the plain format."""
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
