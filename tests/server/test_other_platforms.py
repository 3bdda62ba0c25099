"""A hub on a system that is not Linux, imitated: what only Linux has is taken away before `edge` is imported.

It serves all the same. What the kernel can't be asked is answered as documented: written counts as confirmed.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import aiohttp
import pytest

_OTHER_SYSTEM = """
import builtins, errno, io, os, pathlib, resource, select, socket, sys, termios, time
import aiohttp, asyncio, uvloop  # whose own use of the system is not tried

sys.platform = "darwin"
for module, names in {
    socket: ("TCP_USER_TIMEOUT", "TCP_INFO", "TCP_KEEPIDLE", "SO_PEERCRED", "AF_NETLINK", "AF_VSOCK"),
    select: ("epoll", "POLLRDHUP"),
    termios: ("TIOCOUTQ", "TIOCINQ"),
    time: ("CLOCK_BOOTTIME",),
    os: ("sched_getaffinity", "posix_fadvise", "pidfd_open", "memfd_create", "eventfd"),
    resource: ("prlimit",),
}.items():
    for name in names:
        if hasattr(module, name):
            delattr(module, name)

resource.RLIM_INFINITY = 2**63 - 1
limit = [SOFT, HARD]

def setrlimit(kind, limits):
    if limits[0] > 10240:  # kern.maxfilesperproc
        raise ValueError("current limit exceeds maximum limit")
    limit[:] = limits

resource.getrlimit = lambda kind: tuple(limit)
resource.setrlimit = setrlimit

def without_proc(function):
    def guarded(path, *arguments, **options):
        if str(path).startswith(("/proc", "/sys")):
            raise FileNotFoundError(errno.ENOENT, "no such file", str(path))
        return function(path, *arguments, **options)
    return guarded

builtins.open = io.open = without_proc(open)
for name in ("stat", "listdir", "scandir", "open", "readlink"):
    setattr(os, name, without_proc(getattr(os, name)))

from edge.cli.main import main

sys.exit(main(["serve", "--port", "0"]))
"""


@contextmanager
def hub(soft: str, hard: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    program = _OTHER_SYSTEM.replace("SOFT", soft).replace("HARD", hard)
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        assert line.startswith("edge: listening on "), process.communicate()[1]
        yield line.split()[-1], process
    finally:
        process.terminate()
        process.wait(30)


@pytest.mark.parametrize(
    ("soft", "hard", "logged"),
    [
        ("256", "resource.RLIM_INFINITY", "now=10240"),
        ("4864", "resource.RLIM_INFINITY", "now=10240"),
        ("10240", "resource.RLIM_INFINITY", ""),
        ("256", "1024", "now=1024"),
        ("1024", "1024", ""),
        ("resource.RLIM_INFINITY", "resource.RLIM_INFINITY", ""),
    ],
)
async def test_it_serves_where_the_kernel_can_tell_less(soft: str, hard: str, logged: str) -> None:
    with hub(soft, hard) as (url, process):
        async with aiohttp.ClientSession(url, timeout=aiohttp.ClientTimeout(total=60)) as client:
            async with client.get("/projects/p/events") as stream:
                assert 200 == stream.status
                async with client.get("/projects/p/ready?timeout=20s") as answer:
                    assert "written" == (await answer.json())["confirmed"]
                async with client.post("/projects/p/trigger?timeout=20s", json={"name": "job"}) as answer:
                    assert (202, "written") == (answer.status, (await answer.json())["confirmed"])
                async with client.post("/projects/p/events", json={"data": 1}) as answer:
                    assert (201, False) == (answer.status, (await answer.json())["missed"])
                received = b""
                async with asyncio.timeout(60):
                    while b"data: 1\n" not in received:
                        received += await stream.content.readany()
                async with client.get("/projects/p") as answer:
                    [connection] = (await answer.json())["connections"]
                    assert ("written", None) == (connection["confirmable"], connection["round_trip_ms"])
            async with client.get("/metrics") as answer:
                metrics = await answer.text()
                assert (200, True, False) == (
                    answer.status,
                    "edge_connections " in metrics,
                    "process_resident" in metrics,
                )
            for path in ("/readyz", "/projects", "/projects/p/explain"):
                async with client.get(path) as answer:
                    assert 200 == answer.status
        process.terminate()
        errors = process.communicate(timeout=30)[1]
    assert 0 == process.returncode, errors
    assert logged in errors
    assert "Traceback" not in errors
    assert json.dumps(errors).count("file_limit") <= 1
