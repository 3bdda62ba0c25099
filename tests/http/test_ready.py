from __future__ import annotations

import asyncio
import socket

import pytest

from tests.http.client import Answer, Site
from tests.hubs import StartHub


async def ready(site: Site, **params: str) -> Answer:
    return await site.ask("GET", "/projects/p/ready", params=params)


@pytest.mark.linux
async def test_it_answers_as_soon_as_a_subscriber_is_there(site: Site) -> None:
    waiting = asyncio.create_task(ready(site, timeout="20s"))
    await asyncio.sleep(0.1)
    assert not waiting.done()
    async with site.stream():
        answer = await waiting
    document = answer.json
    expected = {"ready": True, "waited_ms": document["waited_ms"], "connections": 1, "confirmed": "acknowledged"}
    assert (200, expected) == (answer.status, document)
    assert "no-store" == answer.headers["Cache-Control"]


async def test_without_a_subscriber_in_time_it_is_409(site: Site) -> None:
    answer = await ready(site, timeout="20ms")
    assert ("no_connection", 0) == (answer.problem["code"], answer.problem["connections"])
    assert "1" == answer.headers["Retry-After"]


async def test_a_time_out_of_nothing_asks_how_it_is_now(site: Site) -> None:
    assert 409 == (await ready(site, timeout="0")).status
    async with site.stream():
        assert 200 == (await ready(site, timeout="0")).status


async def test_too_few_are_not_ready(site: Site) -> None:
    async with site.stream():
        problem = (await ready(site, timeout="100ms", connections="2")).problem
        assert ("no_connection", 1) == (problem["code"], problem["connections"])
        async with site.stream():
            assert 2 == (await ready(site, timeout="20s", connections="2")).json["connections"]


async def test_a_reader_that_takes_nothing_is_not_ready_until_it_does(start_hub: StartHub) -> None:
    """Its replay is not written: its buffers are full."""
    site = await start_hub(ring={"max_bytes": 16 << 20}, limits={"max_event_bytes": 1 << 20, "max_body_bytes": 1 << 21})
    for _ in range(10):
        await site.publish("x" * 1_000_000)
    loop = asyncio.get_running_loop()
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.setblocking(False)
        await loop.sock_connect(sock, ("127.0.0.1", site.port))
        await loop.sock_sendall(sock, b"GET /projects/p/events?since=all HTTP/1.0\r\nHost: localhost\r\n\r\n")
        await site.connections(1)
        assert 409 == (await ready(site, timeout="300ms")).status
        waiting = asyncio.create_task(ready(site, timeout="20s"))

        async def read() -> None:
            while await loop.sock_recv(sock, 1 << 20):
                pass

        reading = asyncio.create_task(read())
        assert 200 == (await waiting).status
        reading.cancel()


async def test_only_so_many_may_wait(start_hub: StartHub) -> None:
    site = await start_hub(limits={"max_waiting": 1})
    waiting = asyncio.create_task(ready(site, timeout="20s"))
    while site.context.readiness.waiting != 1:
        await asyncio.sleep(0.005)
    problem = (await ready(site, timeout="20s")).problem
    assert ("too_many_waiting", 1) == (problem["code"], problem["limit"])
    async with site.stream():
        assert 200 == (await waiting).status
    assert 0 == site.context.readiness.waiting


@pytest.mark.parametrize("query", ["timeout=61s", "timeout=-1", "connections=0", "connections=1.5"])
async def test_parameters_that_cant_be_read(site: Site, query: str) -> None:
    assert "invalid_parameter" == (await site.ask("GET", f"/projects/p/ready?{query}")).problem["code"]
