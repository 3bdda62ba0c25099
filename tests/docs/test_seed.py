"""The note this hub was made for ends in six steps to test; here they are, against a real process and a real client.

Its three causes were: the job starts before the stream connects, connections drop before events arrive, and nothing
shows when they do.
"""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.faults.hub import HubProcess, serving, until
from tests.triggers.receiver import answer, receiving

pytestmark = pytest.mark.node

ROOT = Path(__file__).parents[2]
PROJECT = "8b4aaa39-aa0f-431e-8d36-84407bf862de"


async def logged(hub: HubProcess, event: str) -> dict[str, Any]:
    """The first line of the log about `event`, once there is one."""

    async def look() -> list[dict[str, Any]]:
        return [line for line in map(json.loads, hub.log) if line["event"] == event]

    return (await until(look, bool))[0]


async def open_page(hub: HubProcess, count: int) -> asyncio.subprocess.Process:
    """A browser's EventSource, which prints `count` events as they come and closes then."""
    node = shutil.which("node")
    assert node
    url = f"{hub.url}/projects/{PROJECT}/events"
    script = str(ROOT / "tests" / "node" / "read.js")
    return await asyncio.create_subprocess_exec(
        node, script, url, str(count), "progress", stdout=asyncio.subprocess.PIPE
    )


@pytest.mark.linux
async def test_the_six_steps() -> None:
    printed: asyncio.StreamReader
    shown: list[dict[str, int]] = []
    generated = asyncio.Event()

    async def generate(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """The job: it says how far it is, and goes on when that was seen."""
        await answer(200, b'{"ids": ["01J"], "status": 200}')(reader, writer)
        for percent in (0, 50, 100):
            body = {"type": "progress", "data": {"percent": percent}}
            status, _, _ = await hub.ask("POST", f"/projects/{PROJECT}/events", json=body)
            assert 201 == status
            shown.append(json.loads(json.loads(await printed.readline())["data"]))
        generated.set()

    local: dict[str, Any] = {"server__host": "127.0.0.1", "auth__anonymous": None, "server__log_format": "json"}
    async with (
        receiving(generate) as inngest,
        serving(trigger__url=inngest.url, trigger__format="inngest", **local) as hub,
    ):
        # The message is sent before the page has connected: what went wrong then has to wait now.
        order = {"name": "api/iterate", "data": {"prompt": "a red house"}}
        sending = asyncio.create_task(hub.ask("POST", f"/projects/{PROJECT}/trigger?timeout=20s", json=order))
        await until(hub.metrics, lambda metrics: metrics["edge_waiting"] == 1)
        assert [] == inngest.requests

        # 1. Open browser console. 2. Navigate to a project.
        page = await open_page(hub, 3)
        assert page.stdout is not None
        printed = page.stdout

        # 3. Check for: connection added.
        added = await logged(hub, "connection_added")
        assert (PROJECT, 1) == (added["project"], added["total"])

        # 4. Send a message. 5. Verify: connected, proceeding with the call.
        status, document, _ = await sending
        assert (202, 1, "acknowledged") == (status, document["connections"], document["confirmed"])
        [request] = inngest.requests
        assert {"prompt": "a red house", "project": PROJECT} == json.loads(request.body)["data"]

        # 6. Check events arrive in real time: the job itself has waited for each to be shown.
        await generated.wait()
        await page.communicate()
        assert [{"percent": 0}, {"percent": 50}, {"percent": 100}] == shown
        metrics = await hub.metrics()
        assert (0, 3) == (metrics["edge_misses_total"], metrics["edge_events_delivered_total"])

        # And without a subscriber it is logged, and nothing is lost.
        assert "client" == (await logged(hub, "last_connection_removed"))["reason"]
        await hub.publish(PROJECT, "late")
        assert PROJECT == (await logged(hub, "event_missed"))["project"]
        assert 1 == (await hub.metrics())["edge_misses_pending"]
