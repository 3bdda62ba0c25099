from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = {path.name for path in (ROOT / "docs").glob("*.md")} - {"index.md"}


def test_the_site_leads_to_every_page() -> None:
    trees = re.findall(r"```\{toctree\}\n(.*?)```", (ROOT / "docs" / "index.md").read_text(), re.DOTALL)
    listed = [line for tree in trees for line in tree.splitlines() if line and not line.startswith(":")]

    assert PAGES - {"decisions.md"} == {f"{name}.md" for name in listed}
    assert len(listed) == len(set(listed))


@pytest.mark.slow
def test_the_site_is_built_without_a_broken_link() -> None:
    done = subprocess.run(["make", "docs-site"], cwd=ROOT, capture_output=True, text=True, check=False)

    assert (0, "") == (done.returncode, done.stderr)
    assert "Troubleshooting" in (ROOT / ".make" / "docs-site" / "search.html").read_text()
