"""What `make portable` built, in the systems that it is to run in: `make test-portable`, which names this file.

As root, with mmdebstrap, iproute2 and nftables; for another architecture also qemu-user-static. `make test` doesn't
collect it, because the build that it tries takes half an hour.
"""

from __future__ import annotations

import contextlib
import http.server
import os
import re
import shutil
import signal
import ssl
import subprocess
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import httpx
import pytest

from edge.cli.main import AUTHORITIES
from tests.faults.cable import cable
from tests.faults.tls import Certificate, certificate_for
from tests.packaging.conftest import ARCHITECTURE, NATIVE, run
from tests.packaging.running import client, does_its_job, events, wait_until

BUILT = Path(os.environ["PORTABLE"]).resolve()
OLDEST_GLIBC = "2.31"
UBUNTU = ("focal", "jammy", "noble") if ARCHITECTURE == "amd64" else ()  # its mirrors have amd64 only
SUITES = ("bullseye", "bookworm", "trixie", *UBUNTU)
FORMS = ("edge", "edge-dir/edge")
MAX_ONE_FILE_BYTES = 18_000_000


@pytest.fixture(scope="session", params=SUITES)
def root(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A bare Debian or Ubuntu without Python or certificates, with what was built in /opt."""
    tar = BUILT.parent / f"{request.param}-{ARCHITECTURE}.tar"
    if not tar.exists():
        fresh = tar.with_suffix(".new.tar")
        options = ("--quiet", "--variant=minbase", f"--architectures={ARCHITECTURE}")
        mirror = [f"deb {os.environ['MIRROR']} {request.param} main"] if "MIRROR" in os.environ else []
        if request.param in UBUNTU:  # Debian has no key of its archive, and nothing of it is kept
            mirror = [f"deb [trusted=yes] http://archive.ubuntu.com/ubuntu {request.param} main"]
        run("mmdebstrap", *options, request.param, fresh, *mirror)
        fresh.rename(tar)
    folder = tmp_path_factory.mktemp(request.param)
    run("tar", "--extract", "--file", tar, "--directory", folder, "--exclude=./dev/*")
    shutil.copy(BUILT / "edge", folder / "opt" / "edge")
    shutil.copytree(BUILT / "edge-dir", folder / "opt" / "edge-dir", symlinks=True)
    (folder / "etc" / "hosts").write_text("127.0.0.1 localhost\n")
    run("mount", "--bind", "/dev", folder / "dev")
    run("mount", "-t", "proc", "proc", folder / "proc")
    yield folder
    run("umount", folder / "dev", folder / "proc")


@contextlib.contextmanager
def hub(root: Path, form: str, **settings: str) -> Iterator[tuple[subprocess.Popen[str], httpx.Client]]:
    """A hub inside `root`, in an environment of `settings` alone."""
    command = [shutil.which("chroot") or "chroot", str(root), f"/opt/{form}", "serve", "--port", "0"]
    process = subprocess.Popen(
        command, env=settings, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, start_new_session=True
    )
    with process:
        try:
            assert process.stdout is not None
            first = process.stdout.readline()
            assert first.startswith("edge: listening on "), first
            with client(first.split()[-1].replace("0.0.0.0", "127.0.0.1")) as http:
                yield process, http
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def test_the_oldest_glibc_is_that_of_debian_11(root: Path) -> None:
    shown = run("chroot", root, "/opt/edge-dir/edge", "--version")

    assert OLDEST_GLIBC >= re.findall(r"glibc (\d+\.\d+)", shown)[0]


def test_one_file_stays_small() -> None:
    assert MAX_ONE_FILE_BYTES >= (BUILT / "edge").stat().st_size


def test_the_list_of_contents_names_what_was_compiled() -> None:
    contents = (BUILT / "edge.cdx.json").read_text()

    for line in (Path(__file__).parents[2] / "build" / "portable" / "sources.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            name, version, *_ = line.split()
            assert f'"name": "{name}"' in contents
            assert f'"version": "{version}"' in contents


@pytest.mark.parametrize("form", FORMS)
def test_it_does_its_job(root: Path, form: str) -> None:
    with hub(root, form) as (_, http):
        does_its_job(http)


@pytest.mark.parametrize("form", FORMS)
def test_a_stream_resumes_after_a_drop(root: Path, form: str) -> None:
    with hub(root, form) as (_, http):
        with http.stream("GET", "/projects/p/events") as stream:
            assert "edge.hello" == next(events(stream))[0]
            first = http.post("/projects/p/events", json={"data": 1}).json()["id"]
        second = http.post("/projects/p/events", json={"data": 2}).json()["id"]
        with http.stream("GET", "/projects/p/events", headers={"Last-Event-ID": first}) as stream:
            received = events(stream)
            assert "edge.hello" == next(received)[0]
            assert ("message", 2) == next(received)
        assert first != second


def test_the_package_is_installed_does_its_job_and_is_purged(root: Path) -> None:
    [package] = BUILT.glob(f"edge_*_{ARCHITECTURE}.deb")
    shutil.copy(package, root / "opt" / "edge.deb")
    run("chroot", root, "dpkg", "--install", "/opt/edge.deb")
    try:
        with hub(root, "../usr/bin/edge") as (_, http):
            does_its_job(http)
    finally:
        run("chroot", root, "dpkg", "--purge", "edge")
    assert [] == [path for name in ("usr/bin/edge", "usr/lib/edge", "etc/edge") if (path := root / name).exists()]


@pytest.mark.parametrize("durability", ["async", "commit"])
def test_history_survives_kill_9_and_no_id_is_given_twice(root: Path, durability: str) -> None:
    settings = {"EDGE_STORE_URL": "sqlite:/var/tmp/edge.db", "EDGE_STORE_DURABILITY": durability}
    for left in (root / "var/tmp").glob("edge.db*"):
        left.unlink()
    ids: list[str] = []
    for life in range(3):
        with hub(root, "edge-dir/edge", **settings) as (process, http):
            wait_until(lambda: http.get("/readyz").status_code == 200)
            held = http.get("/projects/p/history?limit=100").json().get("events", [])
            assert ids == [event["id"] for event in held]
            assert [str(number) for number in range(20 * life)] == [event["data"] for event in held]
            numbers = range(20 * life, 20 * (life + 1))
            ids += [http.post("/projects/p/events", json={"data": number}).json()["id"] for number in numbers]
            if durability == "async":
                wait_until(partial(is_written, root, number=len(ids) - 1))
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    assert 60 == len(set(ids))


def is_written(root: Path, number: int) -> bool:
    files = [root / "var/tmp" / name for name in ("edge.db", "edge.db-wal")]
    return any(f"data: {number}\n".encode() in file.read_bytes() for file in files)


def test_a_peer_that_vanished_is_found_out_and_its_event_is_kept(root: Path) -> None:
    """Kept where the kernel tells what was acknowledged, which emulation by qemu-user doesn't."""
    settings = {
        "EDGE_SERVER_HOST": "0.0.0.0",
        "EDGE_AUTH_ANONYMOUS": "subscribe,publish,status,metrics",
        "EDGE_STREAM_HEARTBEAT_SECONDS": "0.5",
        "EDGE_STREAM_DEAD_AFTER_SECONDS": "1",
    }
    with cable() as wire, hub(root, "edge-dir/edge", **settings) as (_, http), wire.socket() as peer:
        peer.connect((wire.here, http.base_url.port))
        peer.sendall(b"GET /projects/p/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        received = b""
        while b"edge.hello" not in received:
            received += peer.recv(4096)
        confirmed = http.get("/projects/p/ready?timeout=30s").json()["confirmed"]
        assert confirmed == ("acknowledged" if ARCHITECTURE == NATIVE else "written")
        wire.cut()
        http.post("/projects/p/events", json={"data": "kept"})
        wait_until(lambda: "edge_connections 0.0" in http.get("/metrics").text.splitlines())
        if confirmed == "acknowledged":
            assert 'edge_connections_removed_total{reason="dead"} 1.0' in http.get("/metrics").text
            with http.stream("GET", "/projects/p/events") as stream:
                received_again = events(stream)
                assert "edge.hello" == next(received_again)[0]
                assert ("message", "kept") == next(received_again)


class _Receiver(http.server.BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def https_target(certificate: Certificate) -> Iterator[str]:
    """The URL of a target of triggers that only those trust who have its certificate."""
    with http.server.ThreadingHTTPServer(("localhost", 0), _Receiver) as server:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(certificate.cert, certificate.key)
        server.socket = tls.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever).start()
        try:
            yield f"https://localhost:{server.server_port}/"
        finally:
            server.shutdown()


@pytest.mark.parametrize("place", [*AUTHORITIES, "nowhere"])
def test_authorities_are_found_where_systems_keep_them(root: Path, place: str, tmp_path: Path) -> None:
    certificate = certificate_for("localhost", tmp_path)
    bundle = root / place.lstrip("/")
    bundle.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(certificate.cert, bundle)
    try:
        with (
            https_target(certificate) as url,
            hub(root, "edge-dir/edge", EDGE_TRIGGER_URL=url, EDGE_TRIGGER_RETRIES="0") as (_, http),
        ):
            answer = http.post("/projects/p/trigger?timeout=0s&on_timeout=dispatch", json={"name": "job"})
    finally:
        bundle.unlink()

    assert (502 if place == "nowhere" else 202) == answer.status_code, answer.text
