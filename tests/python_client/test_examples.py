"""The tests that examples/pytest shows, run by pytest as a reader would run them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_example_for_pytest_passes() -> None:
    environment = os.environ | {
        "PYTHONPATH": str(ROOT / "clients" / "python"),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", ".", "-c", "/dev/null"]
    done = subprocess.run(
        command, cwd=ROOT / "examples" / "pytest", env=environment, capture_output=True, text=True, check=False
    )
    assert "2 passed" in done.stdout, done.stdout + done.stderr
