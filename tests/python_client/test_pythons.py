"""The wheel that a hub serves, with every Python that tests/clients/install has found."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from tests.clients.client import HERE, INSTALLED, end

pytestmark = [pytest.mark.slow, pytest.mark.clients]
EXERCISE = HERE / "python" / "exercise.py"


async def run(python: Path, *arguments: str, **environment: str) -> str:
    process = await asyncio.create_subprocess_exec(
        python,
        *arguments,
        env=environment | {"PYTHONDONTWRITEBYTECODE": "1"},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    await end(process)
    return output.decode()


async def test_the_wheel_works_with_every_python(hub_url: str, tmp_path: Path) -> None:
    pythons = {path.name: path / "bin" / "python" for path in (INSTALLED / "pythons").iterdir()}
    assert f"3.{sys.version_info.minor}" in pythons
    index = ("--no-index", "--find-links", f"{hub_url}/clients/", "--trusted-host", "127.0.0.1")
    options = ("--disable-pip-version-check", "--quiet", "--no-deps", "--target", str(tmp_path))
    oldest = pythons[min(pythons, key=lambda version: int(version.partition(".")[2]))]
    assert "" == await run(oldest, "-m", "pip", "install", *options, *index, "edge-hub-client")
    outputs = await asyncio.gather(
        *(run(python, "-W", "error", str(EXERCISE), hub_url, PYTHONPATH=str(tmp_path)) for python in pythons.values())
    )
    assert dict.fromkeys(pythons, "no_connection\nno_connection\ndone\n") == dict(zip(pythons, outputs, strict=True))
