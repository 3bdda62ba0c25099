"""`make binary`: dist/edge, dist/edge-dir/, their checksums and what is inside them. Two builds of one commit, with
one Python, are the same bytes, wherever they are built.

Takes SOURCE_COMMIT and SOURCE_DATE_EPOCH where there is no repository to ask, as in an image's build.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import build_info
import sbom

ROOT = Path(__file__).resolve().parent.parent
# What the bootloader says when TMPDIR is full; longer than what replaces it.
UNCLEAR = b"Failed to extract %s: decompression resulted in return code %d!"
CLEAR = b"Can't unpack %s: damaged, or TMPDIR has less than 50 MB free"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--dist", type=Path, default=ROOT / "dist", help="where to put it (default: dist/)")
    dist = parser.parse_args().dist.resolve()
    for tool in ("objdump", "strip"):
        if shutil.which(tool) is None:
            sys.exit(f"make binary needs {tool}. On Debian: apt-get install binutils")
    dist.mkdir(parents=True, exist_ok=True)
    for old in (dist / "edge", dist / "edge-dir", *dist.glob("edge_*.deb")):
        shutil.rmtree(old) if old.is_dir() else old.unlink(missing_ok=True)
    environ = {**os.environ, **build_info.source(os.environ), "PYTHONHASHSEED": "0"}
    with tempfile.TemporaryDirectory(prefix="edge-build-") as scratch:
        # Its own configuration folder, too: PyInstaller keeps stripped libraries of earlier builds there.
        environ["PYINSTALLER_CONFIG_DIR"] = f"{scratch}/config"
        # Everything is compiled, nothing read from a cache: bytecode that was loaded is marshalled differently.
        environ |= {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONPYCACHEPREFIX": f"{scratch}/no-bytecode"}
        pyinstaller = [sys.executable, "-m", "PyInstaller", "--noconfirm", "--log-level=WARN"]
        where = [f"--distpath={dist}", f"--workpath={scratch}/work", str(ROOT / "build" / "edge.spec")]
        subprocess.run([*pyinstaller, *where], env=environ, check=True)
        say_what_to_do(dist / "edge")
        libraries = json.loads(Path(scratch, "work", "edge", "libraries.json").read_text())
    (dist / "edge.cdx.json").write_text(sbom.describe(ROOT, dist / "edge-dir", libraries, environ))
    build_info.write_checksums(dist)
    print(json.dumps({"edge": (dist / "edge").stat().st_size, "edge-dir": size_bytes(dist / "edge-dir")}))


def say_what_to_do(program: Path) -> None:
    """Replace a message of the bootloader, in place."""
    built = program.read_bytes()
    if built.count(UNCLEAR) != 1:
        sys.exit("The bootloader's messages have changed with PyInstaller: see UNCLEAR in build/binary.py.")
    program.write_bytes(built.replace(UNCLEAR, CLEAR.ljust(len(UNCLEAR), b"\0")))


def size_bytes(folder: Path) -> int:
    """Of all files in it."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


if __name__ == "__main__":
    main()
