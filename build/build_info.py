"""What a build knows of itself: its commit and that one's time, its packages, the glibc it needs."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


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


def source(environ: Mapping[str, str]) -> dict[str, str]:
    """The commit that is built, and its time: from the environment, else from git."""
    if "SOURCE_COMMIT" in environ and "SOURCE_DATE_EPOCH" in environ:
        return {}
    try:
        commit, moment = git("log", "-1", "--format=%H %ct").split()
        changed = git("status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.CalledProcessError):
        sys.exit("Not a git clone: say what is built by SOURCE_COMMIT=... SOURCE_DATE_EPOCH=... make binary")
    found = {"SOURCE_COMMIT": commit + ("+changes" if changed else ""), "SOURCE_DATE_EPOCH": moment}
    return {name: environ.get(name, value) for name, value in found.items()}


def git(*arguments: str) -> str:
    """What git says of this clone."""
    done = subprocess.run(["git", "-C", str(ROOT), *arguments], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def write_checksums(dist: Path) -> None:
    """SHA256SUMS of what is there to be downloaded: `sha256sum --check SHA256SUMS`."""
    files = [dist / "edge", dist / "edge.cdx.json", *sorted(dist.glob("edge_*.deb"))]
    lines = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in files]
    (dist / "SHA256SUMS").write_text("".join(lines))
