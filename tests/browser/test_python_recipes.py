"""The examples in Python, run in Chromium as their pages in docs say: with the wheel that a hub serves."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import pytest_asyncio
from playwright.async_api import BrowserContext, Route

from tests.browser.conftest import LOCAL, OpenTab
from tests.browser.line import Gate, Line, gate_to, line_to
from tests.browser.tab import Tab
from tests.clients.client import INSTALLED
from tests.clients.recipe import server, unpack
from tests.faults.hub import HubProcess, serving, until
from tests.ports import free_port

pytestmark = [pytest.mark.slow, pytest.mark.clients, pytest.mark.timeout(600)]

EXAMPLES = Path(__file__).parents[2] / "examples"
PYTHON = INSTALLED / "examples" / "bin" / "python"
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwDlTCiM6ulM4="


class Recipe(NamedTuple):
    """An example: its program, what its page shows in the middle of a job for "a red house", and at its end.

    `second_half`: what a job publishes behind its middle. A test that looks at that holds this back.
    """

    program: str
    environment: dict[str, str]
    middle: str
    end: str
    second_half: bytes


SECOND_HALF = rb'"percent": ?60'
PLAIN = Recipe("plain/worker.py", {"STEP_SECONDS": "0.1"}, "Working…", "A picture of a red house", SECOND_HALF)
LLM = Recipe("llm/server.py", {"TOKEN_SECONDS": "0.02"}, "stands on a hill", "The end.", b"(?!)")  # its text stays


class App:
    """A running example, its hub, the cable between browser and hub, and the gate between example and hub."""

    def __init__(
        self, recipe: Recipe, hub: HubProcess, line: Line, gate: Gate, url: str, settings: dict[str, Any]
    ) -> None:
        self.recipe = recipe
        self.hub = hub
        self.line = line
        self.gate = gate
        self.url = url
        self.settings = settings
        self.stack = AsyncExitStack()

    async def restart_hub(self) -> None:
        """What the example sends meanwhile waits, however long it takes: its client retries for a few seconds only."""
        self.gate.cut()
        self.hub.signal(signal.SIGKILL)
        await self.hub.ended()
        self.hub = await self.stack.enter_async_context(serving(port=self.hub.port, **self.settings))
        self.gate.mend()

    def page(self, project: str) -> str:
        return f"{self.url}/?project={project}"


async def end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.kill()
    await process.wait()
    process._transport.close()  # type: ignore[attr-defined]  # or it warns when it is collected


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def packages(hub: HubProcess, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the client, as pip installs it from the hub."""
    folder = tmp_path_factory.mktemp("packages")
    async with hub.session.get(hub.url + "/clients/") as answer:
        [wheel] = [line for line in (await answer.text()).split('"') if line.endswith(".whl")]
    command = ("-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-deps", "--target", str(folder))
    process = await asyncio.create_subprocess_exec(PYTHON, *command, f"{hub.url}/clients/{wheel}")
    assert 0 == await process.wait()
    await end(process)
    return folder


@asynccontextmanager
async def backend(program: str, port: int, packages: Path, **environment: str) -> AsyncIterator[None]:
    """A program of the examples, once it listens."""
    process = await asyncio.create_subprocess_exec(
        PYTHON,
        EXAMPLES / program,
        env=os.environ | {"PYTHONPATH": str(packages), "PORT": str(port), "EDGE_TRIGGER_SECRET": SECRET} | environment,
    )

    async def listens() -> bool:
        assert process.returncode is None, "the example has ended"
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except ConnectionError:
            return False
        writer.transport.abort()
        return True

    try:
        await until(listens, bool)
        yield
    finally:
        await end(process)


@asynccontextmanager
async def running(recipe: Recipe, packages: Path) -> AsyncIterator[App]:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    settings = LOCAL | {
        "stream__heartbeat_seconds": 0.5,
        "trigger__url": f"{url}/jobs",
        "trigger__secret": SECRET,
        "cors__origins": url,
    }
    async with AsyncExitStack() as stack:
        hub = await stack.enter_async_context(serving(**settings))
        line = await stack.enter_async_context(line_to(hub.port))
        gate = await stack.enter_async_context(gate_to(hub.port, recipe.second_half))
        environment = {"EDGE_URL": gate.url, "HUB_FOR_PAGES": line.url, **recipe.environment}
        await stack.enter_async_context(backend(recipe.program, port, packages, **environment))
        app = App(recipe, hub, line, gate, url, settings)
        await stack.enter_async_context(app.stack)
        yield app


async def send(tab: Tab, prompt: str = "a red house") -> None:
    await tab.page.fill("input", prompt)
    await tab.page.click("form button")


async def close_tabs(profile: BrowserContext) -> None:
    """Or the browser's six connections to a host are all streams."""
    for page in profile.pages:
        await page.close()


async def in_the_middle(app: App, tab: Tab) -> None:
    await tab.shows("main", app.recipe.middle)


async def done(app: App, tab: Tab) -> None:
    app.gate.open()
    await tab.shows("main", app.recipe.end)
    assert [] == tab.errors


async def sent_without_a_hub(app: App, profile: BrowserContext, open_tab: OpenTab) -> None:
    await profile.route("**/edge.js", lambda route: route.abort())
    tab = await open_tab(app.page("gone"))
    await tab.shows("[role=alert]", "The hub can't be reached.")
    await tab.page.fill("input", "a red house")
    await tab.page.press("input", "Enter")
    assert app.page("gone") == tab.page.url  # a form that no script handles loads the page anew
    await profile.unroute("**/edge.js")
    await tab.page.close()


async def sent_before_the_stream_is_open(app: App, profile: BrowserContext, open_tab: OpenTab) -> None:
    opened = asyncio.Event()

    async def hold(route: Route) -> None:
        await opened.wait()
        await route.continue_()

    await profile.route("**/events?**", hold)
    tab = await open_tab(app.page("early"))
    await send(tab)
    await tab.shows("[role=status]", "Connecting…")
    assert not await tab.page.is_visible("h2")
    opened.set()
    await done(app, tab)
    await profile.unroute("**/events?**")


async def reloaded_in_the_middle_and_after_the_end_and_a_second_tab(app: App, open_tab: OpenTab) -> None:
    tab = await open_tab(app.page("reload"))
    app.gate.close()
    await send(tab, "an older job")
    await in_the_middle(app, tab)
    await send(tab)
    await tab.shows("h2", "a red house")
    await in_the_middle(app, tab)
    await tab.page.reload()
    await tab.shows("h2", "a red house")
    second = await open_tab(app.page("reload"))
    for each in (second, tab):
        await done(app, each)
    whole = await tab.text("main")
    await tab.page.reload()
    await done(app, tab)
    await until(lambda: tab.text("main"), lambda now: now == whole)


async def cut_and_the_hub_restarted(app: App, open_tab: OpenTab) -> None:
    tab = await open_tab(app.page("cut"))
    app.gate.close()
    await send(tab)
    await in_the_middle(app, tab)
    app.line.cut()
    await tab.shows("[role=status]", "Connecting…")
    app.line.mend()
    await tab.shows("[role=status]", "Connected")
    await done(app, tab)
    app.gate.close()
    await send(tab, "a red house, again")
    await tab.shows("h2", "again")
    await in_the_middle(app, tab)
    await app.restart_hub()
    await done(app, tab)


async def an_answer_is_stopped(app: App, open_tab: OpenTab) -> None:
    tab = await open_tab(app.page("stop"))
    await send(tab)
    await in_the_middle(app, tab)
    await tab.page.click("#stop")
    await tab.shows("#state", "Stopped")
    text = await tab.text("#answer")
    assert not text.endswith(app.recipe.end)
    other = await open_tab(app.page("stop"))
    await other.shows("#state", "Stopped")
    assert text == await other.text("#answer")


async def a_job_fails(app: App, open_tab: OpenTab) -> None:
    tab = await open_tab(app.page("fail"))
    await send(tab, "fail, please")
    await tab.shows("#result", "Failed: The paint is empty.")


async def the_beginning_is_no_longer_held(app: App, open_tab: OpenTab) -> None:
    tab = await open_tab(app.page("long"))
    await send(tab)
    await done(app, tab)
    text = await tab.text("#answer")
    status, history, _ = await app.hub.ask("GET", "/projects/long/history?since=all")
    assert (200, "progress") == (status, history["events"][0]["type"])  # neither its beginning nor its prompt
    await tab.page.reload()
    await tab.shows("h2", "a red house")
    assert text == await tab.text("#answer")


async def test_a_plain_page_with_an_aiohttp_worker(packages: Path, profile: BrowserContext, open_tab: OpenTab) -> None:
    async with running(PLAIN, packages) as app:
        await sent_without_a_hub(app, profile, open_tab)
        await sent_before_the_stream_is_open(app, profile, open_tab)
        await reloaded_in_the_middle_and_after_the_end_and_a_second_tab(app, open_tab)
        await close_tabs(profile)
        await a_job_fails(app, open_tab)
        await cut_and_the_hub_restarted(app, open_tab)


async def test_tokens_of_a_model(packages: Path, profile: BrowserContext, open_tab: OpenTab) -> None:
    async with running(LLM, packages) as app:
        await sent_without_a_hub(app, profile, open_tab)
        await sent_before_the_stream_is_open(app, profile, open_tab)
        await reloaded_in_the_middle_and_after_the_end_and_a_second_tab(app, open_tab)
        await close_tabs(profile)
        await an_answer_is_stopped(app, open_tab)
        await cut_and_the_hub_restarted(app, open_tab)
        app.settings |= {"ring__max_events": 20}
        await app.restart_hub()
        await close_tabs(profile)
        await the_beginning_is_no_longer_held(app, open_tab)


async def test_vite_with_fastapi(packages: Path, profile: BrowserContext, open_tab: OpenTab) -> None:
    recipe = Recipe("fastapi/server.py", {"STEP_SECONDS": "0.1"}, "Connected", "A picture of a red house", SECOND_HALF)
    async with running(recipe, packages) as app, AsyncExitStack() as stack:
        port = free_port()
        command = ("vite/bin/vite.js", "--port", str(port), "--host", "127.0.0.1", "--strictPort")
        await stack.enter_async_context(server(unpack("vite-react"), *command, port=port, EDGE_URL=app.line.url))
        tab = await open_tab(f"http://127.0.0.1:{port}/?project=vite")
        app.gate.close()
        await send(tab)  # at once: the stream is still opening
        await tab.page.wait_for_selector("progress")
        await tab.page.reload()
        await done(app, tab)
        app.gate.close()
        await send(tab, "a red house, again")
        await tab.page.wait_for_selector("progress")
        app.line.cut()
        await tab.shows("[role=status]", "Connecting…")
        app.line.mend()
        app.gate.open()
        await tab.shows("main", "A picture of a red house, again")
        app.gate.close()
        await send(tab, "a third one")
        await tab.page.wait_for_selector("progress")
        await app.restart_hub()
        app.gate.open()
        await tab.shows("main", "A picture of a third one")
        assert [] == tab.errors


async def test_a_fastapi_backend_gives_tickets_and_starts_jobs_for_its_own_users(packages: Path) -> None:
    port, token = free_port(), "a-token-for-the-backend-alone"
    url = f"http://127.0.0.1:{port}"
    settings = LOCAL | {"trigger__url": f"{url}/jobs", "trigger__secret": SECRET, "auth__token": token}
    async with AsyncExitStack() as stack:
        hub = await stack.enter_async_context(serving(**settings))
        environment = {"EDGE_URL": hub.url, "EDGE_TOKEN": token, "STEP_SECONDS": "0", "TRIGGER_SECONDS": "2"}
        await stack.enter_async_context(backend("fastapi/server.py", port, packages, **environment))
        session = hub.session

        async def ask(path: str, user: str | None, **body: Any) -> tuple[int, dict[str, Any]]:
            cookies = {"Cookie": f"session={user}"} if user else {}
            async with session.post(f"{url}/api/projects/{path}", json=body, headers=cookies) as answer:
                return answer.status, await answer.json()

        for user, expected in ((None, 401), ("eve", 403)):
            assert expected == (await ask("ada-1/ticket", user))[0]
        assert 409 == (await ask("ada-1/messages", "ada", prompt="too early"))[0]
        status, given = await ask("ada-1/ticket", "ada")
        assert 200 == status
        stream = await session.get(f"{hub.url}/projects/ada-1/events", params=given)
        try:
            await stream.content.readuntil(b"\n\n")  # the hello
            sending = asyncio.create_task(ask("ada-1/messages", "ada", prompt="a red house"))
            text = ""
            while "event: complete" not in text:
                text += (await stream.content.readline()).decode()
            status, receipt = await sending
            assert (202, True) == (status, f'"job":"{receipt["job"]}"' in text)
            assert text.index("event: started") < text.index("event: progress")
        finally:
            stream.close()
