"""The workflows: they call make, and take nothing that could change under them."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)
def test_actions_and_images_are_pinned_by_digest(workflow: Path) -> None:
    text = workflow.read_text()
    used = re.findall(r"uses: (.*)", text)
    assert used
    assert [] == [
        action for action in used if not re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}  # v\d+\.\d+\.\d+", action)
    ]
    images = re.findall(r"^ +image: (\S+)$", text, re.MULTILINE)
    assert [] == [image for image in images if not re.search(r"@sha256:[0-9a-f]{64}$", image)]


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)
def test_only_the_jobs_that_declare_it_may_write(workflow: Path) -> None:
    assert "\npermissions:\n  contents: read\n" in workflow.read_text()


def test_every_target_they_name_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {
        name
        for path in (*WORKFLOWS, ROOT / ".pre-commit-config.yaml", ROOT / ".ci" / "run")
        for name in re.findall(r"\bmake (?:--\S+ )*([a-z-]+)", re.sub(r"#.*", "", path.read_text()))
    }
    assert named
    assert set() == named - targets


def test_every_change_is_checked_and_on_every_python_that_is_promised() -> None:
    assert ["check", "next", "release", "update"] == [path.stem for path in WORKFLOWS]
    check = WORKFLOWS[0].read_text()
    assert "run: .ci/run\n" in check
    promised = re.findall(r"Python :: (3\.\d+)", (ROOT / "pyproject.toml").read_text())
    assert f"python: {promised}".replace("'", '"') in check


@pytest.mark.git
def test_every_lock_is_renewed_by_a_bot() -> None:
    """requirements/*.lock by workflows/update.yml, those of npm and Go by Dependabot."""
    bot = (ROOT / ".github" / "dependabot.yml").read_text()
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    locked = {str(Path("/", file).parent) for file in tracked if file.endswith(("package-lock.json", "go.sum"))}
    named = re.findall(r"director(?:y|ies): (.*)", bot)
    assert set() == locked - {folder for listed in named for folder in re.findall(r"[^\s,\[\]]+", listed)}


def test_the_image_may_read_what_its_build_copies() -> None:
    copied = re.findall(r"^COPY (\w+) ", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert set(copied) == set(re.findall(r"^!(\w+)$", (ROOT / ".dockerignore").read_text(), re.MULTILINE))


def test_all_of_them_build_on_the_same_base() -> None:
    texts = [path.read_text() for path in [*WORKFLOWS, ROOT / "Dockerfile"]]
    assert 1 == len({digest for text in texts for digest in re.findall(r"@sha256:\w+", text)})
