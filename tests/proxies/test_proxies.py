"""Streams through the proxies people have, as the page says to set them up."""

from __future__ import annotations

import asyncio
import json
import socket
from pathlib import Path
from typing import Any

import pytest

from tests.faults.hub import HubProcess, serving, until
from tests.faults.reader import Reader, open_stream
from tests.faults.tls import TRUSTING, Certificate, self_signed
from tests.proxies.proxy import KINDS, Kind, Proxy, proxying

pytestmark = [pytest.mark.linux, pytest.mark.proxies]

certificate = pytest.fixture(scope="module")(self_signed)
CLIENT = "127.0.0.2"
IDLE_SECONDS = 3
"""After so much silence the proxies here close a stream."""


async def through(proxy: Proxy, project: str, **options: Any) -> Reader:
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    sock.bind((CLIENT, 0))
    return await open_stream(proxy.address, project, sock=sock, ssl=TRUSTING if proxy.kind.tls else None, **options)


async def post(proxy: Proxy, path: str, *parts: bytes, pause_for: Any = None) -> int:
    """POST NDJSON in chunks, one after the other; returns the status."""
    tls: dict[str, Any] = {"ssl": TRUSTING, "server_hostname": "localhost"} if proxy.kind.tls else {}
    reader, writer = await asyncio.open_connection(*proxy.address, **tls)
    writer.write(
        f"POST {path} HTTP/1.1\r\nHost: localhost:{proxy.address[1]}\r\nContent-Type: application/x-ndjson\r\n"
        "Transfer-Encoding: chunked\r\n\r\n".encode()
    )
    for part in parts:
        writer.write(b"%x\r\n%b\r\n" % (len(part), part))
        await writer.drain()
        if pause_for is not None:
            await pause_for()
    writer.write(b"0\r\n\r\n")
    async with asyncio.timeout(60):
        status = int((await reader.readline()).split()[1])
    writer.transport.abort()
    return status


@pytest.mark.parametrize("kind", KINDS, ids=[kind.name for kind in KINDS])
async def test_streams_through_a_proxy(kind: Kind, tmp_path: Path, certificate: Certificate) -> None:
    settings: dict[str, Any] = {"server__trusted_proxies": "127.0.0.1/32"} if kind.names_the_client else {}
    async with (
        serving(stream__heartbeat_seconds=1, **settings) as hub,
        proxying(kind, hub.port, tmp_path, certificate, idle=f"{IDLE_SECONDS}s") as proxy,
    ):
        began = asyncio.get_running_loop().time()
        idle = await through(proxy, "idle")  # the hello is here, with nothing behind it: no proxy buffers

        reader = await through(proxy, "p")
        assert "text/event-stream" in reader.headers["content-type"]
        for number in range(3):
            await hub.publish("p", number)
            assert list(range(number + 1)) == await reader.events(number + 1)

        # Readiness says the proxy is there, and with confirm=client that the reader is.
        status, answer, _ = await hub.ask("GET", "/projects/p/ready?timeout=20s")
        assert (200, "acknowledged") == (status, answer["confirmed"])
        waiting = asyncio.create_task(hub.ask("GET", "/projects/p/ready?timeout=20s&confirm=client"))
        probe = await reader.until("edge.probe")
        await hub.ask("POST", f"/projects/p/connections/{reader.hello['connection']}/ack", json=probe.json())
        assert (200, "client") == ((await waiting)[0], (await waiting)[1]["confirmed"])

        # Resume.
        last_id = reader.last_id
        await reader.close()
        await until(lambda: connections(hub, "p"), lambda found: found == [])
        await hub.publish("p", 3)
        reader = await through(proxy, "p", headers=f"Last-Event-ID: {last_id}\r\n")
        assert [3] == await reader.events(1)
        await reader.close()

        # Whose address it is.
        lies = "X-Forwarded-For: 6.6.6.6\r\nForwarded: for=6.6.6.6\r\n"
        liar = await through(proxy, "address", headers=lies)
        assert [CLIENT if kind.names_the_client else "127.0.0.1"] == await connections(hub, "address")
        await liar.close()

        # NDJSON arrives line by line (a bare nginx gathers the whole body first).
        watching = await through(proxy, "lines")
        lines = [json.dumps({"data": number}).encode() + b"\n" for number in range(3)]

        async def arrived() -> None:
            if kind.names_the_client:
                await watching.events(len(watching.data) + 1)

        assert 201 == await post(proxy, "/projects/lines/events", *lines, pause_for=arrived)
        assert [0, 1, 2] == await watching.events(3)
        await watching.close()

        if kind.tls:
            await assert_http2(proxy)

        # The heartbeat has kept a silent stream alive for longer than the proxy's idle time-out.
        await asyncio.sleep(max(0.0, began + IDLE_SECONDS + 1.5 - asyncio.get_running_loop().time()))
        await hub.publish("idle", "still here")
        assert ["still here"] == await idle.events(1)
        assert len(idle.comments) >= IDLE_SECONDS
        await idle.close()
        await hub.at_rest()


async def connections(hub: HubProcess, project: str) -> list[str]:
    return [each["address"] for each in (await hub.project(project))["connections"]]


async def assert_http2(proxy: Proxy) -> None:
    """As a browser would: streams over one connection, in HTTP/2."""
    process = await asyncio.create_subprocess_exec(
        *("curl", "--silent", "--insecure", "--http2", "--parallel", "--parallel-max", "8", "--max-time", "2"),
        *("--resolve", f"localhost:{proxy.address[1]}:127.0.0.1"),
        *("--write-out", "%{http_version} %{num_connects} %{size_download}\n", "--no-buffer"),
        *(
            argument
            for number in range(8)
            for argument in ("--output", "/dev/null", f"https://localhost:{proxy.address[1]}/projects/h{number}/events")
        ),
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await process.communicate()
    streams = [line.split() for line in output.decode().splitlines()]
    assert ["2"] * 8 == [version for version, _, _ in streams]
    assert all(int(size) > 0 for _, _, size in streams)
    assert 8 > sum(int(made) for _, made, _ in streams)


async def test_a_proxy_restarted_under_500_streams(tmp_path: Path, certificate: Certificate) -> None:
    kind = KINDS[1]
    count = 500
    async with serving() as hub, proxying(kind, hub.port, tmp_path, certificate) as proxy:

        async def come(last_id: str) -> Reader:
            sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            return await open_stream(proxy.address, "p", sock=sock, ssl=TRUSTING, headers=last_id)

        async def come_all(ids: list[str]) -> list[Reader]:
            many = asyncio.Semaphore(50)

            async def one(header: str) -> Reader:
                async with many:
                    return await come(header)

            return await asyncio.gather(*(one(header) for header in ids))

        readers = await come_all([""] * count)
        await hub.publish("p", "before")
        assert [["before"]] * count == [await reader.events(1) for reader in readers]
        ids = [f"Last-Event-ID: {reader.last_id}\r\n" for reader in readers]

        await proxy.stop()
        for reader in readers:
            await reader.to_the_end()
            await reader.close()
        await hub.removed("client", count)
        await hub.publish("p", "meanwhile")
        await proxy.start()
        readers = await come_all(ids)
        await hub.publish("p", "after")
        assert [["meanwhile", "after"]] * count == [await reader.events(2) for reader in readers]
        for reader in readers:
            await reader.close()
        metrics = await hub.at_rest()
        assert 1 == metrics["edge_misses_total"] == metrics["edge_misses_recovered_total"]
