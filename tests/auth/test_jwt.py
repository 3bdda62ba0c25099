from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from typing import Any

import jwt
import pytest

from edge.auth.tokens import Verifier
from edge.config.schema import PERMISSIONS, AuthSettings
from edge.core.errors import Unauthenticated
from tests.auth.keys import ALGORITHM, KINDS, private_pem, public_pem

SECRET = "0123456789abcdef0123456789abcdef"
GRANTS = {"subscribe": ["p1", "team-*"]}


def encoded(claims: dict[str, Any], key: Any = SECRET, algorithm: str = "HS256", **headers: Any) -> str:
    return jwt.encode({"edge": GRANTS, **claims}, key, algorithm, headers=headers or None)


async def refusal(verifier: Verifier, token: str) -> str:
    with pytest.raises(Unauthenticated) as caught:
        await verifier.verify(token)
    assert len(token) < 10 or token not in caught.value.detail
    return caught.value.detail


@pytest.mark.parametrize("algorithm", ["HS256", "HS384", "HS512"])
async def test_a_shared_secret_checks_hmac(algorithm: str) -> None:
    secret = SECRET * 2
    identity = await Verifier(AuthSettings(jwt_key=secret)).verify(encoded({}, secret, algorithm))
    assert identity.permissions.allow("subscribe", "team-7")
    assert not identity.permissions.allow("publish", "team-7")


@pytest.mark.parametrize("kind", KINDS)
async def test_a_public_key_checks_what_its_private_one_signed(kind: str) -> None:
    verifier = Verifier(AuthSettings(jwt_key=public_pem(kind)))
    identity = await verifier.verify(encoded({}, private_pem(kind), ALGORITHM[kind]))
    assert identity.permissions.allow("subscribe", "p1")
    await refusal(verifier, encoded({}, private_pem(kind, 1), ALGORITHM[kind]))


def forged(header: dict[str, Any], claims: dict[str, Any], key: bytes) -> str:
    """A token that PyJWT would refuse to make."""

    def part(document: dict[str, Any]) -> bytes:
        return base64.urlsafe_b64encode(json.dumps(document).encode()).rstrip(b"=")

    signed = part(header) + b"." + part(claims)
    digest = hmac.new(key, signed, hashlib.sha256).digest() if key else b""
    return (signed + b"." + base64.urlsafe_b64encode(digest).rstrip(b"=")).decode()


@pytest.mark.parametrize("kind", KINDS)
async def test_a_public_key_is_never_a_shared_secret(kind: str) -> None:
    pem = public_pem(kind)
    verifier = Verifier(AuthSettings(jwt_key=pem))
    for key in (pem, pem.strip(), pem + "\n"):
        await refusal(verifier, forged({"alg": "HS256", "typ": "JWT"}, {"edge": GRANTS}, key.encode()))


@pytest.mark.parametrize("algorithm", ["none", "None", "NONE", "", "HS1", "RS256", "ES256K", None, 7, ["HS256"]])
async def test_an_algorithm_that_does_not_fit_the_key_is_refused(algorithm: object) -> None:
    verifier = Verifier(AuthSettings(jwt_key=SECRET))
    for key in (b"", SECRET.encode()):
        await refusal(verifier, forged({"alg": algorithm}, {"edge": GRANTS}, key))


async def test_the_named_algorithms_are_the_only_ones() -> None:
    verifier = Verifier(AuthSettings(jwt_key=SECRET * 2, jwt_algorithms=("HS512",)))
    await verifier.verify(encoded({}, SECRET * 2, "HS512"))
    await refusal(verifier, encoded({}, SECRET * 2, "HS256"))


async def test_a_short_secret_is_not_used_with_a_long_hash() -> None:
    with pytest.warns(jwt.InsecureKeyLengthWarning):
        token = encoded({}, SECRET, "HS512")
    await refusal(Verifier(AuthSettings(jwt_key=SECRET)), token)


async def test_time_claims() -> None:
    verifier = Verifier(AuthSettings(jwt_key=SECRET))
    now = time.time()
    for claims in ({"exp": now + 30}, {"nbf": now + 5}, {"iat": now + 5}, {}):
        await verifier.verify(encoded(claims))
    for late_seconds in (1, 5, 30):
        expired = encoded({"exp": now - late_seconds})
        assert "The token has expired; get a new one." == await refusal(verifier, expired)
    assert "not valid yet" in await refusal(verifier, encoded({"nbf": now + 60}))
    assert "not valid yet" in await refusal(verifier, encoded({"iat": now + 60}))
    strict = Verifier(AuthSettings(jwt_key=SECRET, jwt_skew_seconds=0))
    await refusal(strict, encoded({"exp": now - 1}))


async def test_a_token_ends_at_its_exp_whenever_it_is_shown() -> None:
    exp = int(time.time() + 5)
    verifier = Verifier(AuthSettings(jwt_key=SECRET))
    assert exp == (await verifier.verify(encoded({"exp": exp}))).expires_at_seconds
    assert exp == (await verifier.verify(encoded({"exp": exp}))).expires_at_seconds


async def test_a_token_without_exp_is_refused_where_one_is_required() -> None:
    verifier = Verifier(AuthSettings(jwt_key=SECRET, require_exp=True))
    assert "auth.require_exp" in await refusal(verifier, encoded({}))
    await verifier.verify(encoded({"exp": int(time.time() + 60)}))


async def test_audience_and_issuer_are_checked_if_configured() -> None:
    verifier = Verifier(AuthSettings(jwt_key=SECRET, jwt_audience="edge", jwt_issuer="me"))
    await verifier.verify(encoded({"aud": "edge", "iss": "me"}))
    await verifier.verify(encoded({"aud": ["other", "edge"], "iss": "me"}))
    for claims in ({}, {"aud": "edge"}, {"iss": "me"}, {"aud": "other", "iss": "me"}, {"aud": "edge", "iss": "you"}):
        await refusal(verifier, encoded(claims))
    # A token for a named audience is not for a hub without one.
    await refusal(Verifier(AuthSettings(jwt_key=SECRET)), encoded({"aud": "other"}))


@pytest.mark.parametrize("exp", [float("inf"), float("nan"), 1e300, -1, "soon", [], {}, 1 << 70])
async def test_an_exp_that_is_no_date_is_refused(exp: object) -> None:
    await refusal(Verifier(AuthSettings(jwt_key=SECRET)), forged({"alg": "HS256"}, {"exp": exp}, SECRET.encode()))


@pytest.mark.parametrize(
    "claim",
    [[], "subscribe", 7, {"subscribe": "p1"}, {"subscribe": [1]}, {"subscribe": None}, {"x": ["p"] * 3, "y": 1}],
)
async def test_a_claim_of_another_form_is_refused(claim: object) -> None:
    detail = await refusal(Verifier(AuthSettings(jwt_key=SECRET)), encoded({"edge": claim}))
    assert '"edge"' in detail


async def test_a_token_without_permissions_may_do_nothing() -> None:
    token = jwt.encode({"sub": "me"}, SECRET, "HS256")
    identity = await Verifier(AuthSettings(jwt_key=SECRET)).verify(token)
    assert not any(identity.permissions.allow(permission, "p1") for permission in PERMISSIONS)


async def test_a_token_names_a_bounded_number_of_projects() -> None:
    await refusal(Verifier(AuthSettings(jwt_key=SECRET)), encoded({"edge": {"subscribe": ["p"] * 1001}}))


@pytest.mark.parametrize("text", ["crit", "b64"])
async def test_unknown_extensions_are_refused(text: str) -> None:
    header = {"alg": "HS256", "crit": [text], text: False}
    await refusal(Verifier(AuthSettings(jwt_key=SECRET)), forged(header, {"edge": GRANTS}, SECRET.encode()))
