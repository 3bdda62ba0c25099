from __future__ import annotations

import time

import pytest

from edge.auth.permissions import ALL_PERMISSIONS
from edge.auth.tokens import Verifier
from edge.config.schema import AuthSettings
from edge.core.errors import EdgeError
from tests.auth.test_jwt import SECRET, encoded, refusal


async def test_the_static_token_has_all_permissions() -> None:
    verifier = Verifier(AuthSettings(token=("abc",)))
    assert (await verifier.verify("abc")).permissions is ALL_PERMISSIONS
    for wrong in ("", "ab", "abcd", "ABC", "a.b.c", "\udcff", "é" * 9000):
        await refusal(verifier, wrong)


async def test_what_was_checked_is_remembered_no_longer_than_the_token_lives() -> None:
    now = time.time()
    verifier = Verifier(AuthSettings(jwt_key=SECRET, jwt_skew_seconds=0))
    assert verifier.webtokens is not None
    token = encoded({"exp": int(now + 60)})
    first = await verifier.verify(token)
    assert first is await verifier.verify(token)
    verifier._now = verifier.webtokens._now = lambda: now + 61
    with pytest.raises(EdgeError):
        # PyJWT asks its own clock, which says that the token is good; ours has the last word.
        await verifier.verify(token)


async def test_the_memory_of_checked_tokens_is_bounded() -> None:
    verifier = Verifier(AuthSettings(jwt_key=SECRET))
    for number in range(1100):
        await verifier.verify(encoded({"jti": str(number)}))
    assert len(verifier._remembered) <= 1024


@pytest.mark.parametrize(
    "pem", ["-----BEGIN PUBLIC KEY-----\nMCow\n-----END PUBLIC KEY-----\n", "-----BEGIN CERTIFICATE-----\n-----END"]
)
def test_an_invalid_key_is_reported_without_showing_it(pem: str) -> None:
    with pytest.raises(ValueError, match="PEM") as caught:
        Verifier(AuthSettings(jwt_key=pem))
    assert "MCow" not in str(caught.value)
    assert caught.value.__suppress_context__
