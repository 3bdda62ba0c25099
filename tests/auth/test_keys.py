from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import jwt
import pytest
from aiohttp import web

from edge.auth import keys
from edge.auth.jwt import JwtVerifier
from edge.auth.tokens import Verifier
from edge.config.schema import AuthSettings
from edge.core.errors import KeysUnavailable, Unauthenticated
from edge.supervisor import Supervisor
from tests.auth.keys import ALGORITHM, jwk, private_pem
from tests.security.hub import Config, code_of, running

CLAIMS = {"edge": {"subscribe": ["p1"]}}


class Issuer:
    """An issuer's key set on a server of its own, and a clock that the verifier believes."""

    def __init__(self) -> None:
        self.document: Any = {"keys": [jwk("P-256", kid="a")]}
        self.status = 200
        self.headers: dict[str, str] = {}
        self.requests = 0
        self.now = 1_000_000.0
        self.held: asyncio.Event | None = None
        self.url = ""

    async def answer(self, _request: web.Request) -> web.Response:
        self.requests += 1
        if self.held is not None:
            await self.held.wait()
        body = self.document if isinstance(self.document, bytes) else json.dumps(self.document).encode()
        return web.Response(status=self.status, body=body, headers=self.headers)

    def webtokens(self, supervisor: Supervisor | None = None, **more: Any) -> JwtVerifier:
        return JwtVerifier(AuthSettings(jwt_jwks_url=self.url, **more), lambda: self.now, supervisor)


@asynccontextmanager
async def issuing() -> AsyncIterator[Issuer]:
    issuer = Issuer()
    app = web.Application()
    app.router.add_get("/{anything:.*}", issuer.answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    issuer.url = f"http://127.0.0.1:{runner.addresses[0][1]}/keys.json"
    try:
        yield issuer
    finally:
        if issuer.held is not None:
            issuer.held.set()
        await runner.cleanup()


def is_fetching(webtokens: JwtVerifier) -> bool:
    assert isinstance(webtokens.keys, keys.FetchedKeys)
    return webtokens.keys.fetching is not None and not webtokens.keys.fetching.done()


def signed(kind: str, number: int, kid: str | None, algorithm: str | None = None) -> str:
    headers = {"kid": kid} if kid is not None else None
    return jwt.encode(CLAIMS, private_pem(kind, number), algorithm or ALGORITHM[kind], headers=headers)


async def test_keys_are_fetched_once_for_many_tokens() -> None:
    async with issuing() as issuer:
        webtokens = issuer.webtokens()
        await asyncio.gather(*(webtokens.verify(signed("P-256", 0, "a")) for _ in range(50)))
        assert 1 == issuer.requests
        await webtokens.keys.close()


async def test_a_new_key_is_fetched_when_a_token_names_it() -> None:
    async with issuing() as issuer:
        webtokens = issuer.webtokens()
        await webtokens.verify(signed("P-256", 0, "a"))
        issuer.document = {"keys": [jwk("P-256", kid="a"), jwk("P-256", 1, kid="b")]}
        issuer.now += keys.COOLDOWN_SECONDS
        identity = await webtokens.verify(signed("P-256", 1, "b"))
        assert identity.permissions.allow("subscribe", "p1")
        assert 2 == issuer.requests
        await webtokens.keys.close()


async def test_unknown_keys_cause_one_fetch_per_cooldown() -> None:
    async with issuing() as issuer:
        webtokens = issuer.webtokens()
        for number in range(100):
            with pytest.raises(Unauthenticated):
                await webtokens.verify(signed("P-256", 1, f"made-up-{number}"))
        assert 1 == issuer.requests
        await webtokens.keys.close()


async def test_a_withdrawn_key_is_refused_after_the_next_fetch() -> None:
    async with issuing() as issuer:
        webtokens = issuer.webtokens()
        token = signed("P-256", 0, "a")
        await webtokens.verify(token)
        issuer.document = {"keys": [jwk("P-256", 1, kid="b")]}
        issuer.now += keys.REFRESH_SECONDS
        await webtokens.verify(signed("P-256", 1, "b"))
        with pytest.raises(Unauthenticated):
            await webtokens.verify(token)
        await webtokens.keys.close()


async def test_a_request_does_not_wait_for_a_routine_fetch() -> None:
    async with issuing() as issuer:
        webtokens = issuer.webtokens()
        await webtokens.verify(signed("P-256", 0, "a"))
        issuer.held = asyncio.Event()
        issuer.now += keys.REFRESH_SECONDS
        await webtokens.verify(signed("P-256", 0, "a"))
        await webtokens.keys.close()


@pytest.mark.parametrize(
    ("status", "document"),
    [
        (500, b"{}"),
        (302, b""),
        (200, b"not json"),
        (200, b"\xff\xfe"),
        (200, b"[" * 100_000),
        (200, b'{"keys": 7}'),
        (200, b"[]"),
        (200, b" " * (keys.MAX_BYTES + 1)),
        (200, json.dumps({"keys": [{}] * 65}).encode()),
    ],
)
async def test_when_the_issuer_fails_its_last_keys_are_used_for_a_day(status: int, document: bytes) -> None:
    async with issuing() as issuer:
        webtokens = issuer.webtokens()
        await webtokens.verify(signed("P-256", 0, "a"))
        issuer.status, issuer.document = status, document
        issuer.headers = {"Location": "/elsewhere"} if status == 302 else {}
        issuer.now += keys.STALE_SECONDS - 1
        await webtokens.verify(signed("P-256", 0, "a"))
        while issuer.requests < 2 or is_fetching(webtokens):
            await asyncio.sleep(0.01)
        issuer.now += 1 + keys.COOLDOWN_SECONDS
        with pytest.raises(KeysUnavailable):
            await webtokens.verify(signed("P-256", 0, "a"))
        assert 3 == issuer.requests
        await webtokens.keys.close()


async def test_an_unreachable_issuer_is_keys_unavailable() -> None:
    verifier = Verifier(AuthSettings(jwt_jwks_url="http://127.0.0.1:1/keys.json"))
    verifier.start()
    with pytest.raises(KeysUnavailable) as caught:
        await verifier.verify(signed("P-256", 0, "a"))
    assert keys.COOLDOWN_SECONDS == caught.value.retry_after_seconds
    await verifier.close()


async def test_a_compressed_key_set_is_not_unpacked() -> None:
    async with issuing() as issuer:
        issuer.document = gzip.compress(b" " * 10_000_000 + json.dumps(issuer.document).encode())
        issuer.headers = {"Content-Encoding": "gzip"}
        with pytest.raises(KeysUnavailable):
            await issuer.webtokens().verify(signed("P-256", 0, "a"))


async def test_a_key_set_holds_no_shared_secrets_and_nothing_to_encrypt_with() -> None:
    async with issuing() as issuer:
        secret = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY"
        issuer.document = {
            "keys": [
                {"kty": "oct", "k": secret, "kid": "s", "alg": "HS256"},
                jwk("RSA", kid="e", use="enc"),
                {"kty": "EC", "crv": "P-256", "x": "!", "y": "!", "kid": "broken"},
                {"kty": "unheard-of", "kid": "x"},
                7,
                jwk("RSA", kid="r", alg="RS512"),
            ]
        }
        webtokens = issuer.webtokens()
        assert (await webtokens.verify(signed("RSA", 0, "r", "RS512"))).permissions.allow("subscribe", "p1")
        hmac_token = jwt.encode(CLAIMS, "0123456789abcdef0123456789abcdef", "HS256", headers={"kid": "s"})
        for token in (hmac_token, signed("RSA", 0, "e"), signed("RSA", 0, "r", "RS256")):
            with pytest.raises(Unauthenticated):
                await webtokens.verify(token)
        await webtokens.keys.close()


async def test_a_token_without_a_key_id_is_tried_with_every_key_that_fits() -> None:
    async with issuing() as issuer:
        issuer.document = {"keys": [jwk("P-256", 1, kid="b"), jwk("RSA", kid="r"), jwk("P-256", kid="a")]}
        webtokens = issuer.webtokens()
        assert (await webtokens.verify(signed("P-256", 0, None))).permissions.allow("subscribe", "p1")
        await webtokens.keys.close()


async def test_unavailable_keys_are_a_503_with_retry_after() -> None:
    config = Config(auth=AuthSettings(jwt_jwks_url="http://127.0.0.1:1/keys.json"))
    async with running(config) as hub:
        headers = {"Authorization": f"Bearer {signed('P-256', 0, 'a')}"}
        async with hub.client.get(f"{hub.url}/projects", headers=headers) as response:
            assert (503, "keys_unavailable") == await code_of(response)
            assert "10" == response.headers["Retry-After"]


def test_a_key_shows_no_secret() -> None:
    secret = "0123456789abcdef0123456789abcdef"
    assert secret not in repr(keys.from_setting(secret, ()))
