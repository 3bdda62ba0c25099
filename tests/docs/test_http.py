"""The commands in docs/publish.md, docs/subscribe.md and docs/errors.md print what the pages show."""

from __future__ import annotations

import re
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from edge.core.counters import GAP_REASONS
from tests.docs.shown import blocks_of, printed, start, without_chance
from tests.faults.hub import serving, until
from tests.faults.reader import open_stream

pytestmark = pytest.mark.curl

DOCS = Path(__file__).parents[2] / "docs"
KINDS = {
    "publish.md": ["with a reader", "with a reader", "", "with a reader"],
    "subscribe.md": [*[""] * 5, "with an observer", *[""] * 3],
    "errors.md": [""],
    "curl.md": [*[""] * 6, "with a reader", *[""] * 3, "with a reader", "", "with a reader", *[""] * 10],
}


@pytest.mark.parametrize("name", KINDS)
async def test_the_commands_print_what_the_page_shows(name: str) -> None:
    blocks = blocks_of((DOCS / name).read_text(), "shown")
    assert KINDS[name] == [block.kind for block in blocks]
    async with serving(server__host="127.0.0.1", auth__anonymous=None) as hub:
        for block in blocks:
            async with AsyncExitStack() as leaving:
                if block.kind:
                    query = "observe=true" if block.kind == "with an observer" else ""
                    reader = await open_stream(("127.0.0.1", hub.port), "demo", query=query)
                    leaving.push_async_callback(reader.close)
                assert without_chance(block.output) == without_chance(await printed(await start(block.command, hub)))
                if block.kind == "with a reader":  # or it leaves before its event has come, which is missed once more
                    await until(lambda: hub.project("demo"), _has_reached_its_reader)
            await until(hub.metrics, lambda metrics: metrics["edge_connections"] == 0)


def _has_reached_its_reader(project: dict[str, Any]) -> bool:
    newest, (reader,) = project["ring"]["newest"], project["connections"]
    return newest in (None, reader["last_event"]) and not reader["unacknowledged_bytes"]


def test_the_page_names_every_event_of_the_hub_and_every_reason_of_a_gap() -> None:
    page = (DOCS / "subscribe.md").read_text()
    source = "".join(path.read_text() for path in (DOCS.parent / "edge" / "core").glob("*.py"))
    source += (DOCS.parent / "edge" / "triggers" / "readiness.py").read_text()
    sent = set(re.findall(r'control_frame\(\s*"(\w+)"', source)) | {"ping"}
    assert sent == set(re.findall(r"^\| `edge\.(\w+)` \|", page, re.MULTILINE))
    assert set() == {reason for reason in GAP_REASONS if f"`{reason}`" not in page}
