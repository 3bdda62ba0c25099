from __future__ import annotations

import subprocess
from pathlib import Path

NODE = Path(__file__).parent.parent / "node"


def test_the_parser_of_edge_js_reads_what_the_format_allows_however_the_bytes_are_cut() -> None:
    done = subprocess.run(
        ["node", "--test", "--test-reporter=tap", "parser.test.js"],
        cwd=NODE,
        capture_output=True,
        text=True,
        check=False,
    )

    assert 0 == done.returncode, done.stdout + done.stderr
    assert "\n# fail 0\n" in done.stdout
    assert "\n# tests 22\n" in done.stdout
