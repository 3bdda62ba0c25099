"""The browser's own EventSource, behind a line that is reset."""

from __future__ import annotations

import pytest

from tests.browser.conftest import OpenTab, Serve
from tests.clients.cutter import cutting
from tests.faults.hub import until
from tests.faults.reader import open_stream

pytestmark = pytest.mark.slow
BLANK = "/edge.d.ts"


async def test_what_is_published_while_it_is_cut_off_before_its_first_event_arrives(
    serve: Serve, open_tab: OpenTab
) -> None:
    """Another subscriber gets it meanwhile, so it isn't missed: only the id of the hello brings it."""
    hub = await serve(cors__origins="*")
    async with cutting(hub.port) as line:
        tab = await open_tab(hub.url + BLANK)
        await tab.run(
            """(url) => {
            Object.assign(window, { seen: [], hellos: 0 });
            const source = new EventSource(url);
            source.addEventListener("edge.hello", () => { hellos += 1; });
            source.addEventListener("edge.gap", () => seen.push("gap"));
            source.addEventListener("message", ({ data }) => seen.push(JSON.parse(data)));
        }""",
            f"{line.url}/projects/p/events",
        )
        await until(lambda: tab.run("hellos"), lambda hellos: hellos == 1)
        other = await open_stream(("127.0.0.1", hub.port), "p")
        line.opened.clear()
        line.cut_all()
        for number in range(3):
            await hub.publish("p", number)
        await other.events(3)
        line.opened.set()
        await hub.publish("p", 3)
        await until(lambda: tab.run("seen"), lambda seen: 3 in seen)
        assert [0, 1, 2, 3] == await tab.run("seen")
        await other.close()
