"""The commands that need a hub of their own print what their pages show: paths, sockets, reload, limits, hooks."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.docs.shown import blocks_of, printed, start, without_chance
from tests.faults.hub import HubProcess, serving, until
from tests.triggers.receiver import answer, receiving

pytestmark = pytest.mark.curl

DOCS = Path(__file__).parents[2] / "docs"
LOCAL: dict[str, Any] = {"server__host": "127.0.0.1", "auth__anonymous": None}


async def run(hub: HubProcess, page: str, label: str, expected: int, **replaced: str) -> None:
    """Run the blocks of a page one after the other."""
    blocks = blocks_of((DOCS / page).read_text(), label)
    assert expected == len(blocks)
    for block in blocks:
        command = block.command
        for text, by in replaced.items():
            command = command.replace(text.replace("__", "."), by)
        before = sum("config_reloaded" in line for line in hub.log)
        assert without_chance(block.output) == without_chance(await printed(await start(command, hub)))
        await until(hub.metrics, lambda metrics: metrics.get("edge_connections", 0) == 0)
        if "-HUP" in command:
            await until(_reloads(hub), lambda times, before=before: times > before)  # type: ignore[misc]


def _reloads(hub: HubProcess) -> Any:
    async def reloads() -> int:
        return sum("config_reloaded" in line for line in hub.log)

    return reloads


async def test_everything_is_under_the_base_path() -> None:
    async with serving(**LOCAL, server__base_path="/hub") as hub:
        await run(hub, "behind-a-proxy.md", "shown", 2)


async def test_an_idle_project_gives_way_to_a_new_one() -> None:
    async with serving(**LOCAL, limits__max_projects=2) as hub:
        await run(hub, "limits.md", "shown", 4)


async def test_a_token_is_added_by_a_reload(tmp_path: Path) -> None:
    path = tmp_path / "edge.toml"
    path.write_text('[auth]\ntoken = "the-first-of-two-tokens"\nanonymous = ["metrics"]\n')
    async with serving(**LOCAL, config=path) as hub:
        await run(hub, "configuration.md", "reload", 4, edge__toml=str(path), **{"$(pidof edge)": str(hub.process.pid)})


async def test_hooks_report_a_subscriber_and_a_miss(tmp_path: Path) -> None:
    page = (DOCS / "trigger.md").read_text()
    shown = [json.loads(line) for line in re.findall(r'^{"id": "hook_.*}$', page, re.MULTILINE)]
    async with (
        receiving(answer(200)) as receiver,
        serving(**LOCAL, hooks__url=receiver.url, hooks__grace_seconds=0.2) as hub,
    ):

        async def count() -> int:
            return len(receiver.requests)

        first, second = blocks_of(page, "hooks")
        await printed(await start(first.command.replace("stream.txt", str(tmp_path / "stream.txt")), hub))
        await until(count, lambda requests: requests == 2)
        output = await printed(await start(second.command, hub))
        assert without_chance(second.output) == without_chance(output)
        await until(count, lambda requests: requests == 3)
    received = [json.loads(request.body) for request in receiver.requests]
    for body in (*received, *shown):
        assert re.fullmatch(r"hook_[0-9a-f]{24}", body.pop("id"))
        assert isinstance(body.pop("ts"), int)
        if "event_id" in body["data"]:
            body["data"]["event_id"] = without_chance(body["data"]["event_id"])
    assert shown == received


@pytest.mark.linux
async def test_a_unix_socket_answers_curl(tmp_path: Path) -> None:
    [block] = blocks_of((DOCS / "configuration.md").read_text(), "unix")
    path = tmp_path / "edge.sock"
    environ = {name: value for name, value in os.environ.items() if not name.startswith("EDGE_")}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "edge", "serve"),
        env={**environ, "EDGE_SERVER_HOST": f"unix:{path}"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        cwd=DOCS.parent,
    )
    try:
        assert process.stdout is not None
        assert b"edge: listening on" in await asyncio.wait_for(process.stdout.readline(), 60)
        command = block.command.replace("/run/edge.sock", str(path))
        curl = await asyncio.create_subprocess_shell(command, stdout=asyncio.subprocess.PIPE)
        assert without_chance(block.output) == without_chance(await printed(curl))
    finally:
        process.terminate()
        await process.wait()
        process._transport.close()  # type: ignore[attr-defined]  # or it warns when it is collected
