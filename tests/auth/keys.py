"""Key pairs of every kind that is taken, made once: RSA takes a while."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

KINDS = ("RSA", "P-256", "P-384", "P-521", "Ed25519", "Ed448")
ALGORITHM = {"RSA": "RS256", "P-256": "ES256", "P-384": "ES384", "P-521": "ES512", "Ed25519": "EdDSA", "Ed448": "EdDSA"}


@cache
def private(kind: str, number: int = 0) -> Any:
    """A private key; another for another `number`."""
    makers: dict[str, Any] = {
        "RSA": lambda: rsa.generate_private_key(65537, 2048),
        "P-256": lambda: ec.generate_private_key(ec.SECP256R1()),
        "P-384": lambda: ec.generate_private_key(ec.SECP384R1()),
        "P-521": lambda: ec.generate_private_key(ec.SECP521R1()),
        "Ed25519": ed25519.Ed25519PrivateKey.generate,
        "Ed448": ed448.Ed448PrivateKey.generate,
    }
    return makers[kind]()


def private_pem(kind: str, number: int = 0) -> str:
    pem: bytes = private(kind, number).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return pem.decode()


def public_pem(kind: str, number: int = 0) -> str:
    pem: bytes = private(kind, number).public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return pem.decode()


def jwk(kind: str, number: int = 0, **more: str) -> dict[str, Any]:
    """The public half as an entry of a key set."""
    algorithm = jwt.get_algorithm_by_name(ALGORITHM[kind])
    written = algorithm.to_jwk(private(kind, number).public_key())
    return {**json.loads(written), **more}
