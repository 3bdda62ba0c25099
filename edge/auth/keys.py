"""Keys that JSON Web Tokens are checked with, and the algorithms each may be used with.

Invariant: a key is of one kind. A shared secret is never taken for a public key nor the other way round, whatever a
token's header asks for; a key set from the network holds no shared secrets at all.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import jwt
import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import load_pem_public_key

MAX_KEYS = 64
_MIN_RSA_BITS = 2048
# RFC 7518, 3.2: a key is no shorter than the hash; with a short one the longer hash gains nothing.
_HMAC_BYTES = {"HS256": 32, "HS384": 48, "HS512": 64}
_RSA = frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"})
_CURVES = {"secp256r1": frozenset({"ES256"}), "secp384r1": frozenset({"ES384"}), "secp521r1": frozenset({"ES512"})}
_EDDSA = frozenset({"EdDSA"})


class Key(msgspec.Struct, frozen=True):
    """One key: its name in a set, what PyJWT takes, what it may be used with. Its `repr` shows no secret."""

    kid: str | None
    material: Any
    algorithms: frozenset[str]

    def __repr__(self) -> str:
        return f"Key(kid={self.kid!r}, algorithms={sorted(self.algorithms)})"


def from_setting(text: str, wanted: Collection[str]) -> Key:
    """The key of `auth.jwt_key`, for the algorithms `wanted` (none: all that fit). Raises ValueError."""
    if not text.lstrip().startswith("-----BEGIN "):
        secret = text.encode()
        fitting = frozenset(name for name, least_bytes in _HMAC_BYTES.items() if len(secret) >= least_bytes)
        return _limited(Key(None, secret, fitting), wanted)
    try:
        material = load_pem_public_key(text.strip().encode())
    except (ValueError, UnsupportedAlgorithm):
        raise ValueError("is not a public key in PEM; `openssl pkey -in private.pem -pubout` writes one") from None
    return _limited(Key(None, material, algorithms_of(material)), wanted)


def from_set(document: object, wanted: Collection[str]) -> list[Key]:
    """The usable keys of a JSON Web Key Set; others (encryption, shared secrets, unknown kinds) are passed over.

    Raises ValueError for anything but a key set.
    """
    listed = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(listed, list):
        raise ValueError("is not a JSON Web Key Set")  # noqa: TRY004 - one kind of refusal
    if len(listed) > MAX_KEYS:
        raise ValueError(f"holds more than {MAX_KEYS} keys")
    found = []
    for entry in listed:
        key = _from_entry(entry, wanted)
        if key is not None:
            found.append(key)
    return found


def _from_entry(entry: object, wanted: Collection[str]) -> Key | None:
    if not isinstance(entry, dict) or entry.get("kty") == "oct" or entry.get("use", "sig") != "sig":
        return None
    kid, named = entry.get("kid"), entry.get("alg")
    public = {name: value for name, value in entry.items() if name not in ("d", "p", "q", "dp", "dq", "qi", "alg")}
    try:
        material = jwt.PyJWK.from_dict(public).key
        fitting = algorithms_of(material)
        return _limited(
            Key(kid if isinstance(kid, str) else None, material, fitting & {named} if named is not None else fitting),
            wanted,
        )
    except (jwt.PyJWTError, UnsupportedAlgorithm, ValueError, TypeError, KeyError):
        return None  # of a kind that isn't read here: a set may hold keys for others


def algorithms_of(material: object) -> frozenset[str]:
    """What a public key may be used with. Raises ValueError for a kind that isn't taken."""
    match material:
        case rsa.RSAPublicKey():
            if material.key_size < _MIN_RSA_BITS:
                raise ValueError(f"is an RSA key of less than {_MIN_RSA_BITS} bits")
            return _RSA
        case ec.EllipticCurvePublicKey() if material.curve.name in _CURVES:
            return _CURVES[material.curve.name]
        case ed25519.Ed25519PublicKey() | ed448.Ed448PublicKey():
            return _EDDSA
        case _:
            raise ValueError("must be an RSA key, a key on P-256, P-384 or P-521, or an Ed25519 or Ed448 one")


def _limited(key: Key, wanted: Collection[str]) -> Key:
    algorithms = key.algorithms & frozenset(wanted) if wanted else key.algorithms
    if not algorithms:
        raise ValueError("fits none of auth.jwt_algorithms")
    return Key(key.kid, key.material, algorithms)
