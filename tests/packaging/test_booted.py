"""The Debian package on a machine that runs: a systemd of its own, booted in a container of systemd-nspawn.

It shares this machine's network, and nothing else; its hub gets a free port, by the drop-in that the docs show.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.packaging.conftest import run, unpack
from tests.packaging.running import client, does_its_job, events, wait_until
from tests.packaging.test_deb import newer
from tests.ports import free_port

pytestmark = [pytest.mark.packaging, pytest.mark.timeout(1800)]
TOKEN = "a-token-that-stands-in-a-file-of-roots"
WATCHDOG_SECONDS = 3


class Machine:
    """A Debian that runs."""

    def __init__(self, root: Path, process: subprocess.Popen[bytes], port: int) -> None:
        self.root = root
        self.process = process
        self.url = f"http://127.0.0.1:{port}"
        self.leader = 0

    def run(self, *command: str) -> str:
        """Standard output of `command` in the machine."""
        return run("nsenter", f"--target={self.leader}", "--all", *command)

    def show(self, name: str, unit: str = "edge.service") -> str:
        return self.run("systemctl", "show", "--value", "--property", name, unit).strip()

    def journal(self) -> str:
        return self.run("journalctl", "--no-pager", "--unit=edge.service")

    def hub(self) -> httpx.Client:
        return client(self.url, Authorization=f"Bearer {TOKEN}")


@pytest.fixture(scope="module")
def machine(bare_debian: Path, deb: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """Booted, with the package installed, its socket on a free port, a token as a credential, a quick watchdog."""
    folder = tmp_path_factory.mktemp("booted")
    root = unpack(bare_debian, folder / "root")
    port = free_port()
    put(
        root / "etc/systemd/system/edge.socket.d/local.conf",
        f"[Socket]\nListenStream=\nListenStream=127.0.0.1:{port}\n",
    )
    put(root / "etc/systemd/system/edge.service.d/local.conf", f"[Service]\nWatchdogSec={WATCHDOG_SECONDS}s\n")
    put(root / "etc/credstore/edge.store.url", "sqlite:/var/lib/edge/edge.db").chmod(0o600)
    put(root / "etc/credstore/edge.auth.token", TOKEN).chmod(0o600)
    shutil.copy(deb, root / "root" / "edge.deb")
    machine = Machine(root, boot(root, folder / "boot.log"), port)
    try:
        wait_until(lambda: leader_of(machine) and machine_is_up(machine))
        machine.run("dpkg", "--install", "/root/edge.deb")
        yield machine
    finally:
        with contextlib.suppress(ProcessLookupError, AssertionError):
            if leader_of(machine):
                os.kill(machine.leader, signal.SIGRTMIN + 4)  # power off
        with contextlib.suppress(subprocess.TimeoutExpired):
            machine.process.wait(30)
        machine.process.kill()
        machine.process.wait()


def boot(root: Path, log: Path) -> subprocess.Popen[bytes]:
    command = ["systemd-nspawn", "--boot", "--register=no", "--keep-unit", "--console=pipe", "--quiet"]
    with log.open("wb") as output:
        return subprocess.Popen(
            [*command, f"--machine=edge-{os.getpid()}", "--directory", str(root)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )


def leader_of(machine: Machine) -> bool:
    """Find the machine's process 1. At first it is one that only prepares the machine, and ends."""
    assert machine.process.poll() is None, "the machine ended"
    children = Path(f"/proc/{machine.process.pid}/task/{machine.process.pid}/children").read_text().split()
    machine.leader = int(children[0]) if children else 0
    return bool(children)


def machine_is_up(machine: Machine) -> bool:
    asked = ["nsenter", f"--target={machine.leader}", "--all", "systemctl", "is-system-running"]
    return subprocess.run(asked, check=False, capture_output=True).stdout.strip() in (b"running", b"degraded")


def put(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_installing_starts_it_and_it_does_its_job(machine: Machine) -> None:
    assert ["active", "active"] == machine.run("systemctl", "is-active", "edge.service", "edge.socket").split()
    with machine.hub() as hub:
        does_its_job(hub)
    with client(machine.url) as anonymous:
        assert 401 == anonymous.get("/projects/packaged").status_code, "the credential is in effect"


def test_its_status_says_connections_and_misses(machine: Machine) -> None:
    with machine.hub() as hub, hub.stream("GET", "/projects/watched/events"):
        wait_until(lambda: machine.show("StatusText").startswith("1 connections, "))
    assert re.fullmatch(
        r"\d+ connections, \d+ projects, \d+ misses \(\d+ pending, \d+ lost\)", machine.show("StatusText")
    )


@pytest.mark.linux
def test_it_runs_as_a_user_of_its_own_without_privileges(machine: Machine) -> None:
    status = machine.run("cat", f"/proc/{machine.show('MainPID')}/status")
    fields = dict(re.findall(r"^(\w+):\t(.*)$", status, re.MULTILINE))
    assert "0" not in fields["Uid"].split()
    for kind in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert 0 == int(fields[kind], 16)
    assert ("1", "2") == (fields["NoNewPrivs"], fields["Seccomp"])
    with machine.hub() as hub:
        assert "process_resident_memory_bytes" in hub.get("/metrics").text


def test_a_reload_loses_nothing(machine: Machine) -> None:
    before = machine.show("MainPID")
    with machine.hub() as hub, machine.hub() as publisher, hub.stream("GET", "/projects/reloaded/events") as stream:
        heard = events(stream)
        assert "edge.hello" == next(heard)[0]
        for number in range(100):
            if number % 25 == 10:
                machine.run("systemctl", "reload", "edge.service")
            publisher.post("/projects/reloaded/events", json={"data": number}).raise_for_status()
        assert [("message", number) for number in range(100)] == [next(heard) for _ in range(100)]
    assert before == machine.show("MainPID")


def test_a_restart_under_streams_refuses_no_client(machine: Machine) -> None:
    refused: list[str] = []
    answered = 0
    over = threading.Event()

    def ask() -> None:
        """A new connection each time; until the restarts are over, and 5,000 at most."""
        nonlocal answered
        for _ in range(5_000):
            if over.is_set():
                return
            try:
                with machine.hub() as hub:
                    answered += hub.get("/healthz").status_code == 200
            except httpx.ConnectError as error:
                refused.append(str(error))
            except (httpx.ReadError, httpx.RemoteProtocolError):
                continue  # taken in the last moment: a client asks again
            time.sleep(0.002)

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        for _ in range(2):
            with machine.hub() as hub, hub.stream("GET", "/projects/restarted/events") as stream:
                heard = events(stream)
                assert "edge.hello" == next(heard)[0]
                machine.run("systemctl", "restart", "edge.service")
                kind, data = next(heard)
                assert ("edge.closing", True) == (kind, isinstance(data, dict) and data["reason"] == "shutdown")
    finally:
        over.set()
        asking.join()
    assert [] == refused
    assert answered > 0


def test_its_history_outlives_a_restart(machine: Machine) -> None:
    with machine.hub() as hub:
        first = hub.post("/projects/kept/events", json={"data": "before"}).json()["id"]
    machine.run("systemctl", "restart", "edge.service")
    with machine.hub() as hub, hub.stream("GET", "/projects/kept/events", params={"since": "all"}) as stream:
        heard = events(stream)
        assert "edge.hello" == next(heard)[0]
        assert ("message", "before") == next(heard)
    with machine.hub() as hub, hub.stream("GET", "/projects/kept/events", params={"last_event_id": first}) as stream:
        heard = events(stream)
        assert "edge.hello" == next(heard)[0]
        hub.post("/projects/kept/events", json={"data": "after"})
        assert ("message", "after") == next(heard), "nothing is missing between the two"


def test_a_stopped_process_is_caught_by_the_watchdog_and_started_again(machine: Machine) -> None:
    before = machine.show("MainPID")
    machine.run("systemctl", "kill", "--signal=STOP", "edge.service")
    wait_until(lambda: machine.show("MainPID") not in (before, "0") and machine.show("SubState") == "running")
    assert "Watchdog timeout" in machine.journal()
    with machine.hub() as hub:
        assert 200 == hub.get("/readyz").status_code


def test_an_upgrade_refuses_no_client_and_restarts(machine: Machine, deb: Path, tmp_path: Path) -> None:
    before = machine.show("MainPID")
    shutil.copy(newer(deb, tmp_path), machine.root / "root" / "next.deb")
    with machine.hub() as hub, hub.stream("GET", "/projects/upgraded/events") as stream:
        heard = events(stream)
        assert "edge.hello" == next(heard)[0]
        machine.run("dpkg", "--install", "--force-confold", "/root/next.deb")
        assert "edge.closing" == next(heard)[0]
    with machine.hub() as hub:
        assert 200 == hub.get("/healthz").status_code
    assert before != machine.show("MainPID")
    assert "active" == machine.show("ActiveState", "edge.socket")


def test_stopping_is_quick_and_clean_and_the_socket_starts_it_again(machine: Machine) -> None:
    with machine.hub() as hub, hub.stream("GET", "/projects/stopped/events") as stream:
        heard = events(stream)
        assert "edge.hello" == next(heard)[0]
        machine.run("systemctl", "stop", "edge.service")
        assert "edge.closing" == next(heard)[0]
    assert ("success", "inactive") == (machine.show("Result"), machine.show("ActiveState"))
    last = [json.loads(line.partition("]: ")[2]) for line in machine.journal().splitlines() if '"stopped"' in line]
    assert 0 == last[-1]["connections_aborted"]
    with machine.hub() as hub:
        assert 200 == hub.get("/healthz").status_code, "who asks wakes it up"


def test_wrong_configuration_is_logged_once_and_not_retried(machine: Machine) -> None:
    configuration = machine.root / "etc" / "edge" / "edge.toml"
    good = configuration.read_text()
    configuration.write_text("[server]\ndrain_second = 3\n")
    machine.run("systemctl", "stop", "edge.socket", "edge.service")
    assert (
        0
        != subprocess.run(
            ["nsenter", f"--target={machine.leader}", "--all", "systemctl", "start", "edge.service"],
            check=False,
            capture_output=True,
        ).returncode
    )
    assert ("failed", "2") == (machine.show("ActiveState"), machine.show("ExecMainStatus"))
    assert "edge: server.drain_second (from /etc/edge/edge.toml): there is no such key" in machine.journal()
    configuration.write_text(good)
    machine.run("systemctl", "reset-failed", "edge.service", "edge.socket")
    machine.run("systemctl", "start", "edge.socket", "edge.service")


def test_removed_and_purged_nothing_runs_and_nothing_is_left(machine: Machine) -> None:
    machine.run("dpkg", "--purge", "edge")
    with pytest.raises(httpx.ConnectError), machine.hub() as hub:
        hub.get("/healthz")
    assert "not-found" == machine.show("LoadState")
    assert not (machine.root / "usr" / "lib" / "edge").exists()
