"""A tab of the browser, and what it says: its console, its errors, its streams."""

from __future__ import annotations

import re
from typing import Any

from playwright.async_api import ConsoleMessage, Page

from tests.faults.hub import until

_OPEN = """async ([url, options]) => {
    const { ProjectStream } = await import(new URL("edge.js", url));
    const seen = { states: [], events: [], gaps: [], closings: [], reasons: [], waits: [] };
    const stream = new ProjectStream(url, options);
    stream.addEventListener("statechange", ({ detail }) => {
        seen.states.push(detail.state);
        seen.reasons.push(detail.error && detail.error.code);
        seen.waits.push(detail.waitMs);
    });
    stream.addEventListener("event", ({ id, name, data }) => seen.events.push([id, name, data]));
    stream.addEventListener("gap", ({ detail }) => seen.gaps.push(detail));
    stream.addEventListener("closing", ({ detail }) => seen.closings.push(detail));
    Object.assign(window, { stream, seen });
}"""


class Tab:
    """A page with what it logged. `errors` are uncaught exceptions; refusals by the hub are not among them."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.console: list[str] = []
        self.errors: list[str] = []
        page.on("console", self._logged)
        page.on("requestfailed", lambda request: self.console.append(f"failed: {request.url} {request.failure}"))
        page.on("pageerror", lambda error: self.errors.append(str(error)))

    def _logged(self, message: ConsoleMessage) -> None:
        self.console.append(f"{message.type}: {message.text}")

    async def open_stream(self, url: str, project: str, **options: object) -> None:
        """Open a `ProjectStream` of edge.js as `window.stream`; what it tells is kept in `window.seen`."""
        await self.page.evaluate(_OPEN, [url, {"project": project} | options])

    async def run(self, script: str, argument: object = None) -> Any:
        return await self.page.evaluate(script, argument)

    async def state(self) -> str:
        return str(await self.run("stream.state"))

    async def reached(self, state: str) -> None:
        await until(self.state, lambda now: now == state)

    async def data(self) -> list[Any]:
        """The data of every event so far, parsed."""
        return list(await self.run("seen.events.map(([, , data]) => JSON.parse(data))"))

    async def got(self, *data: object) -> None:
        """Wait until exactly these data have come, in this order."""
        await until(self.data, lambda now: len(now) >= len(data))
        assert list(data) == await self.data()

    async def text(self, selector: str) -> str:
        return re.sub(r"\s+", " ", await self.page.locator(selector).inner_text())

    async def shows(self, selector: str, text: str) -> None:
        """Wait until the element's text holds `text`."""
        await until(lambda: self.text(selector), lambda now: text in now)

    async def logged(self, line: str) -> None:
        """Wait until a line of the console holds `line`."""

        async def console() -> list[str]:
            return self.console

        await until(console, lambda lines: any(line in one for one in lines))
