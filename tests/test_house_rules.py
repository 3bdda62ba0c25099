"""The rules of conftest.py are real: a test that breaks one goes red."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

INI = "[pytest]\nasyncio_mode = auto\nasyncio_default_fixture_loop_scope = function\nfilterwarnings = error\n"
SUITE = """
import asyncio, os, socket
import edge

kept = []

async def test_clean():
    ends_soon = asyncio.create_task(asyncio.sleep(0.01))
    with socket.socket():
        await asyncio.sleep(0)

async def test_that_leaves_a_task():
    kept.append(asyncio.create_task(asyncio.sleep(30)))

def test_that_leaves_a_descriptor():
    kept.append(socket.socket())

async def test_that_leaves_a_descriptor_to_the_loop():
    kept.append(socket.socket())

def test_that_leaves_a_variable():
    os.environ["EDGE_LEFT"] = "x"

async def test_that_blocks_the_loop():
    exec(compile("import time; time.sleep(0.01)", edge.__file__, "exec"))  # as if it stood in edge

def test_close():
    for left in kept[1:]:
        left.close()
"""


@pytest.mark.slow
def test_leaks_and_blocking_calls_turn_a_test_red(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
    pytester.makeini(INI)
    pytester.makeconftest((Path(__file__).parent / "conftest.py").read_text())
    pytester.makepyfile(SUITE)
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider")
    result.assert_outcomes(passed=6, failed=1, errors=4)
    why = {
        "ERROR *::test_that_leaves_a_task*": "E *AssertionError: tasks still running after the test",
        "ERROR *::test_that_leaves_a_descriptor*": "E *AssertionError: descriptors still open after the test",
        "ERROR *::test_that_leaves_a_descriptor_to_the_loop*": "E *descriptors still open after the test",
        "ERROR *::test_that_leaves_a_variable*": "E *environment variables changed after the test",
        "FAILED *::test_that_blocks_the_loop*": "E *BlockingError: Blocking call to time.sleep",
    }
    result.stdout.fnmatch_lines_random([*why, *why.values()])
