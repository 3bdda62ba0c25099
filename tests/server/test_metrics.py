"""What `/metrics` says, to whom, and at which price."""

from __future__ import annotations

import asyncio
import os
import resource
import subprocess
from unittest import mock

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_plain

from edge.core import hub as core
from edge.core import resume
from edge.core.event import Event
from edge.server import metrics
from edge.server.metrics import OTHERS, PROJECTS_A_LOOK, BusiestProjects
from tests.core.fakes import FakeConnection, make_hub
from tests.core.fakes import text as an_event
from tests.observability.rig import Hub, running, until

# The names the API page promises, as they are scraped.
PROMISED = {
    "edge_connections", "edge_connections_added_total", "edge_connections_removed_total",
    "edge_connections_rejected_total", "edge_misses_total", "edge_misses_recovered_total", "edge_misses_lost_total",
    "edge_misses_pending", "edge_misses_oldest_pending_seconds",
    "edge_events_published_total", "edge_events_delivered_total", "edge_events_replayed_total",
    "edge_gaps_total", "edge_heartbeats_total", "edge_triggers_total", "edge_trigger_wait_seconds_bucket",
    "edge_trigger_wait_seconds_count", "edge_trigger_wait_seconds_sum", "edge_projects", "edge_ring_events",
    "edge_ring_bytes", "edge_ring_evicted_total", "edge_build_info", "process_cpu_seconds_total",
    "process_open_fds", "process_max_fds", "process_resident_memory_bytes", "process_virtual_memory_bytes",
    "process_start_time_seconds",
}  # fmt: skip


async def scrape(hub: Hub, accept: str = "") -> tuple[str, str]:
    async with hub.client.get(f"{hub.url}/metrics", headers={"Accept": accept} if accept else {}) as response:
        assert response.status == 200
        return await response.text(), response.headers["Content-Type"]


async def test_every_promised_name_is_there_with_a_help_text() -> None:
    async with running() as hub:
        text, content_type = await scrape(hub)
    families = list(parse_plain(text))

    assert "text/plain; version=0.0.4; charset=utf-8" == content_type
    assert set() == PROMISED - {sample.name for family in families for sample in family.samples}
    assert [] == [family.name for family in families if len(family.documentation.split()) < 3]


async def test_openmetrics_on_request_and_without_created_series() -> None:
    accept = "application/openmetrics-text;version=1.0.0;q=0.6,text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
    async with running() as hub:
        plain, _ = await scrape(hub)
        text, content_type = await scrape(hub, accept)

    assert content_type.startswith("application/openmetrics-text; version=1.0.0")
    assert text.endswith("# EOF\n")
    assert [] == [line for line in (plain + text).splitlines() if "_created" in line]
    assert {family.name for family in parse_openmetrics(text)} >= {"edge_connections", "edge_misses"}  # type: ignore[no-untyped-call]


async def test_no_label_holds_a_project_by_default() -> None:
    async with running() as hub, hub.subscriber("some-project"):
        await hub.publish("another-project")
        text, _ = await scrape(hub)

    assert "some-project" not in text
    assert "another-project" not in text


async def test_the_counts_follow_what_happens() -> None:
    async with running() as hub:
        await hub.publish("p")
        await hub.trigger("p", "?timeout=0")
        async with hub.subscriber("p"), hub.subscriber("p", "?since=none"):
            await hub.trigger("p")
            await until(lambda: hub.context.hub.counters.delivered == 3)
            during = await hub.metrics()
        await hub.gone("p")
        after = await hub.metrics()

    assert {
        "edge_connections": 2,
        "edge_connections_added_total": 2,
        "edge_misses_total": 1,
        "edge_misses_recovered_total": 1,
        "edge_misses_pending": 0,
        "edge_events_published_total": 2,
        "edge_events_delivered_total": 3,
        "edge_events_replayed_total": 1,
        'edge_triggers_total{outcome="dispatched"}': 1,
        'edge_triggers_total{outcome="no_connection"}': 1,
        "edge_trigger_wait_seconds_count": 2,
        "edge_projects": 1,
        "edge_ring_events": 2,
        'edge_limit{setting="limits.max_connections"}': 50_000,
    }.items() <= during.items()
    assert (0, 2) == (after["edge_connections"], after['edge_connections_removed_total{reason="client"}'])


async def test_a_scrape_touches_no_project_and_no_connection() -> None:
    """Its cost is that of the number of metrics, whatever the number of streams: it only asks how many there are."""

    class OnlyCounted(dict[str, object]):
        def __iter__(self) -> None:  # type: ignore[override]
            raise AssertionError("a scrape went through all of them")

        values = items = keys = __getitem__ = __iter__  # type: ignore[assignment]

    async with running() as hub:
        hub.context.hub.projects, projects = OnlyCounted(a=1), hub.context.hub.projects  # type: ignore[assignment]
        hub.context.hub.connections, connections = OnlyCounted(b=1), hub.context.hub.connections  # type: ignore[assignment]
        before = (await hub.metrics())["edge_projects"]
        hub.context.hub.projects, hub.context.hub.connections = projects, connections

    assert 1 == before


def open_descriptors() -> float:
    families = metrics.ProcessCollector().collect()
    return next(family.samples[0].value for family in families if family.name == "process_open_fds")


def test_descriptors_are_counted_without_listing_them_where_the_kernel_can() -> None:
    with mock.patch.object(os, "listdir", side_effect=AssertionError("listed")):
        before = open_descriptors()
        with subprocess.Popen(["true"], stdout=subprocess.PIPE):
            assert before + 1 == open_descriptors()


def test_descriptors_are_listed_where_the_kernel_can_not_count_them() -> None:
    with mock.patch.object(os, "stat", return_value=mock.Mock(st_size=0)):
        listed = open_descriptors()

    # The listing itself holds one open.
    assert open_descriptors() + 1 == listed


def test_without_a_descriptor_left_what_takes_one_is_left_out() -> None:
    process = metrics.ProcessCollector()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
        assert [] == list(process.collect())
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert len(list(process.collect())) > 4


async def test_metrics_can_have_an_address_of_their_own() -> None:
    async with running(metrics={"port": 0}) as hub, hub.client.get(f"{hub.url}/metrics") as response:
        assert 404 == response.status


# --- the busiest projects ---


async def test_the_busiest_projects_have_series_and_all_others_are_one() -> None:
    async with (
        running(metrics={"top_projects": 2}, stream={"heartbeat_seconds": 0.1}) as hub,
        hub.subscriber("a"),
        hub.subscriber("a"),
        hub.subscriber("b"),
    ):
        await hub.publish("c")
        async with asyncio.timeout(60):
            while 'edge_project_connections{project="b"}' not in (before := await hub.metrics()):
                await asyncio.sleep(0.02)
        await hub.publish("a")
        await hub.publish("c")
        after = await hub.metrics()

    shown = {name: value for name, value in after.items() if name.startswith("edge_project_")}
    assert {
        'edge_project_connections{project="a"}': 2,
        'edge_project_connections{project="b"}': 1,
        'edge_project_connections{project="_other"}': 0,
        'edge_project_events_published_total{project="a"}': 1,
        'edge_project_events_published_total{project="b"}': 0,
        'edge_project_events_published_total{project="_other"}': 2,
        'edge_project_misses_total{project="a"}': 0,
        'edge_project_misses_total{project="b"}': 0,
        'edge_project_misses_total{project="_other"}': 2,
    } == shown
    assert 1 == before['edge_project_events_published_total{project="_other"}']


async def test_what_was_counted_for_a_project_never_moves_to_the_others() -> None:
    async with running() as hub:
        top = BusiestProjects(hub.context.hub, 1)
        async with hub.subscriber("a"):
            top.look(0)
            await hub.publish("a")
            assert {"a": (1, 1, 0), OTHERS: (0, 0, 0)} == top.figures()
        await hub.gone("a")
        async with hub.subscriber("b"):
            top.look(1)
            await hub.publish("a")
            assert {"b": (1, 0, 0), OTHERS: (0, 1, 1)} == top.figures()


async def test_a_look_goes_through_a_bounded_number_of_projects() -> None:
    async with running() as hub:
        for number in range(PROJECTS_A_LOOK):
            hub.context.hub.publish(f"p{number}", Event("message", b"1"), hub.context.clock())
        top = BusiestProjects(hub.context.hub, 1)
        async with hub.subscriber("p0"):
            await hub.publish("more")
            top.look(0)
            assert [OTHERS] == list(top.figures()), "the round isn't over"
            top.look(1)
            assert ["p0", OTHERS] == list(top.figures())


def publish(hub: core.Hub, name: str, count: int) -> None:
    for _ in range(count):
        hub.publish(name, an_event(), 0.0)


def connect(hub: core.Hub, name: str, connection_id: str) -> FakeConnection:
    connection = FakeConnection(hub, connection_id)
    hub.attach(name, connection, resume.nothing, 0.0)
    return connection


def test_most_subscribers_first_then_most_events() -> None:
    hub = make_hub()
    publish(hub, "quiet", 1)
    publish(hub, "loud", 5)
    connect(hub, "read", "c")
    top = BusiestProjects(hub, 2)
    top.look(0.0)
    publish(hub, "loud", 2)
    publish(hub, "quiet", 1)
    figures = top.figures()
    assert {"read": (1, 0, 0), "loud": (0, 2, 2), OTHERS: (0, 7, 7)} == figures
    assert ["read", "loud", OTHERS] == list(figures)


def test_what_was_shown_under_a_name_stays_out_of_the_others() -> None:
    hub = make_hub()
    publish(hub, "a", 1)
    top = BusiestProjects(hub, 1)
    top.look(0.0)
    publish(hub, "a", 3)
    assert {"a": (0, 3, 3), OTHERS: (0, 1, 1)} == top.figures()
    publish(hub, "b", 9)
    top.look(0.0)
    assert {"b": (0, 0, 0), OTHERS: (0, 10, 10)} == top.figures()


def test_a_project_that_stays_goes_on_counting() -> None:
    hub = make_hub()
    publish(hub, "a", 1)
    top = BusiestProjects(hub, 1)
    for _ in range(3):
        top.look(0.0)
        publish(hub, "a", 2)
    assert (0, 6, 6) == top.figures()["a"]


def test_a_recreated_project_starts_at_zero() -> None:
    hub = make_hub()
    publish(hub, "a", 3)
    top = BusiestProjects(hub, 1)
    top.look(0.0)
    publish(hub, "a", 1)
    hub.delete("a", 0.0)
    publish(hub, "a", 1)
    top.look(0.0)
    publish(hub, "a", 1)
    assert {"a": (0, 1, 1), OTHERS: (0, 4, 4)} == top.figures()


def test_each_look_takes_a_slice_and_skips_deleted_projects(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "PROJECTS_A_LOOK", 2)
    hub = make_hub()
    for number, name in enumerate("abcde"):
        publish(hub, name, number + 1)
    top = BusiestProjects(hub, 2)
    top.look(0.0)
    top.look(0.0)
    assert [OTHERS] == list(top.figures()), "nothing is picked before the round is over"
    hub.delete("e", 0.0)
    top.look(0.0)
    assert ["d", OTHERS] == list(top.figures()), "`e` was picked, and is gone"
