"""The command line as a process of its own."""

from __future__ import annotations

import subprocess
import sys


def run(*arguments: str, stdout: int = subprocess.PIPE, shell: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "edge", *arguments]
    if shell:
        command = ["sh", "-c", f'exec "$@" {shell}', "sh", *command]
    return subprocess.run(command, stdout=stdout, stderr=subprocess.PIPE, text=True, check=False)
