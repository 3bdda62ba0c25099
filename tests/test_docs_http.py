"""The commands in docs/publish.md and docs/errors.md print what the pages show."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.faults.hub import serving, until
from tests.faults.reader import open_stream
from tests.shown import blocks_of, printed, start, without_chance

DOCS = Path(__file__).parent.parent / "docs"
KINDS = {"publish.md": ["with a reader", "with a reader", ""], "errors.md": [""]}


@pytest.mark.parametrize("name", KINDS)
async def test_the_commands_print_what_the_page_shows(name: str) -> None:
    blocks = blocks_of((DOCS / name).read_text(), "shown")
    assert KINDS[name] == [block.kind for block in blocks]
    async with serving(server__host="127.0.0.1", auth__anonymous=None) as hub:
        for block in blocks:
            async with AsyncExitStack() as leaving:
                if block.kind == "with a reader":
                    reader = await open_stream(("127.0.0.1", hub.port), "demo")
                    leaving.push_async_callback(reader.close)
                assert without_chance(block.output) == without_chance(await printed(await start(block.command, hub)))
            await until(hub.metrics, lambda metrics: metrics["edge_connections"] == 0)
