"""Parse a Redis `store.url`. The only place that knows its syntax.

    redis://USER:PASSWORD@HOST:6379/0?prefix=NAME&ca=FILE        rediss:// with TLS
    redis+unix:///run/redis/redis.sock?db=0&prefix=NAME          redis+unix://USER:PASSWORD@/PATH
    redis+sentinel://HOST:26379,HOST:26379/SERVICE/0?prefix=NAME  rediss+sentinel:// with TLS

Invariant: no message and no `repr` contains a part of the URL that could be a secret.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, unquote

SCHEMES = ("redis", "rediss", "redis+unix", "redis+sentinel", "rediss+sentinel")
DEFAULT_PREFIX = "edge:"
_PORT, _SENTINEL_PORT = 6379, 26379
_MAX_DATABASE = 65_535
_PREFIX = re.compile(r"[A-Za-z0-9._:-]{1,64}", re.ASCII)
_HOST = re.compile(r"\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+", re.ASCII)
_SERVICE = re.compile(r"[A-Za-z0-9._-]+", re.ASCII)
_SYNTAX = "must be written redis://HOST:PORT/DATABASE"
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
    prefix: str = DEFAULT_PREFIX
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
        prefix = "" if self.prefix == DEFAULT_PREFIX else f"{'&' if self.path else '?'}prefix={self.prefix}"
        return f"{self.scheme}://{hosts}{self.path}{service}{database}{prefix}"


def parse_redis_url(text: str) -> RedisAddress:
    """Raises ValueError with what to do about it."""
    scheme, separator, rest = text.partition("://")
    if scheme not in SCHEMES or not separator or not text.isprintable() or " " in text:
        raise ValueError(_SYNTAX)
    before_query, _, query = rest.partition("?")
    location, _, path = before_query.partition("/")
    if "@" in path or "@" in query or "#" in rest:
        raise ValueError(_UNESCAPED)
    credentials, at, hosts = location.rpartition("@")
    username, colon, password = credentials.partition(":")
    if at and not (colon and password):
        raise ValueError("names a user and no password: write USER:PASSWORD@ or :PASSWORD@ before the host")
    options = _options(query, sentinel="sentinel" in scheme)
    service, database = "", path
    if scheme == "redis+unix":
        if hosts or not path.strip("/"):
            raise ValueError("must be written redis+unix:///PATH?db=DATABASE")
        path, database = f"/{unquote(path)}", ""
    elif "sentinel" in scheme:
        service, _, database = path.partition("/")
        path = ""
        if not _SERVICE.fullmatch(service):
            raise ValueError(f"must be written {scheme}://HOST:{_SENTINEL_PORT},HOST:{_SENTINEL_PORT}/SERVICE/DATABASE")
    else:
        path = ""
    if database and "db" in options:
        raise ValueError("names its database twice: leave out the parameter db")
    return RedisAddress(
        scheme=scheme,
        hosts=() if path else _hosts(hosts, sentinel=bool(service)),
        path=path,
        service=service,
        database=_number(
            database or options.get("db", ""), 0, _MAX_DATABASE, "a database that is not a number, as in /0"
        ),
        prefix=_prefix(options.get("prefix")),
        ca_file=options.get("ca"),
        username=unquote(username) or None,
        password=unquote(password) or None,
        sentinel_password=options.get("sentinel_password"),
    )


def _options(query: str, *, sentinel: bool) -> dict[str, str]:
    known = ("db", "prefix", "ca", *(("sentinel_password",) if sentinel else ()))
    pairs = parse_qsl(query, keep_blank_values=True)
    options = dict(pairs)
    if not options.keys() <= set(known):
        raise ValueError(f"has an unknown parameter; the known ones are {', '.join(known)}")
    if len(options) != len(pairs) or "" in options.values() or (query and not pairs):
        raise ValueError("has a parameter twice or without a value")
    return options


def _hosts(text: str, *, sentinel: bool) -> tuple[tuple[str, int], ...]:
    found = []
    for part in text.split(",") if sentinel else (text,):
        host, colon, port = part, "", ""
        if not part.endswith("]"):
            host, colon, port = part.rpartition(":") if ":" in part else (part, "", "")
        if not _HOST.fullmatch(host):
            raise ValueError("names no host" if not host else "has a host that is not a name or an IP address")
        number = _number(port, _SENTINEL_PORT if sentinel else _PORT, _MAX_DATABASE, "a port that is not a number")
        if not number or (colon and not port):
            raise ValueError("has a port that is not a number from 1 to 65535")
        found.append((host.strip("[]"), number))
    return tuple(found)


def _number(text: str, default: int, highest: int, what: str) -> int:
    if not text:
        return default
    if not (text.isascii() and text.isdecimal() and int(text) <= highest):
        raise ValueError(f"has {what}")
    return int(text)


def _prefix(text: str | None) -> str:
    if text is None:
        return DEFAULT_PREFIX
    if not _PREFIX.fullmatch(text):
        raise ValueError("has a prefix that is not 1 to 64 letters, digits and . _ : -")
    return text if text.endswith(":") else f"{text}:"
