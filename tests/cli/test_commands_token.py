from __future__ import annotations

import asyncio
from pathlib import Path

import jwt
import pytest

from edge.auth.tokens import Verifier
from edge.cli import main
from edge.config.schema import AuthSettings
from tests.auth.keys import KINDS, private_pem, public_pem

SECRET = "0123456789abcdef0123456789abcdef"


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert 0 == main.main(["token", *arguments])
    return capsys.readouterr().out.removesuffix("\n")


def test_edge_token_makes_a_token_that_the_hub_accepts(
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
