"""JSON Web Tokens, verified and made (`edge token`) with PyJWT.

Invariant: the key decides which algorithms are allowed, never the token; no claim is used before the signature has been
verified. `edge.auth.tokens` remembers what was verified.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jwt
import msgspec
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from edge.auth import keys
from edge.auth.permissions import Identity, Permissions
from edge.config.schema import PERMISSIONS, AuthSettings
from edge.core.errors import Unauthenticated
from edge.logs.text import one_line, shorten
from edge.supervisor import Supervisor

CLAIM = "edge"
_PREFERRED = frozenset({"HS256", "EdDSA", "ES256", "ES384", "ES512", "RS256"})  # one for each kind of key
_MAX_GRANTS = 1000
_MAX_SUBJECT_CHARS = 256
_MAX_TIME = 1 << 40  # beyond any date that fits a calendar

_EXPIRED = "The token has expired; get a new one."

_REFUSALS = (
    (jwt.ExpiredSignatureError, _EXPIRED),
    (jwt.ImmatureSignatureError, "The token is not valid yet; check the clocks of both machines."),
    (jwt.MissingRequiredClaimError, "The token lacks a required claim (aud or iss)."),
    (jwt.InvalidAudienceError, "The token is for another audience."),
    (jwt.InvalidIssuerError, "The token is from another issuer."),
    (Exception, "The token is not a valid JSON Web Token."),
)
"""Why a token was refused, without repeating any of it."""
# What PyJWT raises, and what it lets through from the parsers below it: deep nesting, `Infinity`, lone surrogates.
_BROKEN = (jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError, KeyError, AttributeError)


class JwtVerifier:
    """Verifies JSON Web Tokens. `now` returns Unix seconds. Raises ValueError for an unusable key."""

    def __init__(
        self,
        auth: AuthSettings,
        now: Callable[[], float],
        supervisor: Supervisor | None = None,
        proxy: str | None = None,
    ) -> None:
        self._auth = auth
        self._now = now
        self.keys = (
            keys.FetchedKeys(auth.jwt_jwks_url, auth.jwt_algorithms, now, supervisor or Supervisor(), proxy)
            if auth.jwt_jwks_url is not None
            else keys.Keys([keys.from_setting(auth.jwt_key or "", auth.jwt_algorithms)])
        )

    async def verify(self, token: str) -> Identity:
        """Return the identity behind `token`. Raises Unauthenticated, KeysUnavailable."""
        claims = await self._claims(token)
        expires = claims.get("exp")
        if expires is not None:
            expires = float(expires)
            if not 0 <= expires < _MAX_TIME:
                raise Unauthenticated("The token's exp is not a date.")
            # No leeway here: a token shown late would outlive one shown early (RFC 7519, section 4.1.4).
            if expires <= self._now():
                raise Unauthenticated(_EXPIRED)
        elif self._auth.require_exp:
            raise Unauthenticated("The token has no exp, and this hub requires one (auth.require_exp).")
        subject = claims.get("sub")
        named = one_line(shorten(subject, _MAX_SUBJECT_CHARS)) if isinstance(subject, str) else None
        return Identity(_permissions(claims.get(CLAIM, {})), expires, named)

    async def _claims(self, token: str) -> dict[str, Any]:
        try:
            header = jwt.get_unverified_header(token)
        except _BROKEN:
            raise Unauthenticated("The token is not a JSON Web Token.") from None
        algorithm, kid = header.get("alg"), header.get("kid")
        if not isinstance(algorithm, str) or not (kid is None or isinstance(kid, str)):
            raise Unauthenticated("The token's header is not a JSON Web Token header.")
        candidates = await self.keys.find(kid, algorithm)
        if not candidates:
            raise Unauthenticated("The token is signed with a key or algorithm that this hub does not accept.")
        refusal = "The token's signature doesn't match."
        for key in candidates:
            try:
                return jwt.decode(
                    token,
                    key.material,
                    algorithms=[algorithm],
                    audience=self._auth.jwt_audience,
                    issuer=self._auth.jwt_issuer,
                    leeway=self._auth.jwt_skew_seconds,  # how far `nbf` and `iat` may lie in the future
                    options={"verify_sub": False, "verify_jti": False},
                )
            except jwt.InvalidSignatureError:
                continue
            except _BROKEN as error:
                refusal = next(text for kind, text in _REFUSALS if isinstance(error, kind))
                break
        raise Unauthenticated(refusal)


def _permissions(claim: object) -> Permissions:
    """The permissions of the claim `edge`; unknown ones grant nothing."""
    try:
        grants = msgspec.convert(claim, dict[str, list[str]])
    except (msgspec.ValidationError, RecursionError):
        raise Unauthenticated(
            'The claim "edge" must map permissions to lists of projects, such as {"subscribe": ["p1", "team-*"]}.'
        ) from None
    known = {permission: grants[permission] for permission in PERMISSIONS if permission in grants}
    if sum(map(len, known.values())) > _MAX_GRANTS:
        raise Unauthenticated(f'The claim "edge" names more than {_MAX_GRANTS} projects; use a prefix.')
    return Permissions(known)


# --- tokens for clients ---


def mint(
    auth: AuthSettings,
    grants: Mapping[str, Sequence[str]],
    ttl_seconds: float,
    now: float,
    *,
    private_pem: str | None = None,
    subject: str | None = None,
) -> str:
    """A token with `grants` (projects and prefixes by permission) that ends `ttl_seconds` after `now` (Unix seconds).

    Signed with `private_pem` if there is one, else with the shared secret of `auth.jwt_key`; `aud` and `iss` are those
    that `auth` asks for. Raises ValueError, with a sentence.
    """
    material, algorithms = _signing_key(auth, private_pem)
    fitting = algorithms.intersection(auth.jwt_algorithms or algorithms)
    if not fitting:
        raise ValueError("the key fits none of auth.jwt_algorithms")
    algorithm = min(fitting, key=lambda name: (name not in _PREFERRED, name))
    named = {"sub": subject, "aud": auth.jwt_audience, "iss": auth.jwt_issuer}
    claims: dict[str, object] = {
        "iat": int(now),
        "exp": int(now + ttl_seconds),
        "jti": secrets.token_urlsafe(12),
        CLAIM: {permission: list(projects) for permission, projects in grants.items() if projects},
    }
    claims |= {name: value for name, value in named.items() if value is not None}
    return jwt.encode(claims, material, algorithm)


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
        raise ValueError("auth.jwt_key is a public key; give the private one with --key-file")  # noqa: TRY004 - one kind of refusal
    return key.material, key.algorithms
