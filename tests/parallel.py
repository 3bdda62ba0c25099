"""How pytest-xdist shares the tests among its workers (`-n auto`, as `make test` runs them).

Most tests wait: for a heartbeat, a time-out, a process that starts. So there are more workers than cores.
"""

from __future__ import annotations

import os
from collections.abc import Generator
from typing import Any

import pytest

# Begin with what takes longest, so that no worker is left alone with it at the end.
FIRST = ["packaging", "browser", "faultcheck", "clients", "cluster", "faults", "store", "security", "fuzz"]
# A file is given to a worker whole, and with it its module's fixtures. These share what they build:
BUILT = {f"tests/packaging/test_{name}.py" for name in ("binary", "booted", "deb", "install")}
# These have tests that take long and share nothing.
APART = {"tests/faultcheck/test_rounds.py", "tests/cluster/test_chaos.py"}


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    return 2 * (os.cpu_count() or 1)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    from xdist.scheduler import LoadScopeScheduling  # noqa: PLC0415 - it is needed for several workers only

    config.option.loadscopereorder = False
    scheduler = LoadScopeScheduling(config, log)
    scheduler._split_scope = unit
    return scheduler


def unit(nodeid: str) -> str:
    """The name of what a worker is given whole."""
    file, _, _ = nodeid.partition("::")
    if file in BUILT:
        return "built"
    return nodeid if file in APART else file


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A worker ends when it has to report what isn't UTF-8, such as a log line with a surrogate."""
    report = yield
    report.sections = [(name, text.encode(errors="backslashreplace").decode()) for name, text in report.sections]
    return report


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def rank(item: pytest.Item) -> int:
        folder = item.path.parent.name
        return FIRST.index(folder) if folder in FIRST else len(FIRST)

    items.sort(key=rank)
