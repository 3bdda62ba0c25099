"""However much comes in, what the hub keeps of it is bounded."""

from __future__ import annotations

import asyncio
import itertools

import pytest

from edge.config.schema import Config, LimitsSettings, RingSettings
from edge.core import event
from edge.diagnose.observer import ProjectHistory
from tests.faults.hub import until
from tests.security.hub import RunningHub, code_of, running

MANY = 400


async def publish(hub: RunningHub, name: str, key: str | None = None) -> tuple[int, str | None]:
    url, headers = f"{hub.url}/projects/{name}/events", {"Idempotency-Key": key} if key else None
    async with hub.client.post(url, json={"data": "x" * 100}, headers=headers) as response:
        return await code_of(response)


async def test_project_names_without_end_cost_no_more_than_the_limit() -> None:
    limits = LimitsSettings(max_projects=50)
    async with running(Config(limits=limits)) as hub:
        answers = [await publish(hub, f"p{number}") for number in range(MANY)]
        assert [(202, None)] * 50 == answers[:50]
        assert {(503, "too_many_projects")} == set(answers[50:])
        assert 50 == len(hub.context.hub.projects)
        for number in range(100):
            project = f"{hub.url}/projects/other-{number}"
            for path in ("/events", "/ready?timeout=0", "/explain", ""):
                async with hub.client.get(project + path) as response:
                    assert response.status != 500
            async with hub.client.post(f"{project}/trigger?timeout=0", json={"name": "x"}) as response:
                assert (409, "no_connection") == await code_of(response)
        assert 50 == len(hub.context.hub.projects)
        assert 0 == hub.context.readiness.waiting


async def test_history_without_end_costs_no_more_than_the_limit() -> None:
    ring = RingSettings(max_bytes=2_000, total_bytes=10_000)
    async with running(Config(ring=ring, limits=LimitsSettings(max_event_bytes=1_000))) as hub:
        for number in range(MANY):
            assert (202, None) == await publish(hub, f"p{number}")
        assert hub.context.hub.counters.ring_memory_bytes <= 10_000
        assert len(hub.context.hub.projects) <= 100, "a project without events is forgotten"


async def test_idempotency_keys_without_end_cost_no_more_than_the_limit() -> None:
    async with running(Config(limits=LimitsSettings(max_idempotency_keys=20))) as hub:
        answers = [await publish(hub, "p1", f"k{number}") for number in range(30)]
        assert [(202, None)] * 20 + [(503, "too_many_idempotency_keys")] * 10 == answers


async def test_waiting_callers_without_end_are_no_more_than_the_limit() -> None:
    async with running(Config(limits=LimitsSettings(max_waiting=5))) as hub:

        async def wait() -> tuple[int, str | None]:
            async with hub.client.post(
                f"{hub.url}/projects/p1/trigger", params={"timeout": "30s"}, json={"name": "x"}
            ) as response:
                return await code_of(response)

        callers = [asyncio.create_task(wait()) for _ in range(15)]
        answers = [await answer for answer in itertools.islice(asyncio.as_completed(callers), 10)]
        assert [(503, "too_many_waiting")] * 10 == answers
        assert 5 == hub.context.readiness.waiting
        for caller in callers:
            caller.cancel()
        await asyncio.wait(callers)


async def test_one_project_takes_no_more_than_its_share_of_the_waiting_requests() -> None:
    async with running(Config(limits=LimitsSettings(max_waiting=400, project_share_percent=25))) as hub:
        waiting = [
            asyncio.create_task(hub.context.readiness.wait("p1", 1, 30.0, how))
            for how in ("transport", "client")
            for _ in range(50)
        ]
        await until(lambda: asyncio.sleep(0, hub.context.readiness.waiting), lambda count: count == 100)
        async with hub.client.get(f"{hub.url}/projects/p1/ready?timeout=0") as response:
            assert (503, "too_many_waiting") == await code_of(response)
        async with hub.client.get(f"{hub.url}/projects/p2/ready?timeout=0") as response:
            assert (409, "no_connection") == await code_of(response)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)


async def code_of_ready(hub: RunningHub) -> tuple[int, str | None]:
    async with hub.client.get(f"{hub.url}/projects/p1/ready?timeout=30s") as response:
        return await code_of(response)


async def test_a_caller_that_waits_and_leaves_makes_room() -> None:
    async with running(Config(limits=LimitsSettings(max_waiting=1))) as hub:
        for _ in range(3):
            waiting = asyncio.create_task(code_of_ready(hub))
            await until(lambda: asyncio.sleep(0, hub.context.readiness.waiting), lambda count: count == 1)
            waiting.cancel()
            await until(lambda: asyncio.sleep(0, hub.context.readiness.waiting), lambda count: count == 0)
            assert waiting.cancelled()


def test_what_is_remembered_to_be_quick_is_bounded() -> None:
    for number in range(1_100):
        event.check_type(f"type-{number}")
    assert len(event._checked_types) <= event._MAX_CHECKED_TYPES


async def test_the_history_of_dropped_projects_is_bounded() -> None:
    history = ProjectHistory()
    for number in range(200_000):
        history.trigger(f"p{number}", "no_connection", 0.0, float(number))
    assert len([*history.projects, *history.unknown]) <= 10_000


@pytest.mark.parametrize("depth", [100, 900, 5_000, 100_000])
async def test_nested_json_is_taken_or_refused(depth: int) -> None:
    nested = b"[" * depth + b"]" * depth
    async with running() as hub:
        headers = {"Content-Type": "application/json"}
        for path, body, refused in (
            ("events", b'{"data":' + nested + b"}", "invalid_event"),
            ("trigger", b'{"name":"x","data":' + nested + b"}", "invalid_trigger"),
            ("events", b"[" * depth, "invalid_event"),
            ("events", b'{"x":' * depth, "invalid_event"),
        ):
            url = f"{hub.url}/projects/p1/{path}" + ("?timeout=0" if path == "trigger" else "")
            async with hub.client.post(url, data=body, headers=headers) as response:
                assert await code_of(response) in ((202, None), (400, refused), (409, "no_connection"))
