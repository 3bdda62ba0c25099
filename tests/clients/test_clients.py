"""Client libraries as people have them, on a hub behind a bad line: nothing is lost without a gap, nothing comes twice.

What is found out about each is in docs/clients.md; the last test holds that page's table against it.
"""

from __future__ import annotations

import asyncio
import re
import signal
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.clients.client import CLIENTS, FINE, INSTALLED, Reading, Verdict, end, judge, reading, runtimes
from tests.clients.cutter import cutting
from tests.faults.hub import HubProcess, serving
from tests.faults.reader import open_stream
from tests.ports import free_port

pytestmark = [pytest.mark.slow, pytest.mark.clients]
PAGE = Path(__file__).parent.parent.parent / "docs" / "clients.md"
SETTINGS: dict[str, Any] = {"stream__retry_ms": 100, "stream__heartbeat_seconds": 0.3}
TEXTS = [
    "plain",
    "Grüße aus Zürich, 東京, 🏠 and 👩\u200d🚀",
    "one\ntwo\n\nfour",
    '{"json": "with \\n and ü in it"}',
    "data: x\nid: 7\nevent: edge.closing\nretry: 1\n: no comment",
    "ä" * 3000,
]
THE_END = "the end"
Published = list[tuple[str, str]]


async def publish(hub: HubProcess, project: str, *texts: str, query: str = "") -> Published:
    for text in texts:
        status, receipt, _ = await hub.ask(
            "POST",
            f"/projects/{project}/events?type=note{query}",
            data=text.encode(),
            headers={"Content-Type": "text/plain"},
        )
        assert status in {201, 202}, receipt
    return [("note", text) for text in texts]


def numbered(first: int, last: int) -> list[str]:
    return [f"number {number} with an ü" for number in range(first, last + 1)]


async def verdicts(readings: list[Reading], published: Published) -> dict[str, Verdict]:
    """What is wrong, by client; nothing where nothing is."""
    for one in readings:
        await one.has(published[-1][1])
    await asyncio.sleep(0.7)  # two heartbeats: a client that makes an event of one shows it
    found = {one.client: judge(one.events, published) for one in readings}
    return {client: verdict for client, verdict in found.items() if verdict != FINE}


@runtimes
async def test_text_arrives_as_it_was_one_byte_a_write(runtime: str) -> None:
    async with serving(**SETTINGS) as hub, cutting(hub.port, slice_bytes=1) as line:
        published = await publish(hub, "p", *TEXTS[::2])
        url = f"{line.url}/projects/p/events?since=all"
        async with reading(runtime, ((client, url) for client in CLIENTS[runtime])) as readings:
            for one in readings:
                await one.has(published[-1][1])
            published += await publish(hub, "p", *TEXTS[1::2], THE_END)
            assert {} == await verdicts(readings, published)


# Places to cut the second event of a stream at, the first being there as a whole.
_FIRST = rb"^.*?\n\n.*?\n\n"
PLACES = {
    "the type": rb"event: no",
    "the text": rb"[^\n]*\ndata: numb",
    "a letter of two bytes": rb"[^\n]*\ndata: [^\n]*\xc3",
    "the epoch": rb"[^\n]*\ndata: [^\n]*\nid: \w",
    "the number": rb"[^\n]*\ndata: [^\n]*\nid: \w+-\d",
    "the end of the id": rb"[^\n]*\ndata: [^\n]*\nid: \w+-\d+",
    "the empty line": rb"[^\n]*\ndata: [^\n]*\nid: [^\n]*\n",
    "between two": rb"[^\n]*\ndata: [^\n]*\nid: [^\n]*\n\n",
}
# What a library does wrong whatever the hub sends: docs/clients.md says it.
FLAWS = {
    # It notes the id before the event is whole.
    "fetch-event-source": {"lost"},
    # It takes what was cut for an event, and a piece of an id for an id.
    "r3labs": {"doubled", "strange"},
}


def flaws(verdict: Verdict) -> set[str]:
    return {name for name, value in verdict._asdict().items() if value != getattr(FINE, name)}


@runtimes
async def test_a_reset_in_the_middle_of_an_event(runtime: str) -> None:
    async with serving(**SETTINGS) as hub, AsyncExitStack() as stack:
        published = await publish(hub, "p", *numbered(1, 40))
        cuts = [_FIRST + place for place in PLACES.values()]
        lines = [await stack.enter_async_context(cutting(hub.port, cuts)) for _ in CLIENTS[runtime]]
        urls = [f"{line.url}/projects/p/events?since=all" for line in lines]
        async with reading(runtime, zip(CLIENTS[runtime], urls, strict=True)) as readings:
            for one in readings:
                await one.has(published[-1][1])
            published += await publish(hub, "p", THE_END)
            found = await verdicts(readings, published)
    assert [0] * len(lines) == [line.cuts_left for line in lines]
    assert {client: what for client, what in FLAWS.items() if client in CLIENTS[runtime]} == {
        client: flaws(verdict) for client, verdict in found.items()
    }, found


@runtimes
async def test_a_reset_before_the_first_event(runtime: str) -> None:
    """What is published meanwhile is not missed, because another subscriber has it: only the hello's id brings it."""
    async with serving(**SETTINGS) as hub, cutting(hub.port) as line:
        targets = [(client, f"{line.url}/projects/{client}/events") for client in CLIENTS[runtime]]
        others = [await open_stream(("127.0.0.1", hub.port), client) for client in CLIENTS[runtime]]
        async with reading(runtime, targets) as readings:
            for one in readings:
                await one.greeted()
            line.opened.clear()
            line.cut_all()
            published: Published = []
            for client, other in zip(CLIENTS[runtime], others, strict=True):
                published = await publish(hub, client, *numbered(1, 3))
                for _ in published:
                    await other.until("note")
            line.opened.set()
            for client in CLIENTS[runtime]:
                await publish(hub, client, THE_END)
            assert {} == await verdicts(readings, [*published, ("note", THE_END)])
        for other in others:
            await other.close()


@runtimes
async def test_what_the_ring_has_evicted_is_a_gap(runtime: str) -> None:
    async with serving(**SETTINGS, ring__max_events=5) as hub, cutting(hub.port) as line:
        published = await publish(hub, "p", *numbered(1, 2))
        url = f"{line.url}/projects/p/events?since=all"
        async with reading(runtime, ((client, url) for client in CLIENTS[runtime])) as readings:
            for one in readings:
                await one.has(published[-1][1])
            line.opened.clear()
            line.cut_all()
            published += await publish(hub, "p", *numbered(3, 20), THE_END)
            line.opened.set()
            lost = tuple(numbered(3, 16))
            assert dict.fromkeys(CLIENTS[runtime], FINE._replace(lost=lost)) == await verdicts(readings, published)
            for one in readings:
                gap = one.own("edge.gap")
                assert [(len(lost), "evicted")] == [(each["lost"], each["reason"]) for each in gap], one.client


@runtimes
@pytest.mark.parametrize(
    ("number", "store", "gaps"),
    [
        pytest.param(signal.SIGKILL, "memory:", ["restart"], id="kill-memory"),
        pytest.param(signal.SIGTERM, "sqlite:{}", [], id="term-sqlite"),
    ],
)
async def test_a_hub_that_restarts(
    runtime: str, number: signal.Signals, store: str, gaps: list[str], tmp_path: Path
) -> None:
    port = free_port()
    settings = SETTINGS | {"store__url": store.format(tmp_path / "edge.db"), "store__durability": "commit"}
    targets = [(client, f"http://127.0.0.1:{port}/projects/p/events") for client in CLIENTS[runtime]]
    async with AsyncExitStack() as stack:
        async with serving(port=port, **settings) as hub:
            readings = await stack.enter_async_context(reading(runtime, targets))
            for one in readings:
                await one.greeted()
            published = await publish(hub, "p", *numbered(1, 5))
            for one in readings:
                await one.has(published[-1][1])
            hub.signal(number)
            await hub.ended()
        async with serving(port=port, **settings) as hub:
            published += await publish(hub, "p", *numbered(6, 9), THE_END)
            assert {} == await verdicts(readings, published)
    for one in readings:
        assert gaps == [gap["reason"] for gap in one.own("edge.gap")], one.client
        closings = [closing["reason"] for closing in one.own("edge.closing")]
        assert (["shutdown"] if number is signal.SIGTERM else []) == closings, one.client


@runtimes
async def test_a_project_that_is_finished_ends_the_clients_that_stop_at_204(runtime: str) -> None:
    async with serving(**SETTINGS) as hub:
        url = f"{hub.url}/projects/p/events"
        async with reading(runtime, ((client, url) for client in CLIENTS[runtime])) as readings:
            for one in readings:
                await one.greeted()
            published = await publish(hub, "p", *numbered(1, 3))
            published += await publish(hub, "p", THE_END, query="&final=true")
            assert {} == await verdicts(readings, published)
            table = documented()
            for one in readings:
                assert "finished" == one.own("edge.closing")[0]["reason"], one.client
                if table[runtime, one.client][204] == "stops":
                    await one.over()


STATUSES = (204, 401, 403, 404, 409, 503)


def refusal(status: int) -> bytes:
    """As the hub words it; 204 is what a project that was finished says to a subscriber who has everything."""
    if status == 204:
        return b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n"
    body = b'{"type":"about:blank","title":"Refused","status":%d,"detail":"Refused.","code":"refused"}' % status
    return b"HTTP/1.1 %d Refused\r\nContent-Type: application/problem+json\r\nContent-Length: %d\r\n%b\r\n%b" % (
        status,
        len(body),
        b"Retry-After: 1\r\nConnection: close\r\n" if status == 503 else b"Connection: close\r\n",
        body,
    )


@runtimes
async def test_what_a_refusal_does_is_what_the_page_says(runtime: str) -> None:
    """Each client is cut, refused twice when it comes back, and would be served again after that."""
    cases = [(client, status) for client in CLIENTS[runtime] for status in STATUSES]
    async with serving(**SETTINGS) as hub, AsyncExitStack() as stack:
        lines = {case: await stack.enter_async_context(cutting(hub.port)) for case in cases}
        targets = [(client, f"{lines[client, status].url}/projects/p/events") for client, status in cases]
        async with reading(runtime, targets) as readings:
            for one in readings:
                await one.greeted()
            for (_, status), line in lines.items():
                line.refusals += [refusal(status)] * 2
                line.cut_all()
            found = {case: await outcome(one) for case, one in zip(cases, readings, strict=True)}
    table = documented()
    assert {case: table[runtime, case[0]][case[1]] for case in cases} == found


async def outcome(one: Reading) -> str:
    await one.until(lambda: one.is_over or len(one.own("edge.hello")) == 2)
    return "stops" if one.is_over else "retries"


def documented() -> dict[tuple[str, str], dict[int, str]]:
    """The table of the page: by runtime and client, what it does on each status."""
    rows = [
        [cell.strip(" `") for cell in line.strip("|").split("|")]
        for line in PAGE.read_text(encoding="utf-8").splitlines()
        if line.startswith("|")
    ]
    header = next(row for row in rows if row[:2] == ["client", "from"])
    at = {status: header.index(str(status)) for status in STATUSES}
    names = {"PyPI": "python", "npm": "node", "Go": "go"}
    return {
        (names[row[1]], row[0]): {status: row[place] for status, place in at.items()}
        for row in rows
        if len(row) == len(header) and row[1] in names
    }


async def test_the_loop_of_the_page_loses_nothing(tmp_path: Path) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    program = tmp_path / "loop.py"
    handle = "def handle(event):\n    print(event.data, flush=True)\n"
    imports = "import random, sys, time\nimport httpx, httpx_sse\nurl = sys.argv[1]\n"
    program.write_text(f"{imports}{handle}{''.join(blocks)}")
    async with serving(**SETTINGS) as hub, cutting(hub.port, [_FIRST, _FIRST + rb"event: no"]) as line:
        published = await publish(hub, "p", *numbered(1, 4))
        process = await asyncio.create_subprocess_exec(
            *(INSTALLED / "bin" / "python", program, f"{line.url}/projects/p/events?since=all"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        assert process.stdout is not None
        async with asyncio.timeout(60):
            seen = [(await process.stdout.readline()).decode().strip() for _ in published]
        process.kill()
        await end(process)
    assert [text for _, text in published] == seen


def test_the_page_names_every_client_that_is_tried() -> None:
    tried = {(runtime, client) for runtime, clients in CLIENTS.items() for client in clients}
    assert tried == documented().keys()
