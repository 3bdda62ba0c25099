"""Take the pictures of docs/page.md anew: `python -m tests.browser.take_pictures`, from the repository's root."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Literal

from playwright.async_api import Browser, async_playwright

from tests.browser.conftest import CHROMIUM, FLAGS, LOCAL
from tests.faults.hub import HubProcess, serving

OUT = Path("docs/images")
PROJECT = "8b4aaa39-aa0f-431e-8d36-84407bf862de"
STEPS = ("read the request", "draft the page", "write the styles", "write the tests", "run the tests")


async def play(hub: HubProcess, steps: int = len(STEPS)) -> None:
    """What an app with a job behind it publishes."""
    for number, step in enumerate(STEPS[:steps]):
        events = [
            {"type": "status", "data": {"step": step, "of": len(STEPS)}},
            {"type": "file.created", "data": {"path": f"src/part-{number}.tsx", "bytes": 812 * (number + 1)}},
            {"type": "log", "data": f"{step}: done in {number + 2} s"},
            {
                "type": "progress",
                "data": {"percent": 20 * (number + 1), "step": {"name": step, "files": [number, None]}},
            },
        ]
        for event in events:
            await hub.ask("POST", f"/projects/{PROJECT}/events", json=event)
            await asyncio.sleep(0.02)


async def shot(browser: Browser, hub: HubProcess, name: str, scheme: Literal["light", "dark"], width: int) -> None:
    """A project with a trigger just sent; on a wide screen with an event unfolded."""
    context = await browser.new_context(color_scheme=scheme, viewport={"width": width, "height": 760})
    page = await context.new_page()
    await page.goto(f"{hub.url}/#/p/{PROJECT}")
    await page.wait_for_selector("#badge[data-state=open]")
    await page.click("#receive")
    await play(hub)
    await page.click("form:has(h2:text('Trigger')) button.primary")
    await page.wait_for_selector("output[data-kind=good]")
    if width > 820:
        await page.click("#receive")  # observes again
        await page.click(".row.event:has-text('percent') >> nth=-1")
    await page.wait_for_timeout(2500)  # until the figures have been asked for again
    await page.evaluate("scrollTo(0, 0)")
    await page.screenshot(path=OUT / f"{name}.png")
    await context.close()


async def shot_of_the_overview(browser: Browser, hub: HubProcess) -> None:
    """A hub with a steady trickle of events, some of them missed."""
    context = await browser.new_context(color_scheme="light", viewport={"width": 1120, "height": 760})
    page = await context.new_page()
    await page.goto(hub.url)
    for number in range(140):
        await hub.publish(("build-17", "demo", PROJECT)[number % 3], {"line": number})
        await asyncio.sleep(0.05 + 0.1 * (number % 40 < 20))
    await page.wait_for_timeout(2500)
    await page.screenshot(path=OUT / "page-overview.png")
    await context.close()


async def shot_of_a_loss(browser: Browser) -> None:
    """A hub that died, came back without its history, and died again."""
    context = await browser.new_context(color_scheme="light", viewport={"width": 1120, "height": 680})
    page = await context.new_page()
    async with serving(**LOCAL) as hub:
        await page.goto(f"{hub.url}/#/p/{PROJECT}")
        await page.wait_for_selector("#badge[data-state=open]")
        await play(hub, steps=1)
        port = hub.port
    await page.wait_for_selector("#badge[data-state=reconnecting]")
    async with serving(port=port, **LOCAL | {"stream__retry_ms": 8000}) as hub:
        await page.wait_for_selector("#badge[data-state=open]")
        await play(hub, steps=1)
        await page.wait_for_timeout(2500)
    await page.wait_for_selector("body.stale")
    await page.screenshot(path=OUT / "page-loss.png")
    await context.close()


async def main() -> None:
    async with async_playwright() as playwright, serving(**LOCAL, ring__max_events=100) as hub:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        for project, events in (("build-17", 3), ("demo", 12), (PROJECT, 3)):
            for number in range(events):
                await hub.publish(project, {"line": number})
        await shot(browser, hub, "page-light", "light", 1120)
        await shot(browser, hub, "page-dark", "dark", 1120)
        await shot(browser, hub, "page-phone", "dark", 390)
        await shot_of_the_overview(browser, hub)
        await shot_of_a_loss(browser)
        await browser.close()


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
