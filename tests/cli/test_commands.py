from __future__ import annotations

import errno
import http.server
import os
import socket
import ssl
import subprocess
import sys
import threading
import time
import tomllib
import types
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edge.cli import commands, main
from edge.cli.hub import ExitStatus
from edge.config.load import ConfigError, Sources
from edge.config.schema import Config, ServerSettings
from edge.server.listening import CantListenError
from tests.auth.keys import public_pem
from tests.cli.process import run
from tests.faults.tls import certificate_for

SECRET = "0123456789abcdef0123456789abcdef"


def test_check_config_prints_what_is_in_effect_and_where_it_came_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "edge.toml"
    path.write_text("[server]\nport = 1\nhost = '10.0.0.1'\n")
    monkeypatch.setenv("EDGE_RING_MAX_BYTES", "2MiB")
    monkeypatch.setenv("EDGE_AUTH_TOKEN", "secret-token-of-some-length")

    assert ExitStatus.OK == main.main(["check-config", "--config", str(path), "--port", "0"])

    out, err = capsys.readouterr()
    assert "" == err
    assert {"port": 0, "host": "10.0.0.1"}.items() <= tomllib.loads(out)["server"].items()
    assert "port = 0  # from --port\n" in out
    assert f'host = "10.0.0.1"  # from {path}\n' in out
    assert 'max_bytes = "2MiB"  # from EDGE_RING_MAX_BYTES\n' in out
    assert "secret-token" not in out


@pytest.mark.parametrize("command", ["serve", "check-config"])
def test_a_wrong_configuration_is_one_line_and_exit_status_2(command: str) -> None:
    done = run(command, "--port", "70000")

    assert ExitStatus.USAGE == done.returncode
    assert "" == done.stdout
    assert "edge: server.port = 70000 (from --port): must be between 0 and 65535\n" == done.stderr


def test_a_missing_file_is_one_line_and_exit_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert ExitStatus.USAGE == main.main(["check-config", "--config", "no\nsuch.toml"])
    assert (
        "edge: config = no\\nsuch.toml (from --config): can't read the file: No such file or directory\n"
        == capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("outcome", "status", "line"),
    [
        (CantListenError("can't listen"), ExitStatus.FAILED, "edge: can't listen\n"),
        (OSError(errno.EIO, "broken"), ExitStatus.FAILED, "edge: [Errno 5] broken\n"),
        (
            ConfigError("server.tls_cert", "EDGE_SERVER_TLS_CERT", "no such file", value="a.pem"),
            ExitStatus.USAGE,
            "edge: server.tls_cert = a.pem (from EDGE_SERVER_TLS_CERT): no such file\n",
        ),
        (KeyboardInterrupt(), ExitStatus.INTERRUPTED, ""),
        (None, ExitStatus.OK, ""),
    ],
)
def test_how_serving_ends_is_one_line_and_an_exit_status(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    outcome: BaseException | None,
    status: int,
    line: str,
) -> None:
    def serve(load: Callable[[], tuple[Config, Sources]]) -> int:
        assert 8080 == load()[0].server.port
        if outcome is not None:
            raise outcome
        return ExitStatus.OK

    server = types.ModuleType("edge.server.process")
    server.serve = serve  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "edge.server.process", server)

    assert status == main.main(["serve"])
    assert ("", line) == capsys.readouterr()


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "192.168.1.7"])
@pytest.mark.parametrize("command", ["serve", "check-config"])
def test_a_public_address_needs_permissions(host: str, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert 2 == main.main([command, "--host", host, "--port", "0"])
    error = capsys.readouterr().err
    assert f"edge: server.host = {host} (from --host)" in error
    assert "auth.token" in error
    assert "auth.anonymous" in error


@pytest.mark.parametrize("variable", ["AUTH_TOKEN=abc", "AUTH_ANONYMOUS=subscribe", f"AUTH_JWT_KEY={SECRET}"])
def test_a_public_address_with_permissions_is_accepted(
    variable: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    name, _, value = variable.partition("=")
    monkeypatch.setenv(f"EDGE_{name}", value)
    assert 0 == main.main(["check-config", "--host", "0.0.0.0"])


@pytest.mark.parametrize("command", ["serve", "check-config"])
@pytest.mark.parametrize(
    ("key", "algorithms", "sentence"),
    [
        ("-----BEGIN PUBLIC KEY-----\nMCow\n-----END PUBLIC KEY-----", None, "is not a public key in PEM"),
        (public_pem("RSA"), "ES256", "fits none of auth.jwt_algorithms"),
        (SECRET, "HS512", "fits none of auth.jwt_algorithms"),
    ],
)
def test_an_unusable_key_stops_the_start(
    command: str,
    key: str,
    algorithms: str | None,
    sentence: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("EDGE_AUTH_JWT_KEY", key)
    if algorithms is not None:
        monkeypatch.setenv("EDGE_AUTH_JWT_ALGORITHMS", algorithms)
    assert 2 == main.main([command, "--port", "0"])
    assert f"edge: auth.jwt_key (from EDGE_AUTH_JWT_KEY): {sentence}" in capsys.readouterr().err


class _Answers(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response({"/healthz": 200, "/ok?x=1": 200}.get(self.path, 503))
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def _served(tls: ssl.SSLContext | None = None) -> Iterator[int]:
    with http.server.HTTPServer(("127.0.0.1", 0), _Answers) as server:
        if tls is not None:
            server.socket = tls.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


@pytest.fixture
def port() -> Iterator[int]:
    yield from _served()


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A file with a self-signed certificate for `hub.example.org` and its key."""
    made = certificate_for("hub.example.org", tmp_path)
    path = tmp_path / "hub.pem"
    path.write_bytes(made.cert.read_bytes() + made.key.read_bytes())
    return path


@pytest.fixture
def tls_port(certificate: Path) -> Iterator[int]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    yield from _served(context)


def test_healthcheck_asks_the_hub_of_the_configuration(
    port: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("EDGE_SERVER_PORT", str(port))
    monkeypatch.setenv("EDGE_SERVER_HOST", "0.0.0.0")

    assert ExitStatus.OK == main.main(["healthcheck"])
    assert f"edge: http://127.0.0.1:{port}/healthz answered 200\n" == capsys.readouterr().out


@pytest.mark.parametrize(
    ("path", "status"), [("", 0), ("/", 0), ("/healthz", 0), ("/ok?x=1", 0), ("/readyz", 1), ("/ok", 1)]
)
def test_healthcheck_asks_the_path_it_is_given(port: int, path: str, status: int) -> None:
    assert status == main.main(["healthcheck", "--url", f"http://127.0.0.1:{port}{path}"])


def test_healthcheck_names_a_refused_connection(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"

        assert ExitStatus.FAILED == main.main(["healthcheck", "--url", url])

    assert f"edge: {url}: connection refused: no process accepts connections there\n" == capsys.readouterr().err


def test_healthcheck_waits_no_longer_than_its_timeout(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"

        assert ExitStatus.FAILED == main.main(["healthcheck", "--url", url, "--timeout", "50ms"])

    assert f"edge: {url} did not answer within 0.05 s\n" == capsys.readouterr().err


def test_healthcheck_refuses_what_is_not_http(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            peer, _ = server.accept()
            with peer:
                peer.recv(4096)
                peer.sendall(b"SSH-2.0-\x1b[31m\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        status = main.main(["healthcheck", "--url", f"http://127.0.0.1:{server.getsockname()[1]}"])
        thread.join()

    err = capsys.readouterr().err
    assert ExitStatus.FAILED == status
    assert err.removesuffix("\n").isprintable()
    assert "edge: http://127.0.0.1:" in err


def test_healthcheck_of_its_own_hub_works_over_tls_with_a_certificate_for_another_name(
    tls_port: int, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGE_SERVER_PORT", str(tls_port))
    monkeypatch.setenv("EDGE_SERVER_TLS_CERT", str(certificate))
    monkeypatch.setenv("EDGE_SERVER_TLS_KEY", str(certificate))

    assert ExitStatus.OK == main.main(["healthcheck"])


def test_healthcheck_of_a_given_url_checks_the_certificate(tls_port: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert ExitStatus.FAILED == main.main(["healthcheck", "--url", f"https://127.0.0.1:{tls_port}"])
    assert "the certificate is not valid: self" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--url", "127.0.0.1:8080"], "--url must be an http:// or https:// URL"),
        (["--url", "ftp://a"], "--url must be an http:// or https:// URL"),
        (["--url", "http://a:99999"], "--url must be an http:// or https:// URL"),
        (["--url", "http://a/\r\nX: y"], "--url must be an http:// or https:// URL"),
        (["--timeout", "soon"], "--timeout must be a duration"),
        (["--timeout", "0"], "--timeout must be 1ms or more"),
        (["--config", "none.toml"], "can't read the file"),
    ],
)
def test_healthcheck_refuses_wrong_usage(
    arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ExitStatus.USAGE == main.main(["healthcheck", *arguments])
    assert sentence in capsys.readouterr().err


def test_healthcheck_cant_guess_a_port_that_was_free_at_start(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("EDGE_SERVER_PORT", "0")

    assert ExitStatus.USAGE == main.main(["healthcheck"])
    assert "edge: server.port is 0: only the running hub knows its port, so give the --url\n" == (
        capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("server", "url"),
    [
        (ServerSettings(), "http://127.0.0.1:8080"),
        (ServerSettings(host="0.0.0.0"), "http://127.0.0.1:8080"),
        (ServerSettings(host="::"), "http://[::1]:8080"),
        (ServerSettings(host="fd00::1"), "http://[fd00::1]:8080"),
        (ServerSettings(host="localhost", port=1), "http://localhost:1"),
        (ServerSettings(tls_cert="c", tls_key="k"), "https://127.0.0.1:8080"),
    ],
)
def test_the_hubs_own_url(server: ServerSettings, url: str) -> None:
    assert url == commands.own_url(Config(server=server))


@pytest.mark.linux
def test_healthcheck_asks_a_process_by_its_command_line(port: int, capsys: pytest.CaptureFixture[str]) -> None:
    command = [sys.executable, "-c", "import time; time.sleep(60)", "--", "edge", "serve", "--port", str(port)]
    with subprocess.Popen(command) as process:
        # The kernel fills it a moment after `exec` has closed the pipe that Popen waits for.
        while not Path(f"/proc/{process.pid}/cmdline").read_bytes():
            time.sleep(0.01)
        try:
            assert ExitStatus.OK == main.main(["healthcheck", "--pid", str(process.pid)])
        finally:
            process.kill()
    assert f"http://127.0.0.1:{port}/healthz answered 200" in capsys.readouterr().out
    assert ExitStatus.USAGE == main.main(["healthcheck", "--pid", str(os.getpid())])
    assert "no `edge serve` runs as this process" in capsys.readouterr().err
