"""Both forms of the binary: on a machine without Python, in an empty environment, stopped, and built twice."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import httpx
import pytest

from edge import __version__
from tests.packaging.conftest import ROOT, build, run, unpack
from tests.packaging.running import PATIENCE_SECONDS, client, does_its_job, running, wait_until

pytestmark = [pytest.mark.packaging, pytest.mark.timeout(1800)]
FORMS = ("edge", "edge-dir/edge")


@pytest.fixture(scope="module")
def without_python(bare_debian: Path, dist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Debian without Python, with both forms in /opt."""
    root = unpack(bare_debian, tmp_path_factory.mktemp("bare") / "root")
    assert [] == [*root.glob("usr/bin/python*"), *root.glob("usr/lib/python3*")]
    shutil.copy(dist / "edge", root / "opt" / "edge")
    shutil.copytree(dist / "edge-dir", root / "opt" / "edge-dir", symlinks=True)
    return root


@pytest.mark.parametrize("form", FORMS)
def test_it_does_its_job_without_python_and_without_an_environment(form: str, without_python: Path) -> None:
    with running("chroot", without_python, f"/opt/{form}") as (_, url), client(url) as hub:
        does_its_job(hub)


@pytest.mark.parametrize("form", FORMS)
def test_it_says_what_it_is_made_of(form: str, dist: Path) -> None:
    first, second = run(dist / form, "--version", env={}).splitlines()
    commit = run("git", "-C", ROOT, "rev-parse", "HEAD").strip()
    assert re.fullmatch(rf"edge {__version__} \(commit {commit}(\+changes)?, for glibc 2\.\d+ or later\)", first)
    assert re.fullmatch(r"Python 3\.\d+\.\d+, aiohttp .*, aiohttp-sse .*, uvloop .*, msgspec .*, structlog .*", second)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("signals", [[signal.SIGTERM], [signal.SIGTERM, signal.SIGTERM], [signal.SIGINT]])
def test_a_signal_ends_it_as_from_source(form: str, signals: list[signal.Signals], dist: Path) -> None:
    """The one file is two processes: the first passes signals on, and systemd may send them to both."""
    with running(dist / form) as (process, url), client(url) as hub, hub.stream("GET", "/projects/p/events") as stream:
        lines = stream.iter_lines()
        assert "event: edge.hello" in lines
        for number in signals:
            process.send_signal(number)
        assert "event: edge.closing" in lines
        assert ("shutdown", 0) == (
            json.loads(next(lines).removeprefix("data: "))["reason"],
            process.wait(PATIENCE_SECONDS),
        )


def test_the_one_file_says_the_way_out_where_it_may_not_unpack_itself(
    as_root: None, dist: Path, tmp_path: Path
) -> None:
    """As docs/install.md says it: another TMPDIR, or the folder, which unpacks nothing."""
    temporary = tmp_path / "noexec"
    temporary.mkdir()
    run("mount", "-t", "tmpfs", "-o", "noexec", "tmpfs", temporary)
    try:
        refused = subprocess.run(
            [dist / "edge", "--version"], env={"TMPDIR": str(temporary)}, capture_output=True, text=True, check=False
        )
        assert 0 != refused.returncode
        assert "failed to map segment" in refused.stderr
        assert [] == list(temporary.iterdir()), "it leaves nothing behind"
        assert run(dist / "edge-dir" / "edge", "--version", env={"TMPDIR": str(temporary)}).startswith("edge ")
    finally:
        run("umount", temporary)
    assert run(dist / "edge", "--version", env={"TMPDIR": str(temporary)}).startswith("edge ")


def test_the_one_file_leaves_nothing_behind(dist: Path, tmp_path: Path) -> None:
    with running(dist / "edge", env={"TMPDIR": str(tmp_path)}) as (process, _):
        assert 1 == len(list(tmp_path.iterdir()))
        process.terminate()
        assert 0 == process.wait(PATIENCE_SECONDS)
        wait_until(lambda: not list(tmp_path.iterdir()))


def test_the_one_file_says_the_way_out_where_it_has_no_room(as_root: None, dist: Path, tmp_path: Path) -> None:
    run("mount", "-t", "tmpfs", "-o", "size=20m", "tmpfs", tmp_path)
    try:
        refused = subprocess.run(
            [dist / "edge", "--version"], env={"TMPDIR": str(tmp_path)}, capture_output=True, text=True, check=False
        )
        assert 0 != refused.returncode
        assert "TMPDIR has less than 50 MB free" in refused.stderr
    finally:
        run("umount", tmp_path)
    assert 50e6 > sum(path.stat().st_size for path in (dist / "edge-dir").rglob("*") if path.is_file())


def child_of(parent: subprocess.Popen[str]) -> int:
    """The process that runs the program; `parent` has unpacked it."""
    [child] = Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()
    return int(child)


def kill(process: subprocess.Popen[str]) -> None:
    """Alone: `running` would kill its group."""
    process.kill()
    process.wait(PATIENCE_SECONDS)


@pytest.mark.linux
def test_the_one_file_ends_with_its_parent_and_frees_port_and_folder(dist: Path, tmp_path: Path) -> None:
    with running(dist / "edge", env={"TMPDIR": str(tmp_path)}) as (process, url):
        child = child_of(process)
        with client(url) as hub, hub.stream("GET", "/projects/p/events") as stream:
            lines = stream.iter_lines()
            assert "event: edge.hello" in lines
            kill(process)
            assert "event: edge.closing" in lines, "it drains"
        wait_until(lambda: not Path(f"/proc/{child}").exists())
        assert [] == list(tmp_path.iterdir())
        with socket.create_server((httpx.URL(url).host, httpx.URL(url).port or 0)):
            pass


@pytest.mark.linux
def test_the_next_start_removes_what_kill_9_left_behind_and_no_folder_in_use(dist: Path, tmp_path: Path) -> None:
    environ = {"TMPDIR": str(tmp_path)}
    foreign = tmp_path / "_MEI7fffffffabcdef"  # a program of another make, whose process no longer exists
    foreign.mkdir()
    unpacking = tmp_path / "_MEI7ffffffeabcdef"  # one of ours in another pid namespace, which has no program yet
    unpacking.mkdir()
    (unpacking / "edge.lock").touch()
    locked = tmp_path / "_MEI7ffffffdabcdef"  # one of ours in another pid namespace, which runs
    locked.mkdir()
    (locked / "edge.lock").write_text("in use\n")
    holder = os.open(locked / "edge.lock", os.O_RDWR)
    fcntl.flock(holder, fcntl.LOCK_EX)
    with running(dist / "edge", env=environ) as (alive, _):
        kept = set(tmp_path.iterdir())
        with running(dist / "edge", env=environ) as (process, _):
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(PATIENCE_SECONDS)
        assert 1 == len(set(tmp_path.iterdir()) - kept), "left behind"

        run(dist / "edge", "--version", env=environ)

        assert kept == set(tmp_path.iterdir())
        alive.terminate()
        assert 0 == alive.wait(PATIENCE_SECONDS)
    os.close(holder)
    long_ago = time.time() - 3600
    os.utime(unpacking / "edge.lock", (long_ago, long_ago))
    run(dist / "edge", "--version", env=environ)
    assert [foreign] == list(tmp_path.iterdir()), "neither is in use any more"


def test_two_builds_of_one_commit_are_the_same_bytes(dist: Path, tmp_path: Path) -> None:
    """The second one in another folder, without a repository, with empty caches."""
    source = tmp_path / "another" / "source"
    for part in ("build", "clients", "docs", "edge", "requirements", "systemd"):
        shutil.copytree(ROOT / part, source / part, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("LICENSE", "Makefile"):
        shutil.copy(ROOT / file, source)
    (source / ".make").symlink_to(ROOT / ".make")  # the same tools
    commit = re.findall(r"commit (\S+),", run(dist / "edge", "--version"))[0]
    moment = run("git", "-C", ROOT, "log", "-1", "--format=%ct").strip()
    again = build(tmp_path / "dist", source, SOURCE_COMMIT=commit, SOURCE_DATE_EPOCH=moment, HOME=str(tmp_path))
    assert digests(dist) == digests(again)


def digests(folder: Path) -> dict[str, str]:
    """What `folder` holds: each file, its mode and its bytes."""
    return {
        str(path.relative_to(folder)): f"{path.stat().st_mode:o} {hashlib.sha256(path.read_bytes()).hexdigest()}"
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_the_checksums_are_right(dist: Path) -> None:
    output = run("sha256sum", "--check", "--strict", "SHA256SUMS", cwd=dist)
    packages = [path.name for path in dist.glob("*.deb")]
    assert sorted(f"{name}: OK" for name in ["edge", "edge.cdx.json", *packages]) == sorted(output.splitlines())


def test_the_list_of_contents_names_what_is_inside(dist: Path) -> None:
    document = json.loads((dist / "edge.cdx.json").read_text())
    assert ("CycloneDX", "1.6", "edge") == (
        document["bomFormat"],
        document["specVersion"],
        document["metadata"]["component"]["name"],
    )
    components = {component["name"]: component for component in document["components"]}
    locked = dict(re.findall(r"^([a-z0-9-]+)==(\S+)", (ROOT / "requirements" / "run.lock").read_text(), re.MULTILINE))
    named = {name: part["version"] for name, part in components.items() if part["purl"].startswith("pkg:pypi/")}
    assert named == {name: locked[name] for name in named}
    assert {"aiohttp", "aiohttp-sse", "msgspec", "uvloop", "cpython"} <= components.keys()
    # A package inside that the list leaves out would be one whose vulnerabilities no report names.
    inside = {
        path.name.partition(".")[0]
        for path in (dist / "edge-dir" / "_internal").iterdir()
        if path.is_dir() and list(path.glob("**/*.so"))
    }
    assert set() == {name.replace("_", "-") for name in inside if not name.startswith("python3")} - components.keys()


def test_page_client_and_licences_are_inside(dist: Path) -> None:
    inside = dist / "edge-dir" / "_internal"
    scripts = {path.name for path in (ROOT / "edge" / "cluster" / "scripts").glob("*.lua")}
    assert scripts
    assert scripts == {path.name for path in (inside / "edge" / "cluster" / "scripts").glob("*.lua")}
    static = ROOT / "edge" / "static"
    expected = {str(path.relative_to(static)) for path in static.rglob("*") if path.is_file()}
    assert expected
    assert expected == {
        str(path.relative_to(inside / "edge" / "static"))
        for path in (inside / "edge" / "static").rglob("*")
        if path.is_file()
    }
    assert (ROOT / "LICENSE").read_text() == (inside / "edge" / "LICENSE").read_text()
    packages = [path for path in inside.glob("*.dist-info") if path.is_dir()]
    assert [] == [path.name for path in packages if not (path / "METADATA").exists()]
    without = {path.name.partition("-")[0] for path in packages if not list(path.rglob("*LICEN[CS]E*"))}
    # Their wheels carry none; the metadata says MIT and Apache 2. redis wants async_timeout before Python 3.11.3 only.
    assert {"standardwebhooks"} == without - {"async_timeout"}


def test_nothing_is_inside_that_only_builders_and_testers_use(dist: Path) -> None:
    names = {path.name for path in (dist / "edge-dir" / "_internal").rglob("*")}
    unwanted = {"pytest", "_pytest", "pip", "setuptools", "hypothesis", "mypy", "tkinter", "PyInstaller", "httpx"}
    assert set() == names & unwanted


def test_no_path_of_the_builder_is_inside(dist: Path) -> None:
    for path in [dist / "edge-dir" / "edge", *(dist / "edge-dir").rglob("*.py"), dist / "edge.cdx.json"]:
        assert os.fsencode(ROOT) not in path.read_bytes(), path
