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

from docs import make_man
from edge import __version__
from edge.cli import commands, main
from edge.cli.hub import ExitStatus
from edge.cli.main import version_text
from edge.config.load import ConfigError, Sources
from edge.config.schema import Config, ServerSettings
from edge.server.listening import CantListenError
from tests.faults.tls import certificate_for


@pytest.fixture(autouse=True)
def _no_settings_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("EDGE_"):
            monkeypatch.delenv(name)


def run(*arguments: str, stdout: int = subprocess.PIPE, shell: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "edge", *arguments]
    if shell:
        command = ["sh", "-c", f'exec "$@" {shell}', "sh", *command]
    return subprocess.run(command, stdout=stdout, stderr=subprocess.PIPE, text=True, check=False)


# --- usage ---


def test_the_man_page_is_what_the_command_line_says() -> None:
    assert make_man.made(make_man.PAGE.read_text()) == make_man.PAGE.read_text(), "python -m docs.make_man writes it"


def test_version_names_edge_python_and_what_it_is_built_on() -> None:
    done = run("--version")

    first, second = done.stdout.splitlines()
    assert (0, "") == (done.returncode, done.stderr)
    assert f"edge {__version__}" == first.partition(" (commit ")[0]
    assert second.startswith(f"Python {sys.version.split()[0]}, aiohttp 3.")


def test_version_names_the_commit_that_a_build_wrote_down(monkeypatch: pytest.MonkeyPatch) -> None:
    build_info = types.ModuleType("edge._build_info")
    build_info.COMMIT = "abc1234"  # type: ignore[attr-defined]
    build_info.GLIBC = "2.36"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "edge._build_info", build_info)

    assert f"edge {__version__} (commit abc1234, for glibc 2.36 or later)" == version_text().splitlines()[0]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["serv"], "invalid choice: 'serv'"),
        (["serve", "--prot", "1"], "unrecognized arguments: --prot 1"),
        (["serve", "--por", "1"], "unrecognized arguments: --por 1"),
        (["check-config", "extra"], "unrecognized arguments: extra"),
    ],
)
def test_wrong_usage_exits_with_2(arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exited:
        main.main(arguments)

    assert ExitStatus.USAGE == exited.value.code
    assert sentence in capsys.readouterr().err


def test_starting_imports_neither_the_http_server_nor_the_logs() -> None:
    script = (
        "import sys; from edge.cli.main import main; assert main(['check-config']) == 0\n"
        "print([name for name in ('aiohttp', 'asyncio', 'structlog', 'logging') if name in sys.modules])"
    )

    assert "[]" == subprocess.check_output([sys.executable, "-c", script], text=True).splitlines()[-1]


@pytest.mark.linux
def test_a_hub_starts_without_loading_authorities_or_sqlite(tmp_path: Path) -> None:
    """Each takes time and memory on a small machine. A FIFO blocks a process that opens it to read."""
    authorities = tmp_path / "authorities.pem"
    os.mkfifo(authorities)
    command = (sys.executable, "-m", "edge", "serve", "--port", "0")
    environ = {**os.environ, "SSL_CERT_FILE": str(authorities)}
    with subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as hub:
        assert hub.stdout is not None
        try:
            assert hub.stdout.readline().startswith("edge: listening on ")
            assert "_sqlite3" not in Path(f"/proc/{hub.pid}/maps").read_text()
        finally:
            hub.kill()


# --- check-config ---


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


def test_a_closed_pipe_makes_no_message() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = run("check-config", stdout=writer)
    finally:
        os.close(writer)

    assert (ExitStatus.FAILED, "") == (done.returncode, done.stderr)


@pytest.mark.linux
def test_standard_output_that_takes_nothing_is_one_line() -> None:
    done = run("check-config", shell=">/dev/full")

    assert ExitStatus.FAILED == done.returncode
    assert "edge: can't write to standard output: No space left on device\n" == done.stderr


def test_closed_standard_streams_make_no_traceback() -> None:
    without_out = run("check-config", shell=">&-")
    without_err = run("check-config", "--port", "x", shell="2>&-")

    assert (ExitStatus.FAILED, "") == (without_out.returncode, without_out.stderr)
    assert (ExitStatus.USAGE, "") == (without_err.returncode, without_err.stdout)


# --- serve ---


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


# --- healthcheck ---


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


def test_healthcheck_takes_no_nonsense_for_an_answer(capsys: pytest.CaptureFixture[str]) -> None:
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


# --- where it runs ---


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


@pytest.mark.parametrize("shell", ["0<&- 1>&- 2>&-", "0<&- 1>&-", "2>&-"])
def test_closed_standard_streams_end_nothing(shell: str, tmp_path: Path) -> None:
    path = tmp_path / "edge.sock"
    command = [sys.executable, "-m", "edge", "serve", "--host", f"unix:{path}"]
    process = subprocess.Popen(["sh", "-c", f'exec "$@" {shell}', "sh", *command], stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while main.main(["healthcheck", "--url", f"unix:{path}"]) != ExitStatus.OK:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.terminate()
        assert 0 == process.wait(60)
    finally:
        process.kill()
        process.wait()


def test_the_binary_looks_for_authorities_where_other_systems_have_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.setenv(name, "")  # so that it is restored, although main sets it
        monkeypatch.delenv(name)
    theirs = tmp_path / "ca-bundle.crt"
    theirs.write_text("")
    monkeypatch.setattr(main, "AUTHORITIES", (str(tmp_path / "none"), str(theirs)))
    main._trust_the_systems_authorities()
    assert "SSL_CERT_FILE" not in os.environ, "a Python of the system knows where they are"
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    main._trust_the_systems_authorities()
    assert str(theirs) == os.environ["SSL_CERT_FILE"]
    monkeypatch.setenv("SSL_CERT_FILE", "mine")
    main._trust_the_systems_authorities()
    assert "mine" == os.environ["SSL_CERT_FILE"]
