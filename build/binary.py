"""`make binary`: dist/edge, dist/edge-dir/, their checksums and what is inside them. Two builds of one commit, with
one Python, are the same bytes, wherever they are built.

Takes SOURCE_COMMIT and SOURCE_DATE_EPOCH where there is no repository to ask, as in an image's build.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import sbom

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--dist", type=Path, default=ROOT / "dist", help="where to put it (default: dist/)")
    dist = parser.parse_args().dist.resolve()
    for tool in ("objdump", "strip"):
        if shutil.which(tool) is None:
            sys.exit(f"make binary needs {tool}. On Debian: apt-get install binutils")
    dist.mkdir(parents=True, exist_ok=True)
    for old in (dist / "edge", dist / "edge-dir"):
        shutil.rmtree(old) if old.is_dir() else old.unlink(missing_ok=True)
    environ = {**os.environ, **source(os.environ), "PYTHONHASHSEED": "0"}
    with tempfile.TemporaryDirectory(prefix="edge-build-") as scratch:
        # Its own configuration folder too: PyInstaller keeps stripped libraries there, whoever built before.
        environ["PYINSTALLER_CONFIG_DIR"] = f"{scratch}/config"
        pyinstaller = [sys.executable, "-m", "PyInstaller", "--noconfirm", "--log-level=WARN"]
        where = [f"--distpath={dist}", f"--workpath={scratch}/work", str(ROOT / "build" / "edge.spec")]
        subprocess.run([*pyinstaller, *where], env=environ, check=True)
        libraries = json.loads(Path(scratch, "work", "edge", "libraries.json").read_text())
    (dist / "edge.cdx.json").write_text(sbom.describe(ROOT, dist / "edge-dir", libraries, environ))
    (dist / "SHA256SUMS").write_text("".join(f"{digest(dist / name)}  {name}\n" for name in ("edge", "edge.cdx.json")))
    print(json.dumps({"edge": (dist / "edge").stat().st_size, "edge-dir": size_bytes(dist / "edge-dir")}))


def source(environ: os._Environ[str]) -> dict[str, str]:
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


def digest(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def size_bytes(folder: Path) -> int:
    """Of all files in it."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


if __name__ == "__main__":
    main()
