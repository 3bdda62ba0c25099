"""Where a hub listens, and the certificate it shows: each mistake is a sentence that names key and file."""

from __future__ import annotations

import grp
import os
import socket
import stat
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from edge.config.load import ConfigError
from edge.config.schema import Config, ServerSettings
from edge.server.listening import CantListenError, listen, listening, refuse_exposure, tls_context, urls
from tests.faults.tls import Certificate, certificate_for


def connects(family: socket.AddressFamily, address: object) -> bool:
    with socket.socket(family, socket.SOCK_STREAM) as client:
        return client.connect_ex(address) == 0  # type: ignore[arg-type]


@pytest.mark.ipv6
def test_two_colons_are_both_families() -> None:
    with listening("::", 0) as [sock]:
        port = sock.getsockname()[1]
        assert connects(socket.AF_INET, ("127.0.0.1", port))
        assert connects(socket.AF_INET6, ("::1", port))


def test_a_name_without_an_address_is_a_sentence() -> None:
    with pytest.raises(CantListenError, match=r"^can't listen on no\.such\.host\.invalid: the name has no address"):
        listen("no.such.host.invalid", 0)


def test_a_port_that_is_taken_is_a_sentence() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(CantListenError, match=rf"^can't listen on 127\.0\.0\.1, port {port}: another process"):
            listen("127.0.0.1", port)


def test_a_unix_socket_has_its_mode_and_group_and_is_removed_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "edge.sock"
    group = grp.getgrgid(os.getgid()).gr_name
    with listening(f"unix:{path}", 0, unix_mode="0640", unix_group=group) as sockets:
        assert (0o640, os.getgid()) == (stat.S_IMODE(path.stat().st_mode), path.stat().st_gid)
        assert connects(socket.AF_UNIX, str(path))
        assert [f"unix:{path}"] == urls(sockets, tls=False)
        refuse_exposure(Config(), {}, sockets, "server.host")
        with (
            pytest.raises(CantListenError, match="another process listens there"),
            listening(f"unix:{path}", 0),
        ):
            pass
    assert not path.exists()


def test_a_unix_socket_left_behind_is_replaced_and_another_file_is_not(tmp_path: Path) -> None:
    path = tmp_path / "edge.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as left:
        left.bind(str(path))
    with listening(f"unix:{path}", 0):
        assert connects(socket.AF_UNIX, str(path))
    path.write_text("not a socket")
    with pytest.raises(CantListenError), listening(f"unix:{path}", 0):
        pass
    assert "not a socket" == path.read_text()


def test_the_end_leaves_the_socket_of_a_successor_alone(tmp_path: Path) -> None:
    path = tmp_path / "edge.sock"
    with ExitStack() as predecessor, ExitStack() as successor:
        [sock] = predecessor.enter_context(listening(f"unix:{path}", 0))
        sock.close()
        successor.enter_context(listening(f"unix:{path}", 0))
        predecessor.close()
        assert connects(socket.AF_UNIX, str(path))


def test_an_unknown_group_and_a_missing_folder_are_sentences(tmp_path: Path) -> None:
    with (
        pytest.raises(CantListenError, match="there is no group nosuchgroup"),
        listening(f"unix:{tmp_path}/a", 0, unix_group="nosuchgroup"),
    ):
        pass
    with pytest.raises(CantListenError, match="No such file or directory"), listening(f"unix:{tmp_path}/no/a", 0):
        pass


def refusal(cert: Path, key: Path) -> str:
    config = Config(server=ServerSettings(tls_cert=str(cert), tls_key=str(key)))
    with pytest.raises(ConfigError) as caught:
        tls_context(config, {"server.tls_cert": "edge.toml", "server.tls_key": "edge.toml"})
    return str(caught.value)


@pytest.fixture
def certificate(tmp_path: Path) -> Certificate:
    return certificate_for("localhost", tmp_path)


def test_tls_files_that_cant_be_used_are_named(certificate: Certificate, tmp_path: Path) -> None:
    cert, key = certificate
    other = tmp_path / "other"
    other.mkdir()
    missing, empty = tmp_path / "missing", tmp_path / "empty"
    empty.write_text("nothing")
    from_file = "(from edge.toml): "
    assert f"server.tls_cert = {missing} {from_file}can't read the file: No such file or directory" == refusal(
        missing, key
    )
    assert f"server.tls_key = {missing} {from_file}can't read the file: No such file or directory" == refusal(
        cert, missing
    )
    assert f"server.tls_cert = {empty} {from_file}holds no certificate in PEM format" == refusal(empty, key)
    assert refusal(cert, empty).startswith(f"server.tls_key = {empty} {from_file}holds no private key")
    assert "is not the key of the certificate in server.tls_cert" in refusal(
        cert, certificate_for("localhost", other).key
    )


def test_an_encrypted_key_is_refused_without_asking_for_its_pass_phrase(certificate: Certificate) -> None:
    encrypted = certificate.key.with_name("encrypted.pem")
    subprocess.run(
        ["openssl", "pkey", "-in", certificate.key, "-aes256", "-passout", "pass:secret", "-out", encrypted],
        check=True,
        capture_output=True,
    )
    assert "is encrypted: the hub asks for no pass phrase" in refusal(certificate.cert, encrypted)


def test_a_name_is_judged_by_what_it_resolves_to() -> None:
    """`edge serve` looks at the sockets: the name of this host says nothing by itself."""
    script = (
        "import socket; from edge.server import listening; from edge.config.load import ConfigError, Config\n"
        "sock = socket.create_server(('0.0.0.0', 0))\n"
        "try: listening.refuse_exposure(Config(), {}, [sock], 'server.host')\n"
        "except ConfigError as error: print(error)\n"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env=os.environ)
    assert run.stdout.startswith("server.host = 0.0.0.0")
