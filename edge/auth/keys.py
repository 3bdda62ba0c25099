"""Keys that verify JSON Web Tokens, from `auth.jwt_key` or fetched from `auth.jwt_jwks_url`.

Invariants:

- A key is of one kind. A shared secret is never taken for a public key nor the other way round, whatever a token's
  header names; a key set from the network holds no shared secrets at all.
- At most one fetch is in progress, and none begins within `COOLDOWN_SECONDS` of the last, whatever tokens come in. Keys
  are looked up in memory; a request waits for a fetch only when it names an unknown key, or when there are none. While
  the issuer is down, the keys it gave last stay valid for a day.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Collection, Sequence
from typing import Any

import aiohttp
import jwt
import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from edge.config.texts import is_pem
from edge.core.errors import KeysUnavailable
from edge.logs.setup import get_logger
from edge.supervisor import Supervisor, end

REFRESH_SECONDS = 300.0
"""A key that was withdrawn is refused this much later."""
COOLDOWN_SECONDS = 10.0
STALE_SECONDS = 86_400.0
FETCH_SECONDS = 5.0
MAX_BYTES = 256 * 1024
MAX_KEYS = 64
_MIN_RSA_BITS = 2048
# RFC 7518, 3.2: a key is no shorter than the hash; with a short one the longer hash gains nothing.
_HMAC_BYTES = {"HS256": 32, "HS384": 48, "HS512": 64}
_RSA = frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"})
_CURVES = {"secp256r1": frozenset({"ES256"}), "secp384r1": frozenset({"ES384"}), "secp521r1": frozenset({"ES512"})}
_EDDSA = frozenset({"EdDSA"})
_PRIVATE_PARTS = frozenset({"d", "p", "q", "dp", "dq", "qi"})
_log = get_logger("auth")


class Key(msgspec.Struct, frozen=True):
    """One key: its name in a set, what PyJWT takes, what it may be used with. Its `repr` shows no secret."""

    kid: str | None
    material: Any
    algorithms: frozenset[str]

    def __repr__(self) -> str:
        return f"Key(kid={self.kid!r}, algorithms={sorted(self.algorithms)})"


def from_setting(text: str, wanted: Collection[str]) -> Key:
    """The key of `auth.jwt_key`, for the algorithms `wanted` (none: all that fit). Raises ValueError."""
    if not is_pem(text):
        secret = text.encode()
        fitting = frozenset(name for name, least_bytes in _HMAC_BYTES.items() if len(secret) >= least_bytes)
        return Key(None, secret, _limited(fitting, wanted))
    try:
        material = load_pem_public_key(text.strip().encode())
    except (ValueError, UnsupportedAlgorithm):
        raise ValueError("is not a public key in PEM; `openssl pkey -in private.pem -pubout` writes one") from None
    return Key(None, material, _limited(algorithms_of(material), wanted))


def from_set(document: object, wanted: Collection[str]) -> list[Key]:
    """The usable keys of a JSON Web Key Set; others (encryption, shared secrets, unknown kinds) are passed over.

    Raises ValueError for anything but a key set.
    """
    listed = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(listed, list):
        raise ValueError("is not a JSON Web Key Set")  # noqa: TRY004 - one kind of refusal
    if len(listed) > MAX_KEYS:
        raise ValueError(f"holds more than {MAX_KEYS} keys")
    return [key for entry in listed if (key := _from_entry(entry, wanted)) is not None]


def _from_entry(entry: object, wanted: Collection[str]) -> Key | None:
    if not isinstance(entry, dict) or entry.get("kty") == "oct" or entry.get("use", "sig") != "sig":
        return None
    kid, named = entry.get("kid"), entry.get("alg")
    public = {name: value for name, value in entry.items() if name not in _PRIVATE_PARTS and name != "alg"}
    try:
        material = jwt.PyJWK.from_dict(public).key
        fitting = algorithms_of(material)
        fitting = _limited(fitting & {named} if named is not None else fitting, wanted)
    except (jwt.PyJWTError, UnsupportedAlgorithm, ValueError, TypeError, KeyError):
        return None  # of a kind that isn't read here: a set may hold keys for others
    return Key(kid if isinstance(kid, str) else None, material, fitting)


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


def _limited(fitting: frozenset[str], wanted: Collection[str]) -> frozenset[str]:
    if wanted and not (fitting := fitting & frozenset(wanted)):
        raise ValueError("fits none of auth.jwt_algorithms")
    return fitting


# --- the keys in use ---


class Keys:
    """Keys that stay as they are; `generation` grows when they change."""

    def __init__(self, keys: Sequence[Key]) -> None:
        self._keys = keys
        self.generation = 0

    def refresh(self) -> None:
        """Fetch stale keys again, in the background; called for each token."""

    async def find(self, kid: str | None, algorithm: str) -> list[Key]:
        """Keys a token that names `kid` may be signed with. Raises KeysUnavailable when there are none at all."""
        return [key for key in self._keys if algorithm in key.algorithms and (kid is None or key.kid in (kid, None))]

    async def close(self) -> None:
        """Cancel a fetch under way."""


class FetchedKeys(Keys):
    """The keys at `url`. `clock` gives seconds."""

    def __init__(
        self, url: str, wanted: Collection[str], clock: Callable[[], float], supervisor: Supervisor, proxy: str | None
    ) -> None:
        super().__init__(())
        self._proxy = proxy
        self._tls = ssl.create_default_context()
        self._url = url
        self._wanted = wanted
        self._clock = clock
        self._supervisor = supervisor
        self._document: bytes | None = None
        self._fetched_at: float | None = None
        self._tried_at: float | None = None
        self.fetching: asyncio.Task[None] | None = None

    async def close(self) -> None:
        await end(self.fetching)

    def refresh(self) -> None:
        if self._age_seconds() >= REFRESH_SECONDS:
            self._begin()

    async def find(self, kid: str | None, algorithm: str) -> list[Key]:
        self.refresh()
        found = await super().find(kid, algorithm)
        if self._age_seconds() >= STALE_SECONDS or not found:
            self._begin()
            if self.fetching is not None:
                # Not awaited itself: the fetch belongs to all who wait for it, and the supervisor reports its errors.
                await asyncio.wait((self.fetching,))
            found = await super().find(kid, algorithm)
        if self._age_seconds() >= STALE_SECONDS:
            raise KeysUnavailable(
                "The keys that verify tokens are unavailable; the hub's log says why.",
                retry_after_seconds=COOLDOWN_SECONDS,
            )
        return found

    def _age_seconds(self) -> float:
        return STALE_SECONDS if self._fetched_at is None else self._clock() - self._fetched_at

    def _begin(self) -> None:
        cooling = self._tried_at is not None and self._clock() - self._tried_at < COOLDOWN_SECONDS
        if not cooling and (self.fetching is None or self.fetching.done()):
            self._tried_at = self._clock()
            self.fetching = self._supervisor.start("jwks", self._fetch())

    async def _fetch(self) -> None:
        try:
            document = await self._read()
            found = from_set(msgspec.json.decode(document), self._wanted)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            _log.warning("keys_not_fetched", reason=type(error).__name__, keys=len(self._keys))
            return
        except (ValueError, RecursionError) as error:  # msgspec's errors are ValueErrors
            _log.warning("keys_not_fetched", reason=f"the answer {error}", keys=len(self._keys))
            return
        self._fetched_at = self._clock()
        if document != self._document:
            self._document, self._keys = document, found
            self.generation += 1
            _log.info("keys_fetched", keys=len(found))

    async def _read(self) -> bytes:
        """The document, bounded in time and size; redirects are not followed."""
        timeout = aiohttp.ClientTimeout(total=FETCH_SECONDS)
        headers = {"User-Agent": "edge", "Accept": "application/json", "Accept-Encoding": "identity"}
        async with (
            aiohttp.ClientSession(
                timeout=timeout, headers=headers, cookie_jar=aiohttp.DummyCookieJar(), auto_decompress=False
            ) as session,
            session.get(self._url, allow_redirects=False, proxy=self._proxy, ssl=self._tls) as response,
        ):
            if response.status != 200:
                raise ValueError(f"has status {response.status}")
            body = bytearray()
            async for piece in response.content.iter_chunked(MAX_BYTES):
                body += piece
                if len(body) > MAX_BYTES:
                    raise ValueError(f"is longer than {MAX_BYTES} bytes")
            return bytes(body)
