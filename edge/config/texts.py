"""What each kind of text in a setting may be: functions that return it in its one spelling, or raise ValueError.

Invariant: no message, and no `repr`, contains a part of the text: it may be a secret.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

UNIX_PREFIX = "unix:"
FROM_ENVIRONMENT = "environment"
WILDCARD_ORIGIN = re.compile(r"(https?)://\*((?:\.[a-z0-9-]{1,63})+(?::[0-9]{1,5})?)", re.ASCII)
"""`https://*.example.org`, with or without a port: every subdomain of it, at any depth, but not the domain itself."""
_LABEL = r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_HOST_NAME = re.compile(rf"{_LABEL}(\.{_LABEL})*\.?", re.ASCII)
_MAX_UNIX_PATH_BYTES = 100  # What fits `sun_path` on every system.
_MIN_HMAC_KEY_BYTES = 32  # RFC 7518, 3.2: no shorter than SHA-256's output.
_SIGNING_SECRET_BYTES = range(24, 65)  # Standard Webhooks: between 24 and 64 bytes.
_ORIGINS = "must be origins such as https://app.example.org or https://*.example.org, or *"
_PROXY = f"must be http://HOST:PORT, or {FROM_ENVIRONMENT} for HTTP_PROXY and HTTPS_PROXY"


def _matching(pattern: str, message: str) -> Callable[[str], str]:
    compiled = re.compile(pattern, re.ASCII)

    def check(text: str) -> str:
        if not compiled.fullmatch(text):
            raise ValueError(message)
        return text

    return check


file_mode = _matching(r"0?[0-7]{3}", "must be an octal file mode such as 0660")
base_path = _matching(
    r"(/(?!\.{1,2}(/|$))[A-Za-z0-9._~-]{1,128}){0,16}",
    "must be a path such as /hub, of letters, digits and . _ ~ -, without a slash at its end",
)
token = _matching(  # RFC 6750's b64token.
    r"[A-Za-z0-9._~+/-]+=*", "must be letters, digits and . _ ~ + / - (and = at the end), to fit a header"
)


def host(text: str) -> str:
    if not is_ip(text) and not _HOST_NAME.fullmatch(text):
        raise ValueError("must be an IP address or a host name, without scheme, port or brackets")
    return text


def allowed_host(text: str) -> str:
    return host(text).lower()


def listening_host(text: str) -> str:
    if not text.startswith(UNIX_PREFIX):
        return host(text)
    path = text.removeprefix(UNIX_PREFIX)
    if not path.startswith("/") or "\0" in path or len(path.encode()) > _MAX_UNIX_PATH_BYTES:
        raise ValueError(f"must be unix: and an absolute path of at most {_MAX_UNIX_PATH_BYTES} bytes")
    return text


def network(text: str) -> str:
    try:
        return str(ipaddress.ip_network(text))
    except ValueError as error:
        why = "; there are bits set below the mask" if "host bits" in str(error) else ""
        raise ValueError(f"must be IP addresses or networks such as 10.0.0.0/8{why}") from None


def url(text: str) -> str:
    _http_url(text, "must be an http:// or https:// URL")
    return text


def outbound_proxy(text: str) -> str:
    if text != FROM_ENVIRONMENT:
        found = _http_url(text, _PROXY)
        if found.scheme != "http" or found.path.strip("/") or found.query:
            raise ValueError(_PROXY)
    return text


def origin(text: str) -> str:
    if text == "*" or WILDCARD_ORIGIN.fullmatch(text.lower()):
        return text.lower()
    found = _http_url(text, _ORIGINS)
    if "*" in text:
        raise ValueError("may have one * only, in place of a subdomain: https://*.example.org")
    if found.path or found.query or found.username is not None:
        raise ValueError("must be origins: scheme, host and port, with no path and no slash at the end")
    return text.lower()


def _http_url(text: str, message: str) -> SplitResult:
    # urlsplit drops tabs and line ends without a word.
    if not text.isprintable() or " " in text:
        raise ValueError(message)
    try:
        found = urlsplit(text)
        port = found.port
    except ValueError:
        raise ValueError(message) from None
    if found.scheme not in ("http", "https") or not found.hostname or port == 0 or found.fragment:
        raise ValueError(message)
    return found


def jwt_key(text: str) -> str:
    if is_pem(text) and "PRIVATE KEY" in text:
        raise ValueError("is a private key: the hub only verifies, give it the public one")
    if not is_pem(text) and len(text.encode()) < _MIN_HMAC_KEY_BYTES:
        raise ValueError(f"must be a PEM public key or a shared secret of {_MIN_HMAC_KEY_BYTES} bytes or more")
    return text


def signing_secret(text: str) -> str:
    try:
        key = base64.b64decode(text.removeprefix("whsec_"), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if len(key) not in _SIGNING_SECRET_BYTES:
        raise ValueError("must be 24 to 64 bytes in base64, such as `openssl rand -base64 32` makes")
    return text


def store_url(text: str) -> str:
    scheme, colon, path = text.partition(":")
    if text == "memory:":
        return text
    if scheme == "sqlite" and colon:
        if not path.strip("/"):
            raise ValueError("has no path: write sqlite:PATH, such as sqlite:/var/lib/edge/history.db")
    elif scheme in REDIS_SCHEMES and colon:
        parse_redis_url(text)
    elif scheme == "unix":
        raise ValueError("must be redis+unix:///PATH for a Redis at a Unix socket")
    else:
        raise ValueError("must be memory:, sqlite:PATH such as sqlite:/var/lib/edge/history.db, or redis://HOST:PORT")
    return text


# --- what a text is ---


def is_pem(text: str) -> bool:
    return text.lstrip().startswith("-----BEGIN ")


def is_ip(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def is_local(name: str) -> bool:
    """Whether a name or address is this machine's, without resolving it."""
    if is_ip(name):
        return ipaddress.ip_address(name).is_loopback
    return name == "localhost" or name.endswith(".localhost")


# --- where a Redis is ---

REDIS_SCHEMES = ("redis", "rediss", "redis+unix", "redis+sentinel", "rediss+sentinel")
_DEFAULT_PREFIX = "edge:"
_PORT, _SENTINEL_PORT = 6379, 26379
_MAX_NUMBER = 65_535
_PREFIX = re.compile(r"[A-Za-z0-9._:-]{1,64}", re.ASCII)
_REDIS_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::([0-9]{1,5}))?", re.ASCII)
_SERVICE = re.compile(r"[A-Za-z0-9._-]+", re.ASCII)
_UNESCAPED = "has a character in its user or password that must be percent-encoded: / is %2F, ? is %3F, # is %23"


@dataclass(frozen=True)
class RedisAddress:
    """Where a Redis is, and which part of it belongs to this hub."""

    scheme: str
    hosts: tuple[tuple[str, int], ...] = ()
    """Redis itself, or the Sentinels. Empty for a Unix socket."""
    path: str = ""
    """The Unix socket."""
    service: str = ""
    """What the Sentinels call the primary."""
    database: int = 0
    prefix: str = _DEFAULT_PREFIX
    ca_file: str | None = None
    username: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)
    sentinel_password: str | None = field(default=None, repr=False)

    @property
    def tls(self) -> bool:
        return self.scheme.startswith("rediss")

    def __str__(self) -> str:
        """The URL without its user and passwords."""
        hosts = ",".join(f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in self.hosts)
        database = f"?db={self.database}" if self.path else f"/{self.database}"
        service = f"/{self.service}" if self.service else ""
        prefix = "" if self.prefix == _DEFAULT_PREFIX else f"{'&' if self.path else '?'}prefix={self.prefix}"
        return f"{self.scheme}://{hosts}{self.path}{service}{database}{prefix}"


def parse_redis_url(text: str) -> RedisAddress:
    """A Redis `store.url`. Raises ValueError with what to do about it.

    redis://USER:PASSWORD@HOST:6379/0?prefix=NAME&ca=FILE        rediss:// with TLS
    redis+unix:///run/redis/redis.sock?db=0&prefix=NAME          redis+unix://USER:PASSWORD@/PATH
    redis+sentinel://HOST:26379,HOST:26379/SERVICE/0?prefix=NAME  rediss+sentinel:// with TLS
    """
    scheme, separator, rest = text.partition("://")
    if scheme not in REDIS_SCHEMES or not separator or not text.isprintable() or " " in text:
        raise ValueError("must be written redis://HOST:PORT/DATABASE")
    unix, sentinel = scheme == "redis+unix", "sentinel" in scheme
    before_query, _, query = rest.partition("?")
    location, _, path = before_query.partition("/")
    if "@" in path or "@" in query or "#" in rest:
        raise ValueError(_UNESCAPED)
    credentials, at, hosts = location.rpartition("@")
    username, _, password = credentials.partition(":")
    if at and not password:
        raise ValueError("names a user and no password: write USER:PASSWORD@ or :PASSWORD@ before the host")
    if unix and (hosts or not path.strip("/")):
        raise ValueError("must be written redis+unix:///PATH?db=DATABASE")
    service, _, database = path.partition("/") if sentinel else ("", "", "" if unix else path)
    if sentinel and not _SERVICE.fullmatch(service):
        raise ValueError(f"must be written {scheme}://HOST:{_SENTINEL_PORT},HOST:{_SENTINEL_PORT}/SERVICE/DATABASE")
    options = _redis_options(query, sentinel=sentinel)
    if database and "db" in options:
        raise ValueError("names its database twice: leave out the parameter db")
    database = database or options.get("db", "0")
    if not (database.isascii() and database.isdecimal() and int(database) <= _MAX_NUMBER):
        raise ValueError("has a database that is not a number, as in /0")
    prefix = options.get("prefix", _DEFAULT_PREFIX)
    if not _PREFIX.fullmatch(prefix):
        raise ValueError("has a prefix that is not 1 to 64 letters, digits and . _ : -")
    return RedisAddress(
        scheme=scheme,
        hosts=() if unix else _redis_hosts(hosts, sentinel=sentinel),
        path=f"/{unquote(path)}" if unix else "",
        service=service,
        database=int(database),
        prefix=prefix if prefix.endswith(":") else f"{prefix}:",
        ca_file=options.get("ca"),
        username=unquote(username) or None,
        password=unquote(password) or None,
        sentinel_password=options.get("sentinel_password"),
    )


def _redis_options(query: str, *, sentinel: bool) -> dict[str, str]:
    known = ("db", "prefix", "ca", *(("sentinel_password",) if sentinel else ()))
    pairs = parse_qsl(query, keep_blank_values=True)
    options = dict(pairs)
    if not options.keys() <= set(known):
        raise ValueError(f"has an unknown parameter; the known ones are {', '.join(known)}")
    if len(options) != len(pairs) or "" in options.values() or (query and not pairs):
        raise ValueError("has a parameter twice or without a value")
    return options


def _redis_hosts(text: str, *, sentinel: bool) -> tuple[tuple[str, int], ...]:
    found = []
    for part in text.split(",") if sentinel else (text,):
        match = _REDIS_HOST.fullmatch(part)
        port = int(match[2] or (_SENTINEL_PORT if sentinel else _PORT)) if match else 0
        if match is None or not 1 <= port <= _MAX_NUMBER:
            raise ValueError(
                "has a host that is not a name or an IP address, or a port that is not a number from 1 to 65535"
                if part.partition(":")[0]
                else "names no host"
            )
        found.append((match[1].strip("[]"), port))
    return tuple(found)
