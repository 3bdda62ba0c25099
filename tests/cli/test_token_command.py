from __future__ import annotations

import asyncio
import os
import stat
import subprocess
import sys
from pathlib import Path

import jwt
import pytest

from edge.auth.tokens import Verifier
from edge.cli import main
from edge.config.load import ConfigError, describe, load
from edge.config.schema import AuthSettings
from tests.auth.keys import KINDS, private_pem, public_pem

SECRET = "0123456789abcdef0123456789abcdef"


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert 0 == main.main(["token", *arguments])
    return capsys.readouterr().out.removesuffix("\n")


def test_edge_token_makes_what_the_hub_takes(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGE_AUTH_JWT_KEY", SECRET)
    monkeypatch.setenv("EDGE_AUTH_JWT_AUDIENCE", "edge")
    token = printed(capsys, "--subscribe", "p1,team-*", "--subscribe", "p2", "--publish", "p1", "--metrics")
    claims = jwt.decode(token, SECRET, ["HS256"], audience="edge")
    assert {"subscribe": ["p1", "team-*", "p2"], "publish": ["p1"], "metrics": ["*"]} == claims["edge"]
    assert 3600 == claims["exp"] - claims["iat"]
    permissions = asyncio.run(Verifier(AuthSettings(jwt_key=SECRET, jwt_audience="edge")).verify(token)).permissions
    assert (True, False, True) == (
        permissions.allow("publish", "p1"),
        permissions.allow("publish", "p2"),
        permissions.allow("metrics", None),
    )


@pytest.mark.parametrize("kind", KINDS)
def test_edge_token_signs_with_a_private_key_from_a_file(
    kind: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "private.pem"
    path.write_text(private_pem(kind))
    token = printed(capsys, "--subscribe", "p1", "--ttl", "10m", "--subject", "me", "--key-file", str(path))
    identity = asyncio.run(Verifier(AuthSettings(jwt_key=public_pem(kind))).verify(token))
    assert identity.permissions.allow("subscribe", "p1")


@pytest.mark.parametrize(
    ("arguments", "environment", "sentence"),
    [
        ((), {"EDGE_AUTH_JWT_KEY": SECRET}, "a token without permissions is useless"),
        (("--subscribe", "p1"), {}, "no signing key"),
        (("--subscribe", "p1"), {"EDGE_AUTH_JWT_KEY": public_pem("Ed25519")}, "is a public key"),
        (("--subscribe", "p1", "--ttl", "soon"), {"EDGE_AUTH_JWT_KEY": SECRET}, "--ttl must be a duration"),
        (("--subscribe", "p1", "--ttl", "0"), {"EDGE_AUTH_JWT_KEY": SECRET}, "--ttl must be 1s or more"),
        (("--subscribe", "*p1"), {"EDGE_AUTH_JWT_KEY": SECRET}, "is neither a project id nor a prefix"),
        (("--subscribe", "p1", "--key-file", "/nowhere"), {}, "--key-file can't read the file"),
        (("--subscribe", "p1", "--key-file", __file__), {}, "no unencrypted PEM private key"),
    ],
)
def test_edge_token_says_in_one_line_what_is_wrong(
    arguments: tuple[str, ...],
    environment: dict[str, str],
    sentence: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert 2 == main.main(["token", *arguments])
    output = capsys.readouterr()
    assert ("", 1) == (output.out, output.err.count("\n"))
    assert sentence in output.err
    assert SECRET not in output.err


# --- secrets in files ---


@pytest.mark.parametrize("key", ["auth.token", "auth.jwt_key", "trigger.secret"])
def test_a_secret_is_read_from_the_file_that_is_named(key: str, tmp_path: Path) -> None:
    secret = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="
    path = tmp_path / "secret"
    path.write_text(secret + "\n")
    path.chmod(stat.S_IRUSR)
    variable = f"EDGE_{key.replace('.', '_').upper()}_FILE"
    config, sources = load(None, {variable: str(path)}, {})
    section, _, name = key.partition(".")
    assert getattr(getattr(config, section), name) in (secret, (secret,))
    assert str(path) == sources[key]
    assert secret not in describe(config, sources)
    assert secret not in repr(config)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "can't read the file: No such file"),
        (b"", "names an empty file"),
        (b"\n", "names an empty file"),
        (b"\xff\xfe", "looks like UTF-16"),
        (b"\xfc", "is not UTF-8"),
        (b"a" * 65537, "more than 65536 bytes"),
        (b"two words", "to fit a header"),
    ],
)
def test_a_file_without_a_secret_stops_the_start(content: bytes | None, sentence: str, tmp_path: Path) -> None:
    path = tmp_path / "secret"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        load(None, {"EDGE_AUTH_TOKEN_FILE": str(path)}, {})
    line = str(caught.value)
    assert sentence in line
    assert "two words" not in line


def test_a_secret_and_its_file_are_one_too_many(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"auth\.token_file .* can't be combined with auth\.token"):
        load(None, {"EDGE_AUTH_TOKEN_FILE": "/run/t", "EDGE_AUTH_TOKEN": "abc"}, {})


# --- standing open ---


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "192.168.1.7"])
@pytest.mark.parametrize("command", ["serve", "check-config"])
def test_a_hub_does_not_stand_open_on_a_public_address(
    host: str, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert 2 == main.main([command, "--host", host, "--port", "0"])
    error = capsys.readouterr().err
    assert f"edge: server.host = {host} (from --host)" in error
    assert "auth.token" in error
    assert "auth.anonymous" in error


@pytest.mark.parametrize("variable", ["AUTH_TOKEN=abc", "AUTH_ANONYMOUS=subscribe", f"AUTH_JWT_KEY={SECRET}"])
def test_it_listens_there_once_permissions_are_configured(
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
def test_a_key_that_no_token_can_be_checked_with_stops_the_start(
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


def test_a_name_is_judged_by_what_it_resolves_to() -> None:
    """`serve` looks at the sockets: the name of this host says nothing by itself."""
    script = (
        "import socket; from edge.server import listening; from edge.config.load import ConfigError, Config\n"
        "sock = socket.create_server(('0.0.0.0', 0))\n"
        "try: listening.refuse_exposure(Config(), {}, [sock], 'server.host')\n"
        "except ConfigError as error: print(error)\n"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env=os.environ)
    assert "edge: server.host = 0.0.0.0" in run.stdout
