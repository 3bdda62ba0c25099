from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import edge

ROOT = Path(__file__).parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
LOCKS = ("run", "build", "dev")


def read_lock(name: str) -> dict[str, str]:
    """Package name to pinned version, of `requirements/<name>.lock`."""
    text = (ROOT / "requirements" / f"{name}.lock").read_text()
    return dict(re.findall(r"^([a-z0-9-]+)==(\S+)", text, re.MULTILINE))


def test_the_installed_package_has_the_version_of_the_source() -> None:
    assert edge.__version__ == importlib.metadata.version("edge-hub")


def test_the_changelog_knows_the_version() -> None:
    headings = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert "Unreleased" == headings[0]
    assert edge.__version__ in headings or headings[1:] == []


def test_a_wheel_holds_the_whole_package_and_nothing_else(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(tmp_path)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    [wheel] = tmp_path.iterdir()
    source = {
        str(into / path.relative_to(folder))
        for folder, into in ((ROOT / "edge", Path("edge")), (ROOT / "clients", Path("edge/clients")))
        for path in folder.rglob("*")
        if path.is_file() and path.parent.name != "__pycache__"
    }
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert source == packed
    assert "edge/py.typed" in packed


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_pins_every_package_by_hash_and_names_no_host(name: str) -> None:
    text = (ROOT / "requirements" / f"{name}.lock").read_text()
    unpinned = [
        entry.splitlines()[0]
        for entry in re.split(r"^(?=[a-z])", text, flags=re.MULTILINE)[1:]
        if "--hash=sha256:" not in entry or "==" not in entry
    ]
    assert [] == unpinned
    assert [] == re.findall(r"^--.*$|\w+://\S+", text, re.MULTILINE)


def test_the_locks_agree_and_hold_one_another() -> None:
    run, build, dev = (read_lock(name) for name in LOCKS)
    assert run.items() <= build.items() <= dev.items()


def test_every_declared_dependency_is_locked() -> None:
    declared = {re.split(r"[\[<>=~!; ]", line)[0] for line in PYPROJECT["project"]["dependencies"]}
    assert set() == declared - read_lock("run").keys()


def test_what_is_installed_lacks_nothing_that_it_asks_for() -> None:
    """So a lock is complete: nothing is resolved when it is installed."""
    subprocess.run([sys.executable, "-m", "pip", "check"], check=True, capture_output=True)


def test_every_dependency_says_why_it_is_here() -> None:
    groups = PYPROJECT["dependency-groups"]
    lines = PYPROJECT["project"]["dependencies"] + [
        line for name in groups for line in groups[name] if isinstance(line, str)
    ]
    text = (ROOT / "docs" / "decisions.md").read_text()
    unexplained = [name for line in lines if f"`{(name := re.split(r'[<>=]', line)[0])}`" not in text]
    assert [] == unexplained


def test_every_file_is_small_enough_to_read() -> None:
    lengths = {path: len(path.read_text().splitlines()) for path in (ROOT / "edge").rglob("*.py")}
    assert {} == {path: lines for path, lines in lengths.items() if lines > 400}
