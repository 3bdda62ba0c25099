"""`edge serve` as its users start it: what it prints where, what it says, and how it ends what has begun."""

from __future__ import annotations

import asyncio
import json
import resource
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.faults.hub import HubProcess, serving, until
from tests.faults.reader import open_stream
from tests.triggers.receiver import answer, hang, receiving

ROOT = Path(__file__).parent.parent.parent
LOCAL: dict[str, Any] = {"server__host": "127.0.0.1", "auth__anonymous": None}


def lines_of(hub: HubProcess, event: str) -> list[dict[str, Any]]:
    """What a log in JSON says about `event`."""
    return [line for line in map(json.loads, hub.log) if line["event"] == event]


async def logged(hub: HubProcess, event: str, count: int = 1) -> list[dict[str, Any]]:
    async def look() -> list[dict[str, Any]]:
        return lines_of(hub, event)

    return await until(look, lambda lines: len(lines) >= count)


def edge(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "edge", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False, **options)


def test_a_port_that_is_taken_is_one_line_and_status_1() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = edge("serve", "--port", str(port))
    advice = "another process listens there: stop it, or choose another port or path"
    assert (1, "") == (ended.returncode, ended.stdout)
    assert ended.stderr.endswith(f"edge: can't listen on 127.0.0.1, port {port}: {advice}\n")


def test_a_certificate_that_cant_be_used_is_one_line_and_status_2(tmp_path: Path) -> None:
    config = tmp_path / "edge.toml"
    config.write_text('[server]\nport = 0\ntls_cert = "none.pem"\ntls_key = "none.pem"\n')
    ended = edge("serve", "--config", str(config))
    assert (2, "") == (ended.returncode, ended.stdout)
    assert "server.tls_cert" in ended.stderr.splitlines()[-1]
    assert "Traceback" not in ended.stderr


async def test_standard_output_has_one_line_and_it_says_where() -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "edge", "serve", "--port", "0"),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    line = (await process.stdout.readline()).decode()
    prefix = "edge: listening on http://127.0.0.1:"
    assert line.startswith(prefix)
    reader, writer = await asyncio.open_connection("127.0.0.1", int(line.removeprefix(prefix)))
    writer.write(b"GET /healthz HTTP/1.0\r\nHost: localhost\r\n\r\n")
    assert b" 200 " in await reader.readline()
    writer.close()
    process.send_signal(signal.SIGTERM)
    rest, _ = await process.communicate()
    assert (0, b"") == (process.returncode, rest)


async def test_the_log_has_the_life_of_connections() -> None:
    async with serving(server__log_format="json", **LOCAL) as hub:
        address = ("127.0.0.1", hub.port)
        first = await open_stream(address, "p")
        second = await open_stream(address, "p")
        await first.close()
        [removed] = await logged(hub, "connection_removed")
        await second.close()
        [last] = await logged(hub, "last_connection_removed")
        added = lines_of(hub, "connection_added")
    assert [("p", 1), ("p", 2)] == [(line["project"], line["total"]) for line in added]
    assert [added[0]["connection"], added[1]["connection"]] == [removed["connection"], last["connection"]]
    assert ("client", 1) == (removed["reason"], removed["remaining"])
    assert ("client", 0) == (last["reason"], last["remaining"])
    assert last["age_seconds"] >= 0


async def test_event_missed_is_logged_once_and_then_counted() -> None:
    async with serving(server__log_format="json", **LOCAL) as hub:
        for number in range(50):
            await hub.publish("p", number)
        await hub.publish("q", 1)
        lines = await logged(hub, "event_missed", 2)
    assert ["p", "q"] == [line["project"] for line in lines]
    assert ("warning", 1) == (lines[0]["level"], lines[0]["pending"])


async def test_a_log_for_people_has_one_line_a_fact() -> None:
    async with serving(server__log_format="console", **LOCAL) as hub:
        subscriber = await open_stream(("127.0.0.1", hub.port), "p")
        await subscriber.close()

        async def log() -> str:
            return hub.log_text

        text = await until(log, lambda text: "last_connection_removed" in text)
    assert "connection_added project=p" in text
    assert "total=1" in text
    assert "reason=client remaining=0" in text


@pytest.mark.linux
async def test_the_limit_of_open_files_is_raised_and_it_says_so() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowered = ("sh", "-c", 'ulimit -Sn 128; exec "$@"', "sh")
    async with serving(prefix=lowered, server__log_format="json", **LOCAL) as hub:
        [line] = await logged(hub, "file_limit_raised")
        files = resource.prlimit(hub.process.pid, resource.RLIMIT_NOFILE)
    assert (128, hard) == (line["before"], line["now"])
    assert (hard, hard) == files


@pytest.mark.parametrize("host", ["localhost", "::1"])
async def test_it_listens_on_every_address_of_a_name(host: str) -> None:
    if host == "::1" and not socket.has_dualstack_ipv6():
        return
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "edge", "serve", "--host", host, "--port", "0"),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    assert process.stdout is not None
    url = (await process.stdout.readline()).decode().split()[-1]
    _, writer = await asyncio.open_connection(host, int(url.rpartition(":")[2]))
    writer.close()
    process.send_signal(signal.SIGTERM)
    await process.communicate()
    assert 0 == process.returncode


async def test_a_job_that_has_reached_its_target_gets_the_drains_time() -> None:
    requested, draining = asyncio.Event(), asyncio.Event()

    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        requested.set()
        await draining.wait()
        await answer(202)(reader, writer)

    async with (
        receiving(slow) as receiver,
        serving(trigger__url=receiver.url, server__drain_seconds=20, **LOCAL) as hub,
    ):
        subscriber = await open_stream(("127.0.0.1", hub.port), "p")
        triggering = asyncio.create_task(hub.ask("POST", "/projects/p/trigger", json={"name": "job"}))
        await requested.wait()
        hub.signal(signal.SIGTERM)
        await subscriber.until("edge.closing")
        draining.set()
        status, document, _ = await triggering
        assert (202, True) == (status, document["dispatched"])
        assert 0 == await hub.ended()
        await subscriber.close()


async def test_a_job_that_takes_longer_than_the_drain_is_answered_for() -> None:
    async with (
        receiving(hang()) as receiver,
        serving(trigger__url=receiver.url, server__drain_seconds=0.3, **LOCAL) as hub,
    ):
        subscriber = await open_stream(("127.0.0.1", hub.port), "p")
        triggering = asyncio.create_task(hub.ask("POST", "/projects/p/trigger", json={"name": "job"}))
        await receiver.requested.wait()
        hub.signal(signal.SIGTERM)
        status, problem, headers = await triggering
        assert (503, "draining", True) == (status, problem["code"], problem["may_have_started"])
        assert "1" == headers["Retry-After"]
        assert 0 == await hub.ended()
        await subscriber.close()
