"""An exception anywhere in a background task is logged, counted, and heals."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from edge.core.idempotency import Answer
from edge.http.idempotency import run_once
from edge.server.event_loop import EventLoopDriver
from edge.server.systemd import Notifier
from edge.supervisor import TASKS, Supervisor, end
from tests.auth.test_keys import issuing, signed
from tests.core.fakes import make_hub
from tests.observability.rig import Hub, running, until
from tests.server.faulty import FaultySupervisor, Place
from tests.triggers.receiver import answer, receiving

HEARTBEAT = {"stream": {"heartbeat_seconds": 0.05, "dead_after_seconds": 1}}


async def hear_heartbeats(hub: Hub, count: int = 2) -> None:
    async with hub.subscriber("p") as response:
        for _ in range(count):
            await asyncio.wait_for(response.content.readuntil(b": ping"), 60)


@asynccontextmanager
async def ticking(_supervisor: FaultySupervisor, _tmp_path: Path) -> AsyncIterator[Callable[[], Awaitable[None]]]:
    async with running(**HEARTBEAT) as hub:
        yield lambda: hear_heartbeats(hub)


@asynccontextmanager
async def waiting(_supervisor: FaultySupervisor, _tmp_path: Path) -> AsyncIterator[Callable[[], Awaitable[None]]]:
    async with running() as hub:

        async def trigger_before_its_subscriber() -> None:
            triggered = asyncio.create_task(hub.trigger("p", "?timeout=10s"))
            await until(lambda: hub.context.readiness.waiting == 1 or triggered.done())
            async with hub.subscriber("p"):
                assert await triggered in (202, 500)
                assert await hub.trigger("p") in (202, 500)
                assert 202 == await hub.trigger("p")

        yield trigger_before_its_subscriber


@asynccontextmanager
async def attending(supervisor: FaultySupervisor, tmp_path: Path) -> AsyncIterator[Callable[[], Awaitable[None]]]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.setblocking(False)
        environ = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "30000"}
        notifier = await asyncio.to_thread(Notifier, environ)  # before the loop, in a real process
        task = supervisor.keep_running("systemd", lambda: notifier.attend(lambda: "fine"))

        async def hear_the_watchdog() -> None:
            for _ in range(2):
                assert b"WATCHDOG=1" in await asyncio.wait_for(asyncio.get_running_loop().sock_recv(manager, 1000), 60)

        yield hear_the_watchdog
        await end(task)
        notifier.close()
        (tmp_path / "notify").unlink()


@asynccontextmanager
async def fetching(supervisor: FaultySupervisor, _tmp_path: Path) -> AsyncIterator[Callable[[], Awaitable[None]]]:
    async with issuing() as issuer:
        webtokens = issuer.webtokens(supervisor=supervisor)

        async def verify() -> None:
            with suppress(Exception):
                await webtokens.verify(signed("P-256", 0, "a"))
            issuer.now += 11  # seconds: the cool-down is over
            await webtokens.verify(signed("P-256", 0, "a"))

        yield verify
        await webtokens.keys.close()


@asynccontextmanager
async def hooked(_supervisor: FaultySupervisor, _tmp_path: Path) -> AsyncIterator[Callable[[], Awaitable[None]]]:
    async with receiving(answer(200)) as receiver, running(hooks={"url": receiver.url, "grace_seconds": 0}) as hub:

        async def come_and_go() -> None:
            before = len(receiver.requests)
            async with hub.subscriber("p"):
                await until(lambda: len(receiver.requests) > before)
            await until(lambda: len(receiver.requests) > before + 1)

        yield come_and_go


@asynccontextmanager
async def storing(_supervisor: FaultySupervisor, tmp_path: Path) -> AsyncIterator[Callable[[], Awaitable[None]]]:
    path = tmp_path / "history.db"
    async with running(store={"url": f"sqlite:{path}", "durability": "commit"}) as hub:

        async def publish_durably() -> None:
            async with asyncio.timeout(60):
                while await hub.publish("p") != 202:
                    await asyncio.sleep(0.05)

        yield publish_durably
    path.unlink()


SCENARIOS = {
    "tick": ticking,
    "readiness": waiting,
    "systemd": attending,
    "jwks": fetching,
    "hooks": hooked,
    "store_writer": storing,
}


@pytest.mark.parametrize("task", SCENARIOS)
async def test_an_exception_at_any_await_is_reported_and_heals(
    task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: set[Place] = set()
    for attempt in range(100):
        supervisor = FaultySupervisor(task, done)
        monkeypatch.setattr("edge.server.assembly.Supervisor", lambda given=supervisor: given)
        with capture_logs() as logged:
            async with SCENARIOS[task](supervisor, tmp_path) as works:
                await works()
                if supervisor.raised_at is None:
                    assert attempt > 0, "the task waits nowhere"
                    return
                await until(lambda: supervisor.failures[task] > 0)  # noqa: B023 - awaited here
                await works()
        failures = [line for line in logged if line["event"] == "background_task_failed"]
        assert [(task, TASKS[task])] == [(line["task"], line["consequence"]) for line in failures]
        assert {task: 1} == {name: count for name, count in supervisor.failures.items() if count}
    pytest.fail(f"more places than anybody wrote: {done}")


async def test_one_callback_that_raises_starves_no_other() -> None:
    called: list[float] = []

    def raising(_now: float) -> None:
        raise LookupError("each time")

    supervisor = Supervisor()
    driver = EventLoopDriver(supervisor)
    driver.hub = make_hub(heartbeat_seconds=0.05)
    driver.each_second += [raising, called.append]
    with capture_logs():
        task = supervisor.keep_running("tick", driver.run)
        await until(lambda: len(called) >= 2)
        await end(task)
    assert (len(called), 0) == (supervisor.failures["each_second"], supervisor.failures["tick"])


async def test_failures_are_a_metric() -> None:
    async with running() as hub:
        with capture_logs():
            hub.context.supervisor.failed("tick", LookupError("one"))
        metrics = await hub.metrics()
    assert 1 == metrics['edge_background_task_failures_total{task="tick"}']
    assert 0 == metrics['edge_background_task_failures_total{task="flush"}']


async def test_a_request_that_fails_after_its_caller_has_left_is_reported() -> None:
    release = asyncio.Event()
    began = asyncio.Event()

    async def at_once() -> None: ...

    async def act(_ready: None) -> Answer:
        began.set()
        await release.wait()
        raise LookupError("unforeseen")

    async with running() as hub:
        with capture_logs() as logged:
            caller = asyncio.create_task(run_once(hub.context, None, at_once, act))
            await began.wait()
            caller.cancel()
            await asyncio.wait((caller,))
            release.set()
            await until(lambda: bool(hub.context.supervisor.failures["request"]))
    assert [("background_task_failed", "request")] == [
        (line["event"], line["task"]) for line in logged if "task" in line
    ]


async def test_a_cancellation_from_inside_is_a_failure_and_one_from_outside_ends_the_task() -> None:
    supervisor = Supervisor()
    runs = 0

    async def run() -> None:
        nonlocal runs
        runs += 1
        if runs == 1:
            gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            gone.cancel()
            await gone
        await asyncio.sleep(60)

    with capture_logs():
        task = supervisor.keep_running("tick", run)
        await until(lambda: runs == 2)
    assert 1 == supervisor.failures["tick"]
    await end(task)
    assert task.cancelled()
