"""Redis is not there yet, is full, refuses writes, is reached in the wrong way, or sends nonsense."""

from __future__ import annotations

import asyncio
import re
import signal
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis
from structlog.testing import capture_logs

from edge.cluster.client import RedisClient
from edge.config.texts import parse_redis_url
from edge.core.errors import StoreUnavailable
from edge.core.idempotency import Answer
from edge.http import publish
from edge.store.base import Keyed
from edge.triggers.readiness import Readiness
from tests.cluster.conftest import RedisServer
from tests.cluster.nodes import Node, Subscriber, start_node
from tests.ports import free_port

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
async def redis(redis_server: RedisServer) -> AsyncIterator[Redis]:
    """For the test's own commands."""
    client = Redis(host=redis_server.host, port=redis_server.port, protocol=2)
    yield client
    await client.aclose()


@pytest.fixture
async def node(redis_server: RedisServer) -> AsyncIterator[Node]:
    started = await start_node(redis_server.url)
    yield started
    await started.stop()


async def until(condition: Callable[[], Awaitable[bool]], seconds: float = 60.0) -> None:
    async with asyncio.timeout(seconds):
        while not await condition():
            await asyncio.sleep(0.05)


async def test_node_starts_before_redis_and_joins_when_it_is_there(redis_server: RedisServer) -> None:
    redis_server.stop()
    node = await start_node(redis_server.url)
    try:
        for answer in (await node.get("/readyz"), await node.publish("x"), await node.get("/projects/p/events")):
            assert (503, "store_unavailable") == (answer["status"], answer["code"])
        assert "refuses connections" in (await node.get("/readyz"))["detail"]
        assert 0 == (await node.metrics())["edge_store_available"]
        redis_server.start()
        await until(lambda: _is_ready(node))
        async with Subscriber(node.port) as subscriber:
            await node.publish("x")
            await subscriber.until(1)
        assert 1 == (await node.metrics())["edge_store_available"]
    finally:
        await node.stop()


async def test_host_name_that_cannot_be_resolved_is_named() -> None:
    node = await start_node("redis://nowhere.invalid")
    try:
        assert "host name that can't be resolved" in (await node.get("/readyz"))["detail"]
    finally:
        await node.stop()


@pytest.mark.parametrize(
    ("spoil", "heal", "sentence"),
    [
        (("maxmemory", "1"), ("maxmemory", "0"), "is full"),
        (("min-replicas-to-write", "1"), ("min-replicas-to-write", "0"), "fewer replicas"),
    ],
)
async def test_redis_that_refuses_writes_is_not_ready_and_says_so_once(
    node: Node, redis: Redis, spoil: tuple[str, str], heal: tuple[str, str], sentence: str
) -> None:
    async with Subscriber(node.port) as subscriber:
        await node.publish("before")
        with capture_logs() as lines:
            await redis.config_set(*spoil)
            await until(lambda: _not(_is_ready(node)))
            for _ in range(30):
                assert sentence in (await node.get("/readyz"))["detail"]
                assert 0 == (await node.metrics())["edge_store_available"]
                refused = await node.publish("refused")
                assert (503, True) == (refused["status"], sentence in refused["detail"])
                await asyncio.sleep(0.1)
            await redis.config_set(*heal)
            await until(lambda: _is_ready(node))
        assert ["store_error", "store_recovered"] == [
            line["event"] for line in lines if line["event"] in {"store_error", "store_recovered"}
        ]
        await node.publish("after")
        await subscriber.until(2)
        assert ["before", "after"] == subscriber.data
        assert ["edge.hello"] == [name for name, _ in subscriber.controls]


async def test_reports_that_a_full_redis_refused_are_repeated(node: Node, redis: Redis) -> None:
    await node.publish("missed")
    async with Subscriber(node.port) as subscriber:
        await redis.config_set("min-replicas-to-write", "1")
        try:
            await subscriber.until(1)
            await until(lambda: _not(_is_ready(node)))
        finally:
            await redis.config_set("min-replicas-to-write", "0")
        await until(lambda: _equal(node.misses(), (1, 1, 0, 0)))


async def test_eviction_policy_is_checked_when_redis_is_reached(redis_server: RedisServer, redis: Redis) -> None:
    await redis.config_set("maxmemory-policy", "allkeys-lru")
    try:
        with capture_logs() as lines:
            node = await start_node(redis_server.url)
            await node.stop()
        (line,) = [line for line in lines if line["event"] == "redis_evicts"]
        assert "allkeys-lru" == line["maxmemory_policy"]
    finally:
        await redis.config_set("maxmemory-policy", "noeviction")


@pytest.mark.parametrize("channel", ["edge:asks", "edge:{p}", "inbox"])
@pytest.mark.parametrize("message", [b"{", b"\xff", b"[" * 5000, b'{"type":"newer"}', b"\x93\xc0\xc0\xc0", b""])
async def test_message_that_is_not_understood_costs_no_event(
    node: Node, redis: Redis, channel: str, message: bytes
) -> None:
    cluster = node.store
    async with Subscriber(node.port) as subscriber:
        await node.publish("before")
        await subscriber.until(1)
        await redis.publish(cluster.redis.keys.inbox(cluster.redis.node) if channel == "inbox" else channel, message)
        await until(lambda: _equal(_value(lambda: cluster.rejected_messages), 1))
        assert 1 == (await node.publish("after"))["connections"]
        await subscriber.until(2)
        ready = await node.get("/projects/p/ready?timeout=10s")
        assert (200, 1) == (ready["status"], ready["connections"])
        assert ["edge.hello"] == [name for name, _ in subscriber.controls]
        assert 1 == (await node.metrics())["edge_cluster_messages_rejected_total"]


async def test_event_whose_message_was_not_understood_is_loaded(
    node: Node, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A newer node's format of messages; what Redis holds is the same."""
    cluster = node.store
    async with Subscriber(node.port) as subscriber:
        receive = cluster._replicator.receive

        def newer_format(channel: str, message: dict[str, Any]) -> None:
            if channel == "edge:{p}" and message["type"] == "message":
                message = message | {"data": b"\x81\xa1v\x02"}
            receive(channel, message)

        monkeypatch.setattr(cluster._replicator, "receive", newer_format)
        for number in range(3):
            await node.publish(number)
        await subscriber.until(3)
        assert [0, 1, 2] == subscriber.data
        assert ["edge.hello"] == [name for name, _ in subscriber.controls]


@pytest.mark.parametrize("where", ["next_message", "receive"])
async def test_listener_survives_an_unforeseen_error(node: Node, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    cluster = node.store
    broken: Any = cluster.redis if where == "next_message" else cluster._replicator
    original, failed = getattr(broken, where), False

    def fail(*arguments: Any) -> Any:
        nonlocal failed
        if not failed:
            failed = True
            raise KeyError("unforeseen")
        return original(*arguments)

    async with Subscriber(node.port) as subscriber:
        monkeypatch.setattr(broken, where, fail)
        await node.publish(0)
        await subscriber.until(1)
        await until(lambda: _is_ready(node))
        await node.publish(1)
        await subscriber.until(2)
        assert [0, 1] == subscriber.data
    assert failed
    assert 1 == node.context.supervisor.failures["redis_listener"]


async def test_load_that_fails_unforeseen_is_a_refusal_and_the_next_one_works(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = node.store

    def fail(*_: Any) -> Any:
        raise KeyError("unforeseen")

    monkeypatch.setattr(cluster._replicator, "_restore", fail)
    answer = await node.get("/projects/p/events")
    assert (503, "store_unavailable") == (answer["status"], answer["code"])
    assert 1 == node.context.supervisor.failures["redis_replication"]
    monkeypatch.undo()
    async with Subscriber(node.port) as subscriber:
        await node.publish("x")
        await subscriber.until(1)


async def test_heartbeats_and_reports_go_on_after_an_unforeseen_error(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = node.store
    run_all, failed = cluster.redis.run_all, set[str]()

    async def fail(calls: list[Any], **options: bool) -> list[Any]:
        for script, _ in calls:
            if script in {"heartbeat", "presence", "append"} and script not in failed:
                failed.add(script)
                raise KeyError("unforeseen")
        return await run_all(calls, **options)

    monkeypatch.setattr(cluster.redis, "run_all", fail)
    assert 503 == (await node.publish("refused"))["status"]
    async with Subscriber(node.port) as subscriber:
        await until(lambda: _equal(_value(lambda: len(failed)), 3))
        await until(lambda: _connections(node, 1))
        await node.publish("x")
        await subscriber.until(1)
    failures = node.context.supervisor.failures
    assert [1, 1, 1] == [failures[task] for task in ("redis_heartbeat", "redis_presence", "redis_sender")]


async def test_node_that_fails_to_confirm_is_counted_and_the_next_question_is_answered(
    nodes: list[Node], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: Any) -> Any:
        raise KeyError("unforeseen")

    async with Subscriber(nodes[1].port):
        monkeypatch.setattr(Readiness, "wait", fail)
        assert 409 == (await nodes[0].get("/projects/p/ready?timeout=500ms"))["status"]
        assert 1 == nodes[1].context.supervisor.failures["redis_readiness"]
        monkeypatch.undo()
        assert 200 == (await nodes[0].get("/projects/p/ready?timeout=20s"))["status"]


# Keys


async def test_key_is_used_by_one_request_although_the_heartbeat_is_old(node: Node, redis: Redis) -> None:
    """Redis was out of memory, or the node was stopped: it takes the node for dead, until the next heartbeat."""
    key = {"Idempotency-Key": "once"}
    cluster = node.store
    original = cluster.redis.run_all

    async def old_heartbeat(calls: list[Any], *, probing: bool = False, together: bool = False) -> list[Any]:
        await redis.zadd(cluster.redis.keys.nodes, {cluster.redis.node: 1})
        return await original([call for call in calls if call[0] != "heartbeat"] or calls, probing=probing)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cluster.redis, "run_all", old_heartbeat)
        answers = await asyncio.gather(*(node.publish("x", **key) for _ in range(20)))
    assert {201, 202} >= {answer["status"] for answer in answers}
    assert 1 == len({answer["id"] for answer in answers})
    assert 1 == (await node.get("/projects/p"))["ring"]["events"]


async def test_second_request_of_a_key_waits_for_the_first_on_its_node(node: Node, redis: Redis) -> None:
    key = ("trigger", "p", "k")
    keyed = Keyed(key, b"print", publish.published)
    cluster = node.store
    keys = cluster.idempotency
    assert await keys.claim(keyed) is None
    await redis.zadd(cluster.redis.keys.nodes, {cluster.redis.node: 1})
    second = asyncio.create_task(keys.claim(keyed))
    await asyncio.sleep(0.3)
    assert not second.done()
    await keys.record_intent(key, "job-1")
    await keys.settle(key, Answer(202, b"done"))
    assert Answer(202, b"done") == await second


async def test_request_that_ends_without_an_answer_leaves_its_job_unsendable(nodes: list[Node]) -> None:
    """An orderly restart cancels a request whose target is still working."""
    key = ("trigger", "p", "k")
    keyed = Keyed(key, b"print", publish.published)
    first, second = nodes[0].store, nodes[1].store
    assert await first.idempotency.claim(keyed) is None
    await first.idempotency.record_intent(key, "job-1")
    await first.idempotency.abandon(key)
    answer = await second.idempotency.claim(keyed)
    assert isinstance(answer, Answer)
    assert 502 == answer.status
    assert b'"may_have_started":true' in answer.body
    other = keyed._replace(key=("trigger", "p", "other"))
    assert await first.idempotency.claim(other) is None
    await first.idempotency.abandon(other.key)
    assert await second.idempotency.claim(other) is None


# Two hubs on one Redis


@pytest.mark.parametrize(("one", "other"), [("/0", "/1"), ("/0?prefix=a", "/0?prefix=b"), ("/0", "/0?prefix=edge:@1")])
async def test_hubs_of_two_databases_or_prefixes_do_not_meet(redis_server: RedisServer, one: str, other: str) -> None:
    if "@" in other:
        other = "/1?prefix=edge"
    base = f"redis://{redis_server.host}:{redis_server.port}"
    hubs = [await start_node(base + part) for part in (one, other)]
    try:
        async with Subscriber(hubs[0].port) as subscriber:
            assert 0 == (await hubs[1].publish("not for the subscriber"))["connections"]
            waited = await hubs[1].get("/projects/p/ready?timeout=300ms")
            assert (409, "no_connection") == (waited["status"], waited["code"])
            assert 1 == (await hubs[0].publish("for the subscriber"))["connections"]
            await subscriber.until(1)
            assert ["for the subscriber"] == subscriber.data
            assert ["edge.hello"] == [name for name, _ in subscriber.controls]
        assert (1, 0, 0, 1) == await hubs[1].misses()
        assert 404 == (await hubs[0].get("/projects/q"))["status"]
    finally:
        for hub in hubs:
            await hub.stop()


# Ways to Redis


@pytest.mark.redis
async def test_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "r.sock"
    process = _start(["redis-server", "--port", "0", "--unixsocket", str(path), "--save", "", "--dir", str(tmp_path)])
    node = await start_node(f"redis+unix://{path}?db=1")
    try:
        await until(lambda: _is_ready(node))
        async with Subscriber(node.port) as subscriber:
            await node.publish("x")
            await subscriber.until(1)
    finally:
        await node.stop()
        process.kill()
        process.wait()


@pytest.mark.redis
async def test_sentinel_fails_over_without_a_hole(tmp_path: Path) -> None:
    primary, replica, sentinel = (free_port() for _ in range(3))
    config = tmp_path / "sentinel.conf"
    config.write_text(
        f"port {sentinel}\nsentinel monitor main 127.0.0.1 {primary} 1\nsentinel down-after-milliseconds main 1000\n"
        "sentinel failover-timeout main 5000\n"
    )
    started = [
        _start(["redis-server", *arguments, "--dir", str(tmp_path)])
        for arguments in (
            ("--port", str(primary), "--save", ""),
            ("--port", str(replica), "--save", "", "--replicaof", "127.0.0.1", str(primary)),
            (str(config), "--sentinel"),
        )
    ]
    node = await start_node(f"redis+sentinel://127.0.0.1:{sentinel}/main/1?prefix=x")
    observer = Redis(host="127.0.0.1", port=replica, protocol=2)
    try:
        await until(lambda: _is_ready(node))

        async def in_sync() -> bool:
            return str((await observer.info("replication")).get("master_link_status")) == "up"

        async def known() -> bool:
            client = Redis(host="127.0.0.1", port=sentinel, protocol=2)
            try:
                found: Any = await client.sentinel_masters()
                return bool(found["main"]["num-slaves"] == 1)
            finally:
                await client.aclose()

        await until(in_sync)
        await until(known)
        async with Subscriber(node.port) as subscriber:
            assert 202 >= (await node.publish("before"))["status"]
            await subscriber.until(1)
            writer = Redis(host="127.0.0.1", port=primary, protocol=2)
            await writer.set("marker", 1)
            assert 1 == await writer.wait(1, 60_000)  # replication is asynchronous: what came before is there, too
            await writer.aclose()
            started[0].send_signal(signal.SIGKILL)

            async def taken() -> bool:
                return bool((await node.publish("after"))["status"] < 300)

            await until(taken)
            await subscriber.until(2)
            assert ["before", "after"] == subscriber.data[:2]
            assert ["edge.hello"] == [name for name, _ in subscriber.controls]
    finally:
        await observer.aclose()
        await node.stop()
        for process in started:
            process.kill()
            process.wait()


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("rediss://{host}:{port}", "if it has no TLS, write redis://"),
        ("redis://:wrong@{host}:{port}", "does not accept the user and password"),
        ("redis://unknown:wrong@{host}:{port}", "does not accept the user and password"),
        ("redis+unix:///nowhere/r.sock", "no socket"),
        ("redis+sentinel://{host}:{port}/main", "not a Sentinel"),
    ],
)
async def test_wrong_way_to_redis_is_explained(redis_server: RedisServer, url: str, sentence: str) -> None:
    redis = RedisClient(parse_redis_url(url.format(host=redis_server.host, port=redis_server.port)))
    await redis.open()
    try:
        with pytest.raises(StoreUnavailable, match=sentence) as refused:
            async with redis.use() as client:
                await client.ping()
        assert "wrong" not in refused.value.detail
    finally:
        await redis.close()


async def test_redis_that_expects_tls_is_explained(redis_server: RedisServer) -> None:
    """A server that speaks TLS alone answers plain text with an alert and closes."""

    async def serve(subscriber: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await subscriber.read(100)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    redis = RedisClient(parse_redis_url(f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}"))
    await redis.open()
    try:
        with pytest.raises(StoreUnavailable, match="if it expects TLS, write rediss://"):
            async with redis.use() as client:
                await client.ping()
    finally:
        await redis.close()
        server.close()
        await server.wait_closed()


def _start(command: list[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command, stdout=subprocess.DEVNULL)


async def _acl(redis: Redis, *arguments: str) -> Any:
    command: Any = redis.execute_command
    return await command("ACL", *arguments)


async def _is_ready(node: Node) -> bool:
    return bool((await node.get("/readyz"))["status"] == 200)


async def _not(condition: Awaitable[bool]) -> bool:
    return not await condition


async def _equal(value: Awaitable[Any], expected: object) -> bool:
    found: object = await value
    return found == expected


async def _value(read: Callable[[], Any]) -> Any:
    return read()


async def _connections(node: Node, count: int) -> bool:
    return bool((await node.get("/projects/p")).get("connections_total") == count)


async def test_acl_of_the_docs_is_enough_and_nothing_is_missing(redis_server: RedisServer, redis: Redis) -> None:
    (line,) = re.findall(r"^user edge .*$", (ROOT / "docs" / "scaling.md").read_text(), re.MULTILINE)
    _, name, *rules = line.split()
    await _acl(redis, "SETUSER", name, *rules)
    await _acl(redis, "LOG", "RESET")
    url = f"redis://{name}:PASSWORD@{redis_server.host}:{redis_server.port}/0"
    nodes = [await start_node(url) for _ in range(2)]
    try:
        await nodes[0].publish("missed")
        async with Subscriber(nodes[1].port) as subscriber:
            await subscriber.until(1)
            ready = await nodes[0].get("/projects/p/ready?timeout=10s")
            assert (200, 1) == (ready["status"], ready["connections"])
            order = {"name": "go", "id": "one"}
            for node in nodes:
                assert 202 == (await node.post("/projects/p/trigger?timeout=10s", order))["status"]
            assert 201 == (await nodes[0].publish("keyed", **{"Idempotency-Key": "k"}))["status"]
            await subscriber.until(3)
            assert 200 == (await nodes[0].get("/projects"))["status"]
            assert 201 == (await nodes[0].post("/projects/p/ticket", {}))["status"]
            for path in ("/projects/p", "/projects/p/explain", "/readyz"):
                async with nodes[0].client.get(path) as answer:
                    assert 200 == answer.status
        async with nodes[0].client.delete("/projects/p") as deleted:
            assert 200 == deleted.status
        await nodes[0].store.redis.start_over()
        assert 202 == (await nodes[0].publish("again"))["status"]
    finally:
        for node in nodes:
            await node.stop()
        await _acl(redis, "DELUSER", name)
    assert [] == await _acl(redis, "LOG")


@pytest.mark.parametrize("rule", ["resetchannels", "-evalsha", "resetkeys"])
async def test_missing_permission_is_explained(redis_server: RedisServer, redis: Redis, rule: str) -> None:
    await _acl(redis, "SETUSER", "edge", "on", ">PASSWORD", "~*", "&*", "+@all", rule)
    node = await start_node(f"redis://edge:PASSWORD@{redis_server.host}:{redis_server.port}/0")
    try:
        answer = await node.get("/readyz")
        assert (503, True) == (answer["status"], "does not permit this user" in answer["detail"])
    finally:
        await node.stop()
        await _acl(redis, "DELUSER", "edge")
