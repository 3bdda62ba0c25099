"""The lines of docs/install.md, word for word, against what `make bundle` makes; and the one place of all addresses."""

from __future__ import annotations

import functools
import http.server
import os
import re
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from docs import make_addresses
from tests.packaging.conftest import NATIVE, ROOT, run

PAGE = (ROOT / "docs" / "install.md").read_text()
LINES = dict(re.findall(r"^\| ([\w ]+) \| `((?:curl|docker pull) .*)` \|$", PAGE, re.MULTILINE))
FILES = {form: line for form, line in LINES.items() if form != "image"}


@pytest.fixture(scope="module")
def release(dist: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """The files of a release for this machine, and the address that they are at."""
    folder = tmp_path_factory.mktemp("release")
    run("make", "bundle", f"DIST={dist}", f"BUNDLE={folder}", cwd=ROOT)
    [sums] = folder.glob("SHA256SUMS-*")
    sums.rename(folder / "SHA256SUMS")  # as the workflow joins them
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever).start()
        try:
            yield folder, f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


def install(line: str, address: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """`line` in the empty `folder`, where what it installs goes to, too; a package is unpacked, not installed."""
    (folder / "lib").mkdir()
    line = line.replace("sudo ", "").replace("/usr/local/lib", "lib").replace("apt-get install", "dpkg-deb --extract")
    line += " lib" if "dpkg-deb" in line else ""
    environ = {"PATH": os.environ["PATH"], "RELEASE": address, "ARCH": NATIVE}
    return subprocess.run(["sh", "-c", line], cwd=folder, env=environ, capture_output=True, text=True, check=False)


def programs(folder: Path) -> list[Path]:
    """What could be run in `folder`."""
    files = (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    return [path for path in files if os.access(path, os.X_OK)]


@pytest.mark.packaging
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("form", FILES)
def test_each_line_installs_a_program_that_runs(form: str, release: tuple[Path, str], tmp_path: Path) -> None:
    done = install(FILES[form], release[1], tmp_path)

    assert 0 == done.returncode, done.stderr
    [program] = [path for path in programs(tmp_path) if path.name.startswith("edge")]
    assert run(program, "--version").startswith("edge ")


@pytest.mark.packaging
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("form", FILES)
def test_no_line_goes_on_with_a_file_that_was_changed(form: str, release: tuple[Path, str], tmp_path: Path) -> None:
    [name] = re.findall(r"/\{(\S+),SHA256SUMS\}", FILES[form])
    file = release[0] / name.replace("$ARCH", NATIVE)
    released = file.read_bytes()
    file.write_bytes(released[:-1] + bytes([released[-1] ^ 1]))
    try:
        done = install(FILES[form], release[1], tmp_path)
    finally:
        file.write_bytes(released)

    assert 0 != done.returncode
    assert f"{file.name}: FAILED" in done.stdout
    assert [] == programs(tmp_path)


def test_there_is_a_line_for_each_form() -> None:
    assert ["one file", "folder", "Debian package", "image"] == list(LINES)


def test_the_pages_name_the_address_and_the_version_that_one_file_holds() -> None:
    old = [page.name for page in make_addresses.PAGES if make_addresses.made(page.read_text()) != page.read_text()]

    assert [] == old, "run `make docs`"
    release = f"{make_addresses.REPOSITORY}/releases/download/v"
    assert {"README.md", "install.md", "raspberry-pi.md"} <= {
        page.name for page in make_addresses.PAGES if release in page.read_text()
    }


@pytest.mark.git
def test_no_text_has_a_blank_to_fill_in() -> None:
    found = subprocess.run(
        ["git", "grep", "--files-with-matches", "--extended-regexp", r"\bOWNER\b|[Yy]our-org\b|<owner>"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert [Path(__file__).relative_to(ROOT)] == [Path(name) for name in found.stdout.split()]
