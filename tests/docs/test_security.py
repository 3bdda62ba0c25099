from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "security.md").read_text()
ROWS = [line for line in PAGE.splitlines() if line.startswith("| ") and not line.startswith(("| who", "| ---"))]


def test_every_threat_has_a_row_of_four_with_a_test() -> None:
    assert len(ROWS) >= 20
    for row in ROWS:
        cells = [cell.strip() for cell in row.strip("|").split(" | ")]
        assert 4 == len(cells), row
        assert re.search(r"`tests/[\w/]+\.py", cells[3]), row


@pytest.mark.parametrize("named", sorted(set(re.findall(r"`(tests/[\w/]+\.py(?:::\w+)?)`", PAGE))))
def test_each_test_that_is_named_exists(named: str) -> None:
    path, _, name = named.partition("::")
    text = (ROOT / path).read_text()
    if name:
        assert re.search(rf"^(async )?def {name}\(", text, re.MULTILINE)
    else:
        assert re.search(r"^(async )?def test_", text, re.MULTILINE)


def test_the_pages_it_links_to_exist() -> None:
    for page in ("security.md", "access.md"):
        for link in re.findall(r"\]\(([\w./-]+\.md)\)", (ROOT / "docs" / page).read_text()):
            assert (ROOT / "docs" / link).exists(), link
