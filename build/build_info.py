"""What a build knows of itself: its commit, its packages, the glibc it needs."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path


def locked(lock: Path) -> dict[str, str]:
    """Package name to version, of a lock file."""
    return dict(re.findall(r"^([a-z0-9-]+)==(\S+)", lock.read_text(), re.MULTILINE))


def glibc_needed(binaries: Iterable[str]) -> str:
    """The oldest glibc on which every one of `binaries` (ELF files) can be loaded, as `2.36`."""
    newest = (2, 0)
    for path in binaries:
        symbols = subprocess.run(["objdump", "-T", path], check=True, capture_output=True, text=True).stdout
        versions = re.findall(r"\bGLIBC_(\d+)\.(\d+)", symbols)
        newest = max([newest, *((int(major), int(minor)) for major, minor in versions)])
    return ".".join(map(str, newest))


def module(environ: Mapping[str, str], binaries: Iterable[str]) -> str:
    """The text of `edge/_build_info.py`, which exists inside the binary only."""
    return f'COMMIT = "{environ["SOURCE_COMMIT"]}"\nGLIBC = "{glibc_needed(binaries)}"\n'
