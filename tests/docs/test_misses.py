"""The commands in docs/misses.md print what the page shows, one after the other."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs.shown import blocks_of, printed, start, without_chance
from tests.faults.hub import serving, until

pytestmark = pytest.mark.curl

PAGE = (Path(__file__).parents[2] / "docs" / "misses.md").read_text()


async def test_the_commands_print_what_the_page_shows() -> None:
    blocks = blocks_of(PAGE, "shown")
    assert 6 == len(blocks)
    async with serving(server__host="127.0.0.1", auth__anonymous=None, ring__max_events=5) as hub:
        for block in blocks:
            assert without_chance(block.output) == without_chance(await printed(await start(block.command, hub)))
            await until(hub.metrics, lambda metrics: metrics["edge_connections"] == 0)
