"""The command line as a process of its own."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys

from tests.faults.hub import HubProcess

PATIENCE_SECONDS = 30.0


def run(*arguments: str, stdout: int = subprocess.PIPE, shell: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "edge", *arguments]
    if shell:
        command = ["sh", "-c", f'exec "$@" {shell}', "sh", *command]
    return subprocess.run(command, stdout=stdout, stderr=subprocess.PIPE, text=True, check=False)


def environ(hub: HubProcess) -> dict[str, str]:
    return {**os.environ, "EDGE_URL": hub.url}


async def edge(
    hub: HubProcess, *command: str, given: bytes | None = None, more: dict[str, str] | None = None
) -> tuple[int, str, str]:
    """Exit status, standard output and standard error of `edge COMMAND`."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "edge", *command),
        env=environ(hub) | (more or {}),
        stdin=subprocess.PIPE if given is not None else subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(given), PATIENCE_SECONDS)
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()
