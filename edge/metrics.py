"""The hub's integers as Prometheus metrics: one collector that reads them when somebody scrapes.

Nothing is counted here, so a scrape costs the same with one connection and with ten thousand, and no label ever holds a
project id.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping

from prometheus_client import CollectorRegistry, GCCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4 as PLAIN
from prometheus_client.exposition import generate_latest as generate_plain
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics.exposition import CONTENT_TYPE_LATEST as OPENMETRICS
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics

from edge import __version__, log
from edge.core.histogram import Histogram
from edge.core.hub import Hub
from edge.core.idempotency import Receipts
from edge.core.triggers import TriggerCounters


class HubCollector:
    """Reads the hub at each scrape."""

    def __init__(self, hub: Hub, triggers: TriggerCounters, receipts: Receipts) -> None:
        self._hub = hub
        self._triggers = triggers
        self._receipts = receipts

    def collect(self) -> Iterator[Metric]:
        hub, counters = self._hub, self._hub.counters
        misses = counters.misses
        yield _gauge("connections", "Open streams.", len(hub.connections))
        yield _counter("connections_added", "Streams opened.", counters.added)
        yield _labelled("connections_removed", "Streams that ended, by why.", "reason", counters.removed)
        yield _histogram(
            "dead_detection_seconds",
            "From the last sign of life of a vanished peer to its removal.",
            counters.dead_detection_seconds,
        )
        yield _labelled("connections_rejected", "Streams refused, by why.", "reason", counters.rejected)
        yield _counter(
            "misses",
            "Events published while nobody was connected, or written only to readers that were lost before they had "
            "them. Growing while triggers succeed: look at edge_connections_removed_total.",
            misses.misses,
        )
        yield _counter("misses_recovered", "Missed events that a later reader got.", misses.recovered)
        yield _counter(
            "misses_lost",
            "Missed events evicted before anybody got them. Raise ring.* when it grows.",
            misses.lost,
        )
        yield _gauge("misses_pending", "Missed events held for the next reader.", misses.pending)
        yield _counter("events_published", "Events taken.", counters.published)
        yield _counter(
            "events_delivered",
            "Events written to streams: one event to ten readers counts ten.",
            counters.delivered,
        )
        yield _counter(
            "events_replayed", "Of those delivered, the ones from before the reader came.", counters.replayed
        )
        yield _labelled(
            "gaps",
            "Times a reader was told that history it asked for is gone, by why.",
            "reason",
            counters.gaps,
        )
        yield _counter("heartbeats", "Heartbeats written to quiet streams.", counters.heartbeats)
        yield _labelled("triggers", "Triggers, by what became of them.", "outcome", self._triggers.outcomes)
        yield _histogram(
            "trigger_wait_seconds",
            "How long triggers waited for a confirmed connection.",
            self._triggers.wait_seconds,
        )
        yield _gauge("projects", "Projects the hub knows.", len(hub.projects))
        yield _gauge("ring_events", "Events held for replay.", counters.ring_events)
        yield _gauge(
            "ring_bytes",
            "Bytes of events held for replay; ring.total_bytes bounds them.",
            counters.ring_bytes,
        )
        yield _labelled("ring_evicted", "Events given up, by which bound.", "reason", counters.evicted)
        yield _gauge("idempotency_keys", "Idempotency keys remembered.", len(self._receipts))
        yield _counter(
            "idempotency_keys_refused",
            "Keys refused as limits.max_idempotency_keys was reached.",
            self._receipts.refused,
        )
        yield _counter("log_lines_dropped", "Log lines dropped as nobody read them.", log.dropped_lines)
        build = GaugeMetricFamily("edge_build_info", "1, with versions as labels.", labels=("version", "python"))
        build.add_metric((__version__, platform.python_version()), 1)
        yield build


class Exposition:
    """The registry of one process, and its text."""

    def __init__(self, hub: Hub, triggers: TriggerCounters, receipts: Receipts) -> None:
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(HubCollector(hub, triggers, receipts))
        ProcessCollector(registry=self._registry)
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
