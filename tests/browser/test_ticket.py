"""The way of docs/clients.md to use tickets with a plain EventSource, in a real browser."""

from __future__ import annotations

import operator
import re
from functools import partial
from pathlib import Path

import pytest

from tests.browser.conftest import OpenTab, Serve
from tests.faults.hub import until

pytestmark = pytest.mark.slow
PAGE = Path(__file__).parents[2] / "docs" / "clients.md"
BLANK = "/edge.d.ts"
TOKEN = "a-token-of-a-server"  # the page has it here in the place of the application's own server


def documented() -> str:
    found = re.findall(r"^```js ticket\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert 1 == len(found)
    return str(found[0])


async def test_an_event_source_with_tickets_outlives_its_connections(serve: Serve, open_tab: OpenTab) -> None:
    hub = await serve(auth__token=TOKEN, stream__max_lifetime_seconds=1)
    authorization = {"Authorization": f"Bearer {TOKEN}"}
    tab = await open_tab(hub.url + BLANK)
    await tab.run(
        f"([url, headers]) => {{ {documented()}"
        """
            const getTicket = async () => {
                const response = await fetch(`${url}/projects/p/ticket`, { method: "POST", headers });
                return (await response.json()).ticket;
            };
            window.seen = [];
            window.hellos = 0;
            subscribe(`${url}/projects/p/events`, ["message"], ({ type, data }) => {
                if (type === "message") seen.push(JSON.parse(data));
                else if (type === "edge.hello") hellos += 1;
                else seen.push(type);
            }, getTicket);
        }""",
        [hub.url, authorization],
    )
    for number in range(3):
        await until(lambda: tab.run("hellos"), partial(operator.lt, number))  # it has come back, or come
        await hub.publish("p", number, headers=authorization)
    await until(lambda: tab.run("seen"), lambda seen: seen == [0, 1, 2])
