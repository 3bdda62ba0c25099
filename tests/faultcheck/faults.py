"""What is done to a hub during a round, and which of it each store may answer with a loss."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from tests.faultcheck.processes import Node, Redis
from tests.faultcheck.records import Broken, Fault, History
from tests.faultcheck.subscribers import Subscriber
from tests.faultcheck.target import Target

NOTICE_SECONDS = 4.0
DISK_BYTES = 24 << 20
STORES = ("memory", "sqlite-async", "sqlite-commit", "redis", "redis-two")


@dataclass
class Scene:
    """Everything a fault can reach."""

    store: str
    folder: Path
    nodes: list[Node]
    redis: Redis | None
    subscribers: list[Subscriber]
    target: Target
    history: History
    clock: Callable[[], float]
    dice: random.Random
    copied: bool = False

    @property
    def disk(self) -> Path:
        """Where the SQLite file is."""
        return self.folder / "disk"

    def wall_clock(self, node: Node) -> Path:
        """What libfaketime reads the offset of the node's wall clock from."""
        return self.folder / f"faketime-{node.name}"

    def note(self, what: str, **flags: bool) -> None:
        """Write the fault down. What ends a process is written down between its end and its next start."""
        self.history.add(Fault(self.clock(), what, **flags))

    def some_node(self) -> Node:
        return self.dice.choice(self.nodes)

    async def moment(self, low: float, high: float) -> None:
        await asyncio.sleep(self.dice.uniform(low, high))

    async def start(self, node: Node) -> None:
        """Every hub starts again by itself, as systemd would have it, until it stays."""
        async with asyncio.timeout(60):
            while not await node.start():
                await asyncio.sleep(0.5)

    async def job_at_work(self) -> None:
        """Wait a while for a moment at which the target has a job that it hasn't answered."""
        for _ in range(40):
            if self.target.working:
                return
            await asyncio.sleep(0.01)


async def kill(scene: Scene) -> None:
    node = scene.some_node()
    if scene.dice.random() < 0.4:
        await scene.job_at_work()
    await node.kill()
    memory = scene.store == "memory"
    loses = memory or scene.store == "sqlite-async"
    scene.note(f"kill -9 of {node.name}", loses_events=loses, loses_keys=memory, kills=True)
    await scene.moment(0.0, 0.3)
    await scene.start(node)


async def delete_and_kill(scene: Scene) -> None:
    """A project whose deletion was answered stays deleted."""
    node = scene.some_node()
    project = f"{node.url}/projects/deleted"
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=20)) as client:
        async with client.post(f"{project}/events", data=b'{"data": 1}') as published:
            held = published.status in {201, 202}
        async with client.delete(project) as deleted:
            held = held and deleted.status in {200, 204}
        await node.kill()
        loses = scene.store == "sqlite-async"
        scene.note(f"kill -9 of {node.name} behind a DELETE", loses_events=loses, kills=True)
        await scene.start(node)
        async with client.get(project) as answer:
            events = (await answer.json(content_type=None))["ring"]["events"] if answer.status == 200 else 0
    if held and events and not loses:
        scene.history.add(Broken(scene.clock(), "deleted", f"a project has {events} events again that was deleted"))


async def terminate(scene: Scene) -> None:
    node = scene.some_node()
    if scene.dice.random() < 0.5:
        await scene.job_at_work()
    await node.terminate()
    memory = scene.store == "memory"
    scene.note(f"SIGTERM of {node.name}", loses_events=memory, loses_keys=memory)
    await scene.moment(0.0, 0.3)
    await scene.start(node)


async def stand_still(scene: Scene) -> None:
    node = scene.some_node()
    seconds = scene.dice.choice([0.02, 0.3, 1.5] + ([5.0] if scene.store == "redis-two" else []))
    scene.note(f"SIGSTOP of {node.name} for {seconds} s")
    node.send(signal.SIGSTOP)
    await asyncio.sleep(seconds)
    node.send(signal.SIGCONT)


async def reset_behind_its_back(scene: Scene) -> None:
    """Subscribers that never resume reset their connections while the hub stands still, and it writes to them then."""
    scene.note("SIGSTOP of all, reset of the subscribers that never resume")
    for node in scene.nodes:
        node.send(signal.SIGSTOP)
    await asyncio.sleep(0.01)
    for subscriber in scene.subscribers:
        if subscriber.since == "missed":
            await subscriber.drop()
    await scene.moment(0.0, 0.1)
    for node in scene.nodes:
        node.send(signal.SIGCONT)


async def fill_disk(scene: Scene) -> None:
    scene.note("the disk is full")
    await asyncio.to_thread(_fill, scene.disk / "ballast")
    await scene.moment(0.2, 2.0)
    (scene.disk / "ballast").unlink()
    scene.note("the disk has room again")


async def make_read_only(scene: Scene) -> None:
    node = scene.nodes[0]
    await node.terminate()
    scene.note("SIGTERM; the folder is read-only at the next start")
    await _mount(scene.disk, "remount,ro")
    try:
        started = await node.start()
        await scene.moment(0.5, 1.5)
    finally:
        await _mount(scene.disk, "remount,rw")
        scene.note("the folder can be written again")
    if not started:
        await scene.start(node)


async def restore_backup(scene: Scene) -> None:
    """The first time a copy is made, as a snapshot of the disk would have it; later it comes back."""
    node, copy = scene.nodes[0], scene.folder / "copy"
    if not scene.copied:
        scene.copied = True
        node.send(signal.SIGSTOP)
        await asyncio.sleep(0.01)
        await asyncio.to_thread(_copy, scene.disk, copy)
        node.send(signal.SIGCONT)
        scene.note("a copy of the file is made")
        return
    await (node.kill() if scene.dice.random() < 0.5 else node.terminate())
    await asyncio.to_thread(_copy, copy, scene.disk)
    scene.note("the older copy of the file is restored", loses_events=True, loses_keys=True, kills=True)
    await scene.start(node)


async def set_clock(scene: Scene) -> None:
    node, offset = scene.some_node(), scene.dice.choice(["-3h", "+3h", "+0", "+26h"])
    scene.note(f"the wall clock of {node.name} is set to {offset}")
    set_offset(scene.wall_clock(node), offset)


async def stall_redis(scene: Scene) -> None:
    assert scene.redis is not None
    seconds = scene.dice.choice([0.2, 1.0, 4.0, 7.0])
    scene.note(f"SIGSTOP of Redis for {seconds} s")
    scene.redis.send(signal.SIGSTOP)
    await asyncio.sleep(seconds)
    scene.redis.send(signal.SIGCONT)


async def kill_redis(scene: Scene) -> None:
    assert scene.redis is not None
    await scene.redis.kill()
    scene.note("kill -9 of Redis", ends_redis=True)
    await scene.moment(0.0, 1.5)
    await scene.redis.start()


async def fill_redis(scene: Scene) -> None:
    assert scene.redis is not None
    scene.note("Redis is out of memory")
    await scene.redis.limit_memory(1)
    await scene.moment(0.5, 4.0)
    await scene.redis.limit_memory(0)
    scene.note("Redis has memory again")


async def take_redis_back(scene: Scene) -> None:
    """Redis comes back with what it had a while ago, as a replica that lagged behind, or with nothing."""
    assert scene.redis is not None
    copy = scene.folder / "copy"
    if not scene.copied:
        scene.copied = True
        scene.redis.keep_copy(copy)
        scene.note("a copy of Redis is made")
        return
    empty = scene.dice.random() < 0.3
    await scene.redis.kill()
    scene.redis.replace(None if empty else copy)
    scene.note(f"Redis comes back {'empty' if empty else 'as it was'}", loses_events=True, loses_keys=True)
    await scene.moment(0.0, 0.5)
    await scene.redis.start()
    # A node that had read more sees the loss. If none lives that long, it can't be known (docs/scaling.md).
    await asyncio.sleep(NOTICE_SECONDS)


async def kill_all(scene: Scene) -> None:
    """Redis and the nodes at the same moment."""
    assert scene.redis is not None
    await asyncio.gather(scene.redis.kill(), *(node.kill() for node in scene.nodes))
    scene.note("kill -9 of Redis and every node", kills=True, ends_redis=True)
    await scene.redis.start()
    await asyncio.gather(*(scene.start(node) for node in scene.nodes))


Action = Callable[[Scene], Awaitable[None]]
GENTLE: tuple[Action, ...] = (stand_still, reset_behind_its_back, terminate)
MEMORY: tuple[Action, ...] = (kill, kill, kill, terminate, stand_still, reset_behind_its_back)
SQLITE: tuple[Action, ...] = (*MEMORY, kill, delete_and_kill)
REDIS: tuple[Action, ...] = (
    *(stall_redis, stall_redis, kill_redis, kill_redis, fill_redis),
    *(kill, delete_and_kill, terminate, stand_still),
)
NAMED = {
    each.__name__: each
    for each in (*SQLITE, *REDIS, fill_disk, make_read_only, restore_backup, set_clock, take_redis_back, kill_all)
}


@dataclass(frozen=True)
class Plan:
    """What a round is made of; one seed makes one plan."""

    faults: tuple[Action, ...]
    scant: bool
    """Rings that hold few events."""
    webhook: bool
    small_disk: bool
    fake_clock: bool


def draw(
    store: str, dice: random.Random, count: int, only: tuple[str, ...] = (), sequence: tuple[str, ...] = ()
) -> Plan:
    """The faults of a round and the settings that they need: `count` of them, out of `only`; or `sequence` as it is."""
    kind = dice.choice(["usual", "usual", "usual", "gentle", "rare"])
    choices = REDIS if store.startswith("redis") else MEMORY if store == "memory" else SQLITE
    if kind == "gentle" and store != "memory":
        choices = (stall_redis, fill_redis, *GENTLE) if store.startswith("redis") else GENTLE
    elif kind == "rare" and store.startswith("redis"):
        rarer = ((take_redis_back, take_redis_back, take_redis_back), (kill_all, kill_all), (set_clock, set_clock))
        choices = (*REDIS, *dice.choice(rarer))
    elif kind == "rare" and store.startswith("sqlite"):
        rare = ((restore_backup, restore_backup), (fill_disk, fill_disk, make_read_only), (set_clock,))
        choices = (*SQLITE, *dice.choice(rare))
    if only:
        choices = tuple(NAMED[name] for name in only)
    faults = tuple(dice.choice(choices) for _ in range(count))
    if sequence:
        faults = tuple(NAMED[name] for name in sequence)
    small = fill_disk in faults or make_read_only in faults
    return Plan(faults, dice.random() < 0.25, dice.random() < 0.75, small, set_clock in faults)


def set_offset(file: Path, offset: str) -> None:
    """Replaced in one step: libfaketime may read it at any moment."""
    fresh = file.with_suffix(".new")
    fresh.write_text(offset + "\n")
    fresh.replace(file)


def fake_clock(file: Path) -> dict[str, str]:
    """The environment in which a process sees the wall clock with that offset, and the monotonic one as it is."""
    [library] = Path("/usr/lib").glob("*/faketime/libfaketime.so.1")
    set_offset(file, "+0")
    return {
        "LD_PRELOAD": str(library),
        "FAKETIME_TIMESTAMP_FILE": str(file),
        "FAKETIME_CACHE_DURATION": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "DONT_FAKE_MONOTONIC": "1",
    }


async def make_small_disk(folder: Path) -> None:
    await _run("mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(folder))


async def remove_small_disk(folder: Path) -> None:
    await _run("umount", "--lazy", str(folder))


async def _mount(folder: Path, options: str) -> None:
    await _run("mount", "-o", options, str(folder))


async def _run(*command: str) -> None:
    process = await asyncio.create_subprocess_exec(*command)
    assert 0 == await process.wait(), command


def _fill(ballast: Path) -> None:
    with ballast.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            os.fsync(file.fileno())


def _copy(source: Path, destination: Path) -> None:
    """The database and its log, but not its shared memory, which is of a living process."""
    destination.mkdir(exist_ok=True)
    for old in destination.glob("history.db*"):
        old.unlink()
    for file in source.glob("history.db*"):
        if not file.name.endswith("-shm"):
            shutil.copy2(file, destination / file.name)
