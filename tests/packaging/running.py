"""What every form of the program has to do, and programs to ask it of."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import httpx

from edge.http import clients

PATIENCE_SECONDS = 60.0


def client(url: str, **headers: str) -> httpx.Client:
    """A client of the hub at `url` that reads no environment."""
    return httpx.Client(base_url=url, headers=headers, timeout=PATIENCE_SECONDS, trust_env=False)


def wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not true():
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.05)


def events(stream: httpx.Response) -> Iterator[tuple[str, object]]:
    """Type and data of each event of an open stream."""
    kind = "message"
    for line in stream.iter_lines():
        if line.startswith("event: "):
            kind = line.removeprefix("event: ")
        elif line.startswith("data: "):
            yield kind, json.loads(line.removeprefix("data: "))
            kind = "message"


def does_its_job(hub: httpx.Client) -> None:
    """Publish without a subscriber, subscribe and get it, trigger, see the job on the stream; the page, the metrics."""
    project = "/projects/packaged"
    assert 202 == hub.post(f"{project}/events", json={"data": "early"}).status_code
    with hub.stream("GET", f"{project}/events") as stream:
        heard = events(stream)
        assert "edge.hello" == next(heard)[0]
        assert ("message", "early") == next(heard)
        answer = hub.post(f"{project}/trigger", json={"name": "api/iterate", "data": {"n": 1}})
        assert (202, True) == (answer.status_code, answer.json()["dispatched"]), answer.text
        kind, data = next(heard)
        assert "api/iterate" == kind
        assert {"n": 1} == data
        status = hub.get(project).json()
        assert (1, 2) == (len(status["connections"]), status["ring"]["events"])
    assert "edge_misses_recovered_total 1.0" in hub.get("/metrics").text.splitlines()
    assert "text/html" in hub.get("/").headers["Content-Type"]
    assert "javascript" in hub.get("/edge.js").headers["Content-Type"]
    for package in clients.PACKAGES:  # the same bytes as from source
        assert package.body == hub.get(f"/clients/{package.names[0]}").content


@contextlib.contextmanager
def running(*command: str | Path, env: Mapping[str, str] | None = None) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`command`, a server on a free port, in an environment of `env` alone; the process and its URL."""
    process = subprocess.Popen(
        [shutil.which(command[0]) or command[0], *command[1:], "serve", "--port", "0"],
        env=dict(env or {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,  # as under a service manager; and a one-file program is two processes
    )
    with process:
        try:
            assert process.stdout is not None
            first = process.stdout.readline()
            assert first.startswith("edge: listening on "), first
            yield process, first.split()[-1]
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
