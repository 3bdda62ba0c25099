"""The live page in Chromium, used as a person uses it: by clicking, typing and looking."""

from __future__ import annotations

import asyncio
import json
import re
import shlex
import signal
import subprocess
import time
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import jwt
import pytest
from playwright.async_api import Browser, BrowserContext, Route

from tests.browser.conftest import PATIENCE_MS, OpenTab, Serve
from tests.browser.tab import Tab
from tests.faults.hub import HubProcess, until

AXE = Path(__file__).parent.parent / "node" / "node_modules" / "axe-core" / "axe.min.js"
TOKEN = "a-token-that-is-long-enough-to-be-taken-0123456789"
TRIGGER = "form:has(h2:text('Trigger'))"
PUBLISH = "form:has(h2:text('Publish'))"
OPEN = "#badge[data-state=open]"


async def rows(tab: Tab, kind: str = "event") -> list[str]:
    """The texts of the rows that are drawn."""
    return [re.sub(r"\s+", " ", text) for text in await tab.page.locator(f".row.{kind}").all_inner_texts()]


async def open_project(open_tab: OpenTab, hub: HubProcess, project: str) -> Tab:
    tab = await open_tab(f"{hub.url}/#/p/{project}")
    await tab.page.wait_for_selector(OPEN)
    return tab


async def receive(tab: Tab) -> None:
    """Make the page a subscriber."""
    await tab.page.click("#receive")
    await tab.shows("#role", "This page is a subscriber")


async def test_the_steps_of_the_bug_report_as_written(serve: Serve, open_tab: OpenTab) -> None:
    hub = await serve()
    project = "8b4aaa39-aa0f-431e-8d36-84407bf862de"
    # Open browser console. Navigate to a project.
    tab = await open_project(open_tab, hub, project)
    # Check for "Connection added", here and in the hub's own log.
    await receive(tab)
    await tab.logged(f"Connection added for project {project}. Total connections: 1")
    await tab.logged("✅ Real-time connection established")
    assert f"connection_added project={project}" in hub.log_text
    # Send a message.
    await tab.page.fill(f"{TRIGGER} textarea", '{"prompt": "make it blue"}')
    await tab.page.click(f"{TRIGGER} button.primary")
    # Verify: connected first, then the call.
    await tab.shows(f"{TRIGGER} output", "Started after")
    assert "1 connection, confirmed (client); target stream, status 201." in await tab.text(f"{TRIGGER} output")
    # Check that events arrive in real time.
    await until(lambda: rows(tab), lambda shown: any('{"prompt": "make it blue"}' in row for row in shown))
    assert [] == tab.errors


async def test_a_hub_that_hangs_or_breaks_off_is_shown_and_asked_again(serve: Serve, open_tab: OpenTab) -> None:
    hub = await serve()
    tab = await open_tab(hub.url)
    await tab.shows("main", "Overview")
    hub.signal(signal.SIGSTOP)
    try:
        await tab.shows("#hub", "The hub can't be reached. What you see is from")
    finally:
        hub.signal(signal.SIGCONT)
    await until(lambda: tab.text("#hub"), lambda now: not now)

    async def broken(request: Route) -> None:
        await request.fulfill(content_type="application/json", body='{"version": ')

    await tab.page.route("**/status", broken)
    await tab.shows("#hub", "The hub can't be reached. What you see is from")
    await tab.page.unroute("**/status")
    await until(lambda: tab.text("#hub"), lambda now: not now)
    assert [] == tab.errors


async def test_a_hub_that_restarts_is_shown_and_resumed(serve: Serve, open_tab: OpenTab, tmp_path: Path) -> None:
    settings = {"store__url": f"sqlite:{tmp_path / 'edge.db'}", "store__durability": "commit"}
    hub = await serve(**settings)
    tab = await open_project(open_tab, hub, "p")
    await hub.publish("p", "before")
    await until(lambda: rows(tab), lambda shown: len(shown) == 1)
    hub.signal(signal.SIGKILL)
    await tab.shows("#badge", "Reconnecting")
    await tab.shows("#hub", "The hub can't be reached. What you see is from")
    assert "stale" in await tab.run("document.body.className")
    assert "can't be reached" in await tab.text("#reason") or "ended" in await tab.text("#reason")
    again = await serve(hub.port, **settings)
    await again.publish("p", "meanwhile")
    await tab.page.wait_for_selector(OPEN)
    await tab.shows("#hub", "")
    await again.publish("p", "after")

    shown = await until(lambda: rows(tab), lambda shown: len(shown) == 3)
    assert ["before", "meanwhile", "after"] == [json.loads(re.findall(r'".*"', row)[0]) for row in shown]
    assert [] == await rows(tab, "gap")
    # The ids go on in another epoch: a row says so, between the two.
    [restart] = await rows(tab, "restart")
    assert "The hub restarted; its history continues." in restart
    assert 1 == await tab.page.locator(".row.event ~ .row.restart + .row.event").count()
    await until(lambda: tab.run("document.body.className"), lambda found: "stale" not in found)


async def test_a_gap_is_seen_and_says_why(serve: Serve, open_tab: OpenTab) -> None:
    hub = await serve()
    tab = await open_project(open_tab, hub, "p")
    await hub.publish("p", 1)
    await until(lambda: rows(tab), lambda shown: len(shown) == 1)
    hub.signal(signal.SIGKILL)
    await tab.shows("#badge", "Reconnecting")
    await serve(hub.port)

    [gap] = await until(lambda: rows(tab, "gap"), bool)
    assert "The history began anew: the hub restarted, or the project was deleted. Earlier events are gone." in gap


async def test_looking_counts_as_nothing_until_one_asks_to_receive(
    hub: HubProcess, open_tab: OpenTab, project: str
) -> None:
    for number in range(3):
        await hub.publish(project, number)
    tab = await open_project(open_tab, hub, project)
    await until(lambda: rows(tab), lambda shown: len(shown) == 3)
    await tab.shows(".notice.pending", "3 events wait for the next subscriber.")
    known = await hub.project(project)
    assert (3, 0) == (known["misses"]["pending"], known["connections_total"])
    await tab.page.click(".pending button")
    await tab.page.wait_for_selector(".notice.pending", state="hidden")
    misses = (await until(lambda: hub.project(project), lambda known: known["misses"]["recovered"] == 3))["misses"]
    assert (3, 0) == (misses["total"], misses["pending"])
    assert 3 == len(await rows(tab)), "each event once, though it came twice"
    await hub.publish(project, 3)
    await until(lambda: rows(tab), lambda shown: len(shown) == 4)
    await tab.page.click("#receive")
    await tab.shows("#role", "This page observes: it is not a subscriber, and receives no pending event.")
    await until(lambda: hub.project(project), lambda known: known["connections_total"] == 0)
    assert 1 == (await hub.publish(project, 4))["missed"]
    await until(lambda: rows(tab), lambda shown: len(shown) == 5)


async def test_the_history_is_there_at_once_with_its_times(hub: HubProcess, open_tab: OpenTab, project: str) -> None:
    for number in range(3):
        await hub.publish(project, number)
    _, history, _ = await hub.ask("GET", f"/projects/{project}/history")
    tab = await open_project(open_tab, hub, project)
    shown = await until(lambda: rows(tab), lambda shown: len(shown) == 3)
    await hub.publish(project, 3)
    later = await until(lambda: rows(tab), lambda shown: len(shown) == 4)

    assert [f"message {number} {number + 1}" for number in range(3)] == [row.split(" ", 1)[1] for row in shown]
    assert shown == later[:3]
    hovered = await tab.run("[...document.querySelectorAll('.row .when')].map((when) => when.title)")
    times = [datetime.fromisoformat(event["time"]) for event in history["events"]]
    shown_times = [datetime.fromisoformat(text.replace(" UTC", "Z")) for text in hovered[:3]]
    # The time of day is an event's age before now, so two answers may differ by what one of them rounds.
    assert all(abs(one - other) <= timedelta(milliseconds=2) for one, other in zip(times, shown_times, strict=True))


# --- the overview and the list ---


async def test_the_overview_answers_how_the_hub_is(serve: Serve, open_tab: OpenTab) -> None:
    hub = await serve(ring__max_events=2)
    tab = await open_tab(hub.url)
    await tab.shows("main", "First steps")
    assert f"curl -N {hub.url}/projects/demo/events" in await tab.text("main pre")
    for number in range(3):
        await hub.publish("losing", number)
    await hub.publish("waiting", 1)
    tab.page.set_default_timeout(PATIENCE_MS)
    await tab.shows(".figures >> nth=0", "Missed 4 0 recovered Pending 3")
    await tab.shows(".figures >> nth=0", "Lost 1")
    await tab.shows(".figures >> nth=1", "Hub Serving version")
    await tab.shows(".figures >> nth=1", "Projects 2 of at most 100,000")
    await tab.shows("main table", "losing 2 1 3 0 2 waiting 1 0 1 0 1")
    assert not await tab.page.get_by_text("First steps").is_visible()
    await tab.shows("main", "at most")  # the chart: something was published while the page looked
    await tab.page.click("main table >> text=losing")
    await tab.page.wait_for_selector(OPEN)
    assert [] == tab.errors


async def test_the_list_finds_sorts_and_opens(serve: Serve, open_tab: OpenTab) -> None:
    hub = await serve(ring__max_events=2)
    tab = await open_tab(hub.url)
    await tab.shows("#list-note", "No projects yet.")
    for name, count in (("alpha", 1), ("beta", 4), ("alphabet", 2)):
        for number in range(count):
            await hub.publish(name, number)
    await tab.shows("#list", "alpha 0 connections · 1 event held 1 pending")
    await tab.page.select_option("#sort", "lost")
    await tab.shows("#list", "beta 0 connections · 2 events held 2 pending 2 lost alpha ")
    await tab.page.fill("#name", "ALPHA")
    await tab.shows("#list-note", "2 projects found")
    await tab.page.fill("#name", "busy")
    await tab.shows("#list", "Open busy")
    await tab.page.press("#name", "Enter")
    await tab.page.wait_for_selector(OPEN)
    await receive(tab)
    await tab.page.select_option("#sort", "connections")
    await tab.shows("#list", "busy 1 connection · 0 events held")
    await tab.shows("#list [aria-current=page]", "busy")


async def test_a_list_of_many_projects_is_walked_page_by_page(serve: Serve, open_tab: OpenTab) -> None:
    hub = await serve()
    for number in range(120):
        await hub.publish(f"p{number:03}", 1)
    tab = await open_tab(hub.url)
    # The overview has the worst eight of them, and leads to the others.
    await tab.page.click("text=Sort all projects by pending misses")
    assert "pending" == await tab.page.input_value("#sort")
    await tab.page.select_option("#sort", "name")
    await tab.shows("#list", "p000")
    await tab.page.click("#after")
    await tab.page.click("#after")
    await tab.shows("#place", "101 to 120 of 120")
    await tab.shows("#list", "p119")
    assert await tab.page.is_disabled("#after")
    await tab.page.click("#before")
    await tab.shows("#place", "51 to 100 of 120")
    await tab.page.fill("#name", "11")
    await tab.shows("#list-note", "11 projects found")
    assert not await tab.page.is_visible("#pages")


async def test_the_theme_is_chosen_and_kept(hub: HubProcess, open_tab: OpenTab) -> None:
    tab = await open_tab(hub.url)
    ground = "getComputedStyle(document.body).backgroundColor"
    light = await tab.run(ground)
    await tab.page.select_option("#theme", "dark")
    dark = await tab.run(ground)
    assert light != dark
    await tab.page.reload()
    assert (dark, "dark") == (await tab.run(ground), await tab.page.input_value("#theme"))
    await tab.page.select_option("#theme", "")
    assert light == await tab.run(ground)
    assert "" == await tab.run("Object.keys(localStorage).join()")


# --- one project ---


async def test_publishing_says_who_got_it(hub: HubProcess, open_tab: OpenTab, project: str) -> None:
    tab = await open_project(open_tab, hub, project)
    await receive(tab)
    await tab.page.fill(f"{PUBLISH} [name=type]", "note")
    await tab.page.fill(f"{PUBLISH} textarea", "{not json")
    await tab.page.click(f"{PUBLISH} button.primary")
    await tab.shows(f"{PUBLISH} output", "The data is not JSON")
    await tab.page.select_option(f"{PUBLISH} select", "text")
    await tab.page.click(f"{PUBLISH} button.primary")
    await tab.shows(f"{PUBLISH} output", "Published to 1 connection")
    await until(lambda: rows(tab), lambda shown: any("note {not json" in row for row in shown))
    await tab.page.fill(f"{PUBLISH} [name=type]", "edge.mine")
    await tab.page.click(f"{PUBLISH} button.primary")
    await tab.shows(f"{PUBLISH} output", "Types that begin with `edge.` are reserved")


async def test_an_event_unfolds_and_copies_as_the_curl_command_that_publishes_it_again(
    hub: HubProcess, open_tab: OpenTab, project: str, profile: BrowserContext
) -> None:
    await profile.grant_permissions(["clipboard-read", "clipboard-write"])
    tab = await open_project(open_tab, hub, project)
    await receive(tab)
    event = {"type": "it's", "data": {"quote": "'\"$HOME`", "deep": {"list": [1, None]}}}
    await hub.ask("POST", f"/projects/{project}/events", json=event)
    await tab.page.click(".row.event")
    await tab.shows(".detail", "deep: { 1 key }")
    await tab.page.click(".detail summary:has-text('deep')")
    await tab.page.click(".detail summary:has-text('list')")
    await tab.shows(".detail", "1: null")
    await tab.page.click("text=Copy as curl")
    await tab.shows(".detail", "Copied")
    command = await tab.run("navigator.clipboard.readText()")
    done = await asyncio.to_thread(
        subprocess.run, ["sh", "-c", f"{command} --silent"], capture_output=True, text=True, check=True
    )

    assert "curl" == shlex.split(command)[0]
    assert 1 == json.loads(done.stdout)["connections"]
    shown = await until(lambda: rows(tab), lambda shown: len(shown) == 2)
    assert shown[0].partition("it's")[2][:-2] == shown[1].partition("it's")[2][:-2]


async def test_a_copied_command_holds_no_control_characters(
    hub: HubProcess, open_tab: OpenTab, project: str, profile: BrowserContext
) -> None:
    await profile.grant_permissions(["clipboard-read", "clipboard-write"])
    tab = await open_project(open_tab, hub, project)
    text = "a\x1b[201~\x03 'quoted' 50% \\n \u202eb\x9b1m\nlast"
    url = f"{hub.url}/projects/{project}/events"
    async with hub.session.post(url, data=text.encode(), headers={"Content-Type": "text/plain"}) as response:
        assert 202 == response.status
    await tab.page.click(".row.event")
    await tab.page.click("text=Copy as curl")
    await tab.shows(".detail", "Copied")
    command = await tab.run("navigator.clipboard.readText()")
    assert command.isprintable()
    await asyncio.to_thread(subprocess.run, ["sh", "-c", f"{command} --silent"], stdout=subprocess.DEVNULL, check=True)
    _, history, _ = await hub.ask("GET", f"/projects/{project}/history")
    assert [text, text] == [event["data"] for event in history["events"]]


async def test_types_are_filtered_and_a_pause_holds_what_comes(
    hub: HubProcess, open_tab: OpenTab, project: str
) -> None:
    tab = await open_project(open_tab, hub, project)
    for number in range(6):
        await hub.ask(
            "POST", f"/projects/{project}/events", json={"type": ("log", "progress")[number % 2], "data": number}
        )
    await until(lambda: rows(tab), lambda shown: len(shown) == 6)
    await tab.page.fill("[placeholder='Filter by type']", "prog")
    await until(lambda: rows(tab), lambda shown: len(shown) == 3)
    await tab.shows("#count", "3 of 6 rows")
    await tab.page.fill("[placeholder='Search in data']", "3")
    await until(lambda: rows(tab), lambda shown: len(shown) == 1)
    async with tab.page.expect_download() as downloading:
        await tab.page.click("text=Download")
    download = await downloading.value
    assert f"{project}.ndjson" == download.suggested_filename
    [line] = (await asyncio.to_thread(Path(await download.path()).read_text)).splitlines()
    assert ("progress", "3") == (json.loads(line)["type"], json.loads(line)["data"])
    await tab.page.fill("[placeholder='Filter by type']", "")
    await tab.page.fill("[placeholder='Search in data']", "")
    await tab.page.click("button:text('Pause')")
    await hub.publish(project, 6)
    await tab.shows(".tools", "Resume (1 new)")
    assert 6 == len(await rows(tab))
    await tab.page.click("button:text('Resume')")
    await until(lambda: rows(tab), lambda shown: len(shown) == 7)


async def test_ten_thousand_events_are_a_few_rows_and_the_page_still_answers(serve: Serve, open_tab: OpenTab) -> None:
    hub = await serve(ring__max_events=20_000, ring__max_bytes="8MiB")
    tab = await open_project(open_tab, hub, "p")
    lines = b"".join(b'{"type": "log", "data": {"line": %d}}\n' % number for number in range(10_001))
    await hub.ask("POST", "/projects/p/events", data=lines, headers={"Content-Type": "application/x-ndjson"})
    await tab.shows("#count", "10,000 rows")
    assert 100 > await tab.page.locator(".row").count()
    await until(lambda: rows(tab), lambda shown: '{"line": 10000}' in shown[-1])
    await tab.page.focus(".events")
    await tab.page.keyboard.press("Home")
    await until(lambda: rows(tab), lambda shown: '{"line": 1}' in shown[0])
    assert 100 > await tab.page.locator(".row").count()


async def test_the_events_are_walked_with_the_keyboard(hub: HubProcess, open_tab: OpenTab, project: str) -> None:
    tab = await open_project(open_tab, hub, project)
    for number in range(3):
        await hub.publish(project, number)
    await until(lambda: rows(tab), lambda shown: len(shown) == 3)
    await tab.page.keyboard.press("Tab")
    assert "skip" == await tab.run("document.activeElement.id")
    await tab.page.keyboard.press("Enter")
    assert ("main", f"#/p/{project}") == (await tab.run("document.activeElement.id"), await tab.run("location.hash"))
    for _ in range(30):
        await tab.page.keyboard.press("Tab")
        if await tab.run("document.activeElement.matches('.events')"):
            break
    await tab.page.keyboard.press("ArrowUp")
    await tab.page.keyboard.press("ArrowUp")
    await tab.shows(".row[aria-selected=true]", "message 1 2")
    await tab.shows(".detail", "message")
    active = await tab.page.get_attribute(".events", "aria-activedescendant")
    assert active == await tab.page.get_attribute(".row[aria-selected=true]", "id")


async def test_several_projects_are_seen_on_one_page(serve: Serve, open_tab: OpenTab) -> None:
    hub = await serve()
    for name in ("build", "deploy", "build"):
        await hub.publish(name, name)
    tab = await open_tab(hub.url)
    await tab.page.fill("#name", "build, deploy")
    await tab.shows("#list", "Open build, deploy")
    await tab.page.press("#name", "Enter")
    await tab.page.wait_for_selector(OPEN)
    shown = await until(lambda: rows(tab), lambda shown: len(shown) == 3)
    assert ["build/message", "deploy/message", "build/message"] == [row.split(" ")[1] for row in shown]
    assert [] == await rows(tab, "restart"), "an epoch for each project"
    await tab.page.click(f"{PUBLISH} button.primary")
    await tab.shows(f"{PUBLISH} output", "build: 0 connections, deploy: 0 connections")
    await until(lambda: rows(tab), lambda shown: len(shown) == 5)
    await tab.shows("main table", "build 0 3 3 0 3 0 deploy 0 2 2 0 2 0")
    await receive(tab)
    await tab.shows("main table", "build 1 3 3 3 0 0 deploy 1 2 2 2 0 0")
    assert 5 == len(await rows(tab))
    await tab.page.click("main table >> text=deploy")
    await tab.shows("h1", "deploy")
    await until(lambda: rows(tab), lambda shown: len(shown) == 2)
    assert [] == tab.errors


async def test_the_explanation_is_laid_out(hub: HubProcess, open_tab: OpenTab, project: str) -> None:
    await hub.publish(project, 1)
    tab = await open_project(open_tab, hub, project)
    await tab.page.click("summary:text('Why was no subscriber connected?')")
    await tab.shows(".explanation", f"{project}: no subscriber is connected.")
    await tab.shows(".explanation", "What to do")
    await tab.shows(".explanation table", "1 event missed in all")
    await receive(tab)
    await tab.shows(".more > summary", "Connections and history")
    await tab.shows(".explanation", "1 subscriber connected")
    await tab.shows(".more", "(this page)")


async def test_a_project_is_deleted_once_that_is_confirmed(hub: HubProcess, open_tab: OpenTab, project: str) -> None:
    await hub.publish(project, 1)
    tab = await open_project(open_tab, hub, project)
    await tab.page.click("text=Delete…")
    await tab.shows("#confirm", f"Delete {project}? Closes 0 streams and drops 1 event.")
    assert "Cancel" == await tab.run("document.activeElement.textContent")
    await tab.page.keyboard.press("Escape")
    assert 1 == (await hub.project(project))["ring"]["events"]
    await tab.page.click("text=Delete…")
    await tab.page.click("#confirm-ok")
    await tab.shows(".notice.good", f"{project} was deleted: 0 streams closed, 1 event dropped.")
    assert 404 == (await hub.ask("GET", f"/projects/{project}"))[0]


# --- who one is ---


async def test_with_auth_on_it_asks_for_a_token_and_keeps_it_for_the_tab(serve: Serve, open_tab: OpenTab) -> None:
    hub = await serve(auth__token=TOKEN)
    tab = await open_tab(f"{hub.url}/#/p/p")
    await tab.page.wait_for_selector("#ask-token[open]")
    await tab.page.fill("#token", "wrong")
    await tab.page.press("#token", "Enter")
    await tab.shows("#ask-token-why", "That token is invalid or has expired.")
    await tab.page.fill("#token", f"“{TOKEN}”")  # no header takes it; the hub "couldn't be reached"
    await tab.page.press("#token", "Enter")
    assert "patternMismatch" == await tab.run(
        "(() => { for (const x in token.validity) if (token.validity[x]) return x })()"
    )
    await tab.page.fill("#token", f" {TOKEN} ")
    await tab.page.press("#token", "Enter")
    await tab.page.wait_for_selector(OPEN)
    await tab.shows(".blank code", 'curl -H "Authorization: Bearer $EDGE_TOKEN" http')
    await receive(tab)
    await tab.page.click(f"{TRIGGER} button.primary")
    await tab.shows(f"{TRIGGER} output", "Started after")
    await tab.page.reload()
    await tab.page.wait_for_selector(OPEN)
    other = await open_tab(hub.url)

    await other.page.wait_for_selector("#ask-token[open]")
    assert [TOKEN, None] == [await one.run("sessionStorage.getItem('edge_token')") for one in (tab, other)]
    assert "" == await tab.run("document.cookie") + await tab.run("Object.keys(localStorage).join()")
    await tab.page.click("#sign:text('Sign out')")
    await tab.page.wait_for_selector("#ask-token[open]")
    await tab.page.click("text=How to make a token")
    await tab.shows("#ask-token pre", "edge token --ttl 24h")
    await tab.page.click("#ask-token-cancel")
    await tab.shows("#sign", "Sign in")
    await tab.shows("#hub", "Sign in to see this hub.")
    assert await tab.run("sessionStorage.getItem('edge_token')") is None


async def test_who_may_see_one_project_only_has_no_list_but_the_project(serve: Serve, open_tab: OpenTab) -> None:
    key = "a-key-of-at-least-thirty-two-bytes-0123456789"
    hub = await serve(auth__jwt_key=key)
    permissions = {right: ["p"] for right in ("subscribe", "publish", "trigger", "status")}
    tab = await open_tab(f"{hub.url}/#/p/p")
    await tab.page.fill("#token", jwt.encode({"exp": time.time() + 3600, "edge": permissions}, key))
    await tab.page.press("#token", "Enter")
    await tab.page.wait_for_selector(OPEN)
    await tab.shows("#hub", "lacks the permission status on the whole hub")
    await receive(tab)
    await tab.page.click(f"{PUBLISH} button.primary")
    await tab.shows(f"{PUBLISH} output", "Published to 1 connection")
    await tab.shows(".figures", "Events held 1")
    await tab.run("location.hash = '#/p/other'")
    await tab.shows("#badge", "Not connected")
    await tab.shows("#reason", "The token lacks the permission status on this project.")


# --- what others send ---

EVIL = (
    "<img src=x onerror=alert(1)>",
    "</script><script>alert(1)</script>",
    '"><svg onload=alert(1)>',
    "{{constructor.constructor('alert(1)')()}}",
    "javascript:alert(1)",
)


async def test_what_others_send_is_only_ever_text(hub: HubProcess, open_tab: OpenTab, project: str) -> None:
    tab = await open_project(open_tab, hub, project)
    dialogs: list[str] = []
    tab.page.on("dialog", lambda dialog: dialogs.append(dialog.message))
    for text in EVIL:
        for data in (text, {text: [text]}):
            await hub.ask("POST", f"/projects/{project}/events", json={"type": text, "data": data})
    await until(lambda: rows(tab), lambda shown: len(shown) == 2 * len(EVIL))
    for row in range(2 * len(EVIL)):
        await tab.page.click(f".row.event >> nth={row}")
        await tab.shows(".detail h2", re.sub(r"\s+", " ", EVIL[row // 2]))
    await receive(tab)
    for text in EVIL:
        await tab.page.fill(f"{TRIGGER} [name=name]", text)
        await tab.page.click(f"{TRIGGER} button.primary")
        await tab.shows(f"{TRIGGER} output", "Started after")

    assert 0 == await tab.page.locator(":is(main, nav) :is(img, svg:not(.chart), script)").count()
    assert ([], []) == (dialogs, tab.errors)
    assert [] == [line for line in tab.console if "Content Security Policy" in line or "TrustedHTML" in line]


@pytest.mark.parametrize("name", [*EVIL, "%3Cimg%20src=x%3E", "%E0%A4%A", "../../healthz", "a/b", "x" * 200])
async def test_an_address_with_any_project_name_stays_harmless(
    hub: HubProcess, profile: BrowserContext, open_tab: OpenTab, name: str
) -> None:
    asked: list[str] = []
    profile.on("request", lambda request: asked.append(request.url))
    tab = await open_tab(f"{hub.url}/#/p/{name}")
    await tab.page.wait_for_selector("#badge[data-state=closed], h1:text('Overview')")

    assert [] == tab.errors
    assert [] == [url for url in asked if not url.startswith(hub.url)]
    assert 0 == await tab.page.locator(":is(main, nav) :is(img, svg:not(.chart), script)").count()


# --- for everybody ---


@pytest.mark.node
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("width", "height"), [(1280, 900), (390, 844)])
async def test_axe_finds_nothing_and_nothing_is_wider_than_the_screen(
    hub: HubProcess, chromium: Browser, project: str, scheme: Any, width: int, height: int
) -> None:
    context = await chromium.new_context(
        color_scheme=scheme, viewport={"width": width, "height": height}, bypass_csp=True
    )
    context.set_default_timeout(PATIENCE_MS)
    try:
        await hub.publish(f"{project}.listed", 1)
        tab = Tab(await context.new_page())
        await tab.page.goto(hub.url)
        await tab.page.wait_for_selector("#list a")
        await tab.page.add_script_tag(path=AXE)
        await tab.page.wait_for_selector("main table")
        assert [] == await violations(tab), "the overview"
        await tab.page.goto(f"{hub.url}/#/p/{project}")
        await tab.page.wait_for_selector(OPEN)
        assert [] == await violations(tab), "an empty project"
        for kind in ("progress", "log", "a.b", "status", "c", "d"):
            await hub.ask(
                "POST", f"/projects/{project}/events", json={"type": kind, "data": {"n": [None, 1, "x", True]}}
            )
        await until(lambda: rows(tab), lambda shown: len(shown) == 6)
        await tab.page.click(".row.event >> nth=2")
        await receive(tab)
        await tab.page.click(f"{TRIGGER} button.primary")
        await tab.shows(f"{TRIGGER} output", "Started after")
        for summary in await tab.page.locator(".more > summary").all():
            await summary.click()
        await tab.shows(".explanation table", "The hub started")
        await tab.page.click("button:text('Pause')")
        assert [] == await violations(tab), "a project"
        assert width == await tab.run("document.documentElement.scrollWidth")
        await tab.page.goto(f"{hub.url}/#/p/{project},{project}.listed")
        await tab.shows("main table", f"{project}.listed 0 1 1 0 1 0")
        assert [] == await violations(tab), "two projects"
        assert width == await tab.run("document.documentElement.scrollWidth")
        await tab.page.goto(f"{hub.url}/#/p/{project}")
        await tab.page.wait_for_selector(OPEN)
        await tab.run("document.getElementById('ask-token').showModal()")
        await tab.page.click("text=How to make a token")
        assert [] == await violations(tab), "the question for a token"
        await tab.page.click("#ask-token-cancel")
        await tab.page.click("text=Delete…")
        assert [] == await violations(tab), "the question before deleting"
        assert [] == tab.errors
    finally:
        await context.close()


async def violations(tab: Tab) -> list[str]:
    await tab.run("Promise.all(document.getAnimations().map((animation) => animation.finished))")
    found = await tab.run("axe.run()")
    return [
        f"{one['id']}: {node['html']} {node['failureSummary']}" for one in found["violations"] for node in one["nodes"]
    ]
