"""Tests that a machine can't run are named with the reason and the way out, or are an error: never skipped unsaid."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from tests import parallel
from tests.capabilities import RIGHTS, packages

pytest_plugins = ["pytester"]

ROOT = Path(__file__).parents[2]
CONFTEST = """
pytest_plugins = ["tests.capabilities"]

import pytest
from tests import capabilities

packages = {"redis": [capabilities.Package("redis-server", "/nowhere")], "curl": [capabilities.Package("sh", "sh")]}
capabilities.packages = lambda: packages
capabilities.RIGHTS["root"] = [lambda: "you are not root"]

@pytest.fixture
def _redis():
    raise AssertionError("is not asked for")
"""
SUITE = """
import pytest

@pytest.mark.curl
def test_that_can_run(): ...

@pytest.mark.redis
def test_without_a_tool(): raise AssertionError

def test_without_a_tool_of_a_fixture(_redis): raise AssertionError

@pytest.mark.redis
@pytest.mark.root
def test_without_a_right(): raise AssertionError
"""


@pytest.fixture
def suite(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.delenv("EDGE_TEST_ALL", raising=False)
    pytester.makeini("[pytest]\nmarkers =\n    redis\n    root\n    curl\n")
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(SUITE)
    return pytester


WORKERS = pytest.mark.parametrize("workers", ["0", "2"])


@WORKERS
def test_what_is_not_run_is_listed_with_its_reason_and_the_command(suite: pytest.Pytester, workers: str) -> None:
    done = suite.runpytest_subprocess("-p", "no:cacheprovider", "-n", workers)
    done.assert_outcomes(passed=1, deselected=0 if workers == "2" else 3)  # of workers, pytest doesn't count it
    assert 0 == done.ret
    done.stdout.fnmatch_lines(
        [
            "*3 tests were not run on this machine*",
            "tests  marker  why * to run them",
            "    2  redis   redis-server is missing  *install*redis*",
            "    1  root    you are not root *make test-container",
        ]
    )


def test_an_unwanted_event_is_not_missed(suite: pytest.Pytester) -> None:
    done = suite.runpytest_subprocess("-p", "no:cacheprovider", "-m", "curl")
    done.stdout.no_fnmatch_line("*were not run on this machine*")


@WORKERS
def test_where_all_has_to_run_it_is_an_error(
    suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, workers: str
) -> None:
    monkeypatch.setenv("EDGE_TEST_ALL", "1")
    done = suite.runpytest_subprocess("-p", "no:cacheprovider", "-n", workers)
    assert pytest.ExitCode.USAGE_ERROR == done.ret
    done.assert_outcomes(passed=0, deselected=0 if workers == "2" else 3)
    done.stdout.fnmatch_lines(["*EDGE_TEST_ALL is set*", "*2  redis *", "*1  root *"])


def test_a_worker_reports_what_is_not_utf_8(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    pytester.makeconftest('pytest_plugins = ["tests.parallel"]')
    pytester.makepyfile("import logging\ndef test_that_logs(): logging.getLogger().warning('a\\ud800')")
    done = pytester.runpytest_subprocess("-p", "no:cacheprovider", "-n", "1")
    done.assert_outcomes(passed=1)


def test_every_section_of_the_packages_is_a_marker_and_every_marker_is_on_the_page() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]["markers"]
    known = {"slow", *RIGHTS, *packages()}
    assert known == {line.partition(":")[0] for line in declared}
    page = (ROOT / "CONTRIBUTING.md").read_text()
    assert known == set(re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (`\w+`.*?) \|", page, re.MULTILINE))))


def test_the_files_that_workers_share_in_their_own_way_exist() -> None:
    assert [] == [file for file in parallel.BUILT | parallel.APART if not (ROOT / file).exists()]
    assert [] == [folder for folder in parallel.FIRST if not (ROOT / "tests" / folder).is_dir()]


def test_nothing_is_skipped() -> None:
    """A skip is silent, and true everywhere: name what is needed by a marker."""
    skip = re.compile(r"pytest\.skip|mark\.skip|importorskip")
    here = Path(__file__)
    assert [] == [path for path in ROOT.glob("tests/**/test_*.py") if path != here and skip.search(path.read_text())]
