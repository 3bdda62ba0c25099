"""Docs, code, dashboard and rules name the same things: metrics, settings, error codes, log events, alerts."""

from __future__ import annotations

import ast
import asyncio
import json
import re
from pathlib import Path

import pytest

from edge.config.schema import FILE_KEYS, KEYS
from edge.core.counters import (
    DOOR_REASONS,
    EVICTION_REASONS,
    GAP_REASONS,
    REJECTION_REASONS,
    REMOVAL_REASONS,
    TRIGGER_OUTCOMES,
)
from edge.diagnose.explain import LEFT, REFUSED
from edge.http.problems import PROBLEMS
from edge.server.metrics import LIMITS
from edge.supervisor import TASKS
from edge.triggers.hooks import OUTCOMES
from tests.observability.families import Shown, families

ROOT = Path(__file__).parents[2]
DOCS = {page.name: page.read_text(encoding="utf-8") for page in sorted((ROOT / "docs").glob("*.md"))}
RULES = (ROOT / "monitoring/rules.yml").read_text(encoding="utf-8")
DASHBOARD = (ROOT / "monitoring/grafana/edge.json").read_text(encoding="utf-8")
EVERYWHERE = {**DOCS, "README.md": (ROOT / "README.md").read_text(), "rules.yml": RULES, "edge.json": DASHBOARD}
_METRIC = re.compile(r"(?<![\w:*-])((?:edge|process)_[a-z][a-z0-9_]*)\b(?!\*|=|\.service)")
_SUFFIXES = ("_bucket", "_sum", "_count")


@pytest.fixture(scope="module")
def in_code() -> list[Shown]:
    return asyncio.run(families())


def backticked(text: str) -> set[str]:
    return set(re.findall(r"`([^`\n]+)`", text))


def rows(page: str, heading: str) -> list[list[str]]:
    """The cells of the table under a heading."""
    part = DOCS[page].split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
    lines = [line for line in part.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[2:]]


# --- metrics ---


def test_the_page_on_metrics_says_what_the_code_says(in_code: list[Shown]) -> None:
    documented = [
        Shown(name.strip("`"), kind, tuple(sorted(backticked(labels))), text)
        for name, kind, labels, text in rows("metrics.md", "All metrics")
    ]

    assert in_code == documented


def test_every_metric_that_is_named_anywhere_exists(in_code: list[Shown]) -> None:
    known = {shown.name for shown in in_code} | {shown.name.removesuffix("_total") for shown in in_code}
    known |= {shown.name + suffix for shown in in_code if shown.kind == "histogram" for suffix in _SUFFIXES}
    known |= {"edge_token", "edge_docs", "edge_hub_client"}  # the cookie, a label of Prometheus, the Python package
    named = {(name, page) for page, text in EVERYWHERE.items() for name in _METRIC.findall(text)}

    assert set() == {(name, page) for name, page in named if name not in known and not name.endswith("_")}
    assert len(named) > 100


def test_every_metric_is_on_the_dashboard_or_in_a_rule(in_code: list[Shown]) -> None:
    shown = set(_METRIC.findall(DASHBOARD + RULES))
    shown |= {name.removesuffix(suffix) for name in shown for suffix in _SUFFIXES}
    # Asked for by hand, or about the scraping itself.
    by_hand = {
        "process_virtual_memory_bytes",
    }

    assert by_hand == {one.name for one in in_code} - shown


def test_the_labels_values_are_those_of_the_code() -> None:
    documented = {name: backticked(values) for name, values in rows("metrics.md", "Label values")}

    assert {
        "`reason` of `edge_connections_removed_total`": set(REMOVAL_REASONS),
        "`reason` of `edge_connections_rejected_total`": set(REJECTION_REASONS),
        "`reason` of `edge_gaps_total`": set(GAP_REASONS),
        "`reason` of `edge_ring_evicted_total`": set(EVICTION_REASONS),
        "`outcome` of `edge_triggers_total`": set(TRIGGER_OUTCOMES),
        "`outcome` of `edge_hooks_total`": set(OUTCOMES),
        "`task` of `edge_background_task_failures_total`": set(TASKS),
        "`setting` of `edge_limit`": set(LIMITS),
    } == documented


def test_the_page_on_operations_says_of_each_background_task_how_the_hub_goes_on() -> None:
    assert {f"`{task}`": text for task, text in TASKS.items()} == dict(rows("operations.md", "Background tasks"))


def test_every_label_value_in_rules_and_dashboard_exists() -> None:
    known = {*REMOVAL_REASONS, *REJECTION_REASONS, *TRIGGER_OUTCOMES, *OUTCOMES, *LIMITS}
    text = RULES + DASHBOARD.replace("\\", "")
    named = {
        value
        for values in re.findall(r'(?:reason|outcome|setting)(?:=~|!=|=)"([^"]+)"', text)
        for value in values.split("|")
    }

    assert len(named) >= 10
    assert set() == named - known


# --- settings ---


def test_every_setting_that_is_named_anywhere_exists() -> None:
    sections = {key.partition(".")[0] for key in KEYS}
    setting = re.compile(rf"(?<![\w./-])((?:{'|'.join(sections)})\.(?!(?:md|py|txt)\b)[a-z][a-z_]*[a-z])\b(?![./(*])")
    shown = {"metrics.json", "openapi.json", "explain.json", "explain.py", "selftest.py", "problems.py", "admission.py"}
    files = [path for path in (ROOT / "edge").rglob("*.*") if path.name in shown]
    texts = EVERYWHERE | {path.name: path.read_text(encoding="utf-8") for path in files}
    for page in ("browser.md", "javascript.md", "development.md"):
        del texts[page]  # their `stream` is an object in JavaScript
    named = {(key, page) for page, text in texts.items() for key in setting.findall(_spoken(page, text))}

    assert len(named) > 50
    assert set() == {
        (key, page) for key, page in named if key not in KEYS and key.removesuffix("_file") not in FILE_KEYS
    }


def _spoken(page: str, text: str) -> str:
    """What people read: of code, its texts."""
    if not page.endswith(".py"):
        return re.sub(r"\]\([^)]*\)|^(?:import|from) .*$", "", text, flags=re.MULTILINE)
    constants = (node.value for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Constant))
    return "\n".join(value for value in constants if isinstance(value, str) and " " in value)


# --- errors ---


def test_there_is_advice_for_every_reason_and_every_refusal_is_an_error_code() -> None:
    assert set(REMOVAL_REASONS) == set(LEFT)
    assert set() == set(REFUSED) - set(PROBLEMS)
    assert set() == set(DOOR_REASONS) - set(PROBLEMS)
    assert set() == set(REJECTION_REASONS) - set(PROBLEMS)
    assert set() == set(REJECTION_REASONS) - set(REFUSED)


def test_the_status_in_an_advice_is_that_of_its_code() -> None:
    for code, advice in REFUSED.items():
        assert f"({PROBLEMS[code].status})" in advice["what"], code


def test_the_page_on_explain_has_every_cause_and_every_reason() -> None:
    causes = [cells[0].strip("`") for cells in rows("explain.md", "Causes")]

    schemas = json.loads((ROOT / "edge" / "static" / "openapi.json").read_text())["components"]["schemas"]
    assert {*schemas["Explanation"]["properties"]["cause"]["enum"], *REMOVAL_REASONS} == {
        cause for cause in causes if cause != "reason"
    } - {"---"}


# --- log events ---


def logged() -> dict[str, tuple[set[str], set[str]]]:
    """Each event in the code, with its levels and the names of its fields."""
    found: dict[str, tuple[set[str], set[str]]] = {}
    for path in (ROOT / "edge").rglob("*.py"):
        bound: set[str] = set()  # by `log = _log.bind(…)`
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            logger = node.func.value
            if not (isinstance(logger, ast.Name) and logger.id in ("_log", "_access_log", "log")):
                continue
            named = {keyword.arg for keyword in node.keywords if keyword.arg is not None}
            if node.func.attr == "bind":
                bound |= named
                continue
            level = {"exception": "error"}.get(node.func.attr, node.func.attr)
            names = _texts(node.args[0])
            for name in names:
                levels, fields = found.setdefault(name, (set(), set()))
                levels.add(level)
                fields |= named | (bound if logger.id == "log" else set())
    return found


def _texts(node: ast.expr) -> list[str]:
    """The event of a call: a text, or (in `edge.diagnose.observer`) one of the two for a removed connection."""
    if isinstance(node, ast.Constant):
        return [str(node.value)]
    assert isinstance(node, ast.Name), ast.dump(node)
    return ["connection_removed", "last_connection_removed"]


def test_the_page_on_logs_has_every_event_with_its_level_and_no_other() -> None:
    documented = {event.strip("`"): {level} for event, level, _, _ in rows("logs.md", "Events")}

    assert {event: levels for event, (levels, _) in logged().items()} == documented


def test_the_fields_on_the_page_on_logs_are_logged() -> None:
    in_code = logged()
    for event, _, _, fields in rows("logs.md", "Events"):
        documented = backticked(fields) - {"trace"}
        missing = documented - in_code[event.strip("`")][1]
        raised = "exc_info" in in_code[event.strip("`")][1] or event.strip("`") == "unexpected_error"
        assert missing <= ({"error"} if raised else set()), event


def test_events_are_in_one_style() -> None:
    assert [] == [event for event in logged() if re.fullmatch(r"[a-z]+(_[a-z]+)*", event) is None]


def test_every_log_event_that_the_runbook_names_exists() -> None:
    known = set(logged())
    named = backticked(DOCS["runbook.md"]) | backticked(DOCS["monitoring.md"])

    assert {"event_missed", "trigger_failed", "webhook_retry", "store_error", "draining"} <= named & known


# --- alerts ---


def test_every_alert_has_its_section_in_the_runbook_and_no_section_is_without_its_alert() -> None:
    alerts = re.findall(r"^ +- alert: (\w+)$", RULES, re.MULTILINE)
    links = re.findall(r'runbook_url: "\{\{ \$externalLabels\.edge_docs \}\}/runbook\.md#(\w+)"$', RULES, re.MULTILINE)

    assert alerts == re.findall(r"^## (\w+)$", DOCS["runbook.md"], re.MULTILINE)
    assert [alert.lower() for alert in alerts] == links


def test_every_link_between_sections_leads_somewhere() -> None:
    anchors = {
        page: {
            re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-")
            for title in re.findall(r"^#+ (.+)$", text, re.MULTILINE)
        }
        for page, text in DOCS.items()
    }
    broken = [
        (page, link)
        for page in ("explain.md", "logs.md", "metrics.md", "monitoring.md", "runbook.md")
        for link in re.findall(r"\]\(([^):]+)\)", DOCS[page])
        if not _leads_somewhere(page, link, anchors)
    ]

    assert [] == broken


def _leads_somewhere(page: str, link: str, anchors: dict[str, set[str]]) -> bool:
    target, _, anchor = link.partition("#")
    if target and not (ROOT / "docs" / target).exists():
        return False
    return not anchor or anchor in anchors[target or page]


def test_the_dashboard_is_json_that_names_no_machine() -> None:
    assert "edge" == json.loads(DASHBOARD)["title"]
    assert re.search(r"localhost|127\.0\.0\.1|/root|/home", DASHBOARD) is None
