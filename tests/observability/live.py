"""A hub and a Prometheus that scrapes it, each a process of its own, and a small load: for the tests and the picture.

Both listen on ports the system gives them, and end with their context.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlencode, urlsplit

import aiohttp

MONITORING = Path(__file__).parents[2] / "monitoring"
_START_SECONDS = 60.0


@asynccontextmanager
async def process(
    *command: str, env: dict[str, str] | None = None, stderr: IO[str] | int = asyncio.subprocess.STDOUT
) -> AsyncIterator[asyncio.subprocess.Process]:
    """A process whose standard output (and error, by default) is a pipe; it is asked to end, and waited
    for.
    """
    environ = {name: value for name, value in os.environ.items() if not name.startswith("EDGE_")}
    started = await asyncio.create_subprocess_exec(
        *command,
        env=environ | (env or {}),
        stdout=asyncio.subprocess.PIPE,
        stderr=stderr,
    )
    try:
        yield started
    finally:
        if started.returncode is None:
            started.terminate()
        assert started.stdout is not None
        await started.stdout.read()
        await started.wait()


async def line_with(started: asyncio.subprocess.Process, pattern: str) -> re.Match[str]:
    """The first line of its output that matches; what it says later is read away, so that it never waits for us."""
    assert started.stdout is not None
    lines = []
    async with asyncio.timeout(_START_SECONDS):
        while line := (await started.stdout.readline()).decode():
            lines.append(line)
            if found := re.search(pattern, line):
                return found
    raise AssertionError(f"it ended before it printed {pattern}: {''.join(lines)}")


@asynccontextmanager
async def hub(environ: dict[str, str], log: IO[str] | int = asyncio.subprocess.STDOUT) -> AsyncIterator[str]:
    """`edge serve` on a free port; gives its URL. `log`: where its standard error goes."""
    async with process(sys.executable, "-m", "edge", "serve", "--port", "0", env=environ, stderr=log) as started:
        url = (await line_with(started, r"listening on (http\S+)"))[1]
        assert started.stdout is not None
        reading = asyncio.create_task(started.stdout.read())
        try:
            yield url
        finally:
            started.terminate()
            await reading


def host(url: str) -> str:
    """What a scrape configuration names."""
    return urlsplit(url).netloc


def asked(expr: str, interval: str) -> str:
    """A dashboard's expression with its variables filled in: all instances, rates over `interval`."""
    for name, value in (
        ("$__rate_interval", interval),
        ("$__interval", interval),
        ("$job", "edge"),
        ("$instance", ".*"),
    ):
        expr = expr.replace(name, value)
    return expr


class Prometheus:
    """Asks one that runs."""

    def __init__(self, url: str, client: aiohttp.ClientSession) -> None:
        self._url = url
        self._client = client

    async def get(self, path: str, **query: str) -> Any:
        async with self._client.get(f"{self._url}/api/v1/{path}?{urlencode(query)}") as response:
            answer = json.loads(await response.read())
        assert "success" == answer["status"], f"{query}: {answer.get('error')}"
        return answer["data"]

    async def ready(self) -> None:
        """Wait until it answers queries."""
        async with asyncio.timeout(_START_SECONDS):
            while True:
                async with self._client.get(f"{self._url}/-/ready") as response:
                    if response.status == 200:
                        return
                await asyncio.sleep(0.05)

    async def query(self, expr: str) -> list[dict[str, Any]]:
        """The samples of an expression now."""
        result: list[dict[str, Any]] = (await self.get("query", query=expr))["result"]
        return result

    async def history(self, expr: str, begin: float, end: float, step_seconds: float) -> list[dict[str, Any]]:
        """The series of an expression over a time."""
        query = {"query": expr, "start": str(begin), "end": str(end), "step": str(step_seconds)}
        result: list[dict[str, Any]] = (await self.get("query_range", **query))["result"]
        return result

    async def rules(self) -> list[dict[str, Any]]:
        return [rule for group in (await self.get("rules"))["groups"] for rule in group["rules"]]


@asynccontextmanager
async def prometheus(folder: Path, target: str, interval: str = "500ms") -> AsyncIterator[Prometheus]:
    """Prometheus with our configuration, but for its target and its intervals."""
    text = (MONITORING / "prometheus.yml").read_text(encoding="utf-8")
    text = re.sub(r"(scrape|evaluation)_interval: \S+", rf"\1_interval: {interval}", text)
    text = text.replace("edge:8080", target)
    (folder / "prometheus.yml").write_text(text, encoding="utf-8")
    shutil.copy(MONITORING / "rules.yml", folder)
    command = (
        "prometheus",
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        "--web.listen-address=127.0.0.1:0",
    )
    async with AsyncExitStack() as stack:
        started = await stack.enter_async_context(process(*command))
        port = (await line_with(started, r'msg="?Listening on"? address=127\.0\.0\.1:(\d+)'))[1]
        client = await stack.enter_async_context(aiohttp.ClientSession())
        prometheus = Prometheus(f"http://127.0.0.1:{port}", client)
        await prometheus.ready()
        yield prometheus


async def load(url: str, seconds: float, *, pace: float = 20.0) -> None:
    """A little of everything: readers that stay, drop and come late, triggers with and without a reader, refusals."""
    async with aiohttp.ClientSession() as client, asyncio.TaskGroup() as group:
        ends = asyncio.get_running_loop().time() + seconds

        async def post(path: str, body: object) -> None:
            async with client.post(f"{url}/projects/{path}", json=body) as response:
                await response.read()

        async def read(project: str, query: str, *, stay_seconds: float) -> None:
            try:
                async with (
                    asyncio.timeout(stay_seconds),
                    client.get(f"{url}/projects/{project}/events{query}") as stream,
                ):
                    async for _ in stream.content:
                        pass
            except TimeoutError:
                return

        async def visitor(number: int) -> None:
            """Publishes before it reads, triggers, leaves, and misses what comes after."""
            turn = 0
            while asyncio.get_running_loop().time() < ends:
                project = f"visitor-{number}"
                await post(f"{project}/events", {"data": "before anybody was there"})
                reading = asyncio.create_task(read(project, "", stay_seconds=5 / pace))
                await post(f"{project}/trigger?timeout=2s", {"name": "work"})
                await reading
                await post(f"{project}/events", {"data": "after everybody had left"})
                await post(f"{project}-alone/trigger?timeout={1 + turn % 7}0ms", {"name": "work"})
                async with client.get(f"{url}/projects/{project}/events", headers={"Host": "elsewhere"}) as refused:
                    await refused.read()
                await read(project, "?last_event_id=unknown-7", stay_seconds=1 / pace)
                await asyncio.sleep(2 / pace)
                turn += 1

        async def regular() -> None:
            """Comes back whenever its stream ends."""
            while (left_seconds := ends - asyncio.get_running_loop().time()) > 0:
                await read("steady", "?since=none", stay_seconds=left_seconds)

        async def publisher() -> None:
            while asyncio.get_running_loop().time() < ends:
                await post("steady/events", {"type": "progress", "data": {"percent": 50}})
                await asyncio.sleep(1 / pace)

        for _ in range(5):
            group.create_task(regular())
        group.create_task(publisher())
        for number in range(3):
            group.create_task(visitor(number))


async def output_of(*command: str, **environ: str) -> tuple[int, str]:
    """Exit status and output of `edge`."""
    async with process(sys.executable, "-m", "edge", *command, env=environ) as started:
        assert started.stdout is not None
        text = (await started.stdout.read()).decode()
        return await started.wait(), text
