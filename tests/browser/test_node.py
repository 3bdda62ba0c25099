from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.node

NODE = Path(__file__).parent.parent / "node"


@pytest.mark.parametrize(("file", "tests"), [("parser.test.js", 22), ("stream.test.js", 15)])
def test_nodes_own_tests_of_edge_js_pass(file: str, tests: int) -> None:
    done = subprocess.run(
        ["node", "--test", "--test-reporter=tap", file], cwd=NODE, capture_output=True, text=True, check=False
    )

    assert 0 == done.returncode, done.stdout + done.stderr
    assert f"\n# pass {tests}\n" in done.stdout
