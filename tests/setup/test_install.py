"""`requirements/install` installs exactly what a lock names, with any pip and whatever an index has published since.

The index is a local one. Its newer packages are those that once broke the set-up: a plugin that asks for
`coverage[toml]`, where the lock names `coverage` without the extra. The resolver of older pips then takes the newest.
"""

from __future__ import annotations

import hashlib
import http.server
import os
import shutil
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
# pip comes with the interpreter: Debian 12's is 23.0.
CAN_SET_UP = "import sys, ensurepip; sys.exit(sys.version_info < (3, 11))"
PYTHONS = [
    python
    for python in dict.fromkeys((str(Path(sys.base_prefix) / "bin" / "python3"), "/usr/bin/python3"))
    if Path(python).exists()
    and not subprocess.run([python, "-c", CAN_SET_UP], capture_output=True, check=False).returncode
]
REQUIRES = {"coverage": "", "pytest-cov": "Requires-Dist: coverage[toml]>=0.9\n", "later": ""}


def build_wheel(folder: Path, name: str, version: str) -> str:
    """A wheel without a module; returns its line in a lock."""
    module = name.replace("-", "_")
    info = f"{module}-{version}.dist-info"
    path = folder / f"{module}-{version}-py3-none-any.whl"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\nProvides-Extra: toml\n{REQUIRES[name]}"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr(f"{info}/METADATA", metadata)
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    return f"{name}=={version} --hash=sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}\n"


class Index(http.server.ThreadingHTTPServer):
    """Serves the wheels of `folder` by PyPI's simple API."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        super().__init__(("127.0.0.1", 0), Page)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/simple/"


class Page(http.server.BaseHTTPRequestHandler):
    server: Index

    def do_GET(self) -> None:
        name = self.path.strip("/").split("/")[-1]
        if name.endswith(".whl"):
            kind, body = "application/zip", (self.server.folder / name).read_bytes()
        else:
            wheels = sorted(self.server.folder.glob(f"{name.replace('-', '_')}-*.whl"))
            kind, body = "text/html", "".join(f'<a href="/{w.name}">{w.name}</a>\n' for w in wheels).encode()
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Not on the terminal."""


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    folder = tmp_path / "wheels"
    folder.mkdir()
    server = Index(folder)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


class Clone:
    """A folder with `requirements/install` and a lock of two packages; the index has newer versions of both."""

    def __init__(self, folder: Path, index: Index, python: str) -> None:
        self.lock = folder / "requirements" / "run.lock"
        self.lock.parent.mkdir(parents=True)
        shutil.copy(ROOT / "requirements" / "install", self.lock.parent)
        self._venv = folder / ".venv"
        self._environ = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "PYTHON": python,
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_INDEX_URL": index.url,
        }

    def install(self) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.lock.with_name("install"), "run"], env=self._environ, capture_output=True, text=True, check=False
        )

    def installed(self) -> set[str]:
        [packages] = self._venv.glob("lib/python*/site-packages")
        found = {path.name.removesuffix(".dist-info").replace("_", "-") for path in packages.glob("*.dist-info")}
        return {name for name in found if name.split("-")[0] not in {"pip", "setuptools"}}


@pytest.fixture
def clone(request: pytest.FixtureRequest, tmp_path: Path, index: Index) -> Clone:
    made = Clone(tmp_path / "clone", index, getattr(request, "param", PYTHONS[0]))
    locked = [build_wheel(index.folder, name, "1.0") for name in ("coverage", "pytest-cov")]
    made.lock.write_text("".join(locked))
    for name in ("coverage", "pytest-cov"):
        build_wheel(index.folder, name, "2.0")
    return made


@pytest.mark.parametrize("clone", PYTHONS, indirect=True)
def test_newer_versions_in_the_index_change_nothing_and_the_second_time_needs_none(clone: Clone, index: Index) -> None:
    done = clone.install()
    assert 0 == done.returncode, done.stderr
    assert {"coverage-1.0", "pytest-cov-1.0"} == clone.installed()
    for wheel in index.folder.iterdir():
        wheel.unlink()
    done = clone.install()
    assert (0, "", "") == (done.returncode, done.stdout, done.stderr)


def test_another_lock_leaves_nothing_of_the_one_before(clone: Clone, index: Index) -> None:
    clone.install()
    clone.lock.write_text(build_wheel(index.folder, "later", "3.0"))
    done = clone.install()
    assert 0 == done.returncode, done.stderr
    assert {"later-3.0"} == clone.installed()


def test_a_package_with_another_hash_is_refused_every_time(clone: Clone, index: Index) -> None:
    clone.lock.write_text(f"later==1.0 --hash=sha256:{'0' * 64}\n")
    build_wheel(index.folder, "later", "1.0")
    for _ in range(2):
        done = clone.install()
        assert 0 != done.returncode
        assert "DO NOT MATCH THE HASHES" in done.stderr
    assert set() == clone.installed()
