"""How pytest-xdist shares the tests among its workers (`-n auto`, as `make test` runs them).

Most tests wait: for a heartbeat, a time-out, a process that starts. So there are more workers than cores.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from xdist.scheduler import LoadScopeScheduling

TESTS = Path(__file__).parent
# Begin with what takes longest, so that no worker is left alone with it at the end.
FIRST = ["packaging", "browser", "faultcheck", "clients", "cluster", "faults", "store", "security", "fuzz"]
# These folders have one worker each: their fixtures are dear (builds, a browser).
TOGETHER = {"packaging", "browser"}
# The tests of these files take long, and share no fixture but those of a session.
APART: set[str] = set()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    return 2 * (os.cpu_count() or 1)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    from xdist.scheduler import LoadScopeScheduling  # noqa: PLC0415 - only the controller has to have it

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return unit(nodeid)

    config.option.loadscopereorder = False
    return ByFile(config, log)


def unit(nodeid: str) -> str:
    """The name of what a worker is given whole: a test, a file or a folder."""
    file, _, _ = nodeid.partition("::")
    folder = Path(file).parent.name
    if folder in TOGETHER:
        return folder
    return nodeid if file in APART else file


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def rank(item: pytest.Item) -> int:
        folder = item.path.parent.name
        return FIRST.index(folder) if folder in FIRST else len(FIRST)

    items.sort(key=rank)
