"""Bearer tokens: static ones, and JSON Web Tokens.

A token that was verified is remembered by its text for a minute (a signature takes up to 100 µs, a digest and its
comparison two): never beyond its own end, never over a change of the keys. Only good tokens are remembered, so how
long a look-up takes says nothing of one that isn't.

Invariant: whatever is sent, the answer is an `Identity` or a refusal; nothing of a token is ever repeated in it.
"""

from __future__ import annotations

import hashlib
import hmac
import time
from typing import TYPE_CHECKING

from edge.auth.permissions import ALL_PERMISSIONS, Identity
from edge.config.schema import AuthSettings
from edge.core.errors import Unauthenticated

if TYPE_CHECKING:
    from edge.auth.jwt import JwtVerifier
    from edge.supervisor import Supervisor

MAX_TOKEN_CHARS = 8192
"""The bound of a header, and of a cookie or ticket."""
_REMEMBER_SECONDS = 60.0
_MAX_REMEMBERED = 1024
_STATIC = Identity(ALL_PERMISSIONS)


class Verifier:
    """Checks tokens against the configuration. Raises ValueError if `auth.jwt_key` can't be used; its text says why and
    holds nothing of the key.
    """

    def __init__(self, auth: AuthSettings, supervisor: Supervisor | None = None, proxy: str | None = None) -> None:
        """`proxy`: the URL of the HTTP proxy through which an issuer's keys are fetched."""
        self._static_digests = [_digest(token) for token in auth.token]
        self._now = time.time
        self.webtokens: JwtVerifier | None = None
        if auth.jwt_key is not None or auth.jwt_jwks_url is not None:
            from edge.auth.jwt import JwtVerifier  # noqa: PLC0415 - cryptography takes a while to load

            self.webtokens = JwtVerifier(auth, time.time, supervisor, proxy)
        self._remembered: dict[str, tuple[Identity, float, int]] = {}
        """By token: its identity, until when that is remembered (Unix seconds), and the generation of the keys."""

    def _generation(self) -> int:
        """A number that grows when the keys change. Has stale ones fetched in the background."""
        if self.webtokens is None:
            return 0
        self.webtokens.keys.refresh()
        return self.webtokens.keys.generation

    def remembered(self, token: str) -> Identity | None:
        """The identity behind `token`, if that was verified within the last minute and can't have changed."""
        found = self._remembered.get(token)
        if found is None:
            return None
        identity, until, generation = found
        if self._now() < until and generation == self._generation():
            return identity
        del self._remembered[token]
        return None

    async def verify(self, token: str) -> Identity:
        """The identity behind `token`. Raises Unauthenticated, KeysUnavailable."""
        identity = self.remembered(token)
        if identity is None:
            identity = await self._verify(token)
            until = self._now() + _REMEMBER_SECONDS
            if identity.expires_at_seconds is not None:
                until = min(until, identity.expires_at_seconds)
            if len(self._remembered) >= _MAX_REMEMBERED:
                self._remembered.clear()
            self._remembered[token] = (identity, until, self._generation())
        return identity

    async def _verify(self, token: str) -> Identity:
        if len(token) > MAX_TOKEN_CHARS:
            raise Unauthenticated("The token is too long.")
        # Digests of equal length: neither the time nor the length of a comparison says anything.
        digest = _digest(token)
        matches = [hmac.compare_digest(digest, known) for known in self._static_digests]
        if any(matches):
            return _STATIC
        if self.webtokens is not None and token.count(".") == 2:
            return await self.webtokens.verify(token)
        raise Unauthenticated("Unknown token; check that it is complete and meant for this hub.")

    def start(self) -> None:
        """Fetch what has to be fetched, in the background."""
        self._generation()

    async def close(self) -> None:
        if self.webtokens is not None:
            await self.webtokens.keys.close()


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
