from __future__ import annotations

import re
from pathlib import Path

from edge.config.schema import LimitsSettings
from edge.core.counters import REJECTION_REASONS
from edge.http.problems import PROBLEMS

PAGE = (Path(__file__).parents[2] / "docs" / "limits.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| (.+?) \| .+? \| (\d{3}) \| `(\w+)` \|$", PAGE, re.MULTILINE)


def test_every_bound_of_the_configuration_is_on_the_page() -> None:
    bounds = {f"`limits.{name}`" for name in LimitsSettings.__struct_fields__ if name.startswith("max_")}

    assert bounds == {bound for bound, _, _ in ROWS if bound.startswith("`limits.")}


def test_every_code_of_a_bound_is_on_the_page_with_its_status() -> None:
    assert {code: str(PROBLEMS[code].status) for _, _, code in ROWS} == {code: status for _, status, code in ROWS}
    assert {reason for reason in REJECTION_REASONS if reason.startswith("too_many")} <= {code for _, _, code in ROWS}
