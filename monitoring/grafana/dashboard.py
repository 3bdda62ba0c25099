"""Writes `edge.json`, the dashboard: `python monitoring/grafana/dashboard.py`. A test holds the two together.

Grafana imports the JSON; edit this file. Each panel answers one question.
"""

from __future__ import annotations

import json
from itertools import count
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
    """0 while nothing was observed: a quantile of nothing is NaN, which no comparison keeps."""
    return f"histogram_quantile({share}, {rate(f'{metric}_bucket', by='le')}) >= 0 or vector(0)"


def share(part: str, whole: str) -> str:
    """A part of a whole, 0 while there is no whole."""
    return f"{part} / ({whole} > 0) or vector(0)"


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
    """One number; `steps` are from which value on it has which colour. Without a step it has none, nor is it green."""
    thresholds = {
        "mode": "absolute",
        "steps": [{"color": "text", "value": None}, *({"color": colour, "value": at} for at, colour in steps)],
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
        "Overview",
        4,
        (
            stat("Open streams", "Connections that are open now.", "short", total("edge_connections")),
            stat(
                "Events missed",
                "Share of published events that no subscriber received at once; EdgeEventsMissed fires above 5 %.",
                "percentunit",
                share(rate("edge_misses_total"), rate("edge_events_published_total")),
                (0.01, "orange"),
                (0.05, "red"),
            ),
            stat(
                "Pending misses",
                "Missed events held for the next subscriber. `edge explain PROJECT` says why.",
                "short",
                total("edge_misses_pending"),
                (1, "orange"),
            ),
            stat(
                "Oldest pending miss",
                "How long an event has waited for a subscriber; EdgeMissPendingLong fires above a quarter of an hour.",
                "s",
                f"max (edge_misses_oldest_pending_seconds{{{PICK}}})",
                (60, "orange"),
                (900, "red"),
            ),
            stat(
                "Lost in the last hour",
                "Events evicted before any subscriber received them: raise ring.*.",
                "short",
                f"sum (increase(edge_misses_lost_total{{{PICK}}}[1h]))",
                (1, "red"),
            ),
            stat(
                "Triggers without a subscriber",
                "Share of triggers for which no subscriber was ready in time, without replayed and cancelled ones.",
                "percentunit",
                share(
                    rate("edge_triggers_total", labels='outcome="no_connection"'),
                    rate("edge_triggers_total", labels='outcome=~"dispatched|no_connection|failed"'),
                ),
                (0.01, "orange"),
                (0.1, "red"),
            ),
            stat(
                "Instances down",
                "Instances that can't be scraped.",
                "short",
                f"count (up{{{PICK}}} == 0) or vector(0)",
                (1, "red"),
            ),
            stat(
                "Store unavailable",
                "Instances whose store accepts no events.",
                "short",
                f"count (edge_store_available{{{PICK}}} == 0) or vector(0)",
                (1, "red"),
            ),
        ),
    ),
    (
        "Events",
        8,
        (
            graph(
                "Events published and delivered",
                "One event to ten subscribers counts ten. Published but not delivered: no subscriber is connected.",
                "ops",
                (rate("edge_events_published_total"), "published"),
                (rate("edge_events_delivered_total"), "delivered"),
                (rate("edge_events_replayed_total"), "of those, replayed"),
            ),
            graph(
                "Open streams by instance",
                "Open streams and observers of each instance.",
                "short",
                (f"edge_connections{{{PICK}}}", "{{instance}}"),
                (f"edge_observers{{{PICK}}}", "observers {{instance}}"),
            ),
            graph(
                "Misses, recovered and lost",
                "Missed = recovered + lost + pending. Recovered keeps up: subscribers are late, but lose nothing.",
                "ops",
                (rate("edge_misses_total"), "missed"),
                (rate("edge_misses_recovered_total"), "recovered"),
                (rate("edge_misses_lost_total"), "lost"),
            ),
        ),
    ),
    (
        "Connections",
        8,
        (
            graph(
                "Streams closed, by reason",
                "client: closed by the client. dead: the peer vanished. slow: it did not keep up. Others: by the hub.",
                "ops",
                (rate("edge_connections_removed_total", by="reason"), "{{reason}}"),
                stacked=True,
            ),
            graph(
                "Streams refused, by error code",
                "Users see no reason: EventSource does not report one.",
                "ops",
                (rate("edge_connections_rejected_total", by="reason"), "{{reason}}"),
                stacked=True,
            ),
            graph(
                "Streams opened and closed",
                "Far more opened than are open: clients reconnect in a loop.",
                "ops",
                (rate("edge_connections_added_total"), "opened"),
                (rate("edge_connections_removed_total"), "closed"),
            ),
            graph(
                "Gaps reported, by reason",
                "evicted: by a ring limit. restart: from an earlier epoch. unknown: an id this hub never issued.",
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
                "Triggers, by outcome",
                "no_connection: no subscriber was ready in time. failed: the target did not accept the job.",
                "ops",
                (rate("edge_triggers_total", by="outcome"), "{{outcome}}"),
                stacked=True,
            ),
            heatmap(
                "Time triggers waited",
                "Near trigger.wait_seconds: subscribers connect too late.",
                "edge_trigger_wait_seconds",
            ),
            graph(
                "Trigger wait, p50 and p95",
                "50 % and 95 % of the triggers waited no longer.",
                "s",
                (quantile(0.5, "edge_trigger_wait_seconds"), "p50"),
                (quantile(0.95, "edge_trigger_wait_seconds"), "p95"),
            ),
            graph(
                "Requests to the target",
                "Retries: it answered 429 or 5xx, or not at all. Waiting: requests that wait for a subscriber.",
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
                "Ring memory",
                "All rings together, and ring.total_bytes.",
                "bytes",
                (total("edge_ring_bytes"), "held"),
                (total("edge_limit", 'setting="ring.total_bytes"'), "allowed"),
            ),
            graph(
                "Events and projects held",
                "Events in the rings, for replay; projects with connections, events or pending misses.",
                "short",
                (total("edge_ring_events"), "events"),
                (total("edge_projects"), "projects"),
            ),
            graph(
                "Events evicted, by reason",
                "count, bytes: raise ring.max_*. age: ring.max_age_seconds. total: raise ring.total_bytes.",
                "ops",
                (rate("edge_ring_evicted_total", by="reason"), "{{reason}}"),
                stacked=True,
            ),
            graph(
                "Store",
                "1 while the store accepts events, and its errors.",
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
                "CPU",
                "Cores used by the process; the hub can use one.",
                "short",
                (f"rate(process_cpu_seconds_total{{{PICK}}}[$__rate_interval])", "{{instance}}"),
            ),
            graph(
                "Event loop lag",
                "How late 90 % of the periodic ticks ran at most.",
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
                "Use of limits",
                "Share of each limit in use; the alert EdgeNearLimit fires at 80 %.",
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
                (f'edge_ring_bytes{{{PICK}}} / on (job, instance) edge_limit{{setting="ring.total_bytes"}}', "history"),
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
        "Details",
        6,
        (
            graph(
                "Detection of dead peers",
                "Time from the last acknowledgement to the removal, 95 % of them.",
                "s",
                (quantile(0.95, "edge_dead_detection_seconds"), "p95"),
            ),
            graph(
                "Heartbeats",
                "Heartbeats written to quiet streams. None while quiet streams are open: the process hangs.",
                "ops",
                (rate("edge_heartbeats_total"), "heartbeats"),
            ),
            graph(
                "Internal drops, refusals and failures",
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
                "Running versions",
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
                "Of the busiest projects; all others are _other.",
                "short",
                (f"sum by (project) (edge_project_connections{{{PICK}}})", "{{project}}"),
                stacked=True,
            ),
            graph(
                "Events published",
                "Of the busiest projects; all others are _other.",
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


COLLAPSED = ("Details", "The busiest projects (metrics.top_projects)")
RESTARTS = {
    "name": "Restarts",
    "datasource": DATASOURCE,
    "enable": True,
    "iconColor": "purple",
    "expr": f"changes(process_start_time_seconds{{{PICK}}}[$__interval]) > 0",
    "step": "30s",
    "titleFormat": "Restart",
    "textFormat": "{{instance}} started again",
}


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
    ids = count(1)
    y = 0
    for title, height, row in ROWS:
        inside: list[Panel] = []
        collapsed = title in COLLAPSED  # then a row holds its panels itself
        head = {"type": "row", "title": title, "collapsed": collapsed, "gridPos": {"h": 1, "w": WIDTH, "x": 0, "y": y}}
        panels.append({"id": next(ids), **head, "panels": inside if collapsed else []})
        y += 1
        width = WIDTH // len(row)
        for index, content in enumerate(row):
            place = {"h": height, "w": width, "x": index * width, "y": y}
            (inside if collapsed else panels).append({"id": next(ids), "gridPos": place, **content})
        y += 0 if collapsed else height
    return {
        "uid": "edge-hub",
        "title": "edge",
        "description": "Connections, deliveries and misses of edge hubs.",
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
        "annotations": {"list": [RESTARTS]},
        "links": [],
        "panels": panels,
    }


def text() -> str:
    return json.dumps(dashboard(), indent=2) + "\n"


if __name__ == "__main__":
    (HERE / "edge.json").write_text(text(), encoding="utf-8")
