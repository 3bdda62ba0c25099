"""monitoring/ against the real thing: promtool, and a Prometheus that scrapes a running hub under a small load."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from monitoring.grafana import dashboard as source
from tests.faults.hub import until
from tests.observability import live

MONITORING = live.MONITORING
DASHBOARD: dict[str, Any] = json.loads((MONITORING / "grafana/edge.json").read_text(encoding="utf-8"))
# A collapsed row holds its panels itself.
EVERYTHING: list[dict[str, Any]] = [one for panel in DASHBOARD["panels"] for one in (panel, *panel.get("panels", ()))]
PANELS = [panel for panel in EVERYTHING if panel["type"] != "row"]


def promtool(*arguments: str) -> str:
    done = subprocess.run(
        ["promtool", *arguments],
        cwd=MONITORING,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
        check=False,
    )
    assert 0 == done.returncode, done.stdout
    return done.stdout


@pytest.mark.prometheus
def test_the_rules_are_rules() -> None:
    assert "SUCCESS: 33 rules found" in promtool("check", "rules", "rules.yml")


@pytest.mark.prometheus
def test_the_configuration_is_one() -> None:
    assert "1 rule files found" in promtool("check", "config", "prometheus.yml")


@pytest.mark.prometheus
def test_each_alert_fires_when_it_should_and_not_when_it_should_not() -> None:
    assert "SUCCESS" in promtool("test", "rules", "rules_test.yml")


def test_every_alert_has_a_test() -> None:
    alerts = set(re.findall(r"^ +- alert: (\w+)$", (MONITORING / "rules.yml").read_text(), re.MULTILINE))
    tested = set(re.findall(r'alertname(?:: |=")(\w+)', (MONITORING / "rules_test.yml").read_text()))

    assert alerts == tested


async def test_the_hub_of_the_compose_file_starts_and_prometheus_may_scrape_it() -> None:
    compose = (MONITORING / "compose.yaml").read_text(encoding="utf-8")
    environ = dict(re.findall(r"^ +(EDGE_\w+): (\S+)$", compose, re.MULTILINE))
    assert "0.0.0.0" == environ.pop("EDGE_SERVER_HOST")
    target = re.findall(r'targets: \["(edge:\d+)"\]', (MONITORING / "prometheus.yml").read_text(encoding="utf-8"))
    async with (
        live.hub({"EDGE_SERVER_HOST": "127.0.0.1", **environ}) as url,
        aiohttp.ClientSession() as client,
        client.get(f"{url}/metrics", headers={"Host": target[0]}) as response,
    ):
        assert 200 == response.status


def test_what_the_compose_file_mounts_is_there() -> None:
    compose = (MONITORING / "compose.yaml").read_text(encoding="utf-8")
    mounted = re.findall(r"^ +- (\./\S+?):(\S+?):ro$", compose, re.MULTILINE)
    inside = {there: here for here, there in mounted}

    assert [] == [here for here, _ in mounted if not (MONITORING / here).exists()]
    provider = (MONITORING / "grafana/provisioning/dashboards/edge.yml").read_text(encoding="utf-8")
    [folder] = re.findall(r"path: (\S+)", provider)
    assert "./grafana/edge.json" == inside[f"{folder}/edge.json"]


# --- the dashboard ---


def test_the_dashboard_is_what_its_source_makes() -> None:
    written = (MONITORING / "grafana/edge.json").read_text(encoding="utf-8")
    assert source.text() == written, "python monitoring/grafana/dashboard.py"


def test_panels_have_ids_of_their_own_and_do_not_overlap() -> None:
    taken: dict[tuple[int, int], str] = {}
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert (x, y) not in taken, f"{panel['title']} covers {taken[x, y]}"
                taken[x, y] = panel["title"]
    ids = [panel["id"] for panel in EVERYTHING]
    assert sorted(set(ids)) == ids


def test_every_panel_asks_the_chosen_data_source_about_the_chosen_instances() -> None:
    variables = {variable["name"] for variable in DASHBOARD["templating"]["list"]}
    assert {"datasource", "job", "instance"} == variables
    for panel in PANELS:
        assert panel["description"].endswith("."), panel["title"]
        assert panel["targets"], panel["title"]
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])
        for target in panel["targets"]:
            assert {"type": "prometheus", "uid": "${datasource}"} == target["datasource"] == panel["datasource"]
            assert 'job=~"$job", instance=~"$instance"' in target["expr"]
            named = set(re.findall(r"\$\{?(\w+)", target["expr"]))
            assert named <= variables | {"__rate_interval"}
            if format_ := target.get("format"):
                assert (format_, panel["type"]) == ("heatmap", "heatmap")


def test_the_panel_of_limits_has_every_limit_of_the_alert() -> None:
    rules = (MONITORING / "rules.yml").read_text()
    [panel] = [panel for panel in PANELS if panel["title"] == "Use of limits"]
    shown = " ".join(target["expr"] for target in panel["targets"])
    assert set(re.findall(r'edge_limit(\{setting="[\w.]+"\})', rules)) == set(
        re.findall(r'edge_limit(\{setting="[\w.]+"\})', shown)
    )


def test_a_share_has_the_same_whole_in_its_panel_and_its_alert() -> None:
    rules = (MONITORING / "rules.yml").read_text()
    for title, whole in (
        ("Events missed", "edge_events_published"),
        ("Triggers without a subscriber", 'outcome=~"dispatched|no_connection|failed"'),
    ):
        [panel] = [panel for panel in PANELS if panel["title"] == title]
        assert whole in panel["targets"][0]["expr"].partition(" / ")[2]
        assert any(whole in divided for divided in re.findall(r"/[^/]+", rules))


def test_no_number_is_green_whatever_it_is() -> None:
    for panel in PANELS:
        if panel["type"] == "stat":
            colours = [step["color"] for step in panel["fieldConfig"]["defaults"]["thresholds"]["steps"]]
            assert "text" == colours[0], panel["title"]
            assert "green" not in colours


def test_restarts_are_annotated_and_the_busiest_projects_collapsed() -> None:
    [restarts] = DASHBOARD["annotations"]["list"]
    assert "changes(process_start_time_seconds" in restarts["expr"]
    collapsed = {row["title"] for row in DASHBOARD["panels"] if row["type"] == "row" and row["collapsed"]}
    assert "The busiest projects (metrics.top_projects)" in collapsed


# --- against a live Prometheus ---


def dashboard_expressions() -> Iterator[tuple[str, str]]:
    for panel in PANELS:
        for target in panel["targets"]:
            expr = live.asked(target["expr"], "1m")
            yield f"{panel['title']}: {expr}", expr


async def without_number(prometheus: live.Prometheus) -> list[str]:
    """Expressions of the dashboard that have no sample, or one that is not a number."""
    found = [(what, await prometheus.query(expr)) for what, expr in dashboard_expressions()]
    return [what for what, samples in found if not samples or any(one["value"][1] == "NaN" for one in samples)]


def as_truth(expr: str) -> str:
    """An alert's expression with its thresholds as questions: it has a sample whether it fires or not."""
    return re.sub(r"(>|<|==)\s*(\d[\d.]*|edge_connections\b)", r"\1 bool \2", expr)


@pytest.mark.prometheus
async def test_every_expression_has_data_where_a_hub_is_scraped(tmp_path: Path) -> None:
    environ = {"EDGE_METRICS_TOP_PROJECTS": "3", "EDGE_STREAM_HEARTBEAT_SECONDS": "500ms"}
    async with (
        live.hub(environ) as url,
        live.prometheus(tmp_path, live.host(url)) as prometheus,
    ):
        # A hub without events, triggers and streams: every panel says 0, none is empty.
        await until(lambda: without_number(prometheus), lambda found: not found)
        await live.load(url, 3.0)
        await until(lambda: without_number(prometheus), lambda found: not found)
        [restarts] = DASHBOARD["annotations"]["list"]
        assert [] == await prometheus.query(live.asked(restarts["expr"], "1m"))
        rules = await prometheus.rules()
        empty = []
        for rule in rules:
            expr = rule["query"] if rule["type"] == "recording" else as_truth(rule["query"])
            if not await prometheus.query(expr):
                empty.append(f"{rule['name']}: {expr}")
        unhealthy = [rule["name"] for rule in rules if rule["health"] != "ok"]

    assert [] == unhealthy
    assert 33 == len(rules)
    assert [] == empty


@pytest.mark.parametrize("text", ["a > 0.1", "up == 0", "rate(x[2m]) * 60 > edge_connections"])
def test_a_threshold_becomes_a_question(text: str) -> None:
    assert " bool " in as_truth(text)


def test_the_load_ends_by_itself() -> None:
    with pytest.raises(ExceptionGroup):
        asyncio.run(live.load("http://127.0.0.1:1", 0.1))
