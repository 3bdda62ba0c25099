"""The protocols of sd_listen_fds(3) and sd_notify(3), spoken with a real server; under a real systemd they are in
tests/packaging.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from edge.config.schema import Config
from edge.server.listening import with_real_address
from edge.server.systemd import Notifier, inherited_sockets

# systemd names the process by its number, which only the process itself knows before it begins.
AS_SYSTEMD = """
import os, sys
os.environ["LISTEN_PID"] = os.environ["WATCHDOG_PID"] = str(os.getpid())
if sys.argv[1] != "none":
    os.dup2(int(sys.argv[1]), 3)
os.execv(sys.argv[2], sys.argv[2:])
"""
PATIENCE_SECONDS = 60.0


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    """The socket that systemd would listen on."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "notify"))
        sock.settimeout(PATIENCE_SECONDS)
        yield sock


def received(manager: socket.socket, wanted: str) -> list[str]:
    """The lines of the messages up to the first that has `wanted` in it."""
    lines: list[str] = []
    while not any(wanted in line for line in lines):
        lines += manager.recv(65536).decode().splitlines()
    return lines


@contextmanager
def hub(listening: socket.socket | None = None, **environ: str) -> Iterator[subprocess.Popen[str]]:
    """A server started as systemd starts one, with `listening` as descriptor 3."""
    handed_over = "none" if listening is None else str(listening.fileno())
    process = subprocess.Popen(
        [sys.executable, "-c", AS_SYSTEMD, handed_over, sys.executable, "-m", "edge", "serve", "--port", "0"],
        env={**os.environ, **environ},
        pass_fds=() if listening is None else (listening.fileno(),),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        with process:
            yield process
            process.send_signal(signal.SIGTERM)
            process.wait(PATIENCE_SECONDS)
    finally:
        process.kill()
        process.wait()


def listening_socket(host: str = "127.0.0.1") -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    sock.bind((host, 0))
    sock.listen()
    return sock


def test_systemd_gets_ready_then_status_and_signs_of_life_then_stopping(manager: socket.socket) -> None:
    with hub(NOTIFY_SOCKET=manager.getsockname(), WATCHDOG_USEC="300000") as process:
        assert process.stdout is not None
        url = process.stdout.readline().split()[-1]
        nothing_yet = "STATUS=0 connections, 0 projects, 0 misses (0 pending, 0 lost)"
        assert ["READY=1", nothing_yet] == received(manager, "STATUS")
        assert ["WATCHDOG=1", nothing_yet] == received(manager, "STATUS")

        httpx.post(f"{url}/projects/p/events", json={"data": 1})
        assert "STATUS=0 connections, 1 projects, 1 misses (1 pending, 0 lost)" == received(manager, "1 projects")[-1]

        process.send_signal(signal.SIGSTOP)
        manager.settimeout(1.0)
        with pytest.raises(TimeoutError):
            received(manager, "a stopped process says nothing")
        process.send_signal(signal.SIGCONT)
        manager.settimeout(PATIENCE_SECONDS)
        received(manager, "WATCHDOG=1")

        process.send_signal(signal.SIGTERM)
        assert ["STOPPING=1", "STATUS=Draining", "EXTEND_TIMEOUT_USEC=10000000"] == received(manager, "EXTEND")[-3:]
        assert 0 == process.wait(PATIENCE_SECONDS)


def test_a_socket_that_was_handed_over_is_served_and_kept_over_a_restart() -> None:
    with listening_socket() as listening:
        url = "http://{}:{}".format(*listening.getsockname())
        for _ in range(2):
            with hub(listening, LISTEN_FDS="1", LISTEN_FDNAMES="edge.socket") as process:
                # Refused at no moment: it waits in the backlog.
                assert 200 == httpx.get(f"{url}/healthz", timeout=PATIENCE_SECONDS).status_code
                assert process.stdout is not None
                assert f"edge: listening on {url}\n" == process.stdout.readline()


def test_variables_meant_for_another_process_are_left_alone() -> None:
    assert [] == inherited_sockets({"LISTEN_FDS": "3", "LISTEN_PID": "1"})
    assert [] == inherited_sockets({})
    assert 0.0 == Notifier({"WATCHDOG_USEC": "1000000", "WATCHDOG_PID": "1"}).watchdog_seconds
    assert 1.0 == Notifier({"WATCHDOG_USEC": "1000000", "WATCHDOG_PID": str(os.getpid())}).watchdog_seconds


def test_no_child_inherits_the_variables() -> None:
    environ = {"LISTEN_FDS": "0", "LISTEN_PID": "1", "LISTEN_FDNAMES": "a", "WATCHDOG_USEC": "1", "WATCHDOG_PID": "1"}
    inherited_sockets(environ)
    Notifier(environ)
    assert {} == environ


@pytest.mark.parametrize("variable", ["LISTEN_FDS", "WATCHDOG_USEC"])
@pytest.mark.parametrize("text", ["-1", "x", "1.5", "٣", ""])
def test_numbers_that_are_none_are_refused(variable: str, text: str) -> None:
    environ = {variable: text, "LISTEN_PID": str(os.getpid())}
    with pytest.raises(OSError, match=f"^{variable} is '{text}', not a number; systemd sets it$"):
        inherited_sockets(environ) if variable == "LISTEN_FDS" else Notifier(environ)


def test_a_socket_that_isnt_listening_is_refused_in_one_line() -> None:
    with socket.socket() as idle, hub(idle, LISTEN_FDS="1") as process:
        output, errors = process.communicate(timeout=PATIENCE_SECONDS)
    assert (1, "") == (process.returncode, output)
    assert "edge: descriptor 3 from systemd is not a listening TCP or Unix stream socket" == errors.splitlines()[-1]


def test_whom_a_handed_over_socket_lets_in_is_what_counts() -> None:
    with listening_socket() as local, listening_socket("0.0.0.0") as public:
        for sockets, host in [([local], "127.0.0.1"), ([local, public], "0.0.0.0"), ([public, local], "0.0.0.0")]:
            server = with_real_address(Config(), sockets).server
            assert host == server.host
            assert server.port in {sock.getsockname()[1] for sock in sockets}


@pytest.mark.linux
def test_abstract_notify_sockets_are_understood() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(f"\0edge-test-{os.getpid()}")
        manager.settimeout(PATIENCE_SECONDS)
        notifier = Notifier({"NOTIFY_SOCKET": f"@edge-test-{os.getpid()}"})
        assert notifier.ready("fine")
        assert b"READY=1\nSTATUS=fine" == manager.recv(100)
    assert not notifier.ready("not accepted now")
    notifier.close()
    assert notifier.ready("not expected")


def test_a_reload_takes_the_new_certificate_and_no_stream_notices(manager: socket.socket, tmp_path: Path) -> None:
    certificate, key = tmp_path / "hub.pem", tmp_path / "hub.key"
    make_certificate(certificate, key)
    environ = {"EDGE_SERVER_TLS_CERT": str(certificate), "EDGE_SERVER_TLS_KEY": str(key)}
    with hub(None, NOTIFY_SOCKET=manager.getsockname(), **environ) as process:
        assert process.stdout is not None
        url = process.stdout.readline().split()[-1]
        received(manager, "READY=1")
        port = httpx.URL(url).port
        assert port is not None
        first = ssl.get_server_certificate(("127.0.0.1", port))
        with httpx.stream("GET", f"{url}/projects/p/events", verify=False) as stream:
            lines = stream.iter_lines()

            make_certificate(certificate, key)
            process.send_signal(signal.SIGHUP)
            assert ["RELOADING=1", "READY=1"] == [
                line for line in received(manager, "READY=1") if line in ("RELOADING=1", "READY=1")
            ]
            second = ssl.get_server_certificate(("127.0.0.1", port))
            assert first != second

            key.write_text("broken")
            process.send_signal(signal.SIGHUP)
            received(manager, "READY=1")
            assert second == ssl.get_server_certificate(("127.0.0.1", port)), "the one in use stays"

            httpx.post(f"{url}/projects/p/events", json={"data": 42}, verify=False)
            assert "data: 42" in (line for line in lines)


def test_a_reload_without_a_certificate_asks_for_a_restart(manager: socket.socket, tmp_path: Path) -> None:
    certificate, key, config = tmp_path / "hub.pem", tmp_path / "hub.key", tmp_path / "edge.toml"
    make_certificate(certificate, key)
    config.write_text(f"[server]\nlog_format = 'json'\ntls_cert = '{certificate}'\ntls_key = '{key}'\n")
    with hub(None, NOTIFY_SOCKET=manager.getsockname(), EDGE_CONFIG=str(config)) as process:
        received(manager, "READY=1")
        config.write_text("[server]\nlog_format = 'json'\n")
        process.send_signal(signal.SIGHUP)
        received(manager, "READY=1")
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=PATIENCE_SECONDS)
    [line] = [line for line in map(json.loads, errors.splitlines()) if line["event"] == "config_reloaded"]
    assert ([], ["server.tls_cert", "server.tls_key"]) == (line["changed"], line["restart_needed"])


def make_certificate(certificate: Path, key: Path) -> None:
    ask = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=hub -days 2"
    subprocess.run([*ask.split(), "-keyout", str(key), "-out", str(certificate)], check=True, capture_output=True)
