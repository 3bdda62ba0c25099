"""docs/jobs.md: its code is the example's, and what a page gets after a reload is as its table says."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

import pytest
from edge_hub_client import AsyncClient

from tests.faults.hub import serving, until

ROOT = Path(__file__).parents[2]
PAGES = sorted(path for path in (ROOT / "docs").glob("*.md") if "<!-- from: " in path.read_text())
THE_END = "the end"
ROW = re.compile(r"^\| (.+?) \| (.+?) \| (.+?) \|$", re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_code_that_is_shown_stands_in_its_example(page: Path) -> None:
    blocks = re.findall(r"<!-- from: (\S+) -->\n```\w+\n(.*?)```", page.read_text(), re.DOTALL)
    assert len(blocks) == page.read_text().count("<!-- from: ")
    for name, code in blocks:
        assert code in (ROOT / name).read_text(), name


async def drawn(client: AsyncClient, project: str, start: str, last_id: str, *, ended: bool) -> str:
    """The numbers that a page gets that loads now, the way the table's row says."""
    numbers = []
    since = re.search(r'since: "(\w+)"', start)
    position = None if since else last_id
    if start.startswith("history"):
        history = await client.history(project)
        numbers = [event.json() for event in history.events]
        position = history.newest
    async with client.subscribe(project, since=since and since[1], last_event_id=position) as events:
        if not ended:
            await client.publish(project, 4)
        await client.publish(project, THE_END)
        async for event in events:
            if event.json() == THE_END:
                break
            numbers.append(event.json())
    return ", ".join(map(str, numbers)) or "nothing"


async def test_what_a_page_gets_after_a_reload() -> None:
    page = (ROOT / "docs" / "jobs.md").read_text()
    table = page.partition("<!-- measured -->\n")[2].partition("\n\n")[0]
    shown = {(start, ended): row[ended] for start, *row in ROW.findall(table)[2:] for ended in (False, True)}
    assert len(shown) == 10
    found = {}
    async with serving(server__host="127.0.0.1", auth__anonymous=None) as hub, AsyncClient(hub.url) as client:

        async def connections(project: str) -> int:
            return (await client.status(project))["connections_total"]

        for number, (start, ended) in enumerate(shown):
            project = f"p{number}"
            async with client.subscribe(project) as before:
                for each in (1, 2, 3, 4) if ended else (1, 2):
                    await client.publish(project, each)
                    assert each == (await anext(before)).json()
                last_id = before.last_event_id
            await until(partial(connections, project), lambda count: count == 0)
            if not ended:
                await client.publish(project, 3)
            found[start, ended] = await drawn(client, project, start, last_id, ended=ended)
    assert shown == found
