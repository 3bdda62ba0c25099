"""What holds for every test: it may not block the event loop, nor leave a task, a descriptor or a variable behind.

Warnings are errors and every test has a time-out: see pyproject.toml.
"""

from __future__ import annotations

import asyncio
import gc
import inspect
import os
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from blockbuster import blockbuster_ctx
from hypothesis import settings

# Or each hub that a test starts compiles all it imports again, which more than doubles its start. Official Python
# images and some CI machines set it.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
# A make that a test starts doesn't belong to the make that runs the tests.
for name in ("MAKEFLAGS", "MAKEOVERRIDES", "MFLAGS"):
    os.environ.pop(name, None)
sys.dont_write_bytecode = False

pytest_plugins = ["tests.capabilities", "tests.log_setup", "tests.parallel"]

# No deadline: a shared machine is slow at times, and a timed test is a flaky test.
settings.register_profile("dev", deadline=None)
# CI takes the same examples every time, so that a red run can be had again.
settings.register_profile("ci", deadline=None, derandomize=True, database=None, print_blob=True)
# For a night: HYPOTHESIS_PROFILE=thorough make test
settings.register_profile("thorough", deadline=None, max_examples=5_000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if os.environ.get("CI") else "dev"))

GRACE_SECONDS = 10.0  # for tasks that end by themselves a moment after the test
DESCRIPTORS = Path("/proc/self/fd")


@pytest.fixture(autouse=True)
def _house_rules(request: pytest.FixtureRequest) -> Iterator[None]:
    """Order is the point: what is set up first is looked at last, when the loop and all else has closed."""
    if DESCRIPTORS.exists():
        request.getfixturevalue("_no_descriptor_left")
    if inspect.iscoroutinefunction(request.function):
        request.getfixturevalue("_no_task_left")
    environment = dict(os.environ)
    with blockbuster_ctx("edge") as rules:
        # A line of the log is written only when `poll` reports that it can be, without waiting.
        rules.functions["os.write"].can_block_in("edge/logs/setup.py", "write")
        # /proc and cgroups are the kernel's memory: reading them waits for no disk.
        for name in ("os.stat", "os.listdir", "io.BufferedReader.read"):
            for function in ("__init__", "collect"):
                rules.functions[name].can_block_in("edge/server/metrics.py", function)
        rules.functions["io.BufferedReader.read"].can_block_in("edge/http/status.py", "_resident_bytes")
        for name in ("os.stat", "io.TextIOWrapper.read"):
            for module, function in (
                ("edge/config/machine.py", "memory_info_bytes"),
                ("edge/server/memory.py", "_used_bytes"),
                ("edge/server/memory.py", "__init__"),
            ):
                rules.functions[name].can_block_in(module, function)
        yield
    changed = {name for name, _ in environment.items() ^ os.environ.items()} - {"PYTEST_CURRENT_TEST"}
    assert set() == changed, "environment variables changed after the test"


@pytest.fixture
def _no_descriptor_left() -> Iterator[None]:
    before = open_descriptors()
    yield
    left = open_descriptors() - before
    if left:
        gc.collect()
        left = open_descriptors() - before
    assert set() == left, "descriptors still open after the test"


@pytest.fixture
async def _no_task_left() -> AsyncIterator[None]:
    before = asyncio.all_tasks()
    yield
    left = {task for task in asyncio.all_tasks() - before if task is not asyncio.current_task()}
    if left:
        _, left = await asyncio.wait(left, timeout=GRACE_SECONDS)
    assert set() == left, "tasks still running after the test"


def open_descriptors() -> set[tuple[str, str]]:
    """Each open descriptor with what it leads to; one opened anew under an old number counts as another."""
    found = set()
    for entry in DESCRIPTORS.iterdir():
        try:
            found.add((entry.name, str(entry.readlink())))
        except FileNotFoundError:  # the one that listed the folder
            continue
    return found
