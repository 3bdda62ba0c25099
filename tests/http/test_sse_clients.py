"""Clients that people use read what was published: the same awkward payloads, held against what was sent."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import httpx_sse
import pytest

from tests.http.client import Site

NODE = Path(__file__).parent.parent / "node"

AWKWARD = [
    "plain",
    "",
    " leading and trailing ",
    "one\ntwo",
    "one\r\ntwo",
    "one\rtwo",
    "\n",
    "\r\n\r\n",
    "\n\nat the start and at the end\n\n",
    "a\r\n\rb\n\r\nc",
    "data: x\nid: 7\nevent: edge.closing\nretry: 1\n: no comment",
    ":",
    "Zürich, 東京, 🏠, e\u0301, \u200f\u202e",
    "\ufeffa mark at the start",
    "separators\u2028that\u2029end\x0bno\x0cline\x1c\x1d\x1e\x85here",
    "NUL\0in\0it",
    '{"json": "with \\n in it"}',
    "x" * 200 * 1024,
    "ä\n" * 30_000,
]


class Event(NamedTuple):
    type: str
    id: str
    data: str


Read = Callable[[str, int], Coroutine[Any, Any, list[Event]]]


def as_lines(text: str) -> str:
    """What the format makes of any line end."""
    return re.sub(r"\r\n|\r", "\n", text)


async def by_httpx_sse(url: str, count: int) -> list[Event]:
    events: list[Event] = []
    async with (
        httpx.AsyncClient(timeout=20, trust_env=False) as client,
        httpx_sse.aconnect_sse(client, "GET", url) as source,
    ):
        async for event in source.aiter_sse():
            if not event.event.startswith("edge."):
                events.append(Event(event.event, event.id, event.data))
            if len(events) == count:
                break
    return events


async def output_of(*command: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE, limit=1 << 24)


async def by_node(url: str, count: int) -> list[Event]:
    node = shutil.which("node")
    assert node
    assert (NODE / "node_modules" / "eventsource").exists(), "run make setup-test"
    process = await output_of(node, str(NODE / "read.js"), url, str(count), "message", "note")
    output, _ = await process.communicate()
    return [Event(**json.loads(line)) for line in output.decode().split("\n") if line]


async def by_curl(url: str, count: int) -> list[Event]:
    """curl shows the bytes; they are taken apart here as the standard says."""
    process = await output_of("curl", "-sN", url)
    assert process.stdout is not None
    events: list[Event] = []
    while len(events) < count:
        block = (await process.stdout.readuntil(b"\n\n")).decode()
        fields: dict[str, list[str]] = {}
        for line in block.removesuffix("\n\n").split("\n"):
            name, _, value = line.partition(": ")
            fields.setdefault(name, []).append(value)
        event_type = fields.get("event", ["message"])[0]
        if not event_type.startswith("edge."):
            events.append(Event(event_type, fields["id"][0], "\n".join(fields["data"])))
    process.terminate()
    await process.communicate()
    return events


@pytest.mark.parametrize(
    "read",
    [by_httpx_sse, pytest.param(by_node, marks=pytest.mark.node), pytest.param(by_curl, marks=pytest.mark.curl)],
)
async def test_what_was_published_is_what_is_read(site: Site, read: Read) -> None:
    expected: list[Event] = []

    async def publish_text(text: str) -> None:
        headers = {"Content-Type": "text/plain"}
        answer = await site.ask("POST", "/projects/p/events?type=note", data=text.encode(), headers=headers)
        expected.append(Event("note", answer.json["id"], as_lines(text)))

    async def publish_json(text: str) -> None:
        answer = await site.publish(text)
        expected.append(Event("message", answer.json["id"], json.dumps(text)))

    for text in AWKWARD[::2]:
        await publish_text(text)
        await publish_json(text)
    reading = asyncio.create_task(read(f"{site.url}/projects/p/events?since=all", 2 * len(AWKWARD)))
    await site.connections(1)
    for text in AWKWARD[1::2]:
        await publish_text(text)
        await publish_json(text)
    assert expected == await reading
    await site.connections(0)


@pytest.mark.node
async def test_node_comes_back_by_itself_and_misses_nothing(site: Site) -> None:
    reading = asyncio.create_task(by_node(f"{site.url}/projects/p/events", 4))
    await site.connections(1)
    ids = [(await site.publish(number)).json["id"] for number in range(2)]
    for connection in list(site.context.hub.connections.values()):
        site.context.hub.close(connection, "lifetime", site.context.clock())
    ids += [(await site.publish(number)).json["id"] for number in range(2)]
    assert ids == [event.id for event in await reading]
