"""Every setting, in one place: its type, default, bounds, what its text may be and, beside it, the reason.

From this `edge.config.load` reads a file, the environment and flags, and `check-config` shows them; a test holds
`docs/configuration.md` to it. A setting's unit is the end of its name: `_seconds`, `_bytes`, `_ms`. The annotations are
checked when a configuration is loaded, not when a struct is built in code.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Annotated, ClassVar, Literal, cast, get_args

import msgspec
from msgspec import Meta, inspect
from msgspec.structs import replace

from edge.config import texts
from edge.core.limits import Limits

_CORE = Limits()
"""The core writes its defaults once."""
_KIB = 1024
_MIB = 1024 * _KIB
_HOUR_SECONDS = 3600.0
_DAY_SECONDS = 24 * _HOUR_SECONDS
_YEAR_SECONDS = 365 * _DAY_SECONDS

Bytes = Annotated[int, Meta(ge=1, le=1024**4)]  # A terabyte: more is a slip of the keyboard.
Count = Annotated[int, Meta(ge=1, le=1_000_000_000)]
Port = Annotated[int, Meta(ge=0, le=65535)]  # 0 takes a free one.
Permission = Literal["subscribe", "publish", "trigger", "status", "admin", "metrics"]
PERMISSIONS: tuple[str, ...] = get_args(Permission)
Algorithm = Literal[
    "HS256", "HS384", "HS512", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"
]
Trait = Literal["secret", "url", "file", "reload"]
"""`secret`: never shown, whole or in part. `url`: may carry a secret (a password, an Inngest event key in the path), so
scheme and host are shown. `file`: may be in a file that `<key>_file` names. `reload`: SIGHUP applies a change.
"""
MASK = "***"
# With a / in its password, a URL has an @ behind what looks like its host: nothing of it is shown.
_URL = re.compile(r"(?P<scheme>[A-Za-z]+://)([^/?#@]*@)?(?P<host>[^/?#@]+)([/?#][^@]*)?")


def _is(check: Callable[[str], str] | None, *traits: Trait) -> Meta:
    return Meta(extra={"check": check, "traits": traits})


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One section: a frozen struct whose `repr` shows no secret. `reload`: SIGHUP applies changes to all of it."""

    reload: ClassVar[bool] = False

    def __rich_repr__(self) -> list[tuple[str, object]]:
        section = type(self).__name__.removesuffix("Settings").lower()
        return [(name, mask(f"{section}.{name}", getattr(self, name))) for name in self.__struct_fields__]

    def __repr__(self) -> str:
        fields = ", ".join(f"{name}={value!r}" for name, value in self.__rich_repr__())
        return f"{type(self).__name__}({fields})"


class ServerSettings(Section, frozen=True):
    host: Annotated[str, _is(texts.listening_host)] = "127.0.0.1"
    port: Port = 8080
    # Who may connect to a Unix socket: its owner and group.
    unix_mode: Annotated[str, _is(texts.file_mode)] = "0660"
    unix_group: str | None = None
    base_path: Annotated[str, _is(texts.base_path)] | None = None  # For proxies that can't strip a prefix.
    tls_cert: Annotated[str, _is(None, "reload")] | None = None
    tls_key: Annotated[str, _is(None, "reload")] | None = None
    # Streams get `edge.closing` and a moment to end; systemd and Docker wait 10 s or more.
    drain_seconds: Annotated[float, Meta(ge=0, le=_HOUR_SECONDS)] = 5.0
    allowed_hosts: tuple[Annotated[str, _is(texts.allowed_host, "reload")], ...] = ()
    trusted_proxies: tuple[Annotated[str, _is(texts.network, "reload")], ...] = ()
    page: bool = True
    log_format: Literal["console", "json"] = "console"
    log_level: Annotated[Literal["debug", "info", "warning", "error"], _is(None, "reload")] = "info"
    access_log: bool = False
    # What `trigger.url`, `hooks.url` and `auth.jwt_jwks_url` are reached through. Nothing is read from the environment
    # unasked: a proxy that Docker or a shell sets for downloads would get every job.
    outbound_proxy: Annotated[str, _is(texts.outbound_proxy, "url")] | None = None


class StreamSettings(Section, frozen=True):
    # Below every common proxy's idle time-out: nginx 60 s, AWS and Heroku 55-60 s, some mobile networks 30 s.
    heartbeat_seconds: Annotated[float, Meta(ge=0.05, le=_HOUR_SECONDS)] = _CORE.heartbeat_seconds
    # Two heartbeats: a peer that missed one may be late, one that missed two is gone.
    dead_after_seconds: Annotated[float, Meta(ge=0.1, le=_DAY_SECONDS)] = _CORE.dead_after_seconds
    # 0 would make every browser reconnect in a tight loop.
    retry_ms: Annotated[int, Meta(ge=1, le=3_600_000)] = _CORE.retry_ms
    max_lifetime_seconds: Annotated[float, Meta(ge=0, le=_YEAR_SECONDS)] = 0.0  # 0: no limit.


class RingSettings(Section, frozen=True):
    max_events: Count = _CORE.max_events
    max_bytes: Bytes = _CORE.max_bytes
    max_age_seconds: Annotated[float, Meta(ge=0.001, le=_YEAR_SECONDS)] = _CORE.max_age_seconds
    total_bytes: Bytes = _CORE.total_bytes


_LEAST_SHARE = 100


class LimitsSettings(Section, frozen=True):
    reload = True
    max_event_bytes: Bytes = 256 * _KIB
    # A whole JSON or text body. Four times an event: JSON has fields around it and may write `\uXXXX`.
    max_body_bytes: Bytes = _MIB
    # At 2 KiB of ours and some 6 KiB of the kernel's each, 50,000 fill less than half a gigabyte and stay
    # under the usual 65,536 descriptors. No "0 = unlimited": out of descriptors a server accepts no connection.
    max_connections: Count = _CORE.max_connections
    # Under half of the whole, so that one project can't lock out all others.
    max_connections_per_project: Count = _CORE.max_connections_per_project
    # 0 = no limit, as behind a proxy or a company's NAT every client has the same address.
    max_connections_per_address: Annotated[int, Meta(ge=0, le=1_000_000_000)] = _CORE.max_connections_per_address
    max_projects: Count = _CORE.max_projects
    # A remembered receipt is about 500 bytes: 50 MB when full.
    max_idempotency_keys: Count = 100_000
    idempotency_seconds: Annotated[float, Meta(ge=1, le=_DAY_SECONDS)] = 600.0
    # Triggers, publishers and readiness requests that wait at one time, each a request held open.
    max_waiting: Count = 10_000
    # A connection that is idle, headers, and a body, each; as long as nginx' own keep-alive, and longer than the
    # 60 s for which proxies keep their connections to us, so that none is closed just when it is used again.
    idle_seconds: Annotated[float, Meta(ge=0.05, le=_HOUR_SECONDS)] = 75.0
    # Between two pieces of an NDJSON request: a worker may think for minutes. An empty line keeps one open.
    ndjson_idle_seconds: Annotated[float, Meta(ge=0.05, le=_DAY_SECONDS)] = 600.0
    # Unused tickets, each valid for a minute, about 500 bytes each.
    max_tickets: Count = 10_000
    # What one project may take of each table of the whole hub: tickets, idempotency keys, waiting requests.
    project_share_percent: Annotated[int, Meta(ge=1, le=100)] = 25

    def project_share(self, table: int) -> int:
        """How many of `table` entries one project may take. A small table is not divided."""
        return min(table, max(_LEAST_SHARE, table * self.project_share_percent // 100))


class TriggerSettings(Section, frozen=True):
    reload = True
    url: Annotated[str, _is(texts.url, "url", "file")] | None = None
    format: Literal["json", "inngest", "cloudevents"] = "json"
    wait_seconds: Annotated[float, Meta(ge=0, le=_HOUR_SECONDS)] = 3.0
    # Most proxies and load balancers end an unanswered request after 60 s.
    max_wait_seconds: Annotated[float, Meta(ge=0, le=_HOUR_SECONDS)] = 60.0
    timeout_seconds: Annotated[float, Meta(ge=0.01, le=_HOUR_SECONDS)] = 10.0
    retries: Annotated[int, Meta(ge=0, le=20)] = 3
    # Signed with each, so that one can replace another.
    secret: tuple[Annotated[str, _is(texts.signing_secret, "secret", "file")], ...] = ()


class AuthSettings(Section, frozen=True):
    reload = True
    # All are good, so that one can replace another.
    token: tuple[Annotated[str, _is(texts.token, "secret", "file")], ...] = ()
    jwt_key: Annotated[str, _is(texts.jwt_key, "secret", "file")] | None = None
    jwt_jwks_url: Annotated[str, _is(texts.url, "url")] | None = None
    jwt_algorithms: tuple[Algorithm, ...] = ()  # Empty: what the kind of key calls for.
    jwt_audience: str | None = None
    jwt_issuer: str | None = None
    # How far `nbf` and `iat` may lie in the future; clocks set by NTP differ by less. `exp` has no leeway.
    jwt_skew_seconds: Annotated[float, Meta(ge=0, le=600)] = 10.0
    require_exp: bool = False
    anonymous: tuple[Permission, ...] = ()

    @property
    def configured(self) -> bool:
        """Whether permissions are configured; if not, everything is open to this machine and closed to all others."""
        return bool(self.token or self.jwt_key or self.jwt_jwks_url or self.anonymous)


class CorsSettings(Section, frozen=True):
    reload = True
    origins: tuple[Annotated[str, _is(texts.origin)], ...] = ()


class HooksSettings(Section, frozen=True):
    url: Annotated[str, _is(texts.url, "url", "file")] | None = None
    secret: tuple[Annotated[str, _is(texts.signing_secret, "secret", "file")], ...] = ()
    # Longer than a page takes to reload, or a client to reconnect after `stream.retry_ms`.
    grace_seconds: Annotated[float, Meta(ge=0, le=_HOUR_SECONDS)] = 5.0


class StoreSettings(Section, frozen=True):
    url: Annotated[str, _is(texts.store_url, "url", "file")] = "memory:"
    durability: Literal["async", "commit"] = "async"
    # Long enough to join a burst into one write, short enough that a crash costs no more than a blink.
    flush_ms: Annotated[int, Meta(ge=1, le=60_000)] = 20


class MetricsSettings(Section, frozen=True):
    # An address of its own for `/metrics`, for Prometheus alone; without a port it is served beside everything else.
    host: Annotated[str, _is(texts.host)] = "127.0.0.1"
    port: Port | None = None
    # Each is three time series, and another project every day is three more for ever: Prometheus keeps them all.
    top_projects: Annotated[int, Meta(ge=0, le=1000)] = 0


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole configuration; `Config()` is the defaults. `edge.config.load.load` makes a checked one."""

    server: ServerSettings = ServerSettings()
    stream: StreamSettings = StreamSettings()
    ring: RingSettings = RingSettings()
    limits: LimitsSettings = LimitsSettings()
    trigger: TriggerSettings = TriggerSettings()
    auth: AuthSettings = AuthSettings()
    cors: CorsSettings = CorsSettings()
    hooks: HooksSettings = HooksSettings()
    store: StoreSettings = StoreSettings()
    metrics: MetricsSettings = MetricsSettings()


def value_of(config: Config, key: str) -> object:
    """The value of the key `section.name`."""
    section, _, name = key.partition(".")
    value: object = getattr(getattr(config, section), name)
    return value


def replaced(config: Config, values: Mapping[str, object]) -> Config:
    """`config` with other values of some keys."""
    sections: dict[str, dict[str, object]] = {}
    for key, value in values.items():
        section, _, name = key.partition(".")
        sections.setdefault(section, {})[name] = value
    return replace(config, **{name: replace(getattr(config, name), **fields) for name, fields in sections.items()})


def _settings() -> dict[str, inspect.Type]:
    sections = cast(inspect.StructType, inspect.type_info(Config)).fields
    return {
        f"{section.name}.{setting.name}": setting.type
        for section in sections
        for setting in cast(inspect.StructType, section.type).fields
    }


def _traits(kind: inspect.Type) -> tuple[Trait, ...]:
    match kind:
        case inspect.Metadata(extra={"traits": traits}):
            return cast(tuple[Trait, ...], traits)
        case inspect.VarTupleType(item_type=inner) | inspect.UnionType(types=(inner, _)):
            return _traits(inner)
    return ()


KEYS: Mapping[str, inspect.Type] = _settings()
"""Every setting as `section.name`, with its type, in the order of the documentation."""
SECRET_KEYS, _URL_KEYS, FILE_KEYS, _RELOAD_KEYS = (
    frozenset(key for key, kind in KEYS.items() if trait in _traits(kind)) for trait in get_args(Trait)
)


def reloadable(key: str) -> bool:
    """Whether SIGHUP applies a change of the setting."""
    section: Section = getattr(Config(), key.partition(".")[0])
    return section.reload or key in _RELOAD_KEYS


def mask(key: str, value: object) -> object:
    """`value` of a setting as it may be shown: secrets become `***`."""
    if value is None or key not in SECRET_KEYS | _URL_KEYS:
        return value
    if key in SECRET_KEYS:
        return MASK
    text = str(value)
    if text.startswith(("memory:", "sqlite:")):
        return value
    if text.partition(":")[0] in texts.REDIS_SCHEMES:
        try:
            return str(texts.parse_redis_url(text))
        except ValueError:
            return MASK
    url = _URL.fullmatch(text)
    return f"{url['scheme']}{url['host']}/{MASK}" if url else MASK
