"""Redis stops, comes back, comes back empty; a node dies; nodes are replaced one by one behind a balancer."""

from __future__ import annotations

import asyncio
import shutil
import signal
import subprocess
import time
from pathlib import Path

import aiohttp
import pytest
from redis import Redis

from edge.cluster.readiness import ClusterReadiness
from tests.cluster.conftest import RedisServer
from tests.cluster.nodes import Node, Subscriber, node_process, numbers, start_process
from tests.ports import free_port


async def test_streams_go_on_when_redis_is_back(nodes: list[Node], redis_server: RedisServer) -> None:
    async with Subscriber(nodes[0].port) as a, Subscriber(nodes[1].port) as b:
        before = [(await nodes[2].publish(number))["id"] for number in range(3)]
        await a.until(3)
        redis_server.stop()
        refused = await nodes[2].publish("refused")
        assert (503, "store_unavailable") == (refused["status"], refused["code"])
        assert 503 == (await nodes[2].get("/readyz"))["status"]
        await a.until_comment()
        assert not any(name == "edge.closing" for name, _ in a.controls)
        redis_server.start()
        after = await _publish_until_taken(nodes[2], "after")
        await a.until(4)
        await b.until(4)
        assert [*before, after] == a.ids == b.ids
        assert [0, 1, 2, "after"] == a.data
        receipt = await _publish_until_counted(nodes[2], 2)
        await a.until(receipt)
        assert list(range(1, len(a.ids) + 1)) == numbers(a.ids)
        assert 200 == (await nodes[2].get("/readyz"))["status"]


async def test_hanging_redis_is_noticed_and_no_event_is_missing(nodes: list[Node], redis_server: RedisServer) -> None:
    """A cut cable looks like this from here: nothing is refused, nothing is answered."""
    assert redis_server.process is not None
    async with Subscriber(nodes[0].port) as subscriber:
        first = await nodes[1].publish("before")
        await subscriber.until(1)
        for node in nodes:
            pool = node.store.redis._client.connection_pool
            pool.connection_kwargs["socket_timeout"] = 0.5
            await pool.disconnect()
        redis_server.process.send_signal(signal.SIGSTOP)
        try:
            refused = await nodes[1].publish("hanging")
            await asyncio.sleep(1.5)
        finally:
            redis_server.process.send_signal(signal.SIGCONT)
        assert (503, "store_unavailable") == (refused["status"], refused["code"])
        last = await _publish_until_taken(nodes[1], "after")
        await subscriber.until(int(last.rpartition("-")[2]))
        assert [first["id"], last] == [subscriber.ids[0], subscriber.ids[-1]]
        assert list(range(1, len(subscriber.ids) + 1)) == numbers(subscriber.ids)


async def test_redis_that_comes_back_empty_is_a_reported_gap(nodes: list[Node], redis_server: RedisServer) -> None:
    async with Subscriber(nodes[0].port, comes_back=True) as subscriber:
        await nodes[1].publish("old")
        await subscriber.until(1)
        redis_server.stop()
        for file in redis_server.folder.iterdir():
            shutil.rmtree(file) if file.is_dir() else file.unlink()
        redis_server.start()
        await _publish_until_taken(nodes[1], "new")
        await subscriber.until(2)
        assert ["old", "new"] == subscriber.data
        gap = await subscriber.until_control("edge.gap")
        assert (None, "restart") == (gap["lost"], gap["reason"])
        assert [1, 0, 0] == [node.context.hub.counters.removed["restart"] for node in nodes]
        assert 1 == nodes[0].context.hub.connected("p")
        await _publish_until_counted(nodes[1], 1)


@pytest.mark.parametrize("knows", ["another node", "the same node", "a node that ended, too"])
async def test_first_receipt_of_a_redis_that_came_back_with_less_has_an_id_of_its_own(
    nodes: list[Node], redis_server: RedisServer, tmp_path: Path, knows: str
) -> None:
    """No subscriber is there to notice, and the node that publishes next may not have published what was lost."""
    given = [(await nodes[1].publish(number))["id"] for number in range(2)]
    if knows == "a node that ended, too":
        client = Redis(port=redis_server.port)
        client.zadd("edge:nodes", {"ended": time.time()})
        client.close()
    shutil.copytree(redis_server.folder, tmp_path / "copy")
    if knows != "a node that ended, too":
        given += [(await nodes[knows == "the same node"].publish(number))["id"] for number in range(2)]
    redis_server.stop()
    shutil.rmtree(redis_server.folder)
    shutil.copytree(tmp_path / "copy", redis_server.folder)
    redis_server.start()
    given.append(await _publish_until_taken(nodes[1], "first"))
    given += [(await node.publish("then"))["id"] for node in nodes]
    assert len(given) == len(set(given))
    assert len({event_id.partition("-")[0] for event_id in given}) == 2
    async with Subscriber(nodes[2].port, query=f"?last_event_id={given[1]}") as subscriber:
        assert "restart" == (await subscriber.until_control("edge.gap"))["reason"]


async def test_redis_that_comes_back_with_less_is_a_reported_gap(nodes: list[Node], redis_server: RedisServer) -> None:
    """What a power cut takes with `appendfsync everysec`, or a fail-over to a replica that lagged behind."""
    async with Subscriber(nodes[0].port, comes_back=True) as subscriber:
        for number in range(3):
            await nodes[1].publish(number)
        await subscriber.until(3)
        client = Redis(port=redis_server.port)
        client.xdel("edge:{p}:stream", "2-0", "3-0")
        client.eval("redis.call('XSETID', KEYS[1], '1-0')", 1, "edge:{p}:stream")
        client.hset("edge:{p}:meta", "seq", "1")
        for data in ("in place of 1", "in place of 2"):
            await nodes[2].publish(data)
        client.client_kill_filter(_type="pubsub")
        client.close()
        await subscriber.until(6)
        assert [0, 1, 2, 0, "in place of 1", "in place of 2"] == subscriber.data
        assert 6 == len(set(subscriber.ids))
        gap = await subscriber.until_control("edge.gap")
        assert (None, "restart") == (gap["lost"], gap["reason"])
        await nodes[2].publish("on it goes")
        await subscriber.until(7)
        assert 4 == numbers(subscriber.ids)[-1]


async def test_connections_of_a_dead_node_do_not_count_and_their_events_are_missed(
    nodes: list[Node], redis_server: RedisServer
) -> None:
    with node_process(redis_server.url) as (process, port):
        subscriber = Subscriber(port)
        async with subscriber:
            await nodes[0].counts(1)
            assert 1 == (await nodes[0].publish("seen"))["connections"]
            await subscriber.until(1)
            process.send_signal(signal.SIGKILL)
            # It still counts until its last heartbeat is too old; what is published meanwhile reaches no client.
            assert 1 == (await nodes[0].publish("unseen"))["connections"]
        for _ in range(1200):
            await asyncio.sleep(0.1)
            if (await nodes[1].misses())[3]:
                break
        assert 0 == (await nodes[1].get("/projects/p"))["connections_total"]
    async with Subscriber(nodes[2].port) as next_subscriber:
        await next_subscriber.until(1)
        assert "unseen" == next_subscriber.data[-1]


@pytest.mark.proxies
async def test_rolling_restart_behind_haproxy_has_no_gap(redis_server: RedisServer, tmp_path: Path) -> None:
    *ports, front = (free_port() for _ in range(4))
    servers = "".join(f"  server n{place} 127.0.0.1:{port} check inter 100ms\n" for place, port in enumerate(ports))
    (tmp_path / "haproxy.cfg").write_text(
        "defaults\n  mode http\n  timeout connect 2s\n  timeout client 60s\n  timeout server 60s\n"
        f"frontend front\n  bind 127.0.0.1:{front}\n  default_backend nodes\n"
        "backend nodes\n  balance roundrobin\n  option httpchk GET /readyz\n  option redispatch\n  retries 3\n"
        f"  retry-on conn-failure empty-response response-timeout 503\n{servers}"
    )
    processes = [start_process(redis_server.url, port) for port in ports]
    balancer = await asyncio.create_subprocess_exec(
        *("haproxy", "-db", "-f", str(tmp_path / "haproxy.cfg")), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    publisher: asyncio.Task[list[str]] | None = None
    try:
        async with (
            Subscriber(front, comes_back=True) as a,
            Subscriber(front, comes_back=True) as b,
        ):
            stop = asyncio.Event()
            publisher = asyncio.create_task(_publish_until(front, stop))
            for subscriber in (a, b):
                await subscriber.until(1)  # one who has got nothing yet has no id to come back with
            for place, port in enumerate(ports):
                processes[place].send_signal(signal.SIGTERM)
                assert 0 == await asyncio.to_thread(processes[place].wait, 60)
                processes[place] = await asyncio.to_thread(start_process, redis_server.url, port)
                await asyncio.sleep(0.5)
            stop.set()
            published = await publisher
            publisher = None
            for subscriber in (a, b):
                await subscriber.until(len(published))
                assert list(range(1, len(subscriber.ids) + 1)) == numbers(subscriber.ids)
                assert set(published) <= set(subscriber.ids)
                assert not any(name == "edge.gap" for name, _ in subscriber.controls)
            assert len(published) > 50
    finally:
        if publisher is not None:
            publisher.cancel()
        balancer.kill()
        await balancer.wait()
        for process in processes:
            process.kill()
            await asyncio.to_thread(process.wait)


async def _publish_until(port: int, stop: asyncio.Event) -> list[str]:
    """Publish one after the other through the balancer; the ids of what was acknowledged."""
    client = _Client(port)
    ids: list[str] = []
    while not stop.is_set():
        answer = await client.publish(len(ids))
        if "id" in answer:
            ids.append(answer["id"])
        await asyncio.sleep(0.01)
    await client.close()
    return ids


class _Client:
    def __init__(self, port: int) -> None:
        self._session = aiohttp.ClientSession(f"http://127.0.0.1:{port}")

    async def publish(self, data: object) -> dict[str, str]:
        try:
            async with self._session.post("/projects/p/events", json={"data": data}) as answer:
                found: dict[str, str] = await answer.json(content_type=None)
                return found
        except aiohttp.ClientError:
            return {}

    async def close(self) -> None:
        await self._session.close()


async def _publish_until_taken(node: Node, data: object) -> str:
    for _ in range(600):
        answer = await node.publish(data)
        if "id" in answer:
            return str(answer["id"])
        await asyncio.sleep(0.1)
    raise AssertionError("Redis is back and nothing is taken")


async def _publish_until_counted(node: Node, connections: int) -> int:
    """Publish until the subscribers count again; returns how many events there are then."""
    for _ in range(600):
        answer = await node.publish("counted")
        if answer["connections"] == connections:
            return int(answer["id"].rpartition("-")[2])
        await asyncio.sleep(0.1)
    raise AssertionError("the subscribers don't count any more")


async def test_a_trigger_that_waits_without_redis_ends_with_its_node_and_leaves_no_error(
    nodes: list[Node], redis_server: RedisServer
) -> None:
    redis_server.stop()
    waiting = asyncio.create_task(nodes[0].post("/projects/p/trigger?timeout=20s", {"name": "job"}))
    readiness = nodes[0].context.readiness
    assert isinstance(readiness, ClusterReadiness)
    async with asyncio.timeout(60):
        while not readiness._callers:
            await asyncio.sleep(0.01)
    [caller] = readiness._callers.values()
    readiness.drain()
    assert 503 == (await waiting)["status"]
    assert None is caller.enough.exception(), "asyncio reports an exception that is never retrieved"
