"""What a bearer token is worth: the static token, or a JSON Web Token.

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
from edge.supervisor import Supervisor

if TYPE_CHECKING:
    from edge.auth.jwt import JwtVerifier

MAX_TOKEN_CHARS = 8192
"""A header's own bound; a cookie or a ticket is no longer either."""
_STATIC = Identity(ALL_PERMISSIONS, None, "token")


class UnusableKey(ValueError):
    """`auth.jwt_key` can't be used; the text says why and holds nothing of it."""


class Verifier:
    """Checks tokens against the configuration. Raises UnusableKey."""

    def __init__(self, auth: AuthSettings, supervisor: Supervisor | None = None) -> None:
        self._static_digest = None if auth.token is None else _digest(auth.token)
        self.webtokens: JwtVerifier | None = None
        if auth.jwt_key is not None or auth.jwt_jwks_url is not None:
            from edge.auth.jwt import JwtVerifier  # noqa: PLC0415 - cryptography takes a while to load

            try:
                self.webtokens = JwtVerifier(auth, time.time, supervisor)
            except ValueError as error:
                raise UnusableKey(str(error)) from None

    async def verify(self, token: str) -> Identity:
        """Whose `token` is. Raises Unauthenticated, or KeysUnavailable while the issuer's keys can't be had."""
        if len(token) > MAX_TOKEN_CHARS:
            raise Unauthenticated("The token is too long to be one.")
        if (identity := self.static(token)) is not None:
            return identity
        if self.webtokens is not None and token.count(".") == 2:
            return await self.webtokens.verify(token)
        raise Unauthenticated("The hub doesn't know this token; check that it is whole, and meant for this hub.")

    def static(self, token: str) -> Identity | None:
        """Whose `token` is, if it is the static one."""
        # Digests of equal length: neither the time nor the length of a comparison says anything.
        if self._static_digest is not None and hmac.compare_digest(_digest(token), self._static_digest):
            return _STATIC
        return None

    def start(self) -> None:
        """Fetch what has to be fetched, in the background."""
        if self.webtokens is not None:
            self.webtokens.start()

    async def close(self) -> None:
        if self.webtokens is not None:
            await self.webtokens.close()


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
