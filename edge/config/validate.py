"""What a value may be beyond its type and bounds: alone (`TEXT_RULES`) and with the others (`conflict`).

Messages never contain the value: it may be a secret, and the caller knows how to show it.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import re
from collections.abc import Callable, Collection
from typing import cast
from urllib.parse import SplitResult, urlsplit

from edge.config.redis_url import SCHEMES, parse_redis_url
from edge.config.schema import UNIX_PREFIX, Config, value_of
from edge.config.units import format_value

_LABEL = r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_HOST_NAME = re.compile(rf"{_LABEL}(\.{_LABEL})*\.?", re.ASCII)
_BASE_PATH = re.compile(r"(/(?!\.{1,2}(/|$))[A-Za-z0-9._~-]{1,128}){0,16}", re.ASCII)
WILDCARD_ORIGIN = re.compile(r"(https?)://\*((?:\.[a-z0-9-]{1,63})+(?::[0-9]{1,5})?)", re.ASCII)
"""`https://*.example.org`, with or without a port: every subdomain of it, at any depth, but not the domain itself."""
_BEARER = re.compile(r"[A-Za-z0-9._~+/-]+=*", re.ASCII)  # RFC 6750's b64token.
_HMAC = frozenset({"HS256", "HS384", "HS512"})
_PUBLIC_KEY = frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"})
_FILE_MODE = re.compile(r"0?[0-7]{3}", re.ASCII)
_MAX_UNIX_PATH_BYTES = 100  # What fits `sun_path` on every system.
FROM_ENVIRONMENT = "environment"
_SHORT_TOKEN_CHARS = 16
_MIN_HMAC_KEY_BYTES = 32  # RFC 7518, 3.2: no shorter than SHA-256's output.
_SIGNING_SECRET_BYTES = range(24, 65)  # Standard Webhooks: between 24 and 64 bytes.


def _listening_host(text: str) -> str:
    if text.startswith(UNIX_PREFIX):
        path = text.removeprefix(UNIX_PREFIX)
        if not path.startswith("/") or "\0" in path or len(path.encode()) > _MAX_UNIX_PATH_BYTES:
            raise ValueError(f"must be unix: and an absolute path of at most {_MAX_UNIX_PATH_BYTES} bytes")
        return text
    return _host(text)


def _file_mode(text: str) -> str:
    if not _FILE_MODE.fullmatch(text):
        raise ValueError("must be an octal file mode such as 0660")
    return text


def _outbound_proxy(text: str) -> str:
    if text != FROM_ENVIRONMENT:
        url = _http_url(text, f"must be http://HOST:PORT, or {FROM_ENVIRONMENT} for HTTP_PROXY and HTTPS_PROXY")
        if url.scheme != "http" or url.path.strip("/") or url.query:
            raise ValueError(f"must be http://HOST:PORT, or {FROM_ENVIRONMENT} for HTTP_PROXY and HTTPS_PROXY")
    return text


def _host(text: str) -> str:
    if not _is_ip(text) and not _HOST_NAME.fullmatch(text):
        raise ValueError("must be an IP address or a host name, without scheme, port or brackets")
    return text


def _base_path(text: str) -> str:
    if not _BASE_PATH.fullmatch(text):
        raise ValueError("must be a path such as /hub, of letters, digits and . _ ~ -, without a slash at its end")
    return text


def _allowed_host(text: str) -> str:
    return _host(text).lower()


def _network(text: str) -> str:
    try:
        return str(ipaddress.ip_network(text))
    except ValueError as error:
        why = "; there are bits set below the mask" if "host bits" in str(error) else ""
        raise ValueError(f"must be IP addresses or networks such as 10.0.0.0/8{why}") from None


def _origin(text: str) -> str:
    if text == "*" or WILDCARD_ORIGIN.fullmatch(text.lower()):
        return text.lower()
    url = _http_url(text, "must be origins such as https://app.example.org or https://*.example.org, or *")
    if "*" in text:
        raise ValueError("may have one * only, in place of a subdomain: https://*.example.org")
    if url.path or url.query or url.username is not None:
        raise ValueError("must be origins: scheme, host and port, with no path and no slash at the end")
    return text.lower()


def _url(text: str) -> str:
    _http_url(text, "must be an http:// or https:// URL")
    return text


def _http_url(text: str, message: str) -> SplitResult:
    # urlsplit drops tabs and line ends without a word.
    if not text.isprintable() or " " in text:
        raise ValueError(message)
    try:
        url = urlsplit(text)
        port = url.port
    except ValueError:
        raise ValueError(message) from None
    if url.scheme not in ("http", "https") or not url.hostname or port == 0 or url.fragment:
        raise ValueError(message)
    return url


def _token(text: str) -> str:
    if not _BEARER.fullmatch(text):
        raise ValueError("must be letters, digits and . _ ~ + / - (and = at the end), to fit a header")
    return text


def _jwt_key(text: str) -> str:
    if not _is_pem(text) and len(text.encode()) < _MIN_HMAC_KEY_BYTES:
        raise ValueError(f"must be a PEM public key or a shared secret of {_MIN_HMAC_KEY_BYTES} bytes or more")
    if _is_pem(text) and "PRIVATE KEY" in text:
        raise ValueError("is a private key: the hub only verifies, give it the public one")
    return text


def _algorithm(text: str) -> str:
    if text not in _HMAC | _PUBLIC_KEY:
        raise ValueError("must be one or more of " + ", ".join(sorted(_HMAC | _PUBLIC_KEY)))
    return text


def _signing_secret(text: str) -> str:
    try:
        key = base64.b64decode(text.removeprefix("whsec_"), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if len(key) not in _SIGNING_SECRET_BYTES:
        raise ValueError("must be 24 to 64 bytes in base64, such as `openssl rand -base64 32` makes")
    return text


def _store_url(text: str) -> str:
    scheme, colon, path = text.partition(":")
    if text == "memory:":
        return text
    if scheme == "sqlite" and colon:
        if not path.strip("/"):
            raise ValueError("has no path: write sqlite:PATH, such as sqlite:/var/lib/edge/history.db")
    elif scheme in SCHEMES and colon:
        parse_redis_url(text)
    elif scheme == "unix":
        raise ValueError("must be redis+unix:///PATH for a Redis at a Unix socket")
    else:
        raise ValueError("must be memory:, sqlite:PATH such as sqlite:/var/lib/edge/history.db, or redis://HOST:PORT")
    return text


TEXT_RULES: dict[str, Callable[[str], str]] = {
    "server.host": _listening_host,
    "server.unix_mode": _file_mode,
    "server.outbound_proxy": _outbound_proxy,
    "server.base_path": _base_path,
    "server.allowed_hosts": _allowed_host,
    "server.trusted_proxies": _network,
    "trigger.url": _url,
    "trigger.secret": _signing_secret,
    "hooks.url": _url,
    "hooks.secret": _signing_secret,
    "auth.token": _token,
    "auth.jwt_key": _jwt_key,
    "auth.jwt_jwks_url": _url,
    "auth.jwt_algorithms": _algorithm,
    "cors.origins": _origin,
    "store.url": _store_url,
    "metrics.host": _host,
}
"""By `section.key`: takes a text or an item of a list, gives it in its one spelling or raises ValueError."""

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
_PAIRS = (("server.tls_cert", "server.tls_key"), ("server.tls_key", "server.tls_cert"))


EXPOSED = (
    "is an address that other machines can reach, and no permissions are configured: set auth.token (or a JWT key, "
    "auth.jwt_key or auth.jwt_jwks_url), or name the permissions that everyone has in auth.anonymous"
)


def exposed(config: Config, address: str) -> bool:
    """Whether listening on the IP address would open the hub to other machines without authentication."""
    return not config.auth.configured and _is_ip(address) and not _is_local(address)


def warnings(config: Config) -> list[tuple[str, str]]:
    """What works and is probably not what was meant, as `(key, sentence)`."""
    auth, found = config.auth, []
    if any(len(token) < _SHORT_TOKEN_CHARS for token in auth.token):
        found.append(("auth.token", "A token this short can be guessed; make one with `openssl rand -hex 32`."))
    if auth.jwt_jwks_url is not None:
        url = urlsplit(auth.jwt_jwks_url)
        if url.scheme == "http" and not _is_local(url.hostname or ""):
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
    for key, other in _PAIRS:
        if value_of(config, key) is not None and value_of(config, other) is None:
            return key, f"needs {other} as well"
    if config.hooks.secret and config.hooks.url is None:
        return "hooks.secret", "has no effect without hooks.url"
    return _auth_conflict(config)


def _auth_conflict(config: Config) -> tuple[str, str] | None:
    auth = config.auth
    algorithms = set(auth.jwt_algorithms)
    if auth.jwt_key is not None and auth.jwt_jwks_url is not None:
        return "auth.jwt_jwks_url", "can't be combined with auth.jwt_key: there is one source of keys"
    if auth.jwt_key is None and auth.jwt_jwks_url is None:
        for key in ("jwt_algorithms", "jwt_audience", "jwt_issuer"):
            if getattr(auth, key):
                return f"auth.{key}", "has no effect without auth.jwt_key or auth.jwt_jwks_url"
    elif auth.jwt_key is not None and not _is_pem(auth.jwt_key):
        if algorithms & _PUBLIC_KEY:
            return "auth.jwt_algorithms", "must be one or more of HS256, HS384, HS512: auth.jwt_key is a shared secret"
    elif algorithms & _HMAC:
        return "auth.jwt_algorithms", "must not be HMAC: anyone could sign tokens with the public key as the secret"
    return None


def _is_pem(text: str) -> bool:
    return text.lstrip().startswith("-----BEGIN ")


def _is_local(host: str) -> bool:
    return host == "localhost" or (_is_ip(host) and ipaddress.ip_address(host).is_loopback)


def _is_ip(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
