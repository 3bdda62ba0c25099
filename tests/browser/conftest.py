"""One real Chromium for all tests; each test gets a browser profile of its own, and a hub in a process of its own.

Playwright's objects live on one event loop, so every test here runs on the session's.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Browser, BrowserContext, Page, async_playwright

from tests.browser.tab import Tab
from tests.faults.hub import HubProcess, serving
from tests.ports import free_port

CHROMIUM = "/usr/bin/chromium"
# Without these Chromium looks for its makers' hosts at every start.
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
PATIENCE_MS = 60_000
LOCAL: dict[str, Any] = {"server__host": "127.0.0.1", "auth__anonymous": None, "stream__retry_ms": 200}
_numbers = count(1)

Serve = Callable[..., Awaitable[HubProcess]]
OpenTab = Callable[..., Awaitable[Tab]]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents and "chromium" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.asyncio(loop_scope="session"), append=False)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def chromium() -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        await browser.close()


@pytest_asyncio.fixture(loop_scope="session")
async def serve(chromium: Browser) -> AsyncIterator[Serve]:
    """Starts a hub with settings such as `stream__heartbeat_seconds=0.2`; all are killed at the end."""
    async with AsyncExitStack() as stack:

        async def serve(port: int = 0, **settings: object) -> HubProcess:
            return await stack.enter_async_context(serving(port=port or free_port(), **LOCAL | settings))

        yield serve


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def hub(chromium: Browser) -> AsyncIterator[HubProcess]:
    """One hub for all tests that do it no harm; each has a `project` of its own."""
    async with serving(**LOCAL | {"stream__heartbeat_seconds": 0.5}) as hub:
        yield hub


@pytest.fixture
def project() -> str:
    return f"p{next(_numbers)}"


@pytest_asyncio.fixture(loop_scope="session")
async def profile(chromium: Browser) -> AsyncIterator[BrowserContext]:
    """A browser profile: its tabs share storage, locks and connections."""
    context = await chromium.new_context()
    context.set_default_timeout(PATIENCE_MS)
    yield context
    await context.close()


@pytest_asyncio.fixture(loop_scope="session")
async def open_tab(profile: BrowserContext) -> OpenTab:
    async def open_tab(url: str) -> Tab:
        page: Page = await profile.new_page()
        tab = Tab(page)
        await page.goto(url)
        return tab

    return open_tab
