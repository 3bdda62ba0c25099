from __future__ import annotations

import re

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_plain

from edge.core.event import Event
from tests.http.client import Site
from tests.hubs import StartHub

A_TIME = r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d\d\dZ"
OPENMETRICS = {"Accept": "application/openmetrics-text; version=1.0.0, text/plain;q=0.5"}
PROMISED = {
    "edge_connections",
    "edge_connections_added_total",
    "edge_connections_removed_total{reason}",
    "edge_connections_rejected_total{reason}",
    "edge_misses_total",
    "edge_misses_recovered_total",
    "edge_misses_lost_total",
    "edge_misses_pending",
    "edge_events_published_total",
    "edge_events_delivered_total",
    "edge_events_replayed_total",
    "edge_gaps_total{reason}",
    "edge_heartbeats_total",
    "edge_triggers_total{outcome}",
    "edge_trigger_wait_seconds_bucket{le}",
    "edge_trigger_wait_seconds_sum",
    "edge_trigger_wait_seconds_count",
    "edge_projects",
    "edge_ring_events",
    "edge_ring_bytes",
    "edge_ring_evicted_total{reason}",
    "edge_build_info{python,version}",
    "process_resident_memory_bytes",
    "process_cpu_seconds_total",
    "process_open_fds",
    "process_start_time_seconds",
}


async def samples(site: Site) -> dict[str, float]:
    lines = (await site.ask("GET", "/metrics")).body.decode().splitlines()
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))}


@pytest.mark.linux
async def test_a_project_with_readers(site: Site) -> None:
    first = (await site.publish("first")).json["id"]
    async with site.stream() as stream:
        await stream.next()
        last = (await site.publish("last")).json["id"]
        await stream.next()
        answer = await site.ask("GET", "/projects/p")
    document = answer.json
    [connection] = document["connections"]
    times = [connection["since"], document["last_connect"], document["misses"]["first"], document["misses"]["last"]]
    assert all(re.fullmatch(A_TIME, time) for time in times)
    assert {
        "id": stream.hello["connection"],
        "since": connection["since"],
        "address": "127.0.0.1",
        "last_event": last,
        "unacknowledged_bytes": connection["unacknowledged_bytes"],
        "round_trip_ms": connection["round_trip_ms"],
        "paused": False,
        "confirmable": "acknowledged",
        "sub": None,
    } == connection
    assert connection["round_trip_ms"] > 0
    misses = {"total": 1, "recovered": 1, "lost": 0, "pending": 0, "first": times[2], "last": times[3]}
    ring = {"oldest": first, "newest": last, "events": 2, "bytes": document["ring"]["bytes"]}
    assert {
        "project": "p",
        "epoch": first.partition("-")[0],
        "connections": [connection],
        "connections_total": 1,
        "ring": ring,
        "misses": misses,
        "last_connect": document["last_connect"],
        "last_disconnect": None,
        "last_ready": None,
        "finished": False,
    } == document
    assert "no-store" == answer.headers["Cache-Control"]


async def test_a_project_whose_last_reader_has_left(site: Site) -> None:
    async with site.stream():
        await site.publish(1)
    await site.connections(0)
    document = (await site.ask("GET", "/projects/p")).json
    assert ([], 0, "client") == (
        document["connections"],
        document["connections_total"],
        document["last_disconnect"]["reason"],
    )
    assert re.fullmatch(A_TIME, document["last_disconnect"]["at"])


async def test_a_status_shows_some_of_many_connections(site: Site) -> None:
    writers = [(await site.raw(b"GET /projects/p/events HTTP/1.1\r\nHost: localhost\r\n\r\n"))[1] for _ in range(101)]
    await site.connections(101)
    document = (await site.ask("GET", "/projects/p")).json
    for writer in writers:
        writer.close()
        await writer.wait_closed()
    assert (100, 101) == (len(document["connections"]), document["connections_total"])


@pytest.mark.parametrize("method", ["GET", "DELETE"])
async def test_an_unknown_project(site: Site, method: str) -> None:
    assert "unknown_project" == (await site.ask(method, "/projects/p")).problem["code"]


async def test_what_is_too_old_is_not_shown(start_hub: StartHub) -> None:
    site = await start_hub(ring={"max_age_seconds": 0.05})
    await site.publish(1)
    while (await site.ask("GET", "/projects/p")).status != 404:
        pass
    assert 1 == (await samples(site))["edge_misses_lost_total"]


async def test_all_projects_busiest_first_page_by_page(site: Site) -> None:
    for name in ("quiet", "idle"):
        await site.publish(1, project=name)
    async with site.stream("b"), site.stream("a"), site.stream("busy"), site.stream("busy"):
        document = (await site.ask("GET", "/projects")).json
        assert [("busy", 2), ("a", 1), ("b", 1), ("idle", 0), ("quiet", 0)] == [
            (each["project"], each["connections"]) for each in document["projects"]
        ]
        assert (5, None) == (document["total"], document["next_offset"])
        first = (await site.ask("GET", "/projects?limit=2")).json
        assert (["busy", "a"], 2) == ([each["project"] for each in first["projects"]], first["next_offset"])
        last = (await site.ask("GET", "/projects?limit=2&offset=4")).json
        assert (["quiet"], None) == ([each["project"] for each in last["projects"]], last["next_offset"])
        assert [] == (await site.ask("GET", "/projects?offset=999")).json["projects"]


async def test_a_listed_project(site: Site) -> None:
    event_id = (await site.publish(1)).json["id"]
    [listed] = (await site.ask("GET", "/projects")).json["projects"]
    assert {
        "project": "p",
        "connections": 0,
        "ring": {"oldest": event_id, "newest": event_id, "events": 1, "bytes": listed["ring"]["bytes"]},
        "misses": {"total": 1, "recovered": 0, "lost": 0, "pending": 1},
    } == listed


@pytest.mark.parametrize("query", ["limit=0", "limit=1001", "limit=x", "offset=-1"])
async def test_a_page_that_cant_be_read(site: Site, query: str) -> None:
    assert "invalid_parameter" == (await site.ask("GET", f"/projects?{query}")).problem["code"]


async def test_deleting_closes_streams_and_drops_history(site: Site) -> None:
    old = (await site.publish(1)).json["id"]
    async with site.stream() as stream:
        await stream.next()
        answer = await site.ask("DELETE", "/projects/p")
        assert (200, {"project": "p", "connections_closed": 1, "events_dropped": 1}) == (answer.status, answer.json)
        assert "edge.closing" == (await stream.next()).event
        assert await stream.ended()
    assert 404 == (await site.ask("GET", "/projects/p")).status
    new = (await site.publish(2)).json["id"]
    async with site.stream(last_event_id=old) as stream:
        assert "restart" == (await stream.next()).data["reason"]
        assert new == (await stream.next()).id
    assert 1 == (await samples(site))['edge_connections_removed_total{reason="deleted"}']


async def test_health_and_readiness_of_the_process(site: Site) -> None:
    assert (200, {"status": "ok"}) == (
        (await site.ask("GET", "/healthz")).status,
        (await site.ask("GET", "/healthz")).json,
    )
    assert 200 == (await site.ask("GET", "/readyz")).status
    site.context.drain()
    assert 200 == (await site.ask("GET", "/healthz")).status
    assert "draining" == (await site.ask("GET", "/readyz")).problem["code"]


async def test_the_metrics_have_the_names_that_were_promised(site: Site) -> None:
    answer = await site.ask("GET", "/metrics")
    assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    shown = set()
    for family in parse_plain(answer.body.decode()):
        for sample in family.samples:
            labels = ",".join(sorted(sample.labels))
            shown.add(f"{sample.name}{{{labels}}}" if labels else sample.name)
    assert set() == PROMISED - shown


async def test_openmetrics_for_who_asks_for_it(site: Site) -> None:
    answer = await site.ask("GET", "/metrics", headers=OPENMETRICS)
    assert answer.headers["Content-Type"].startswith("application/openmetrics-text; version=1.0.0")
    families = {family.name: family for family in parse_openmetrics(answer.body.decode())}  # type: ignore[no-untyped-call]
    assert "counter" == families["edge_misses"].type
    assert "histogram" == families["edge_trigger_wait_seconds"].type


async def test_the_metrics_count_what_happened(site: Site) -> None:
    await site.publish(1)
    async with site.stream() as stream, site.stream() as other:
        await stream.next()
        await site.publish(2)
        await stream.next()
        await other.next()
        async with site.stream(last_event_id="0gone-1"):
            assert 202 == (await site.trigger()).status
            counted = await samples(site)
    expected = {
        "edge_connections": 3,
        "edge_connections_added_total": 3,
        "edge_events_published_total": 3,
        "edge_events_delivered_total": 1 + 2 + 2 + 3,
        "edge_events_replayed_total": 1 + 2,
        'edge_gaps_total{reason="restart"}': 1,
        "edge_misses_total": 1,
        "edge_misses_recovered_total": 1,
        "edge_misses_lost_total": 0,
        "edge_misses_pending": 0,
        "edge_projects": 1,
        "edge_ring_events": 3,
        'edge_triggers_total{outcome="dispatched"}': 1,
        "edge_trigger_wait_seconds_count": 1,
    }
    assert expected == {name: counted[name] for name in expected}


async def test_no_label_holds_a_project(site: Site) -> None:
    await site.publish(1, project="secret-project")
    await site.trigger(timeout="0")
    assert b"secret-project" not in (await site.ask("GET", "/metrics")).body


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics", "/projects"])
async def test_head_is_get_without_the_body(site: Site, path: str) -> None:
    answer = await site.ask("HEAD", path)
    assert (200, b"") == (answer.status, answer.body)


async def test_projects_are_sorted_and_found_by_a_part_of_their_name(start_hub: StartHub) -> None:
    site = await start_hub(ring={"max_events": 2})
    for name, events in (("Alpha", 1), ("beta", 4), ("alphabet", 3)):
        for _ in range(events):
            await site.publish(1, project=name)

    async def names(query: str) -> list[str]:
        page = (await site.ask("GET", f"/projects?{query}")).json
        return [each["project"] for each in page["projects"]]

    assert ["beta", "alphabet"] == (await names("sort=lost"))[:2]
    assert ["alphabet", "beta", "Alpha"] == await names("sort=pending")
    async with site.stream("gamma"), site.stream("gamma"), site.stream("Alpha"):
        assert ["gamma", "Alpha"] == (await names("sort=connections"))[:2]
        assert ["Alpha", "alphabet", "beta", "gamma"] == await names("sort=name")
        assert {"Alpha", "alphabet"} == set(await names("match=ALPHA"))
        assert ["alphabet", "beta"] == await names("sort=name&limit=2&offset=1")
        page = (await site.ask("GET", "/projects?match=alpha&limit=1")).json
        assert (2, 1) == (page["total"], page["next_offset"])
    assert "invalid_parameter" == (await site.ask("GET", "/projects?sort=loudest")).problem["code"]


async def test_the_hub_s_totals_in_one_document(start_hub: StartHub) -> None:
    site = await start_hub(ring={"max_events": 2})
    for number in range(3):
        await site.publish(number)
    async with site.stream("q") as stream:
        await site.publish(1, project="q")
        await stream.next()
        found = (await site.ask("GET", "/status")).json
    assert re.fullmatch(A_TIME, found["started"])
    assert {"projects": 2, "connections": 1, "observers": 0, "published": 4, "delivered": 1}.items() <= found.items()
    assert {"total": 3, "recovered": 0, "lost": 1, "pending": 2} == {
        name: count for name, count in found["misses"].items() if name != "oldest_pending_seconds"
    }
    assert 0 <= found["misses"]["oldest_pending_seconds"]
    assert {"available": True, "problem": None, "errors": 0} == found["store"]
    assert 3 == found["ring"]["events"]
    assert not found["draining"]
    assert "admin" in found["permissions"]


async def test_every_page_of_very_many_projects_is_reached(site: Site) -> None:
    names = [f"p{number * 7919 % 2503}" for number in range(2503)]
    for name in names:
        site.context.hub.publish(name, Event("message", b"1"), site.context.clock())
    listed: list[str] = []
    offset: int | None = 0
    while offset is not None:
        page = (await site.ask("GET", f"/projects?sort=name&limit=1000&offset={offset}")).json
        listed += [each["project"] for each in page["projects"]]
        offset = page["next_offset"]
    assert sorted(names) == listed
    beyond = (await site.ask("GET", "/projects?sort=pending&offset=999999999")).json
    assert ([], 2503, None) == (beyond["projects"], beyond["total"], beyond["next_offset"])
