"""What is made once for all tests of a kind: the build, a bare Debian, the image.

The two Debians and the layers of the image stay in dist/packaging-tests, so that the second time needs no network.
"""

from __future__ import annotations

import os
import platform
import stat
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
KEPT = ROOT / "dist" / "packaging-tests"
SUITE = "bookworm"
NATIVE = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
ARCHITECTURE = os.environ.get("ARCHITECTURE", NATIVE)
"""Of the Debians and the image: `make test-arm64` runs another machine's by emulation."""
# The oldest Debian with a Python that the hub runs on.
BARE = ("systemd", "systemd-sysv")
WITH_PYTHON = ("python3", "python3-venv", "libpython3.11", "binutils", "ca-certificates")


def run(*command: str | Path, **options: object) -> str:
    """Standard output of `command`, which must succeed; what it says goes into the report when it doesn't."""
    done = subprocess.run(  # type: ignore[call-overload]
        [str(word) for word in command],
        check=False,
        text=True,
        capture_output=True,
        stdin=subprocess.DEVNULL,
        **options,
    )
    assert done.returncode == 0, f"{command}: exit status {done.returncode}\n{done.stdout}\n{done.stderr}"
    output: str = done.stdout
    return output


def build(dist: Path, source: Path = ROOT, **environ: str) -> Path:
    """`make deb` in `source`, into `dist`."""
    run("make", "deb", f"ARGS=--dist={dist}", cwd=source, env={**os.environ, **environ})
    return dist


@pytest.fixture(scope="session")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with edge, edge-dir, the Debian package and what lies beside them: what PACKAGED names (so that what is
    released is what was tested), or built now.
    """
    built = os.environ.get("PACKAGED")
    return Path(built).resolve() if built else build(tmp_path_factory.mktemp("dist"))


@pytest.fixture(scope="session")
def deb(dist: Path) -> Path:
    [package] = dist.glob("*.deb")
    return package


@pytest.fixture(scope="session")
def as_root() -> None:
    """For what installs, boots and mounts."""
    if os.geteuid() != 0:
        pytest.fail(
            "This test installs and boots a Debian of its own: run `make test` as root, in a container or a VM."
        )


@pytest.fixture(scope="session")
def bare_debian(as_root: None) -> Path:
    """A tar file of a Debian without Python."""
    return debian("bare", BARE)


@pytest.fixture(scope="session")
def debian_with_python(as_root: None) -> Path:
    """A tar file of what stands in for the official Python image, which is made of the same parts."""
    return debian("python", WITH_PYTHON)


def debian(name: str, packages: tuple[str, ...]) -> Path:
    kept = KEPT / f"{SUITE}-{ARCHITECTURE}-{name}-{'-'.join(packages)}.tar"
    if not kept.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        fresh = kept.with_suffix(".new.tar")
        options = ("--quiet", "--variant=minbase", f"--architectures={ARCHITECTURE}", f"--include={','.join(packages)}")
        run("mmdebstrap", *options, SUITE, fresh)
        fresh.rename(kept)
    return kept


def unpack(tar: Path, root: Path) -> Path:
    """The Debian of `tar` in the folder `root`."""
    root.mkdir(parents=True)
    run("tar", "--extract", "--file", tar, "--directory", root, "--exclude=./dev/*")
    os.mknod(root / "dev" / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    return root
