from __future__ import annotations

import re
from pathlib import Path

from edge.http.problems import PROBLEMS

PAGE = (Path(__file__).parents[2] / "docs" / "errors.md").read_text()


def test_the_table_has_a_row_for_every_code_in_their_order() -> None:
    expected = [(code, str(problem.status), problem.title) for code, problem in PROBLEMS.items()]
    assert expected == re.findall(r"^\| `(\w+)` \| (\d+) \| (.+?) \| .+\. \|$", PAGE, re.MULTILINE)
