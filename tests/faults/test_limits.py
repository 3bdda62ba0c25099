"""At each limit: a clear refusal with Retry-After, a number in the metrics, a line in the log; and the rest goes on."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from tests.faults.hub import LOOPS, HubProcess, serving, until
from tests.faults.reader import Reader, open_stream

pytestmark = pytest.mark.slow

FILES = 100


@pytest.mark.parametrize(
    ("code", "status", "setting"),
    [
        ("too_many_connections", 503, {"limits__max_connections": 2}),
        ("too_many_project_connections", 429, {"limits__max_connections_per_project": 2}),
        ("too_many_address_connections", 429, {"limits__max_connections_per_address": 2}),
    ],
)
async def test_streams_beyond_a_limit_are_refused(code: str, status: int, setting: dict[str, Any]) -> None:
    async with serving(**setting) as hub:
        address = ("127.0.0.1", hub.port)
        readers = [await open_stream(address, "p") for _ in range(2)]
        for _ in range(3):
            assert_refused(code, status, *await hub.ask("GET", "/projects/p/events"))
        assert 3 == (await hub.metrics())[f'edge_connections_rejected_total{{reason="{code}"}}']
        assert 1 == hub.log_text.count(f"code={code}")  # the others are folded into one more, later

        await readers.pop().close()
        await until(hub.metrics, lambda found: found["edge_connections"] == 1)
        readers.append(await open_stream(address, "p"))
        for reader in readers:
            await reader.close()
        await hub.at_rest()


async def test_the_address_that_counts_is_the_clients_and_only_a_trusted_proxy_may_say_it() -> None:
    async with serving(limits__max_connections_per_address=1, server__trusted_proxies="127.0.0.1") as hub:
        address = ("127.0.0.1", hub.port)
        readers = [await open_stream(address, "p", headers=f"X-Forwarded-For: 192.0.2.{n}\r\n") for n in range(3)]
        assert_refused(
            "too_many_address_connections",
            429,
            *await hub.ask("GET", "/projects/p/events", headers={"X-Forwarded-For": "192.0.2.1"}),
        )
        shown = (await hub.project("p"))["connections"]
        assert {"192.0.2.0", "192.0.2.1", "192.0.2.2"} == {each["address"] for each in shown}
        assert "address=192.0.2.1" in hub.log_text
        for reader in readers:
            await reader.close()


async def test_projects_and_waiting_callers_beyond_a_limit_are_refused() -> None:
    async with serving(limits__max_projects=2, limits__max_waiting=1) as hub:
        for name in ("p1", "p2"):
            await hub.publish(name, 1)
        publishing = hub.ask("POST", "/projects/p3/events", json={"data": 1})
        assert_refused("too_many_projects", 503, *await publishing)
        assert_refused("too_many_projects", 503, *await hub.ask("GET", "/projects/p3/events"))
        assert 2 == (await hub.metrics())['edge_connections_rejected_total{reason="too_many_projects"}']
        assert 201 <= (await hub.ask("POST", "/projects/p2/events", json={"data": 1}))[0] <= 202

        waiting = asyncio.create_task(hub.ask("GET", "/projects/p1/ready?timeout=20s"))
        await until(hub.metrics, lambda found: found["edge_waiting"] == 1)
        assert_refused("too_many_waiting", 503, *await hub.ask("GET", "/projects/p1/ready?timeout=20s"))
        reader = await open_stream(("127.0.0.1", hub.port), "p1")
        assert 200 == (await waiting)[0]
        await reader.close()


@pytest.mark.linux
@pytest.mark.parametrize("loop", LOOPS)
async def test_out_of_descriptors_it_serves_those_it_has_and_accepts_again_when_it_can(loop: str) -> None:
    async with serving(loop=loop, prefix=("prlimit", f"--nofile={FILES}:{FILES}")) as hub:
        address = ("127.0.0.1", hub.port)
        kept = await Kept.open(hub)
        readers: list[Reader] = []
        while len(readers) < FILES:
            reader = await open_stream(address, "p", greeted=False)
            readers.append(reader)
            if reader.status != 200:
                break
        refused = readers.pop()
        assert 503 == refused.status
        assert "5" == refused.headers["retry-after"]
        problem = json.loads(await refused.reader.read())
        assert "too_many_descriptors" == problem["code"]
        assert len(readers) > FILES / 2
        await refused.close()

        burst = await asyncio.gather(
            *(asyncio.open_connection(*address) for _ in range(3 * FILES)), return_exceptions=True
        )
        await kept.ask("POST", "/projects/p/events", '{"data": "still here"}')
        for reader in readers:
            assert ["still here"] == await reader.events(1)
        found = await kept.metrics()
        assert found['edge_connections_rejected_total{reason="too_many_descriptors"}'] > 0
        assert found["edge_connections"] == len(readers)
        assert "code=too_many_descriptors" in hub.log_text
        assert len(hub.log) < len(readers) + 20

        for each in burst:
            if not isinstance(each, BaseException):
                each[1].transport.abort()
        for reader in readers:
            await reader.close()
        reader = await open_again(address)
        await reader.close()
        await kept.close()
        await hub.at_rest()


async def open_again(address: tuple[str, int]) -> Reader:
    """asyncio waits a second before it accepts again."""
    for _ in range(50):
        try:
            reader = await open_stream(address, "p", greeted=False)
        except (ConnectionError, asyncio.IncompleteReadError):
            await asyncio.sleep(0.2)
            continue
        if reader.status == 200:
            return reader
        await reader.close()
        await asyncio.sleep(0.2)
    raise AssertionError("no connection is accepted any more")


class Kept:
    """A connection that was there before, and is used again and again."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, hub: HubProcess) -> Kept:
        return cls(*await asyncio.open_connection("127.0.0.1", hub.port))

    async def ask(self, method: str, path: str, body: str = "") -> str:
        self._writer.write(
            f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()
        )
        async with asyncio.timeout(60):
            head = (await self._reader.readuntil(b"\r\n\r\n")).decode().lower()
            length = int(head.partition("content-length:")[2].split("\r\n")[0])
            return (await self._reader.readexactly(length)).decode()

    async def metrics(self) -> dict[str, float]:
        lines = (await self.ask("GET", "/metrics")).splitlines()
        return {name: float(value) for name, _, value in (x.rpartition(" ") for x in lines if not x.startswith("#"))}

    async def close(self) -> None:
        self._writer.close()
        await self._writer.wait_closed()


def assert_refused(code: str, status: int, got: int, problem: dict[str, Any], headers: dict[str, str]) -> None:
    assert (status, code, status) == (got, problem["code"], problem["status"])
    assert int(headers["Retry-After"]) >= 1
