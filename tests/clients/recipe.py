"""What runs an example: a folder with its files and the hub's own package, its servers, and a backend of the test's."""

from __future__ import annotations

import asyncio
import io
import os
import shutil
import tarfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from edge.http import clients
from tests.clients.client import HERE, NODE, end
from tests.faults.hub import HubProcess, until

EXAMPLES = HERE.parents[1] / "examples"
MODULES = HERE / "node" / "node_modules"
START_SECONDS = 120.0
STEPS = ("started", "progress", "progress", "progress", "progress", "complete")


def unpack(name: str) -> Path:
    """A copy of `examples/NAME` that finds the tests' modules above it, and beside it the package that a hub serves."""
    # Workers run several tests of one example at the same time.
    folder = HERE / "node" / ".recipes" / os.environ.get("PYTEST_XDIST_WORKER", "alone") / name
    shutil.rmtree(folder, ignore_errors=True)
    ignored = shutil.ignore_patterns("node_modules", ".next", "dist", "package-lock.json")
    shutil.copytree(EXAMPLES / name, folder, ignore=ignored)
    with tarfile.open(fileobj=io.BytesIO(clients.PACKAGES[0].body)) as archive:
        archive.extractall(folder / "node_modules", filter="data")
    (folder / "node_modules" / "package").rename(folder / "node_modules" / "edge-hub")
    return folder


def environment(**settings: str) -> dict[str, str]:
    own = {"NEXT_TELEMETRY_DISABLED": "1", "PATH": f"{NODE.parent}:{os.environ['PATH']}"}
    return os.environ | own | settings


async def run(folder: Path, program: str, *arguments: str, **settings: str) -> None:
    """Run a program of the modules to its end, which has to be good."""
    process = await asyncio.create_subprocess_exec(
        *(str(NODE), str(MODULES / program), *arguments),
        cwd=folder,
        env=environment(**settings),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    await end(process)
    assert 0 == process.returncode, output.decode()


@asynccontextmanager
async def server(folder: Path, program: str, *arguments: str, port: int, **settings: str) -> AsyncIterator[None]:
    """A server of the modules, once it answers at `port`."""
    process = await asyncio.create_subprocess_exec(
        *(str(NODE), str(MODULES / program), *arguments),
        cwd=folder,
        env=environment(**settings),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,
    )
    assert process.stdout is not None
    log: list[bytes] = []

    async def read(output: asyncio.StreamReader) -> None:
        while line := await output.readline():
            log.append(line)

    reading = asyncio.create_task(read(process.stdout))
    try:
        await until(lambda: answers(port, process, log), bool, START_SECONDS)
        yield
    finally:
        os.killpg(process.pid, 9)  # Next has a child that serves
        await reading
        await end(process)


class Backend:
    """Takes the jobs that a hub sends and does each a step at a time, as far as the test lets it."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.jobs: list[dict[str, Any]] = []
        self._steps = asyncio.Semaphore(0)
        self._running: list[asyncio.Task[None]] = []
        self.session = aiohttp.ClientSession()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/jobs"

    def let(self, steps: int) -> None:
        """Let jobs do so many steps more. A whole job has len(STEPS)."""
        for _ in range(steps):
            self._steps.release()

    async def take(self, request: web.Request) -> web.Response:
        job = await request.json()
        self.jobs.append(job)
        self._running.append(asyncio.create_task(self.work(job)))
        return web.json_response({"ids": [job["id"]], "status": 200})

    async def step(self) -> None:
        """Wait until the next step may be done."""
        await self._steps.acquire()

    async def work(self, job: dict[str, Any]) -> None:
        raise NotImplementedError

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        app = web.Application()
        app.router.add_post("/jobs", self.take)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", self.port).start()
        try:
            yield
        finally:
            await runner.cleanup()
            for task in self._running:
                task.cancel()
            ended = await asyncio.gather(*self._running, return_exceptions=True)
            await self.session.close()
            for one in ended:
                if isinstance(one, Exception):
                    raise one


class Worker(Backend):
    """A backend as docs/jobs.md has it."""

    def __init__(self, port: int, hub_url: str) -> None:
        super().__init__(port)
        self._hub_url = hub_url

    async def work(self, job: dict[str, Any]) -> None:
        prompt = job["data"]["prompt"]
        for number, kind in enumerate(STEPS):
            await self.step()
            if "fail" in prompt and number == 1:
                return await self.publish(job, "failed", number, error="The paint is empty.")
            data = {"started": {"prompt": prompt}, "progress": {"percent": number * 25}}
            await self.publish(job, kind, number, **data.get(kind, {"result": f"A picture of {prompt}"}))
        return None

    async def publish(self, job: dict[str, Any], kind: str, number: int, **data: Any) -> None:
        """As a client does: again, under the same key, until the hub is back."""
        url = f"{self._hub_url}/projects/{job['project']}/events"
        body = {"type": kind, "data": {"job": job["id"], **data}}
        headers = {"Idempotency-Key": f"{job['id']}-{number}"}

        async def published() -> bool:
            try:
                async with self.session.post(url, json=body, headers=headers) as answer:
                    return answer.status in {201, 202}
            except aiohttp.ClientConnectionError:
                return False

        await until(published, bool)


class Inngest(Backend):
    """The event API of Inngest, and its executor: it calls the SDK's endpoint until all steps are done."""

    def __init__(self, port: int, endpoint: str) -> None:
        super().__init__(port)
        self._endpoint = endpoint

    async def work(self, job: dict[str, Any]) -> None:
        steps: dict[str, Any] = {}
        while True:
            if len(steps) < len(STEPS) and all(one["type"] == "data" for one in steps.values()):
                await self.step()
            answer = await self._call("generator-iterate", job, steps)
            if isinstance(answer, dict):  # the function has failed
                data = {"function_id": "generator-iterate", "run_id": job["id"], "error": answer, "event": job}
                event = {"id": f"{job['id']}-failed", "name": "inngest/function.failed", "ts": 0, "data": data}
                answer = await self._call("generator-iterate-failure", event, {})
            for one in answer:
                if one["op"] == "RunComplete":
                    return
                if one["op"] == "StepFailed":
                    steps[one["id"]] = {"type": "error", "error": one["error"]}
                elif one["op"] == "StepError":
                    self.let(1)  # the step is done again
                else:
                    steps[one["id"]] = {"type": "data", "data": one.get("data")}

    async def _call(self, function: str, event: dict[str, Any], steps: dict[str, Any]) -> Any:
        """What the SDK has done: a list of steps, or an error."""
        stack = {"stack": list(steps), "current": len(steps)}
        context = {"fn_id": function, "run_id": event["id"], "attempt": 0, "stack": stack}
        context |= {"disable_immediate_execution": False, "use_api": False}
        body = {"event": event, "events": [event], "steps": steps, "ctx": context, "version": 1, "use_api": False}
        url = f"{self._endpoint}?fnId={function}&stepId=step"
        async with self.session.post(url, json=body) as answer:
            return await answer.json()


async def types(hub: HubProcess, project: str, headers: dict[str, str]) -> list[str]:
    """The types of what was published so far."""
    status, history, _ = await hub.ask("GET", f"/projects/{project}/history?since=all", headers=headers)
    return [event["type"] for event in history["events"]] if status == 200 else []


async def answers(port: int, process: asyncio.subprocess.Process, log: list[bytes]) -> bool:
    """Whether the server answers; fails with its log if it has ended."""
    assert process.returncode is None, b"".join(log).decode()
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except ConnectionError:
        return False
    # To be connected is not enough: Vite listens for a moment to see whether the port is free, and then resets.
    writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
    try:
        answered = await reader.read(1)
    except ConnectionError:
        return False
    finally:
        writer.transport.abort()
    return bool(answered)
