"""Writes `edge.json`, the dashboard: `python monitoring/grafana/dashboard.py`. A test holds the two together.

The JSON is what Grafana imports; this is what people change. A panel is one question, and its title asks it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
PICK = 'job=~"$job", instance=~"$instance"'
WIDTH = 24
Panel = dict[str, Any]


def rate(metric: str, by: str = "", labels: str = "") -> str:
    """The rate of a counter, summed over instances, split `by` a label."""
    picked = f"{PICK}, {labels}" if labels else PICK
    return f"sum{f' by ({by})' if by else ''} (rate({metric}{{{picked}}}[$__rate_interval]))"


def total(metric: str, labels: str = "") -> str:
    return f"sum ({metric}{{{f'{PICK}, {labels}' if labels else PICK}}})"


def quantile(share: float, metric: str) -> str:
    return f"histogram_quantile({share}, {rate(f'{metric}_bucket', by='le')})"


def panel(kind: str, title: str, about: str, unit: str, *queries: tuple[str, str], **more: Any) -> Panel:
    """One panel; `queries` are expressions with their legends."""
    return {
        "type": kind,
        "title": title,
        "description": about,
        "datasource": DATASOURCE,
        "fieldConfig": {"defaults": {"unit": unit, **more.pop("defaults", {})}, "overrides": []},
        "options": more.pop("options", {}),
        "targets": [
            {"refId": chr(ord("A") + index), "datasource": DATASOURCE, "expr": expr, "legendFormat": legend, **more}
            for index, (expr, legend) in enumerate(queries)
        ],
    }


def graph(title: str, about: str, unit: str, *queries: tuple[str, str], stacked: bool = False) -> Panel:
    custom = {
        "drawStyle": "line",
        "fillOpacity": 20 if stacked else 8,
        "lineWidth": 1,
        "showPoints": "never",
        "stacking": {"mode": "normal" if stacked else "none", "group": "A"},
    }
    options = {
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
        "tooltip": {"mode": "multi", "sort": "desc"},
    }
    return panel("timeseries", title, about, unit, *queries, defaults={"custom": custom, "min": 0}, options=options)


def stat(title: str, about: str, unit: str, expr: str, *steps: tuple[float, str]) -> Panel:
    """One number; `steps` are from which value on it has which colour."""
    thresholds = {
        "mode": "absolute",
        "steps": [{"color": "green", "value": None}, *({"color": colour, "value": at} for at, colour in steps)],
    }
    options = {
        "colorMode": "value",
        "graphMode": "area",
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
    }
    return panel("stat", title, about, unit, (expr, ""), defaults={"thresholds": thresholds}, options=options)


def heatmap(title: str, about: str, metric: str) -> Panel:
    options = {
        "calculate": False,
        "cellGap": 1,
        "color": {"mode": "scheme", "scheme": "Oranges", "steps": 64},
        "yAxis": {"unit": "s"},
    }
    return panel(
        "heatmap", title, about, "s", (rate(f"{metric}_bucket", by="le"), "{{le}}"), format="heatmap", options=options
    )


ROWS: tuple[tuple[str, int, tuple[Panel, ...]], ...] = (
    (
        "Is anybody listening?",
        4,
        (
            stat("Open streams", "How many readers are connected now.", "short", total("edge_connections")),
            stat(
                "Projects",
                "How many projects the hub knows: read, or with events held.",
                "short",
                total("edge_projects"),
            ),
            stat(
                "Missed, held for the next reader",
                "Events that nobody got yet. `edge explain PROJECT` says why.",
                "short",
                total("edge_misses_pending"),
                (1, "orange"),
            ),
            stat(
                "Lost in the last hour",
                "Events given up before anybody got them: raise ring.*.",
                "short",
                f"sum (increase(edge_misses_lost_total{{{PICK}}}[1h]))",
                (1, "red"),
            ),
            stat(
                "Triggers without a reader",
                "Share of triggers that gave up since nobody came.",
                "percentunit",
                rate("edge_triggers_total", labels='outcome="no_connection"') + " / " + rate("edge_triggers_total"),
                (0.01, "orange"),
                (0.1, "red"),
            ),
            stat(
                "Hubs that answer",
                "How many of the scraped instances are up.",
                "short",
                f"sum (up{{{PICK}}})",
            ),
        ),
    ),
    (
        "Events",
        8,
        (
            graph(
                "Are events delivered?",
                "One event to ten readers counts ten. None delivered while some are published: nobody listens.",
                "ops",
                (rate("edge_events_published_total"), "published"),
                (rate("edge_events_delivered_total"), "delivered"),
                (rate("edge_events_replayed_total"), "of those, replayed"),
            ),
            graph(
                "Who is connected?",
                "Open streams of each instance.",
                "short",
                (f"edge_connections{{{PICK}}}", "{{instance}}"),
                (f"edge_observers{{{PICK}}}", "observers {{instance}}"),
            ),
            graph(
                "What was missed, and what became of it?",
                "Missed = recovered + lost + pending. Recovered keeps up: readers are late, but nothing is lost.",
                "ops",
                (rate("edge_misses_total"), "missed"),
                (rate("edge_misses_recovered_total"), "recovered"),
                (rate("edge_misses_lost_total"), "lost"),
            ),
        ),
    ),
    (
        "Readers",
        8,
        (
            graph(
                "Who dropped, and why?",
                "client: it closed. dead: it vanished. slow: it did not keep up. The hub ended the rest.",
                "ops",
                (rate("edge_connections_removed_total", by="reason"), "{{reason}}"),
                stacked=True,
            ),
            graph(
                "Who was refused, and why?",
                "By error code. Their pages show nothing: EventSource tells no reason.",
                "ops",
                (rate("edge_connections_rejected_total", by="reason"), "{{reason}}"),
                stacked=True,
            ),
            graph(
                "Do the same ones come again and again?",
                "Many more that come than are there: a reconnect storm.",
                "ops",
                (rate("edge_connections_added_total"), "came"),
                (rate("edge_connections_removed_total"), "left"),
            ),
            graph(
                "Who was told of a gap?",
                "Readers whose history was gone: evicted, from before a restart, or never this hub's.",
                "ops",
                (rate("edge_gaps_total", by="reason"), "{{reason}}"),
                stacked=True,
            ),
        ),
    ),
    (
        "Triggers",
        8,
        (
            graph(
                "What became of triggers?",
                "no_connection: nobody came in time. failed: the target did not take the job.",
                "ops",
                (rate("edge_triggers_total", by="outcome"), "{{outcome}}"),
                stacked=True,
            ),
            heatmap(
                "How long did triggers wait for their reader?",
                "Near trigger.wait_seconds: readers connect too late.",
                "edge_trigger_wait_seconds",
            ),
            graph(
                "Waits, by share of triggers",
                "Half, and nineteen of twenty, waited no longer.",
                "s",
                (quantile(0.5, "edge_trigger_wait_seconds"), "p50"),
                (quantile(0.95, "edge_trigger_wait_seconds"), "p95"),
            ),
            graph(
                "Does the target take its jobs?",
                "Retries: it answered 429 or 5xx, or not at all. Waiting: requests that wait for a reader now.",
                "short",
                (rate("edge_webhook_attempts_total"), "requests a second"),
                (rate("edge_webhook_retries_total"), "retries a second"),
                (total("edge_waiting"), "waiting"),
            ),
        ),
    ),
    (
        "History",
        8,
        (
            graph(
                "How full are the rings?",
                "All rings together, and what ring.total_bytes allows.",
                "bytes",
                (total("edge_ring_bytes"), "held"),
                (total("edge_limit", 'setting="ring.total_bytes"'), "allowed"),
            ),
            graph(
                "How many events are held?",
                "For those who come (back) later.",
                "short",
                (total("edge_ring_events"), "events"),
            ),
            graph(
                "Why were events given up?",
                "count, bytes: raise ring.max_*. age: as configured. total: raise ring.total_bytes.",
                "ops",
                (rate("edge_ring_evicted_total", by="reason"), "{{reason}}"),
                stacked=True,
            ),
            graph(
                "Can history be stored?",
                "1 while the store takes what is published; and its errors.",
                "short",
                (f"min (edge_store_available{{{PICK}}})", "available"),
                (rate("edge_store_errors_total"), "errors a second"),
            ),
        ),
    ),
    (
        "Process",
        8,
        (
            graph(
                "Is the CPU enough?",
                "The hub uses one core: 1 is full.",
                "short",
                (f"rate(process_cpu_seconds_total{{{PICK}}}[$__rate_interval])", "{{instance}}"),
            ),
            graph(
                "Is the loop on time?",
                "How late nine beats of ten came at the most.",
                "s",
                (quantile(0.9, "edge_loop_lag_seconds"), "p90"),
            ),
            graph(
                "Memory",
                "Resident memory of each instance.",
                "bytes",
                (f"process_resident_memory_bytes{{{PICK}}}", "{{instance}}"),
            ),
            graph(
                "Is a limit near?",
                "How much of each limit is taken; the rule EdgeNearLimit fires at four fifths.",
                "percentunit",
                (
                    f'edge_connections{{{PICK}}} / on (job, instance) edge_limit{{setting="limits.max_connections"}}',
                    "connections",
                ),
                (
                    f'edge_projects{{{PICK}}} / on (job, instance) edge_limit{{setting="limits.max_projects"}}',
                    "projects",
                ),
                (f'edge_waiting{{{PICK}}} / on (job, instance) edge_limit{{setting="limits.max_waiting"}}', "waiting"),
                (
                    (
                        f"edge_idempotency_keys{{{PICK}}} / on (job, instance) "
                        'edge_limit{setting="limits.max_idempotency_keys"}'
                    ),
                    "idempotency keys",
                ),
                (f"process_open_fds{{{PICK}}} / process_max_fds{{{PICK}}}", "descriptors"),
            ),
        ),
    ),
    (
        "Little things",
        6,
        (
            graph(
                "How soon are dead peers noticed?",
                "From the last sign of life to the removal, nineteen of twenty.",
                "s",
                (quantile(0.95, "edge_dead_detection_seconds"), "p95"),
            ),
            graph(
                "Heartbeats",
                "Written to quiet streams. Standing still while streams are open and quiet: the process hangs.",
                "ops",
                (rate("edge_heartbeats_total"), "heartbeats"),
            ),
            graph(
                "What was dropped, refused or failed inside?",
                "Dropped log lines, idempotency keys beyond their limit, exceptions in background tasks.",
                "ops",
                (rate("edge_log_lines_dropped_total"), "log lines"),
                (rate("edge_idempotency_keys_refused_total"), "idempotency keys"),
                (rate("edge_projects_displaced_total"), "idle projects"),
                (rate("edge_background_task_failures_total"), "background tasks"),
                (rate("edge_cluster_messages_rejected_total"), "messages of other nodes"),
                (f"sum (edge_hooks_queued{{{PICK}}})", "webhooks waiting"),
            ),
            graph(
                "What runs?",
                "Versions, and 1 while an instance drains.",
                "short",
                (f"count by (version, python) (edge_build_info{{{PICK}}})", "{{version}}, Python {{python}}"),
                (f"edge_draining{{{PICK}}}", "draining {{instance}}"),
            ),
        ),
    ),
    (
        "The busiest projects (metrics.top_projects)",
        8,
        (
            graph(
                "Streams",
                "Of the busiest projects; _other is all the rest.",
                "short",
                (f"sum by (project) (edge_project_connections{{{PICK}}})", "{{project}}"),
                stacked=True,
            ),
            graph(
                "Events published",
                "Of the busiest projects; _other is all the rest.",
                "ops",
                (rate("edge_project_events_published_total", by="project"), "{{project}}"),
                stacked=True,
            ),
            graph(
                "Misses",
                "`edge explain PROJECT` says why.",
                "ops",
                (rate("edge_project_misses_total", by="project"), "{{project}}"),
                stacked=True,
            ),
        ),
    ),
)


def variable(name: str, label: str, query: str) -> dict[str, Any]:
    return {
        "type": "query",
        "name": name,
        "label": label,
        "datasource": DATASOURCE,
        "query": {"query": query, "refId": name},
        "definition": query,
        "refresh": 2,
        "includeAll": True,
        "multi": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
        "sort": 1,
    }


def dashboard() -> dict[str, Any]:
    """The document that Grafana imports."""
    panels: list[Panel] = []
    y = 0
    for title, height, row in ROWS:
        place = {"h": 1, "w": WIDTH, "x": 0, "y": y}
        panels.append(
            {"id": len(panels) + 1, "type": "row", "title": title, "collapsed": False, "gridPos": place, "panels": []}
        )
        y += 1
        width = WIDTH // len(row)
        for index, content in enumerate(row):
            place = {"h": height, "w": width, "x": index * width, "y": y}
            panels.append({"id": len(panels) + 1, "gridPos": place, **content})
        y += height
    return {
        "uid": "edge-hub",
        "title": "edge",
        "description": "Is anybody listening, what was missed, and what became of it.",
        "tags": ["edge", "sse"],
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "schemaVersion": 39,
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser",
        "templating": {
            "list": [
                {
                    "type": "datasource",
                    "name": "datasource",
                    "label": "Prometheus",
                    "query": "prometheus",
                    "current": {},
                },
                variable("job", "Job", "label_values(edge_build_info, job)"),
                variable("instance", "Instance", 'label_values(edge_build_info{job=~"$job"}, instance)'),
            ]
        },
        "annotations": {"list": []},
        "links": [],
        "panels": panels,
    }


def text() -> str:
    return json.dumps(dashboard(), indent=2) + "\n"


if __name__ == "__main__":
    (HERE / "edge.json").write_text(text(), encoding="utf-8")
