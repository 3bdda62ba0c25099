"""The examples with a front end of React, run in Chromium as their pages in docs say."""

from __future__ import annotations

import asyncio
import shutil
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
from playwright.async_api import BrowserContext, Route

from tests.browser.conftest import OpenTab
from tests.browser.line import Line, line_to
from tests.browser.tab import Tab
from tests.clients.client import HERE
from tests.clients.recipe import STEPS, Backend, Inngest, Worker, run, server, types, unpack
from tests.faults.hub import HubProcess, serving, until
from tests.ports import free_port

pytestmark = [
    pytest.mark.slow,
    pytest.mark.clients,
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.timeout(600),
]
NEXT = "next/dist/bin/next"
VITE = "vite/bin/vite.js"
TOKEN = "the-token-of-the-backend"
LOCAL: dict[str, Any] = {
    "server__host": "127.0.0.1",
    "auth__anonymous": None,
    "stream__heartbeat_seconds": 0.5,
    "stream__retry_ms": 200,
    "trigger__max_wait_seconds": 60,
}


class App:
    """A running example: its hub, its backend, and a cable on the way of the stream."""

    def __init__(self, hub: HubProcess, backend: Backend, line: Line, settings: dict[str, Any]) -> None:
        self.hub = hub
        self.backend = backend
        self.line = line
        self.page: Callable[[str], str] = lambda project: f"{line.url}/projects/{project}"
        self._settings = settings
        token = settings.get("auth__token")
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._hubs = AsyncExitStack()

    async def restart_hub(self) -> None:
        self.hub.signal(signal.SIGKILL)
        await self.hub.ended()
        self.hub = await self._hubs.enter_async_context(serving(port=self.hub.port, **self._settings))

    async def close(self) -> None:
        await self._hubs.aclose()

    async def published(self, project: str, *kinds: str) -> None:
        """Wait until these types, in this order, are all that was published."""

        async def look() -> list[str]:
            return await types(self.hub, project, self._headers)

        await until(look, lambda found: len(found) >= len(kinds))
        assert list(kinds) == await look()

    async def connections(self, project: str) -> int:
        status, found, _ = await self.hub.ask("GET", f"/projects/{project}", headers=self._headers)
        return int(found["connections_total"]) if status == 200 else 0


@asynccontextmanager
async def nextjs() -> AsyncIterator[App]:
    """A production build. Browser - cable - Next - hub."""
    hub_port, port, inngest_port = free_port(), free_port(), free_port()
    backend = Inngest(inngest_port, f"http://127.0.0.1:{port}/api/inngest")
    settings = {**LOCAL, "auth__token": TOKEN, "trigger__url": backend.url, "trigger__format": "inngest"}
    folder = unpack("nextjs")
    environment = {"EDGE_URL": f"http://127.0.0.1:{hub_port}", "EDGE_TOKEN": TOKEN, "INNGEST_DEV": "1", "STEP_MS": "0"}
    await run(folder, NEXT, "build", **environment)
    command = (NEXT, "start", "--port", str(port), "--hostname", "127.0.0.1")
    async with (
        serving(port=hub_port, **settings) as hub,
        server(folder, *command, port=port, **environment),
        backend.serving(),
        line_to(port) as line,
    ):
        app = App(hub, backend, line, settings)
        yield app
        await app.close()


@asynccontextmanager
async def vite() -> AsyncIterator[App]:
    """A development server, so React's StrictMode mounts everything twice. Browser - Vite - cable - hub."""
    port, backend_port, hub_port = free_port(), free_port(), free_port()
    backend = Worker(backend_port, f"http://127.0.0.1:{hub_port}")
    settings = {**LOCAL, "trigger__url": backend.url}
    folder = unpack("vite-react")
    shutil.copy(HERE / "node" / "hook.tsx", folder / "src")
    page = (folder / "index.html").read_text()
    (folder / "hook.html").write_text(page.replace("/src/main.tsx", "/src/hook.tsx"))
    command = (VITE, "--port", str(port), "--host", "127.0.0.1", "--strictPort")
    async with (
        serving(port=hub_port, **settings) as hub,
        line_to(hub_port) as line,
        server(folder, *command, port=port, EDGE_URL=line.url),
        backend.serving(),
    ):
        app = App(hub, backend, line, settings)
        app.page = lambda project: f"http://127.0.0.1:{port}/?project={project}"
        yield app
        await app.close()


async def send(tab: Tab, prompt: str) -> None:
    await tab.page.fill("input", prompt)
    await tab.page.click("form button")


async def percent(tab: Tab) -> list[float]:
    """How far the bars are that the page shows."""
    bars = await tab.page.locator("progress").all()
    return [float(await bar.get_attribute("value") or 0) for bar in bars]


async def shows_percent(tab: Tab, *expected: float) -> None:
    await until(lambda: percent(tab), lambda now: now == list(expected))


async def sent_before_the_stream_is_open_the_job_waits_and_is_done_once(
    app: App, profile: BrowserContext, open_tab: OpenTab
) -> None:
    opened = asyncio.Event()

    async def hold(route: Route) -> None:
        await opened.wait()
        await route.continue_()

    await profile.route("**/events?**", hold)  # no stream opens
    tab = await open_tab(app.page("early"))
    await send(tab, "a red house")
    await tab.shows("form button", "Sending…")
    await tab.shows("[role=status]", "Connecting…")
    before = len(app.backend.jobs)
    assert 0 == await app.connections("early")
    opened.set()
    await tab.shows("[role=status]", "Connected")
    await profile.unroute("**/events?**")
    app.backend.let(len(STEPS))
    await tab.shows("ol", "A picture of a red house")
    assert before + 1 == len(app.backend.jobs)
    await app.published("early", *STEPS)
    assert 1 == await app.connections("early")
    await until(tab.page.locator("form button").is_enabled, bool)
    assert [] == tab.errors


async def a_cable_cut_in_the_middle_costs_nothing(app: App, _profile: BrowserContext, open_tab: OpenTab) -> None:
    tab = await open_tab(app.page("cut"))
    await send(tab, "a blue house")
    app.backend.let(2)
    await shows_percent(tab, 25)
    app.line.cut()
    await tab.shows("[role=status]", "Connecting…")
    app.backend.let(len(STEPS) - 2)
    await app.published("cut", *STEPS)
    assert [25] == await percent(tab)
    app.line.mend()
    await tab.shows("ol", "A picture of a blue house")
    await tab.shows("[role=status]", "Connected")
    await until(lambda: app.connections("cut"), lambda count: count == 1)
    assert "" == await tab.text("main [role=alert]")


async def a_reload_in_the_middle_and_after_the_end_and_a_second_tab_show_the_same(
    app: App, _profile: BrowserContext, open_tab: OpenTab
) -> None:
    tab = await open_tab(app.page("reload"))
    await send(tab, "a green house")
    app.backend.let(3)
    await shows_percent(tab, 50)
    await tab.page.reload()
    await shows_percent(tab, 50)
    second = await open_tab(app.page("reload"))
    await shows_percent(second, 50)
    app.backend.let(1)
    await shows_percent(tab, 75)
    await shows_percent(second, 75)
    app.backend.let(len(STEPS) - 4)
    for one in (tab, second):
        await one.shows("ol", "A picture of a green house")
    await tab.page.reload()
    await tab.shows("ol", "A picture of a green house")
    assert 1 == await tab.page.locator("li").count()
    await until(lambda: app.connections("reload"), lambda count: count == 2)
    assert [] == tab.errors + second.errors


async def a_job_that_fails_says_so(app: App, _profile: BrowserContext, open_tab: OpenTab) -> None:
    tab = await open_tab(app.page("failed"))
    await send(tab, "fail here")
    app.backend.let(2)
    await tab.shows("ol", "Failed: The paint is empty.")
    await app.published("failed", "started", "failed")


async def a_hub_that_is_killed_in_the_middle_ends_no_job(app: App, _profile: BrowserContext, open_tab: OpenTab) -> None:
    tab = await open_tab(app.page("killed"))
    await send(tab, "an old house")
    app.backend.let(2)
    await shows_percent(tab, 25)
    await app.restart_hub()
    app.backend.let(len(STEPS) - 2)
    await tab.shows("ol", "A picture of an old house")
    await tab.shows("[role=status]", "Connected")
    # Without a store the hub has forgotten what was there before, and says so.
    await tab.shows("main [role=alert]", "Some events are no longer available")
    assert [] == tab.errors


async def the_hook_opens_and_closes_streams_as_its_arguments_say(
    app: App, _profile: BrowserContext, open_tab: OpenTab
) -> None:
    tab = await open_tab(app.page("hook").replace("/?", "/hook.html?"))

    async def added() -> float:
        return (await app.hub.metrics())["edge_connections_added_total"]

    async def saw(line: str) -> None:
        await until(lambda: tab.run("seen"), lambda seen: line in seen)

    async def count(name: str, expected: int) -> None:
        await until(lambda: app.connections(f"hook-{name}"), lambda found: found == expected)

    async def use(project: object, label: str, connections: str, state: str = "open", **options: object) -> None:
        await until(lambda: tab.run("typeof use"), lambda found: found == "function")
        await tab.run("([project, label, options]) => use(project, label, options)", [project, label, options])
        await tab.shows("[role=status]", f"{label} {state}")
        for name in "ab":
            await count(name, connections.count(name))

    before = await added()
    await use(None, "1", "", "connecting")
    assert before == await added()
    await use("hook-a", "2", "a")
    await use("hook-a", "3", "a")  # other handlers, the same stream
    assert before + 1 == await added()
    await app.hub.ask("POST", "/projects/hook-a/events", json={"type": "progress", "data": 1})
    await saw("3 hook-a 1")
    await use("hook-b", "4", "b")
    assert before + 2 == await added()
    await use("hook-b", "5", "b", since="all")  # an option of the connection
    assert before + 3 == await added()
    await use(["hook-a", "hook-b"], "6", "ab")
    await app.hub.ask("POST", "/projects/hook-b/events", json={"type": "progress", "data": 2})
    await saw("6 hook-b 2")
    await use(["hook-a", "hook-b"], "7", "ab")  # another array of the same
    assert before + 5 == await added()
    assert {"ready", "3 hook-a 1", "6 hook-b 2"} == set(await tab.run("seen"))
    await tab.run("unmount()")
    for name in "ab":
        await count(name, 0)
    assert [] == tab.errors


SCENES = (
    sent_before_the_stream_is_open_the_job_waits_and_is_done_once,
    a_cable_cut_in_the_middle_costs_nothing,
    a_reload_in_the_middle_and_after_the_end_and_a_second_tab_show_the_same,
    a_job_that_fails_says_so,
    a_hub_that_is_killed_in_the_middle_ends_no_job,
)


@pytest.mark.parametrize(
    ("example", "more"), [(nextjs, ()), (vite, (the_hook_opens_and_closes_streams_as_its_arguments_say,))]
)
async def test_an_example(
    example: Callable[[], AbstractAsyncContextManager[App]], more: Any, profile: BrowserContext, open_tab: OpenTab
) -> None:
    async with example() as app:
        for scene in (*more, *SCENES):
            await scene(app, profile, open_tab)
            for page in profile.pages:
                await page.close()
