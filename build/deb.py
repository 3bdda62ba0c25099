"""`make deb`: dist/edge_VERSION_ARCHITECTURE.deb, from dist/edge-dir/ as `make binary` left it.

By dpkg-deb alone: what a package of one folder and a few files would take of debhelper stands in build/deb/. Two builds
of one commit are the same bytes.
"""

from __future__ import annotations

import argparse
import gzip
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import build_info

ROOT = Path(__file__).resolve().parent.parent
TEMPLATES = ROOT / "build" / "deb"
SYSTEMD = ROOT / "systemd"
SCRIPTS = ("postinst", "prerm", "postrm")
CONFFILES = ("/etc/edge/edge.toml", "/etc/edge/edge.env")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--dist", type=Path, default=ROOT / "dist", help="where edge-dir is (default: dist/)")
    dist = parser.parse_args().dist.resolve()
    if not (dist / "edge-dir" / "edge").exists():
        sys.exit("There is no dist/edge-dir: `make binary` comes first.")
    os.environ.update(build_info.source(os.environ))  # dpkg-deb reads the time there
    with tempfile.TemporaryDirectory(prefix="edge-deb-") as scratch:
        root = Path(scratch, "root")
        fill(root, dist)
        control(root)
        programs = {root / "usr/lib/edge/edge", *(root / "DEBIAN" / script for script in SCRIPTS)}
        for path in [root, *root.rglob("*")]:
            if not path.is_symlink():
                path.chmod(0o755 if path.is_dir() or path in programs else 0o644)
        built = run("dpkg-deb", "--root-owner-group", "-Zxz", "--build", str(root), str(dist))
    build_info.write_checksums(dist)
    print(built.rpartition("in '")[2].rstrip("'.\n"))


def fill(root: Path, dist: Path) -> None:
    """Every file of the package."""
    library = root / "usr/lib/edge"
    shutil.copytree(dist / "edge-dir", library, symlinks=True)
    put(root / "usr/bin/edge").symlink_to("../lib/edge/edge")
    for unit in ("edge.service", "edge.socket"):
        shutil.copy(SYSTEMD / unit, put(root / "lib/systemd/system" / unit))
    put(root / "etc/edge/edge.toml").write_text(commented((ROOT / "edge" / "static" / "edge.example.toml").read_text()))
    shutil.copy(SYSTEMD / "edge.env", put(root / "etc/edge/edge.env"))
    documents = root / "usr/share/doc/edge"
    shutil.copy(SYSTEMD / "drop-in.conf", put(documents / "examples" / "drop-in.conf"))
    shutil.copy(ROOT / "edge" / "static" / "edge.example.toml", documents / "examples" / "edge.toml")
    shutil.copy(dist / "edge.cdx.json", documents / "edge.cdx.json")
    licence = "".join(f" {line or '.'}\n" for line in (ROOT / "LICENSE").read_text().splitlines())
    (documents / "copyright").write_text((TEMPLATES / "copyright").read_text() + f"License: Expat\n{licence}")
    manual = (ROOT / "docs" / "edge.1").read_text()
    for target, text in (("doc/edge/changelog.gz", changelog()), ("man/man1/edge.1.gz", manual)):
        put(root / "usr/share" / target).write_bytes(gzip.compress(text.encode(), mtime=0))
    overrides = root / "usr/share/lintian/overrides/edge"
    shutil.copy(TEMPLATES / "lintian-overrides", put(overrides))


def control(root: Path) -> None:
    """What dpkg reads."""
    folder = root / "DEBIAN"
    folder.mkdir()
    files = [path for path in root.rglob("*") if path.is_file() and not path.is_symlink()]
    elf = [str(path) for path in files if path.read_bytes()[:4] == b"\x7fELF"]
    (folder / "control").write_text(
        (TEMPLATES / "control")
        .read_text()
        .format(
            version=version(),
            architecture=run("dpkg", "--print-architecture").strip(),
            installed_kib=sum(path.stat().st_size for path in files) // 1024,
            glibc=build_info.glibc_needed(elf),
        )
    )
    (folder / "conffiles").write_text("".join(f"{path}\n" for path in CONFFILES))
    for script in SCRIPTS:
        shutil.copy(TEMPLATES / script, folder / script)


def commented(example: str) -> str:
    """The example configuration with every setting as a comment: what isn't set has its default, also a later one."""
    _, _, settings = example.partition("\n\n")
    lines = [re.sub(r"^(\w)", r"# \1", line) for line in settings.splitlines()]
    address = "# The address stands in edge.socket, not here: systemctl edit edge.socket"
    lines = [address if line.startswith("# host = ") else line for line in lines]
    lines = [line for line in lines if not line.startswith("# port = ")]
    head = (
        "# The configuration of edge.service. Take away the # of what you change; then: edge check-config --config\n"
        "# /etc/edge/edge.toml && systemctl restart edge. Secrets go into /etc/credstore: see edge(1).\n\n"
    )
    return head + "\n".join(lines) + "\n"


def changelog() -> str:
    """Debian's form of it: one entry, dated as the commit."""
    date = run("date", "--utc", "--rfc-email", f"--date=@{os.environ['SOURCE_DATE_EPOCH']}").strip()
    return (
        f"edge ({version()}) stable; urgency=medium\n\n  * See CHANGELOG.md in the source.\n\n"
        f" -- The edge authors <edge@packages.example.org>  {date}\n"
    )


def version() -> str:
    """As the source has it; Debian sorts 1.0~rc1 before 1.0."""
    found = re.findall(r'__version__ = "(.+)"', (ROOT / "edge" / "__init__.py").read_text())[0]
    return re.sub(r"(a|b|rc|\.dev)(\d+)$", r"~\1\2", found)


def put(path: Path) -> Path:
    """`path`, in a folder that exists."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def run(*command: str) -> str:
    """The output of a command."""
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


if __name__ == "__main__":
    main()
