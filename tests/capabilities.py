"""What a test needs of the machine, named by its markers.

Tests whose machine lacks something are deselected, and the report ends with what was not run, why, and the command that
changes it. With EDGE_TEST_ALL=1 (`make check`, CI) whatever is missing is an error.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest

TESTS = Path(__file__).parent
PACKAGES = TESTS / "system-packages.txt"
CLIENTS = TESTS.parent / ".make" / "clients" / "go.sources"
NODE_MODULES = TESTS / "node" / "node_modules" / ".installed.json"
IN_A_CONTAINER = "make test-container"
NEEDED_BY_FIXTURE = {
    "_redis": ["redis"],
    "far_redis": ["redis", "namespaces"],
    "chromium": ["browser"],
    "small_disk": ["root"],
}
"""So that a test which takes one of these needs no marker of its own."""

# Where a package has another name than Debian's.
OTHER_NAMES = {
    "brew": {"nodejs": "node", "redis-server": "redis", "npm": "node", "golang-go": "go", "faketime": "libfaketime"},
    "dnf": {
        "npm": "nodejs-npm",
        "redis-server": "redis",
        "shellcheck": "ShellCheck",
        "prometheus": "golang-github-prometheus",
        "golang-go": "golang",
        "faketime": "libfaketime",
        "iproute2": "iproute",
    },
}


class Lack(NamedTuple):
    """Why a test can't run here, and the one command that changes it."""

    why: str
    command: str


class Package(NamedTuple):
    name: str
    probe: str

    @property
    def missing(self) -> bool:
        if self.probe.startswith("/"):
            return not Path(self.probe).exists()
        return shutil.which(self.probe, path=f"{os.environ['PATH']}:/usr/local/sbin:/usr/sbin:/sbin") is None


@cache
def packages() -> dict[str, list[Package]]:
    """The sections of PACKAGES, each named after a marker."""
    found: dict[str, list[Package]] = {}
    section = ""
    for line in PACKAGES.read_text().splitlines():
        if line.startswith("["):
            section = line.strip("[]")
        elif line and not line.startswith("#"):
            found.setdefault(section, []).append(Package(*line.split(maxsplit=2)[:2]))
    return found


def install(missing: list[Package]) -> str:
    names = [package.name for package in missing]
    if shutil.which("apt-get"):
        return f"sudo apt-get install --no-install-recommends {' '.join(names)}"
    for manager, command in (("brew", "brew install"), ("dnf", "sudo dnf install")):
        if shutil.which(manager):
            renamed = {OTHER_NAMES[manager].get(name, name) for name in names}
            return f"{command} {' '.join(sorted(renamed))}"
    return f"install {', '.join(names)}"


def _succeeds(*command: str) -> bool:
    try:
        return subprocess.run(command, check=False, capture_output=True).returncode == 0
    except OSError:
        return False


def _not_linux() -> str:
    return "" if sys.platform == "linux" else "it is not Linux"


def _no_ipv6() -> str:
    return "" if socket.has_dualstack_ipv6() else "it has no IPv6"


def _not_root() -> str:
    return "" if os.geteuid() == 0 else "you are not root"


def _no_mounts() -> str:
    return "" if _succeeds("unshare", "--mount", "true") else "root may not mount here"


def _no_namespaces() -> str:
    from tests.faults.cable import cable  # noqa: PLC0415 - only where it is asked for

    try:
        with cable() as wire:
            wire.cut()
    except (OSError, subprocess.CalledProcessError):
        return "it may not make and cut network namespaces"
    return ""


def _no_containers() -> str:
    release = Path("/etc/os-release")
    if not release.exists() or "bookworm" not in release.read_text():
        return "it is not a Debian 12"
    if not _succeeds("unshare", "--mount", "--pid", "--fork", "--mount-proc", "true"):
        return "it may not boot containers"
    return ""


def _no_clone() -> str:
    there = _succeeds("git", "-C", str(TESTS), "ls-files")
    return "" if there else "this folder is not a clone, or another user's"


def _no_node_modules() -> str:
    return "" if NODE_MODULES.exists() else "tests/node/node_modules is not installed"


def _no_clients() -> str:
    return "" if CLIENTS.exists() else "the clients are not installed"


# What a marker needs beside its packages: why it is not there, or "".
RIGHTS: dict[str, list[Callable[[], str]]] = {
    "linux": [_not_linux],
    "ipv6": [_no_ipv6],
    "root": [_not_root, _no_mounts],
    "namespaces": [_not_linux, _not_root],
    "packaging": [_not_root, _no_containers],
    "clients": [],
}
# Asked once the packages are there.
WORKS: dict[str, tuple[Callable[[], str], str]] = {
    "namespaces": (_no_namespaces, IN_A_CONTAINER),
    "git": (_no_clone, "make test, in a clone of your own"),
    "node": (_no_node_modules, "make setup-test"),
    "clients": (_no_clients, "make setup-clients"),
}


@cache
def lack_of(marker: str) -> Lack | None:
    for right in RIGHTS.get(marker, ()):
        if why := right():
            return Lack(why, IN_A_CONTAINER)
    if missing := [package for package in packages().get(marker, ()) if package.missing]:
        verb = "is" if len(missing) == 1 else "are"
        return Lack(f"{', '.join(package.name for package in missing)} {verb} missing", install(missing))
    works, command = WORKS.get(marker, (lambda: "", ""))
    return Lack(why, command) if (why := works()) else None


def pytest_itemcollected(item: pytest.Item) -> None:
    for fixture in getattr(item, "fixturenames", ()):
        for marker in NEEDED_BY_FIXTURE.get(fixture, ()):
            item.add_marker(marker)


_NOT_RUN = pytest.StashKey[Counter[str]]()


def all_have_to_run() -> bool:
    return bool(os.environ.get("EDGE_TEST_ALL"))


# Last: what -k and -m leave out is not missed.
@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    needs = list(dict.fromkeys([*RIGHTS, *packages()]))
    not_run: Counter[str] = Counter()
    left_out, kept = [], []
    for item in items:
        lacking = next((need for need in needs if item.get_closest_marker(need) and lack_of(need)), None)
        if lacking is None:
            kept.append(item)
        else:
            not_run[lacking] += 1
            left_out.append(item)
    config.stash[_NOT_RUN] = not_run
    if left_out:
        items[:] = [] if all_have_to_run() else kept
        config.hook.pytest_deselected(items=left_out)


def pytest_sessionfinish(session: pytest.Session) -> None:
    not_run = session.config.stash.get(_NOT_RUN, None)
    if hasattr(session.config, "workeroutput"):  # one of xdist's workers: the one that reports gets it
        session.config.workeroutput["not_run"] = dict(not_run or {})
    elif not_run and all_have_to_run():
        session.exitstatus = pytest.ExitCode.USAGE_ERROR


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    """Each worker has collected the same tests, so the last one's word counts."""
    if not error:
        node.config.stash[_NOT_RUN] = Counter(node.workeroutput["not_run"])


def table(not_run: Counter[str]) -> Iterator[str]:
    rows = [("tests", "marker", "why", "to run them")]
    for marker, count in not_run.most_common():
        lack = lack_of(marker)
        assert lack is not None
        rows.append((str(count), marker, lack.why, lack.command))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    for row in rows:
        yield f"{row[0]:>{widths[0]}}  {row[1]:{widths[1]}}  {row[2]:{widths[2]}}  {row[3]}"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if not_run := config.stash.get(_NOT_RUN, None):
        terminalreporter.section(f"{not_run.total()} tests were not run on this machine")
        if all_have_to_run():
            terminalreporter.write_line(
                "EDGE_TEST_ALL is set, and this machine cannot run all: none was run.", red=True
            )
        for line in table(not_run):
            terminalreporter.write_line(line)
