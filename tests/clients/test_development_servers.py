"""Development servers between a page and a hub: events arrive at once, a trigger knows.

They compress what they pass on and so hold a stream back, unless it says `no-transform`; and some rewrite Host.
"""

from __future__ import annotations

import asyncio
import shutil
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import pytest

from tests.clients.client import HERE
from tests.clients.recipe import server
from tests.faults.hub import HubProcess, serving, until
from tests.faults.reader import Reader, open_stream
from tests.ports import free_port

pytestmark = [pytest.mark.slow, pytest.mark.clients]
FOLDER = HERE / "node"
NEXT = str(FOLDER / "node_modules" / "next" / "dist" / "bin" / "next")
PATIENCE_SECONDS = 60
# As a browser asks; without it nothing would be compressed.
AS_BROWSERS = "Accept: text/event-stream\r\nAccept-Encoding: gzip, deflate, br, zstd\r\n"
LOCAL: dict[str, Any] = {"server__host": "127.0.0.1", "auth__anonymous": None, "stream__heartbeat_seconds": 1}


class Program(NamedTuple):
    """What is run to serve a page: `command` with a port and the hub's URL."""

    name: str
    command: Callable[[int, str], tuple[str, ...]]
    prefix: str = ""
    """Behind which it passes requests on, too."""

    @property
    def is_next(self) -> bool:
        return self.name.startswith("next")


PROGRAMS = (
    Program("express", lambda port, hub: ("serve.mjs", "express", str(port), hub)),
    Program("vite", lambda port, hub: ("serve.mjs", "vite", str(port), hub)),
    Program("webpack", lambda port, hub: ("serve.mjs", "webpack", str(port), hub), prefix="/hub"),
    # `next start` is run by test_recipes.py.
    Program("next-dev", lambda port, _: (NEXT, "dev", "--port", str(port), "--hostname", "127.0.0.1")),
)


@asynccontextmanager
async def running(program: Program, hub: HubProcess) -> AsyncIterator[int]:
    """The port at which it serves."""
    port = free_port()
    folder = FOLDER / "next" if program.is_next else FOLDER
    if program.is_next:
        shutil.rmtree(folder / ".next", ignore_errors=True)
    script, *arguments = program.command(port, hub.url)
    async with server(folder, str(FOLDER / script), *arguments, port=port, EDGE_URL=hub.url):
        yield port


@pytest.mark.parametrize("program", PROGRAMS, ids=[program.name for program in PROGRAMS])
async def test_a_page_behind_it_is_served_as_if_it_were_not_there(program: Program) -> None:
    async with serving(**LOCAL) as hub, running(program, hub) as port:
        page = f"http://localhost:{port}"
        reader = await open_stream(("127.0.0.1", port), "p", headers=AS_BROWSERS)
        assert "text/event-stream" in reader.headers["content-type"]
        assert "content-encoding" not in reader.headers
        for number in range(3):  # each is there before the next is sent
            await hub.publish("p", number)
            assert list(range(number + 1)) == await reader.events(number + 1)

        async def post(path: str, body: Any, **headers: str) -> tuple[int, Any]:
            """As the page's own script does."""
            sent = {"Origin": page, "Sec-Fetch-Site": "same-origin", "Sec-Fetch-Mode": "cors"} | headers
            async with hub.session.post(f"{page}{program.prefix}/projects/p/{path}", json=body, headers=sent) as answer:
                return answer.status, await answer.json(content_type=None)

        assert 201 == (await post("events", {"data": "from the page"}))[0]
        assert "from the page" == (await reader.events(4))[-1]

        # A page that answers its probe is confirmed, and gets the job.
        triggering = asyncio.create_task(post("trigger?confirm=client&timeout=20s", {"name": "job", "data": "seen"}))
        probe = await reader.until("edge.probe")
        assert 204 == (await post_probe(hub, page, reader, probe.json()))
        status, answer = await triggering
        assert (202, "client") == (status, answer["confirmed"])
        assert "seen" == (await reader.events(5))[-1]

        # One that doesn't is not: what stands between acknowledges for it.
        status, answer = await post("trigger?confirm=client&timeout=300ms", {"name": "job", "data": "unseen"})
        assert (409, "no_connection") == (status, answer["code"])

        # When the page goes, the hub's connection does.
        await reader.close()
        await until(hub.metrics, lambda metrics: metrics["edge_connections"] == 0)


async def post_probe(hub: HubProcess, page: str, reader: Reader, probe: Any) -> int:
    path = f"/projects/p/connections/{reader.hello['connection']}/ack"
    headers = {"Origin": page, "Sec-Fetch-Site": "same-origin"}
    async with hub.session.post(page + path, json=probe, headers=headers) as answer:
        return answer.status


async def test_selftest_names_what_compresses_the_stream() -> None:
    name = "express-without-no-transform"
    program = Program(name, lambda port, hub: ("serve.mjs", name, str(port), hub))
    async with serving(**LOCAL) as hub, running(program, hub) as port:
        selftest = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "edge", "selftest", "--url", f"http://localhost:{port}"),
            stdout=asyncio.subprocess.PIPE,
        )
        output, _ = await selftest.communicate()
    assert 0 != selftest.returncode
    assert "held back" in output.decode()
    assert "Content-Encoding: gzip" in output.decode()
    assert "Express with compression" in output.decode()
