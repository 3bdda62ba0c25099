"""One round: a hub on a store, publishers, subscribers and a poller around it, faults in between, and a judgement."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from tests.faultcheck.faults import Plan, Scene, draw, fake_clock, make_small_disk, remove_small_disk
from tests.faultcheck.judge import LEDGER, Promise, judge
from tests.faultcheck.processes import Node, Redis
from tests.faultcheck.publishers import Publisher
from tests.faultcheck.records import Broken, Fault, History, Misses, Polled
from tests.faultcheck.subscribers import Subscriber, WideSubscriber
from tests.faultcheck.target import Target, target
from tests.faultcheck.walk import Violation

RESUMED, FORGOTTEN = ("a", "b"), "m"
"""Projects whose subscribers resume by id, and the one whose subscribers never do."""
PROJECTS = (*RESUMED, FORGOTTEN)
SETTLE_SECONDS = 60.0
POLL_SECONDS = 0.15


@dataclass
class Result:
    plan: Plan
    history: History
    violations: list[Violation]


async def play(
    store: str, seed: str, folder: Path, *, faults: int = 10, only: tuple[str, ...] = (), sequence: tuple[str, ...] = ()
) -> Result:
    """Play the round that `seed` makes. `only` names the faults to draw from, `sequence` all of them in order."""
    dice = random.Random(f"{store}/{seed}")
    plan = draw(store, dice, faults, only, sequence)
    history = History()
    async with _scene(store, plan, folder, history, dice) as scene:
        await _Round(scene, dice).run(plan)
    for node in scene.nodes:
        for line in node.suspect_lines():
            history.add(Broken(scene.clock(), "log", f"{node.name}: {line}"))
    promise = Promise(
        evicts=plan.scant,
        refusals_final=scene.redis is None,
        answers_kept=store in {"memory", "sqlite-commit"},
        even_hub=scene.redis is None,
    )
    return Result(plan, history, judge(history, promise))


@asynccontextmanager
async def _scene(store: str, plan: Plan, folder: Path, history: History, dice: random.Random) -> AsyncIterator[Scene]:
    began = time.monotonic()

    def clock() -> float:
        return time.monotonic() - began

    async with AsyncExitStack() as stack:
        disk = folder / "disk"
        disk.mkdir(parents=True)
        if plan.small_disk:
            await make_small_disk(disk)
            stack.push_async_callback(remove_small_disk, disk)
        jobs = await stack.enter_async_context(target(history, clock, random.Random(dice.random())))
        redis = Redis(folder / "redis") if store.startswith("redis") else None
        if redis is not None:
            await redis.start()
            stack.push_async_callback(redis.kill)
        url = {"memory": "memory:"}.get(store, f"sqlite:{disk}/history.db") if redis is None else redis.url
        settings = _settings(plan, url, "commit" if store == "sqlite-commit" else "async", jobs)
        names = ("north", "south") if store == "redis-two" else ("hub",)
        clocks = {name: fake_clock(folder / f"faketime-{name}") if plan.fake_clock else {} for name in names}
        nodes = [Node(name, folder, settings | clocks[name], history, began) for name in names]
        scene = Scene(store, folder, nodes, redis, [], jobs, history, clock, random.Random(dice.random()))
        for node in nodes:
            stack.push_async_callback(node.kill)
            await scene.start(node)
        yield scene


def _settings(plan: Plan, url: str, durability: str, jobs: Target) -> dict[str, str]:
    found = {
        "STORE_URL": url,
        "STORE_DURABILITY": durability,
        "RING_MAX_EVENTS": "30" if plan.scant else "100000",
        "RING_MAX_BYTES": "64MiB",
        "STREAM_HEARTBEAT_SECONDS": "0.5",
        "STREAM_RETRY_MS": "50",
        "SERVER_DRAIN_SECONDS": "1",
        "SERVER_LOG_LEVEL": "warning",
        "TRIGGER_TIMEOUT_SECONDS": "5",
    }
    if plan.webhook:
        found["TRIGGER_URL"] = f"http://127.0.0.1:{jobs.port}/jobs"
    return {f"EDGE_{name}": value for name, value in found.items()}


class _Round:
    def __init__(self, scene: Scene, dice: random.Random) -> None:
        self._scene = scene
        self._dice = dice
        self._client = aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True))
        self._publishers = [self._publisher(f"p{number}", PROJECTS) for number in range(3)]
        self._publishers += [self._publisher(f"t{number}", RESUMED, triggers=True) for number in range(2)]
        for project in RESUMED:
            self._subscriber(f"steady-{project}", project, "all")
            self._subscriber(f"restless-{project}", project, "all", restless=True)
            self._subscriber(f"late-{project}", project, "none", restless=True)
        self._subscriber(f"forgetful-{FORGOTTEN}", FORGOTTEN, "missed")
        each = [self._made(f"wide-{project}", project, "all", restless=True) for project in RESUMED]
        dice = random.Random(self._dice.random())
        wide = WideSubscriber("wide", each, scene.nodes, scene.history, scene.clock, dice, since="all")
        scene.subscribers += [*each, wide]
        wide.start()

    def _publisher(self, name: str, projects: tuple[str, ...], *, triggers: bool = False) -> Publisher:
        scene, dice = self._scene, random.Random(self._dice.random())
        return Publisher(name, list(projects), scene.nodes, scene.history, scene.clock, dice, triggers=triggers)

    def _made(self, name: str, project: str, since: str, *, restless: bool) -> Subscriber:
        scene, dice = self._scene, random.Random(self._dice.random())
        return Subscriber(name, project, scene.nodes, scene.history, scene.clock, dice, since=since, restless=restless)

    def _subscriber(self, name: str, project: str, since: str, *, restless: bool = False) -> Subscriber:
        found = self._made(name, project, since, restless=restless)
        self._scene.subscribers.append(found)
        found.start()
        return found

    async def run(self, plan: Plan) -> None:
        polling = asyncio.create_task(self._poll())
        publishing = [asyncio.create_task(each.run()) for each in self._publishers]
        try:
            for fault in plan.faults:
                # Nodes look for a Redis that was gone once a second.
                await self._scene.moment(0.1, 1.0 if self._scene.redis is None else 2.5)
                await fault(self._scene)
            await self._scene.moment(0.1, 0.5)
            if await self._settle(publishing):
                await self._leave()
        finally:
            for task in (polling, *publishing):
                task.cancel()
            await asyncio.gather(polling, *publishing, return_exceptions=True)
            await asyncio.gather(*(subscriber.stop() for subscriber in self._scene.subscribers))
            await self._client.close()

    async def _settle(self, publishing: list[asyncio.Task[None]]) -> bool:
        """Everything works again: all requests come to their end, and all subscribers to the end of their projects."""
        if not await self._all_ready():
            self._broken("stuck", f"not ready within {SETTLE_SECONDS:g} s after the last fault")
            return False
        for publisher in self._publishers:
            publisher.stopped = True
        await asyncio.gather(*publishing)
        for publisher in self._publishers:
            await publisher.repeat_all()
        last = self._publisher("last", PROJECTS)
        for project in PROJECTS:
            sent = await asyncio.wait_for(last.publish(project, f"end-{project}"), SETTLE_SECONDS)
            for subscriber in self._scene.subscribers:
                if subscriber.project == project:
                    subscriber.expect(sent.token)
        await self._until_caught(self._scene.subscribers)
        auditors = [
            self._subscriber(f"auditor{number}-{project}", project, "all")
            for number in range(len(self._scene.nodes))
            for project in RESUMED
        ]
        for auditor in auditors:
            auditor.expect(f"end-{auditor.project}")
        await self._until_caught(auditors)
        await self._look_at_all()
        if self._scene.redis is not None:
            await self._until_even()
        return True

    async def _until_even(self) -> None:
        """Around Redis the totals of all nodes together are even once all is quiet, if none took its counts along."""
        history, deadline = self._scene.history, self._scene.clock() + SETTLE_SECONDS
        if any(fault.kills or fault.loses_events or "SIGTERM" in fault.what for fault in history.of(Fault)):
            return
        while True:
            last = {polled.node: polled.samples for polled in history.of(Polled)}
            total, *parts = (sum(samples.get(name, 0.0) for samples in last.values()) for name in LEDGER)
            if total == sum(parts):
                return
            if self._scene.clock() > deadline:
                self._broken("ledger", f"all nodes together have {total:g} misses, of them {parts}")
                return
            await asyncio.sleep(POLL_SECONDS)

    async def _all_ready(self) -> bool:
        deadline = self._scene.clock() + SETTLE_SECONDS
        while self._scene.clock() < deadline:
            if all([await node.ready(self._client) for node in self._scene.nodes]):
                return True
            await asyncio.sleep(0.1)
        return False

    async def _until_caught(self, subscribers: list[Subscriber]) -> None:
        waiting = [asyncio.create_task(subscriber.caught.wait()) for subscriber in subscribers]
        _, late = await asyncio.wait(waiting, timeout=SETTLE_SECONDS)
        for task, subscriber in zip(waiting, subscribers, strict=True):
            if task in late:
                task.cancel()
                self._broken("stuck", f"{subscriber.name} never came to the end of {subscriber.project}")
        await asyncio.gather(*late, return_exceptions=True)

    async def _leave(self) -> None:
        for node in self._scene.nodes:
            status = await node.terminate()
            if status != 0:
                self._broken("exit", f"{node.name} ended with status {status} on SIGTERM")

    def _broken(self, rule: str, text: str) -> None:
        self._scene.history.add(Broken(self._scene.clock(), rule, text))

    async def _poll(self) -> None:
        while True:
            await asyncio.sleep(POLL_SECONDS)
            await self._look_at_all()

    async def _look_at_all(self) -> None:
        await asyncio.gather(*(self._look(node) for node in self._scene.nodes if node.running))

    async def _look(self, node: Node) -> None:
        try:
            await self._look_at_metrics(node)
            for project in PROJECTS:
                await self._look_at_project(node, project)
        except (aiohttp.ClientError, OSError, TimeoutError):
            return  # it is down, or stands still

    async def _look_at_metrics(self, node: Node) -> None:
        life = node.life
        async with self._client.get(node.url + "/metrics", timeout=aiohttp.ClientTimeout(total=3)) as answer:
            text = await answer.text()
            if answer.status != 200:
                self._broken("internal", f"/metrics of {node.name}: {answer.status}")
                return
        pairs = (line.rpartition(" ") for line in text.splitlines() if line.startswith("edge_"))
        samples = {name: float(value) for name, _, value in pairs if name in LEDGER or "_total" in name}
        if life == node.life:
            self._scene.history.add(Polled(self._scene.clock(), node.name, life, samples))

    async def _look_at_project(self, node: Node, project: str) -> None:
        url = f"{node.url}/projects/{project}"
        async with self._client.get(url, timeout=aiohttp.ClientTimeout(total=3)) as answer:
            found = await answer.json(content_type=None)
            if answer.status == 200:
                numbers = [int(found["misses"][name]) for name in ("total", "recovered", "lost", "pending")]
                self._scene.history.add(Misses(self._scene.clock(), node.name, project, *numbers))
