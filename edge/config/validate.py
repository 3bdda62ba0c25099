"""What settings may be together: conflicts, which stop the start, and warnings."""

from __future__ import annotations

from collections.abc import Collection
from typing import cast
from urllib.parse import urlsplit

from edge.config.schema import Config, value_of
from edge.config.texts import is_ip, is_local, is_pem
from edge.config.units import format_value

_SHORT_TOKEN_CHARS = 16
# (smaller, larger, why): the first may not be larger than the second.
_ORDER = (
    ("limits.max_event_bytes", "ring.max_bytes", "or an event would not fit its ring"),
    ("limits.max_event_bytes", "limits.max_body_bytes", "or no request could carry the largest event"),
    ("ring.max_bytes", "ring.total_bytes", "or one project could not fill its ring"),
    ("trigger.wait_seconds", "trigger.max_wait_seconds", "which bounds it"),
    (
        "stream.heartbeat_seconds",
        "stream.dead_after_seconds",
        "or a quiet peer would be removed before it gets a heartbeat",
    ),
)
_JWT_KEYS = ("auth.jwt_key", "auth.jwt_jwks_url")
# What has no effect without one of the others.
_NEEDS = (
    ("server.tls_cert", ("server.tls_key",)),
    ("server.tls_key", ("server.tls_cert",)),
    ("hooks.secret", ("hooks.url",)),
    *((f"auth.{name}", _JWT_KEYS) for name in ("jwt_algorithms", "jwt_audience", "jwt_issuer")),
)
EXPOSED = (
    "is an address that other machines can reach, and no permissions are configured: set auth.token (or a JWT key, "
    "auth.jwt_key or auth.jwt_jwks_url), or name the permissions that everyone has in auth.anonymous"
)


def exposed(config: Config, address: str) -> bool:
    """Whether listening on the IP address would open the hub to other machines without authentication."""
    return not config.auth.configured and is_ip(address) and not is_local(address)


def warnings(config: Config) -> list[tuple[str, str]]:
    """What works and is probably not what was meant, as `(key, sentence)`."""
    auth, found = config.auth, []
    if any(len(token) < _SHORT_TOKEN_CHARS for token in auth.token):
        found.append(("auth.token", "A token this short can be guessed; make one with `openssl rand -hex 32`."))
    if auth.jwt_jwks_url is not None:
        url = urlsplit(auth.jwt_jwks_url)
        if url.scheme == "http" and not is_local(url.hostname or ""):
            found.append(
                ("auth.jwt_jwks_url", "The keys are fetched without TLS: anyone on the network path can replace them.")
            )
    if (auth.jwt_key is not None or auth.jwt_jwks_url is not None) and not auth.require_exp:
        found.append(("auth.require_exp", "Tokens without exp are accepted and never expire; set it to refuse them."))
    return found


def conflict(config: Config, configured: Collection[str]) -> tuple[str, str] | None:
    """The first two values that can't be combined: the key to blame and a sentence, or None.

    `configured` are the keys that are set: one of those is blamed, not a default.
    """
    for small, large, why in _ORDER:
        low, high = cast(float, value_of(config, small)), cast(float, value_of(config, large))
        if low > high:
            if small in configured or large not in configured:
                return small, f"must not be larger than {large} ({format_value(large, high)}), {why}"
            return large, f"must not be smaller than {small} ({format_value(small, low)}), {why}"
    for key, others in _NEEDS:
        if value_of(config, key) and not any(value_of(config, other) for other in others):
            return key, f"has no effect without {' or '.join(others)}"
    return _auth_conflict(config)


def _auth_conflict(config: Config) -> tuple[str, str] | None:
    auth = config.auth
    if auth.jwt_key is not None and auth.jwt_jwks_url is not None:
        return "auth.jwt_jwks_url", "can't be combined with auth.jwt_key: there is one source of keys"
    hmac = {name for name in auth.jwt_algorithms if name.startswith("HS")}
    if auth.jwt_key is not None and not is_pem(auth.jwt_key):
        if set(auth.jwt_algorithms) - hmac:
            return "auth.jwt_algorithms", "must be one or more of HS256, HS384, HS512: auth.jwt_key is a shared secret"
    elif hmac:
        return "auth.jwt_algorithms", "must not be HMAC: anyone could sign tokens with the public key as the secret"
    return None
