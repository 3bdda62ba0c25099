"""A keyed job is sent to its target once, however the hub ends meanwhile."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from edge.core.idempotency import Answer
from edge.http import publish
from edge.http.idempotency import run_once
from edge.store.base import Keyed
from tests.http.client import Site
from tests.store.test_sqlite_process import ask, hub
from tests.triggers.receiver import Receiver, answer, receiving

JOB = '{"name": "job", "id": "order-17"}'
PATH = "/projects/p/trigger?timeout=0&on_timeout=dispatch"


class Working:
    """A target that has the job and answers on command."""

    def __init__(self) -> None:
        self.has_it = threading.Event()
        self.done = asyncio.Event()

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.has_it.set()
        await self.done.wait()
        await answer(200)(reader, writer)


@asynccontextmanager
async def target(monkeypatch: pytest.MonkeyPatch, *replies: Callable[..., object]) -> AsyncIterator[Receiver]:
    async with receiving(*replies) as receiver:  # type: ignore[arg-type]
        monkeypatch.setenv("EDGE_TRIGGER_URL", receiver.url)
        monkeypatch.setenv("EDGE_SERVER_DRAIN_SECONDS", "0.2")
        yield receiver


@pytest.mark.parametrize("durability", ["async", "commit"])
@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGKILL])
async def test_a_job_at_its_target_when_the_hub_ends_is_not_sent_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, durability: str, ending: signal.Signals
) -> None:
    working = Working()
    answers: list[tuple[int, bytes]] = []

    def end_at_work(process: subprocess.Popen[str], port: int) -> None:
        def trigger() -> None:
            try:
                answers.append(ask(port, "POST", PATH, JOB))
            except (OSError, ValueError):
                return

        asking = threading.Thread(target=trigger)
        asking.start()
        assert working.has_it.wait(60)
        process.send_signal(ending)
        process.wait(60)
        asking.join()

    def again() -> tuple[int, bytes]:
        with hub(tmp_path / "history.db", durability) as (_, port):
            return ask(port, "POST", PATH, JOB)

    async with target(monkeypatch, working) as receiver:
        with hub(tmp_path / "history.db", durability) as (process, port):
            await asyncio.to_thread(end_at_work, process, port)
        if ending == signal.SIGTERM:
            assert [(503, True)] == [(status, json.loads(body)["may_have_started"]) for status, body in answers]
        status, body = await asyncio.to_thread(again)
        assert (502, True, "order-17") == (status, json.loads(body)["may_have_started"], json.loads(body)["id"])
        working.done.set()
    assert 1 == len(receiver.requests)


@pytest.mark.parametrize("durability", ["async", "commit"])
async def test_the_answer_that_was_given_is_given_again_after_a_kill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, durability: str
) -> None:
    def kill_behind_the_answer() -> tuple[int, bytes]:
        with hub(tmp_path / "history.db", durability) as (process, port):
            given = ask(port, "POST", PATH, JOB)
            process.kill()
            return given

    def again() -> tuple[int, bytes]:
        with hub(tmp_path / "history.db", durability) as (_, port):
            return ask(port, "POST", PATH, JOB)

    async with target(monkeypatch, answer(200, b'{"queued": true}')) as receiver:
        given = await asyncio.to_thread(kill_behind_the_answer)
        assert 202 == given[0]
        assert given == await asyncio.to_thread(again)
    assert 1 == len(receiver.requests)


async def test_a_job_that_left_is_not_forgotten_when_its_request_is_cancelled(site: Site) -> None:
    """Whatever cancels it: the key is remembered with what isn't known."""
    keyed = Keyed(("trigger", "p", "k"), b"print", publish.published)
    left = asyncio.Event()

    async def ready() -> None:
        return

    async def act(_: None) -> Answer:
        await site.context.store.record_intent(keyed.key, "job-1")
        left.set()
        await asyncio.Event().wait()
        raise AssertionError

    asking = asyncio.create_task(run_once(site.context, keyed, ready, act))
    await left.wait()
    for task in site.context.running:
        task.cancel()
    with pytest.raises(Exception, match="shut down"):
        await asking
    again = await run_once(site.context, keyed, ready, act)
    assert (502, True) == (again.status, json.loads(again.body)["may_have_started"])
