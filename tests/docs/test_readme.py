"""What README.md shows is what happens: its tour against a real process, its tables against the code and the docs."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from edge.config.schema import Config
from edge.http.routes import routes
from edge.server.assembly import assemble
from tests.docs.shown import Block, blocks_of, printed, start, without_chance
from tests.faults.hub import HubProcess, serving, until

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "README.md").read_text()


@asynccontextmanager
async def reading(block: Block, hub: HubProcess) -> AsyncIterator[asyncio.StreamReader]:
    """A subscriber in a terminal of its own, which has printed what the page shows; what it prints after that."""
    process = await start(block.command, hub)
    assert process.stdout is not None
    shown = b"".join([await process.stdout.readline() for _ in block.output.splitlines()])
    assert without_chance(block.output) == without_chance(shown.decode())
    try:
        yield process.stdout
    finally:
        process.terminate()
        await process.communicate()


async def no_subscriber_is_connected(hub: HubProcess) -> None:
    await until(hub.metrics, lambda metrics: metrics["edge_connections"] == 0)


@pytest.mark.curl
async def test_the_tour_prints_what_the_page_shows() -> None:
    blocks = blocks_of(PAGE, "tour")
    assert ["", "waits", "reads", "", "stops", "", "reads", ""] == [block.kind for block in blocks]
    async with serving(server__host="127.0.0.1", auth__anonymous=None) as hub, AsyncExitStack() as readers:
        waiting: list[tuple[Block, asyncio.subprocess.Process]] = []
        printing: asyncio.StreamReader | None = None
        for block in blocks:
            if block.kind == "reads":
                printing = await readers.enter_async_context(reading(block, hub))
                continue
            if block.kind == "stops":
                # With the event unread, the end of curl would be a reset, and the event missed.
                assert printing is not None
                await printing.readuntil(b'"hello"\n')
                await readers.aclose()
                await no_subscriber_is_connected(hub)
            process = await start(block.command, hub)
            if block.kind == "waits":
                waiting.append((block, process))
            else:
                assert without_chance(block.output) == without_chance(await printed(process))
        for block, process in waiting:
            assert without_chance(block.output) == without_chance(await printed(process))


@pytest.mark.curl
async def test_the_lines_that_make_run_prints_work() -> None:
    async with serving(server__host="127.0.0.1", auth__anonymous=None) as hub:
        dry = await asyncio.create_subprocess_exec(
            *("make", "--dry-run", "run", f"PORT={hub.port}"), cwd=ROOT, stdout=asyncio.subprocess.PIPE
        )
        recipe = await printed(dry)
        shown = await printed(await start(recipe[recipe.index("printf") : recipe.index("exec ")], hub))
        read, publish, trigger = re.findall(r"^  (curl .*)$", shown, re.MULTILINE)
        reader = await start(read, hub)
        await until(hub.metrics, lambda metrics: metrics["edge_connections"] == 1)
        assert '"connections":1' in await printed(await start(publish, hub))
        assert '"dispatched":true' in await printed(await start(trigger, hub))
        assert reader.stdout is not None
        await reader.stdout.readuntil(b"\nevent: api/iterate\n")
        reader.terminate()
        await reader.communicate()


async def test_the_table_of_endpoints_is_that_of_the_application() -> None:
    _, context = await assemble(Config())
    served = {
        f"{route.method} {route.path}"
        for route in routes(context)
        if "." not in route.path or route.path == "/edge.js"  # files of the page are its own business
    }
    shown = set(re.findall(r"^\| `([A-Z]+ /\S*)`", PAGE, re.MULTILINE))
    assert served == shown, "give each endpoint a row in README.md"


def links_of(page: str) -> set[str]:
    return {link for link in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", page) if "://" not in link}


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_every_link_leads_somewhere(page: str) -> None:
    assert set() == {link for link in links_of((ROOT / page).read_text()) if not (ROOT / link).exists()}


def test_every_page_is_linked() -> None:
    links = links_of(PAGE)
    pages = {f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md")}
    assert pages - {"docs/index.md"} <= links, "say in README.md when to read a page"
