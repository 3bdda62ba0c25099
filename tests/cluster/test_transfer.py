"""Moving a history between a file and Redis, and back."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from edge.cli.hub import CommandError
from edge.cli.store_copy import copy
from edge.core import resume
from tests.cluster.conftest import RedisServer
from tests.cluster.nodes import Node, Subscriber, start_node
from tests.store.rig import life


def _fill(path: Path) -> list[str]:
    async def story() -> list[str]:
        async with life(path, commit=True) as rig:
            subscriber = rig.read()
            seen = [(await rig.publish(f"[{number}]")).id for number in range(3)]
            await asyncio.sleep(0)
            rig.leave(subscriber)
            return [*seen, (await rig.publish("[3]")).id]

    return asyncio.run(story())


def test_copy_to_redis_and_back_keeps_ids_and_misses(redis_server: RedisServer, tmp_path: Path) -> None:
    ids = _fill(tmp_path / "a.db")
    assert (1, 4) == copy(f"sqlite:{tmp_path / 'a.db'}", redis_server.url)

    async def on_a_node() -> None:
        node = await start_node(redis_server.url)
        assert (1, 0, 0, 1) == await node.misses()
        subscriber = Subscriber(node.port)
        subscriber.ids = ids[:1]
        async with subscriber:
            await subscriber.until(4)
            assert ids == subscriber.ids
            assert ["edge.hello"] == [name for name, _ in subscriber.controls]
            after = await node.publish("after")
            assert f"{ids[0].rpartition('-')[0]}-5" == after["id"]
            await subscriber.until(5)
        await node.stop()

    asyncio.run(on_a_node())
    assert (1, 5) == copy(redis_server.url, f"sqlite:{tmp_path / 'b.db'}")

    async def from_the_file() -> None:
        async with life(tmp_path / "b.db", commit=False) as rig:
            assert ids == rig.read(start=resume.everything).ids[:4]
            assert (1, 1, 0, 0) == rig.ledger()

    asyncio.run(from_the_file())


def test_copy_knows_the_misses_that_a_killed_process_had_not_written(redis_server: RedisServer, tmp_path: Path) -> None:
    """With `commit` the ledger in a transaction is the one before its events."""

    async def killed() -> None:
        async with life(tmp_path / "a.db", commit=True) as rig:
            for number in range(3):
                await rig.publish(f"[{number}]")
            await rig.crash()

    async def on_a_node() -> None:
        node = await start_node(redis_server.url)
        assert (3, 0, 0, 3) == await node.misses()
        await node.stop()

    asyncio.run(killed())
    assert (1, 3) == copy(f"sqlite:{tmp_path / 'a.db'}", redis_server.url)
    asyncio.run(on_a_node())


def test_copy_does_not_overwrite(redis_server: RedisServer, tmp_path: Path) -> None:
    _fill(tmp_path / "a.db")
    copy(f"sqlite:{tmp_path / 'a.db'}", redis_server.url)
    with pytest.raises(CommandError, match="already"):
        copy(f"sqlite:{tmp_path / 'a.db'}", redis_server.url)
    with pytest.raises(CommandError, match="already"):
        copy(redis_server.url, f"sqlite:{tmp_path / 'a.db'}")


def test_copy_needs_two_lasting_stores(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="hold a history"):
        copy("memory:", f"sqlite:{tmp_path / 'a.db'}")
    with pytest.raises(CommandError, match="edge store backup"):
        copy(f"sqlite:{tmp_path / 'a.db'}", f"sqlite:{tmp_path / 'b.db'}")
    with pytest.raises(CommandError, match="is not there"):
        copy(f"sqlite:{tmp_path / 'nowhere.db'}", "redis://127.0.0.1:1/0")


def test_copy_command_reports_and_refuses_while_nodes_run(redis_server: RedisServer, tmp_path: Path) -> None:
    _fill(tmp_path / "a.db")
    done = _edge(f"sqlite:{tmp_path / 'a.db'}", redis_server.url)
    assert (0, "edge: copied 1 project with 4 events\n", "") == (done.returncode, done.stdout, done.stderr)

    async def beside_a_node() -> subprocess.CompletedProcess[str]:
        node: Node = await start_node(redis_server.url)
        try:
            return await asyncio.to_thread(_edge, redis_server.url, f"sqlite:{tmp_path / 'b.db'}")
        finally:
            await node.stop()

    refused = asyncio.run(beside_a_node())
    assert 1 == refused.returncode
    assert "stop them first" in refused.stderr
    assert 1 == len(refused.stderr.splitlines())


def _edge(source: str, destination: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "edge", "store", "copy", source, destination],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
