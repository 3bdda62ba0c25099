"""What README.md shows is what happens: its tour against a real process, its tables against the code and the docs."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from edge.http.app import routes
from edge.http.assembly import assemble
from edge.settings import Config
from tests.faults.hub import HubProcess, serving, until

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "README.md").read_text()
_EPOCH = re.compile(r"\b[0-9a-z]{12,13}-(?=\d)")
_PLACEHOLDERS = (
    (_EPOCH, "EPOCH-"),
    (re.compile(r'"connection":"[0-9a-f]{16}"'), '"connection":"CONNECTION"'),
    (re.compile(r"trg_[0-9a-f]{24}"), "JOB"),
    (re.compile(r'"waited_ms":[\d.]+'), '"waited_ms":MS'),
)


@dataclass
class Block:
    """One step of the tour: how it is run, its command, and what it prints."""

    kind: str
    command: str
    output: str


def tour() -> list[Block]:
    found = re.findall(r"<!-- tour(?:: (\w+))? -->\n```console\n\$ (.+?)\n(.*?)```\n", PAGE, re.DOTALL)
    return [Block(*each) for each in found]


def without_chance(text: str) -> str:
    """`text` with what chance and time decide replaced by names."""
    for pattern, name in _PLACEHOLDERS:
        text = pattern.sub(name, text)
    return text.strip()


async def start(command: str, hub: HubProcess) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_shell(
        "exec " + command.replace("127.0.0.1:8080", f"127.0.0.1:{hub.port}"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )


async def printed(process: asyncio.subprocess.Process) -> str:
    output, _ = await process.communicate()
    return output.decode()


@asynccontextmanager
async def reading(block: Block, hub: HubProcess) -> AsyncIterator[None]:
    """A reader in a terminal of its own, which has printed what the page shows."""
    process = await start(block.command, hub)
    assert process.stdout is not None
    shown = b"".join([await process.stdout.readline() for _ in block.output.splitlines()])
    assert without_chance(block.output) == without_chance(shown.decode())
    try:
        yield
    finally:
        process.terminate()
        await process.communicate()


async def nobody_is_connected(hub: HubProcess) -> None:
    await until(hub.metrics, lambda metrics: metrics["edge_connections"] == 0)


async def test_the_tour_prints_what_the_page_shows() -> None:
    blocks = tour()
    assert ["", "waits", "reads", "", "stops", "reads", ""] == [block.kind for block in blocks]
    async with serving(server__host="127.0.0.1", auth__anonymous=None) as hub, AsyncExitStack() as readers:
        waiting: list[tuple[Block, asyncio.subprocess.Process]] = []
        for block in blocks:
            if block.kind == "reads":
                await readers.enter_async_context(reading(block, hub))
                continue
            if block.kind == "stops":
                await readers.aclose()
                await nobody_is_connected(hub)
            process = await start(block.command, hub)
            if block.kind == "waits":
                waiting.append((block, process))
            else:
                assert without_chance(block.output) == without_chance(await printed(process))
        for block, process in waiting:
            assert without_chance(block.output) == without_chance(await printed(process))


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
        reader.terminate()
        assert "event: api/iterate" in await printed(reader)


async def test_the_table_of_endpoints_is_that_of_the_application() -> None:
    _, service = await assemble(Config())
    served = {
        f"{route.method} {route.path}"
        for route in routes(service)
        if "." not in route.path or route.path == "/edge.js"  # files of the page are its own business
    }
    shown = set(re.findall(r"^\| `([A-Z]+ /\S*)`", PAGE, re.MULTILINE))
    assert served == shown, "give each endpoint a row in README.md"


def test_every_page_is_linked_and_every_link_leads_somewhere() -> None:
    links = {link for link in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", PAGE) if "://" not in link}
    assert set() == {link for link in links if not (ROOT / link).exists()}
    pages = {f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md")}
    assert pages <= links, "say in README.md when to read a page"
