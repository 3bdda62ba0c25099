"""`edge token`: makes the JSON Web Tokens that a hub with the same configuration takes."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence

import jwt
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from edge.auth import keys
from edge.auth.jwt import CLAIM
from edge.config.schema import AuthSettings

_PREFERRED = ("HS256", "EdDSA", "ES256", "ES384", "ES512", "RS256", "PS256")


def mint(
    auth: AuthSettings,
    grants: Mapping[str, Sequence[str]],
    ttl_seconds: float,
    now: float,
    *,
    private_pem: str | None = None,
    subject: str | None = None,
) -> str:
    """A token with `grants` (projects and prefixes by right) that ends `ttl_seconds` after `now` (Unix seconds).

    Signed with `private_pem` if there is one, else with the shared secret of `auth.jwt_key`; `aud` and `iss` are those
    that `auth` asks for. Raises ValueError, with a sentence.
    """
    material, algorithms = _signing_key(auth, private_pem)
    allowed = [name for name in _preferred(algorithms) if not auth.jwt_algorithms or name in auth.jwt_algorithms]
    if not allowed:
        raise ValueError("the key fits none of auth.jwt_algorithms")
    named = {"sub": subject, "aud": auth.jwt_audience, "iss": auth.jwt_issuer}
    claims: dict[str, object] = {
        "iat": int(now),
        "exp": int(now + ttl_seconds),
        "jti": secrets.token_urlsafe(12),
        CLAIM: {permission: list(projects) for permission, projects in grants.items() if projects},
    }
    claims |= {name: value for name, value in named.items() if value is not None}
    return jwt.encode(claims, material, allowed[0])


def _signing_key(auth: AuthSettings, private_pem: str | None) -> tuple[str | bytes, frozenset[str]]:
    if private_pem is not None:
        try:
            public = load_pem_private_key(private_pem.strip().encode(), password=None).public_key()
        except (ValueError, TypeError):
            raise ValueError("the file contains no unencrypted PEM private key") from None
        return private_pem.strip(), keys.algorithms_of(public)
    if auth.jwt_key is None:
        raise ValueError("no signing key: set auth.jwt_key to a shared secret, or give --key-file")
    key = keys.from_setting(auth.jwt_key, ())
    if not isinstance(key.material, bytes):
        raise ValueError("auth.jwt_key is a public key; give the private one with --key-file")  # noqa: TRY004
    return key.material, key.algorithms


def _preferred(algorithms: frozenset[str]) -> list[str]:
    first = [name for name in _PREFERRED if name in algorithms]
    return first + sorted(algorithms.difference(first))
