from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from docs import make_addresses

ROOT = Path(__file__).resolve().parents[2]
PAGES = {path.name for path in (ROOT / "docs").glob("*.md")} - {"index.md"}
LINKING = sorted(ROOT.glob("*.md")) + sorted((ROOT / "docs").glob("*.md")) + [ROOT / "monitoring" / "rules.yml"]


def test_the_site_leads_to_every_page() -> None:
    trees = re.findall(r"```\{toctree\}\n(.*?)```", (ROOT / "docs" / "index.md").read_text(), re.DOTALL)
    listed = [line for tree in trees for line in tree.splitlines() if line and not line.startswith(":")]

    assert PAGES - {"decisions.md"} == {f"{name}.md" for name in listed}
    assert len(listed) == len(set(listed))


def anchors_of(page: Path) -> set[str]:
    """The anchors that a code host and MyST give to the headings of a page."""
    outside_code = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", outside_code, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", LINKING, ids=lambda page: page.name)
def test_every_link_leads_to_a_file_and_to_a_heading_of_it(page: Path) -> None:
    broken = set()
    for target, anchor in re.findall(r"(?:\]\(|edge_docs \}\}/)([\w./-]*)(?:#([\w-]+))?[)\"]", page.read_text()):
        linked = page if not target else (ROOT / "docs" if page.suffix == ".yml" else page.parent) / target
        if not linked.exists() or (anchor and anchor not in anchors_of(linked)):
            broken.add(f"{target}#{anchor}")
    assert set() == broken


def test_the_live_page_links_the_site_once_it_has_an_address() -> None:
    page = (ROOT / "edge" / "static" / "index.html").read_text()
    linked = make_addresses.made(page, "https://docs.example/edge/")
    assert 1 == linked.count('<a href="https://docs.example/edge/">Docs</a>')
    assert linked == make_addresses.made(linked, "https://docs.example/edge/")
    assert page == make_addresses.made(linked, "")


@pytest.mark.slow
def test_the_site_is_built_without_a_broken_link() -> None:
    done = subprocess.run(["make", "docs-site"], cwd=ROOT, capture_output=True, text=True, check=False)

    assert (0, "") == (done.returncode, done.stderr)
    assert "Troubleshooting" in (ROOT / ".make" / "docs-site" / "search.html").read_text()
