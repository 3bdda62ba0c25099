"""edge.js in Chromium, against a hub in a process of its own."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import BrowserContext

from tests.browser.conftest import OpenTab, Serve
from tests.browser.line import line_to
from tests.browser.tab import Tab
from tests.faults.hub import HubProcess, until

BLANK = "/edge.d.ts"  # a document of the hub's origin in which nothing runs
NOT_CONNECTED = "Failed to establish real-time connection. Please refresh and try again."
_CAUGHT = "(error) => ({ code: error.code, message: error.message, status: error.status })"


async def connections(hub: HubProcess, project: str, count: int) -> None:
    """Wait until the project has that many readers."""

    async def now() -> int:
        _, found, _ = await hub.ask("GET", f"/projects/{project}")
        return int(found.get("connections_total", 0))  # a project with nothing left is forgotten

    await until(now, lambda readers: readers == count)


async def test_events_come_in_order_with_name_id_and_data(hub: HubProcess, open_tab: OpenTab, project: str) -> None:
    tab = await open_tab(hub.url + BLANK)
    await tab.open_stream(hub.url, project)
    await tab.reached("open")
    for kind in ("progress", "gap", "statechange"):
        await hub.ask("POST", f"/projects/{project}/events", json={"type": kind, "data": {"of": kind}})
    receipt = await hub.publish(project, "é漢😀")
    await tab.got({"of": "progress"}, {"of": "gap"}, {"of": "statechange"}, "é漢😀")

    assert ["progress", "gap", "statechange", "message"] == await tab.run("seen.events.map(([, name]) => name)")
    assert receipt["id"] == await tab.run("stream.lastEventId")
    assert [["open"], []] == await tab.run("[seen.states, seen.gaps]"), (
        "a project's own `gap` is not taken for the hub's"
    )
    assert [] == tab.errors


async def test_listening_by_type_gives_parsed_json_and_what_eventsource_gives(
    hub: HubProcess, open_tab: OpenTab, project: str
) -> None:
    tab = await open_tab(hub.url + BLANK)
    await tab.open_stream(hub.url, project)
    await tab.run("""void (window.heard = new Promise((resolve) => stream.addEventListener("progress", (event) =>
        resolve([event.type, event.name, event.json.percent, event.data, event.lastEventId === event.id]))))""")
    await tab.reached("open")
    await hub.ask("POST", f"/projects/{project}/events", json={"type": "progress", "data": {"percent": 50}})

    assert ["progress", "progress", 50, '{"percent": 50}', True] == await tab.run("heard")


async def test_ready_resolves_once_open_and_a_trigger_gives_its_receipt(
    hub: HubProcess, open_tab: OpenTab, project: str
) -> None:
    tab = await open_tab(hub.url + BLANK)
    await tab.open_stream(hub.url, project)
    assert await tab.run("stream.ready().then(() => stream.isConnected)")
    receipt = await tab.run("stream.trigger('api/iterate', { prompt: 'hello' })")
    await tab.got({"prompt": "hello"})

    assert ("api/iterate", 1, "client", True) == tuple(
        receipt[field] for field in ("name", "connections", "confirmed", "dispatched")
    )


async def test_triggers_at_once_leave_a_connection_to_the_answers_of_probes(
    hub: HubProcess, open_tab: OpenTab, project: str
) -> None:
    tabs = [await open_tab(hub.url + BLANK) for _ in range(2)]
    for tab in tabs:
        await tab.open_stream(hub.url, project, shared=True)
        await tab.reached("open")
    script = "Promise.all([1, 2, 3, 4, 5, 6].map((number) => stream.trigger('job', number, { timeout: 20000 })))"
    receipts = await asyncio.gather(*(tab.run(script) for tab in tabs))

    assert [1] * 12 == [receipt["connections"] for one in receipts for receipt in one]
    assert max(receipt["waited_ms"] for one in receipts for receipt in one) < 15_000


async def test_a_trigger_with_the_same_id_is_dispatched_once(hub: HubProcess, open_tab: OpenTab, project: str) -> None:
    tab = await open_tab(hub.url + BLANK)
    await tab.open_stream(hub.url, project)
    first, again = await tab.run("""(async () =>
        [await stream.trigger("job", 1, { id: "j1" }), await stream.trigger("job", 1, { id: "j1" })])()""")
    await hub.publish(project, "after")

    assert first == again
    await tab.got(1, "after")


async def test_ready_and_trigger_name_the_missing_subscriber(serve: Serve, open_tab: OpenTab) -> None:
    hub = await serve(stream__heartbeat_seconds=0.5)
    tab = await open_tab(hub.url + BLANK)
    hub.signal(signal.SIGSTOP)
    # The module is already here; only the connection is not.
    hub.signal(signal.SIGCONT)
    await tab.run("import('/edge.js').then(() => true)")
    hub.signal(signal.SIGSTOP)
    await tab.open_stream(hub.url, "p")

    expected = {"code": "not_connected", "message": NOT_CONNECTED, "status": None}
    assert expected == await tab.run(f"stream.ready({{ timeout: 100 }}).catch({_CAUGHT})")
    assert expected == await tab.run(f"stream.trigger('job', 1, {{ timeout: 100 }}).catch({_CAUGHT})")
    hub.signal(signal.SIGCONT)


async def test_a_refused_trigger_is_a_typed_error_with_the_hubs_sentence(
    hub: HubProcess, open_tab: OpenTab, project: str
) -> None:
    tab = await open_tab(hub.url + BLANK)
    await tab.open_stream(hub.url, project)
    error = await tab.run(f"stream.trigger('job', 1, {{ timeout: 300, connections: 2 }}).catch({_CAUGHT})")

    assert ("no_connection", 409) == (error["code"], error["status"])
    assert error["message"]


async def test_a_hub_killed_and_started_again_is_found_again_and_nothing_is_lost(
    serve: Serve, open_tab: OpenTab, tmp_path: Path
) -> None:
    settings = {"store__url": f"sqlite:{tmp_path / 'edge.db'}", "store__durability": "commit"}
    hub = await serve(**settings)
    tab = await open_tab(hub.url + BLANK)
    await tab.open_stream(hub.url, "p")
    await tab.reached("open")
    await hub.publish("p", 1)
    await tab.got(1)
    hub.signal(signal.SIGKILL)
    await tab.reached("reconnecting")
    again = await serve(hub.port, **settings)
    await again.publish("p", 2)
    await tab.reached("open")
    await again.publish("p", 3)

    await tab.got(1, 2, 3)
    assert [] == await tab.run("seen.gaps")
    await connections(again, "p", 1)


async def test_a_hub_that_forgot_everything_is_a_gap_and_not_silence(serve: Serve, open_tab: OpenTab) -> None:
    hub = await serve()
    tab = await open_tab(hub.url + BLANK)
    await tab.open_stream(hub.url, "p")
    await tab.reached("open")
    await hub.publish("p", 1)
    await tab.got(1)
    hub.signal(signal.SIGKILL)
    await tab.reached("reconnecting")
    again = await serve(hub.port)
    await again.publish("p", 2)
    await tab.got(1, 2)

    assert ["restart"] == await tab.run("seen.gaps.map(({ reason }) => reason)")


async def test_a_hub_that_shuts_down_says_so_and_is_found_again(serve: Serve, open_tab: OpenTab) -> None:
    hub = await serve()
    tab = await open_tab(hub.url + BLANK)
    await tab.open_stream(hub.url, "p")
    await tab.reached("open")
    hub.signal(signal.SIGTERM)
    await hub.ended()
    await tab.reached("reconnecting")
    await serve(hub.port)
    await tab.reached("open")

    assert ["shutdown"] == await tab.run("seen.closings.map(({ reason }) => reason)")


async def test_without_network_it_waits_and_with_it_continues_where_it_was(
    hub: HubProcess, open_tab: OpenTab, profile: BrowserContext, project: str
) -> None:
    async with line_to(hub.port) as line:
        tab = await open_tab(line.url + BLANK)
        await tab.open_stream(line.url, project)
        await tab.reached("open")
        await hub.publish(project, 1)
        await tab.got(1)
        line.cut()
        await profile.set_offline(True)
        await tab.reached("reconnecting")
        await hub.publish(project, 2)
        line.mend()
        await profile.set_offline(False)
        await tab.reached("open")
        await hub.publish(project, 3)

        await tab.got(1, 2, 3)


async def test_a_hub_that_is_silent_for_two_and_a_half_heartbeats_is_left(serve: Serve, open_tab: OpenTab) -> None:
    hub = await serve(stream__heartbeat_seconds=0.5)
    tab = await open_tab(hub.url + BLANK)
    await tab.open_stream(hub.url, "p")
    await tab.reached("open")
    hub.signal(signal.SIGSTOP)
    await tab.reached("reconnecting")
    hub.signal(signal.SIGCONT)
    await tab.reached("open")
    await hub.publish("p", 1)

    await tab.got(1)
    assert "silent" == await tab.run("seen.reasons[1]")
    await connections(hub, "p", 1)


@pytest.mark.parametrize(
    "call",
    [
        "dispatchEvent(new Event('online'))",
        "document.dispatchEvent(new Event('visibilitychange'))",
        "void stream.ready()",
    ],
)
async def test_it_comes_back_at_once_when_there_is_reason_to(serve: Serve, open_tab: OpenTab, call: str) -> None:
    hub = await serve(stream__retry_ms=3_600_000)
    tab = await open_tab(hub.url + BLANK)
    await tab.open_stream(hub.url, "p")
    await tab.reached("open")
    hub.signal(signal.SIGKILL)
    await tab.reached("reconnecting")
    await serve(hub.port)
    await tab.run(call)

    await tab.reached("open")


async def test_closed_is_closed_for_good(hub: HubProcess, open_tab: OpenTab, project: str) -> None:
    tab = await open_tab(hub.url + BLANK)
    await tab.open_stream(hub.url, project)
    await tab.reached("open")
    await tab.run("stream.close()")
    await connections(hub, project, 0)
    await hub.publish(project, 1)
    await tab.run("dispatchEvent(new Event('online'))")

    error = await tab.run(f"stream.ready().catch({_CAUGHT})")
    assert ("not_connected", NOT_CONNECTED) == (error["code"], error["message"])
    assert (["open", "closed"], []) == (await tab.run("seen.states"), await tab.data())


async def test_missed_events_come_first_and_once(hub: HubProcess, open_tab: OpenTab, project: str) -> None:
    await hub.publish(project, 1)
    tab = await open_tab(hub.url + BLANK)
    await tab.open_stream(hub.url, project)
    await tab.got(1)
    await tab.run("dispatchEvent(new Event('online'))")
    await hub.publish(project, 2)
    await tab.got(1, 2)


async def test_with_since_none_it_begins_with_what_comes_also_when_it_was_dropped_before_the_first_event(
    serve: Serve, open_tab: OpenTab
) -> None:
    hub = await serve(stream__heartbeat_seconds=0.5)
    await hub.publish("old", 1)
    tab = await open_tab(hub.url + BLANK)
    for project, expected in (("old", [2]), ("new", [2])):
        await tab.open_stream(hub.url, project, since="none")
        await tab.reached("open")
        hub.signal(signal.SIGSTOP)
        await tab.reached("reconnecting")
        hub.signal(signal.SIGCONT)
        await hub.publish(project, 2)
        await tab.got(*expected)
        await tab.run("stream.close()")


async def test_edge_js_answers_probes(hub: HubProcess, open_tab: OpenTab, project: str) -> None:
    tab = await open_tab(hub.url + BLANK)
    await tab.open_stream(hub.url, project)
    await tab.reached("open")
    status, answer, _ = await hub.ask("GET", f"/projects/{project}/ready?confirm=client&timeout=5s")

    assert (200, "client") == (status, answer["confirmed"])


# --- refusals ---


TOKEN = "a-token-that-is-long-enough-to-be-taken-0123456789"


@pytest.fixture
def guarded() -> dict[str, Any]:
    return {"auth__token": TOKEN}


async def test_without_a_valid_token_it_is_closed_with_the_reason(
    serve: Serve, open_tab: OpenTab, guarded: dict[str, Any]
) -> None:
    hub = await serve(**guarded)
    tab = await open_tab(hub.url + BLANK)
    for options in ({}, {"token": "wrong"}, {"ticket": "wrong"}):
        await tab.open_stream(hub.url, "p", **options)
        await tab.reached("closed")
        assert ["unauthenticated", 401] == await tab.run("[stream.error.code, stream.error.status]")
    error = await tab.run(f"stream.ready().catch({_CAUGHT})")
    assert ("unauthenticated", 401, NOT_CONNECTED) == (error["code"], error["status"], error["message"])


async def test_with_a_token_it_is_open_and_may_trigger(
    serve: Serve, open_tab: OpenTab, guarded: dict[str, Any]
) -> None:
    hub = await serve(**guarded)
    tab = await open_tab(hub.url + BLANK)
    await tab.open_stream(hub.url, "p", token=TOKEN)
    await tab.run("stream.trigger('job', 1)")

    await tab.got(1)


async def test_a_refused_token_is_renewed_once(serve: Serve, open_tab: OpenTab, guarded: dict[str, Any]) -> None:
    hub = await serve(**guarded)
    tab = await open_tab(hub.url + BLANK)
    script = """async ([url, tokens]) => {
        const { ProjectStream } = await import("/edge.js");
        window.asked = 0;
        window.stream = new ProjectStream(url, { project: "p", token: async () => tokens[asked++] });
    }"""
    await tab.run(script, [hub.url, ["old", TOKEN]])
    await tab.reached("open")
    await tab.run("stream.close()")
    await tab.run(script, [hub.url, ["old", "older", TOKEN]])
    await tab.reached("closed")

    assert 2 == await tab.run("asked")


async def test_a_function_fetches_a_new_ticket_for_every_connection(
    serve: Serve, open_tab: OpenTab, guarded: dict[str, Any]
) -> None:
    hub = await serve(**guarded)
    tab = await open_tab(hub.url + BLANK)
    await tab.run(
        """async ([url, token]) => {
            const { ProjectStream } = await import("/edge.js");
            window.tickets = new Set();
            const ticket = async () => {
                const headers = { Authorization: `Bearer ${token}` };
                const given = await (await fetch("/projects/p/ticket", { method: "POST", headers })).json();
                tickets.add(given.ticket);
                return given.ticket;
            };
            window.stream = new ProjectStream(url, { project: "p", ticket });
        }""",
        [hub.url, TOKEN],
    )
    await tab.reached("open")
    await tab.run("dispatchEvent(new Event('online'))")
    await until(lambda: tab.run("tickets.size"), lambda size: size == 2)
    await tab.reached("open")


async def test_the_cookie_is_enough_on_the_hubs_own_origin(
    serve: Serve, open_tab: OpenTab, profile: BrowserContext, guarded: dict[str, Any]
) -> None:
    hub = await serve(**guarded)
    await profile.add_cookies([{"name": "edge_token", "value": TOKEN, "url": hub.url, "httpOnly": True}])
    tab = await open_tab(hub.url + BLANK)
    await tab.open_stream(hub.url, "p")

    await tab.reached("open")


async def test_a_path_without_a_hub_is_closed_with_404(hub: HubProcess, open_tab: OpenTab, project: str) -> None:
    tab = await open_tab(hub.url + BLANK)
    await tab.open_stream(hub.url + "/elsewhere", project)
    await tab.reached("closed")

    assert ["not_found", 404] == await tab.run("[stream.error.code, stream.error.status]")


async def test_a_full_hub_differs_from_a_dead_one_and_is_retried_after_its_pause(
    serve: Serve, open_tab: OpenTab
) -> None:
    hub = await serve(limits__max_connections=1, limits__max_connections_per_project=1)
    first, second = [await open_tab(hub.url + BLANK) for _ in range(2)]
    await first.open_stream(hub.url, "p")
    await first.reached("open")
    await second.open_stream(hub.url, "p")
    await second.reached("reconnecting")

    code, status, wait_ms = await second.run("[stream.error.code, stream.error.status, seen.waits[0]]")
    assert code.startswith("too_many_")
    assert status in {429, 503}
    assert 5000 == wait_ms


# --- many tabs ---


async def test_seven_tabs_share_one_connection_and_all_hear(hub: HubProcess, open_tab: OpenTab, project: str) -> None:
    tabs = [await open_tab(hub.url + BLANK) for _ in range(7)]
    for tab in tabs:
        await tab.open_stream(hub.url, project, shared=True)
    for tab in tabs:
        await tab.reached("open")
    for number in range(20):
        await hub.publish(project, number)
    for tab in tabs:
        await tab.got(*range(20))

    await connections(hub, project, 1)
    assert 1 == (await tabs[-1].run("stream.trigger('job', 20)"))["connections"]


async def test_tabs_share_one_connection_for_several_projects_and_take_over(
    hub: HubProcess, open_tab: OpenTab, project: str
) -> None:
    names = [f"{project}-{number}" for number in range(8)]
    tabs = [await open_tab(hub.url + BLANK) for _ in range(2)]
    for tab in tabs:
        await tab.open_stream(hub.url, project, projects=names, shared=True)
        await tab.run(
            "void stream.addEventListener('event', (event) => (seen.last = [event.project, event.name, event.id]))"
        )
        await tab.reached("open")
    receipts = [await hub.publish(name, number) for number, name in enumerate(names)]
    for tab in tabs:
        await tab.got(*range(8))
        assert [names[-1], "message", receipts[-1]["id"]] == await tab.run("seen.last")
        assert ",".join(f"{each['project']}:{each['id']}" for each in receipts) == await tab.run("stream.lastEventId")
    await connections(hub, names[0], 1)
    # `confirm=client`: the tab that holds the connection answers the probe of this project.
    receipt = await tabs[1].run(f"stream.trigger('job', 8, {{ project: '{names[5]}', timeout: 20000 }})")
    assert [names[5], 1] == [receipt["project"], receipt["connections"]]
    await tabs[0].page.close()
    await hub.publish(names[2], 9)
    await tabs[1].got(*range(8), 8, 9)
    for name in names:
        await hub.ask("POST", f"/projects/{name}/events?final=true", json={"data": 10})
    await tabs[1].reached("closed")
    assert "finished" == await tabs[1].run("stream.error.code")
    assert [*range(8), 8, 9, *[10] * 8] == await tabs[1].data()
    assert set(names) == set(await tabs[1].run("seen.closings.map(({ project }) => project)"))
    assert [] == await tabs[1].run("seen.gaps")


async def test_who_observes_shares_with_observers_only(hub: HubProcess, open_tab: OpenTab, project: str) -> None:
    tabs = [await open_tab(hub.url + BLANK) for _ in range(2)]
    for tab, observe in zip(tabs, (True, False), strict=True):
        await tab.open_stream(hub.url, project, shared=True, observe=observe)
        await tab.reached("open")

    assert 1 == (await tabs[1].run("stream.trigger('job', 1)"))["connections"]
    await tabs[0].got(1)


async def test_without_sharing_the_seventh_stream_never_opens(hub: HubProcess, open_tab: OpenTab, project: str) -> None:
    tab = await open_tab(hub.url + BLANK)
    for _ in range(7):
        await tab.open_stream(hub.url, project)
    await connections(hub, project, 6)
    # A browser's limit, and the reason for `shared`: nothing is refused, nothing comes.
    error = await tab.run(f"stream.ready({{ timeout: 500 }}).catch({_CAUGHT})")
    assert NOT_CONNECTED == error["message"]
    assert "open" not in await tab.run("seen.states")


async def test_when_the_leading_tab_closes_another_takes_over_and_nothing_is_lost_or_doubled(
    hub: HubProcess, open_tab: OpenTab, project: str
) -> None:
    tabs = [await open_tab(hub.url + BLANK) for _ in range(5)]
    for tab in tabs:
        await tab.open_stream(hub.url, project, shared=True)
        await tab.reached("open")
    published, enough = 0, False

    async def publish_on() -> None:
        nonlocal published
        while not enough:
            await hub.publish(project, published)
            published += 1

    publishing = asyncio.create_task(publish_on())
    try:
        while len(tabs) > 2:
            before = published
            await tabs[0].page.close()
            del tabs[0]
            await heard_more_than(tabs[0], before + 50)
    finally:
        enough = True
        await publishing
    for tab in tabs:
        await tab.got(*range(published))
    await connections(hub, project, 1)


async def test_a_leader_that_stops_hands_over_without_leaving_its_tab(
    hub: HubProcess, open_tab: OpenTab, project: str
) -> None:
    leader, follower = [await open_tab(hub.url + BLANK) for _ in range(2)]
    for tab in (leader, follower):
        await tab.open_stream(hub.url, project, shared=True)
        await tab.reached("open")
    await hub.publish(project, 1)
    await follower.got(1)
    await leader.run("stream.close()")
    await hub.publish(project, 2)

    await follower.got(1, 2)
    await follower.reached("open")
    assert "closed" == await leader.state()
    assert [1] == await leader.data()


async def heard_more_than(tab: Tab, count: int) -> None:
    await until(lambda: tab.run("seen.events.length"), lambda seen: seen > count)
