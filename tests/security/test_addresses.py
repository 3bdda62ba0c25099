"""One address can't take all connections of a hub, whatever it does with them."""

from __future__ import annotations

import asyncio

import pytest

from edge.core.limits import network_of
from edge.server.accept import BESIDE_STREAMS
from tests.faults.hub import until
from tests.security.hub import Config, LimitsSettings, RunningHub, ServerSettings, code_of, running

LIMITED = LimitsSettings(max_connections_per_address=2)
MOST = 2 + BESIDE_STREAMS


async def silent(hub: RunningHub, count: int) -> list[asyncio.StreamWriter]:
    return [(await asyncio.open_connection(hub.host, hub.port))[1] for _ in range(count)]


async def answered(hub: RunningHub, path: str) -> tuple[int, str | None]:
    """The answer on a connection of its own."""
    async with hub.client.get(f"{hub.url}{path}", headers={"Connection": "close"}) as response:
        return await code_of(response)


async def test_silent_connections_of_one_address_leave_room_for_health_checks() -> None:
    async with running(Config(limits=LIMITED)) as hub:
        writers = await silent(hub, MOST)
        await until(lambda: answered(hub, "/projects"), lambda seen: seen == (429, "too_many_address_connections"))
        assert (200, None) == await answered(hub, "/healthz")
        assert hub.context.hub.counters.rejected["too_many_address_connections"]
        headers = {"Origin": "https://page.example", "Connection": "close"}
        async with hub.client.get(f"{hub.url}/projects", headers=headers) as response:
            assert (429, "https://page.example") == (response.status, response.headers["Access-Control-Allow-Origin"])
        for writer in writers[:3]:
            writer.close()
        await until(lambda: answered(hub, "/projects"), lambda seen: seen == (200, None))
        for writer in writers[3:]:
            writer.close()


async def test_idle_keep_alive_connections_count_too() -> None:
    async with running(Config(limits=LIMITED)) as hub:
        writers = []
        for _ in range(MOST):
            reader, writer = await asyncio.open_connection(hub.host, hub.port)
            writer.write(f"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1:{hub.port}\r\n\r\n".encode())
            assert b"200" in await reader.readline()
            writers.append(writer)
        assert (429, "too_many_address_connections") == await answered(hub, "/projects")
        for writer in writers:
            writer.close()
        await until(lambda: answered(hub, "/projects"), lambda seen: seen == (200, None))


async def test_streams_are_counted_by_the_hub_and_not_twice() -> None:
    async with running(Config(limits=LIMITED)) as hub:
        for number in range(3 * MOST):
            async with hub.client.get(f"{hub.url}/projects/p{number}/events") as response:
                assert 200 == response.status
            await until(lambda: asyncio.sleep(0, hub.context.hub.connections), lambda there: not there)
        streams = [await hub.client.get(f"{hub.url}/projects/p/events") for _ in range(2)]
        assert [200, 200] == [stream.status for stream in streams]
        async with hub.client.get(f"{hub.url}/projects/p/events") as third:
            assert (429, "too_many_address_connections") == await code_of(third)
        for stream in streams:
            stream.close()


async def test_a_trusted_proxy_has_as_many_as_it_wants() -> None:
    config = Config(limits=LIMITED, server=ServerSettings(trusted_proxies=("127.0.0.0/8",)))
    async with running(config) as hub:
        writers = await silent(hub, MOST + 5)
        assert (200, None) == await answered(hub, "/projects")
        for writer in writers:
            writer.close()


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::1", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::1", "::/64"),
        ("not:an:address", "not:an:address"),
        ("local", "local"),
    ],
)
def test_an_ipv6_address_counts_by_its_64(address: str, network: str) -> None:
    assert network == network_of(address)
