"""From defaults, a TOML file, the environment and flags to one frozen, checked `Config`.

    default  <  TOML file  <  EDGE_<SECTION>_<KEY>  <  flag

A secret may also be in a file: `<key>_file` in any of these layers names it (`FILE_KEYS`).

Invariant: a `Config` that `load` returns holds only values that can work, alone and together; everything else is a
`ConfigError`, one line that names the key and where its value came from, and shows no secret.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast
from urllib.parse import urlsplit

import msgspec
from msgspec import inspect

from edge.config.schema import FILE_KEYS, KEYS, SECRET_KEYS, Config, mask, replaced, value_of
from edge.config.texts import is_ip, is_local, is_pem
from edge.config.units import format_value, parse_value
from edge.logs.text import one_line, shorten

Sources = Mapping[str, str]
"""Where each value came from, by `section.key`; a key that isn't in it has its default."""

CONFIG_VARIABLE = "EDGE_CONFIG"
DEFAULT_SOURCE = "default"
_SECTIONS = Config.__struct_fields__
_NAMES = (*KEYS, *sorted(f"{key}_file" for key in FILE_KEYS))
_VARIABLES = {f"EDGE_{key.replace('.', '_').upper()}": key for key in _NAMES}
_SEPARATOR = re.compile(r"[,\r\n]")
_MAX_SHOWN_CHARS = 80
_MAX_SECRET_BYTES = 64 * 1024
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
# The same, but a deployment may set them before, or without, what they need: a warning.
_IDLE = (
    *((f"trigger.{name}", ("trigger.url",)) for name in ("secret", "format", "timeout_seconds", "retries")),
    ("hooks.grace_seconds", ("hooks.url",)),
    ("server.outbound_proxy", ("trigger.url", "hooks.url", "auth.jwt_jwks_url")),
    *((f"auth.{name}", _JWT_KEYS) for name in ("require_exp", "jwt_skew_seconds")),
)


class ConfigError(Exception):
    """A configuration that can't work. Its text is one line for standard error, and holds no secret.

    `key` is `section.key` (or the name as it was written, where there is no such key), `source` the variable,
    flag or file it came from, `message` what to do about it. `value` is shown masked, and not at all if None.
    """

    def __init__(self, key: str, source: str, message: str, *, value: object = None) -> None:
        shown = "" if value is None else f" = {_show(key, value)}"
        super().__init__(one_line(f"{key}{shown} (from {source}): {message}"))


def load(
    config_path: Path | None,
    environ: Mapping[str, str],
    flags: Mapping[str, str],
    machine_defaults: Mapping[str, tuple[int, str]] = MappingProxyType({}),
) -> tuple[Config, Sources]:
    """The checked configuration, with where each value that isn't a default came from. Raises ConfigError.

    Without a `config_path` the variable EDGE_CONFIG names the file; without either there is none. `flags` are by
    `section.key`. `machine_defaults` replace defaults, by key, each with the reason.
    """
    values: dict[str, object] = {}
    sources: dict[str, str] = {}
    files: dict[str, tuple[str, str]] = {}
    for key, raw, source in (
        *_from_file(config_path, environ),
        *_from_environment(environ),
        *((key, text, "--" + key.partition(".")[2].replace("_", "-")) for key, text in flags.items()),
    ):
        if key in KEYS:
            # Checked even when a later layer wins: a broken value is found today, not when that layer goes.
            values[key], sources[key] = _convert(key, raw, source), source
        elif isinstance(raw, str) and raw.strip("- "):
            files[key.removesuffix("_file")] = raw, source
        else:
            raise ConfigError(key, source, "must be the name of a file", value=raw)
    for key, (path, source) in files.items():
        optional, path = path.startswith("-"), path.removeprefix("-")
        if optional and not Path(path).exists():
            continue
        if key in sources:
            raise ConfigError(f"{key}_file", source, f"can't be combined with {key} (from {sources[key]})")
        try:
            secret = read_secret(Path(path))
        except ValueError as error:
            raise ConfigError(f"{key}_file", source, str(error), value=path) from None
        values[key], sources[key] = _convert(key, secret, path), path
    for key, (default, reason) in machine_defaults.items():
        if key not in sources:
            # A ring that was configured still fits.
            least = cast(int, values.get("ring.max_bytes", 0)) if key == "ring.total_bytes" else 0
            values[key], sources[key] = max(default, least), reason
    config = replaced(Config(), values)
    check(config, sources)
    return config, sources


def describe(config: Config, sources: Sources) -> str:
    """`config` as TOML: secrets masked, keys without a value as comments, beside each value its origin."""
    lines: list[str] = []
    section = ""
    for key in KEYS:
        if section != (section := key.partition(".")[0]):
            lines += ["", f"[{section}]"]
        name = key.partition(".")[2]
        value = value_of(config, key)
        unset = value is None or (value == () and key in SECRET_KEYS)
        line = f"# {name} is not set" if unset else f"{name} = {_toml(key, mask(key, value))}"
        if key in sources:
            source = one_line(sources[key])
            line += f"  # {source}" if source.startswith(f"{DEFAULT_SOURCE} ") else f"  # from {source}"
        lines.append(line)
    return "\n".join(lines[1:]) + "\n"


# --- what settings may be together ---


def check(config: Config, sources: Sources) -> None:
    """Raise ConfigError for the first values that can't be combined. One that is set is blamed, not a default."""
    for key, message in _conflicts(config, sources):
        raise ConfigError(key, sources.get(key, DEFAULT_SOURCE), message, value=value_of(config, key))


def _conflicts(config: Config, sources: Sources) -> Iterator[tuple[str, str]]:
    for small, large, why in _ORDER:
        low, high = cast(float, value_of(config, small)), cast(float, value_of(config, large))
        if low > high and (small in sources or large not in sources):
            yield small, f"must not be larger than {large} ({format_value(large, high)}), {why}"
        elif low > high:
            yield large, f"must not be smaller than {small} ({format_value(small, low)}), {why}"
    for key, others in _NEEDS:
        if value_of(config, key) and not any(value_of(config, other) for other in others):
            yield key, f"has no effect without {' or '.join(others)}"
    auth = config.auth
    if auth.jwt_key is not None and auth.jwt_jwks_url is not None:
        yield "auth.jwt_jwks_url", "can't be combined with auth.jwt_key: there is one source of keys"
    hmac = {name for name in auth.jwt_algorithms if name.startswith("HS")}
    shared_secret = auth.jwt_key is not None and not is_pem(auth.jwt_key)
    if shared_secret and set(auth.jwt_algorithms) - hmac:
        yield "auth.jwt_algorithms", "must be one or more of HS256, HS384, HS512: auth.jwt_key is a shared secret"
    if hmac and not shared_secret:
        yield "auth.jwt_algorithms", "must not be HMAC: anyone could sign tokens with the public key as the secret"


def refuse_exposure(config: Config, sources: Sources, host: str, key: str = "server.host") -> None:
    """Raise ConfigError about `key` if listening on `host` would open the hub to other machines without authentication.

    Not part of `load`: a client of a hub needs no permissions. A name is judged by what it resolves to when it is
    listened on.
    """
    if not config.auth.configured and is_ip(host) and not is_local(host):
        message = (
            "is an address that other machines can reach, and no permissions are configured: set auth.token (or a JWT "
            "key, auth.jwt_key or auth.jwt_jwks_url), or name the permissions that everyone has in auth.anonymous"
        )
        raise ConfigError(key, sources.get(key, DEFAULT_SOURCE), message, value=host)


def warnings(config: Config) -> Iterator[tuple[str, str]]:
    """What works and is probably not what was meant, as `(key, sentence)`."""
    auth = config.auth
    if any(len(token) < _SHORT_TOKEN_CHARS for token in auth.token):
        yield "auth.token", "A token this short can be guessed; make one with `openssl rand -hex 32`."
    if auth.jwt_jwks_url is not None:
        url = urlsplit(auth.jwt_jwks_url)
        if url.scheme == "http" and not is_local(url.hostname or ""):
            sentence = "The keys are fetched without TLS: anyone on the network path can replace them."
            yield "auth.jwt_jwks_url", sentence
    if (auth.jwt_key is not None or auth.jwt_jwks_url is not None) and not auth.require_exp:
        yield "auth.require_exp", "Tokens without exp are accepted and never expire; set it to refuse them."
    default = Config()
    for key, others in _IDLE:
        if value_of(config, key) != value_of(default, key) and not any(value_of(config, other) for other in others):
            yield key, f"It has no effect without {' or '.join(others)}."
    if config.store.durability == "commit" and config.store.url == default.store.url:
        yield "store.durability", "It has no effect with memory:, which keeps nothing; set store.url."


# --- what each key takes ---


def _convert(key: str, raw: object, source: str) -> object:
    """`raw`, a text or a TOML value, as the type of `key`, inside its bounds."""
    try:
        return _parse(key, KEYS[key], raw)
    except UnicodeEncodeError:
        raise ConfigError(key, source, "must be valid UTF-8", value=raw) from None
    except ValueError as error:
        raise ConfigError(key, source, str(error), value=raw) from None


def _parse(key: str, kind: inspect.Type, raw: object) -> object:
    match kind:
        case inspect.BoolType():
            if raw not in ("true", "false") and not isinstance(raw, bool):
                raise ValueError("must be true or false")
            return raw in (True, "true")
        case inspect.IntType(ge=ge, le=le) | inspect.FloatType(ge=ge, le=le):
            low, high = cast(float, ge), cast(float, le)  # Every number in the schema has both.
            number = parse_value(key, raw)
            if not low <= number <= high:  # Written so that NaN is refused too.
                raise ValueError(f"must be between {format_value(key, low)} and {format_value(key, high)}")
            return float(number) if isinstance(kind, inspect.FloatType) else number
        case inspect.VarTupleType(item_type=item_type):
            return tuple(dict.fromkeys(_parse(key, item_type, item) for item in _items(key, raw)))
        case inspect.UnionType(types=(inner, _)):  # Every union in use is with None.
            # Compose files pass `""` for what isn't set; but an empty secret is a variable that was lost on its way,
            # and must not turn a check off.
            unset = raw == "" and not key.startswith("auth.") and key not in SECRET_KEYS
            return None if unset else _parse(key, inner, raw)
        case inspect.Metadata(type=inner, extra=extra):
            value, check = _parse(key, inner, raw), cast(dict[str, Any], extra)["check"]
            return value if check is None else check(value)
        case inspect.LiteralType(values=choices):
            if raw not in choices:
                *most, last = (str(choice) for choice in choices)
                raise ValueError(f"must be {', '.join(most)} or {last}")
        case _:
            if not isinstance(raw, str):
                raise ValueError("must be a string in quotes")  # noqa: TRY004 - one kind of refusal
            if not raw.strip():
                raise ValueError("is empty: give it a value or leave it out")
            raw.encode()  # raises UnicodeEncodeError for what the environment held beside UTF-8
    return raw


def _items(key: str, raw: object) -> Iterable[object]:
    if isinstance(raw, str):
        items = [item for item in (part.strip() for part in _SEPARATOR.split(raw)) if item]
        return [""] if not items and key in SECRET_KEYS else items
    if isinstance(raw, list):
        return raw
    raise ValueError("must be a list of strings")


# --- the layers ---


def read_utf8(path: Path, max_bytes: int | None = None) -> str:
    """The text in a file, without a byte order mark. Raises ValueError with a sentence that holds none of it."""
    try:
        with path.open("rb") as file:
            content = file.read() if max_bytes is None else file.read(max_bytes + 1)
    except OSError as error:
        raise ValueError(f"can't read the file: {error.strerror or type(error).__name__}") from None
    except ValueError:
        raise ValueError("is not a path") from None
    if max_bytes is not None and len(content) > max_bytes:
        raise ValueError(f"names a file of more than {max_bytes} bytes")
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\0" in content:
        raise ValueError("names a file that looks like UTF-16: save it as UTF-8")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError("names a file that is not UTF-8") from None


def read_secret(path: Path) -> str:
    """The secret in a file, without the line end that editors add. Raises ValueError, as `read_utf8`."""
    text = read_utf8(path, _MAX_SECRET_BYTES).rstrip("\r\n")
    if not text.strip():
        raise ValueError("names an empty file")
    return text


def _from_file(config_path: Path | None, environ: Mapping[str, str]) -> Iterator[tuple[str, object, str]]:
    source = environ.get(CONFIG_VARIABLE) if config_path is None else str(config_path)
    if not source:
        return
    import tomllib  # noqa: PLC0415 - most starts have no file

    why = ""
    try:
        text = read_utf8(Path(source))
        why = "isn't valid TOML: "
        table = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        named_by = CONFIG_VARIABLE if config_path is None else "--config"
        raise ConfigError("config", named_by, f"{why}{error}", value=source) from None
    for section, content in table.items():
        if section not in _SECTIONS:
            name = next(iter(content), "") if isinstance(content, dict) else ""
            raise _unknown(f"{section}.{name}" if name else section, source)
        if not isinstance(content, dict):
            raise ConfigError(section, source, f"must be a table: [{section}]")
        for name, raw in content.items():
            key = f"{section}.{name}"
            if key not in _NAMES:
                raise _unknown(key, source)
            yield key, raw, source


def _from_environment(environ: Mapping[str, str]) -> Iterator[tuple[str, object, str]]:
    """Variables that name a section are ours; others belong to scripts, or to Kubernetes, which sets EDGE_SERVICE_HOST
    and the like for a service that is called `edge`.
    """
    for variable in sorted(environ):
        key = _VARIABLES.get(variable)
        if key is not None:
            yield key, environ[variable], variable
        elif variable.startswith("EDGE_") and variable.split("_")[1].lower() in _SECTIONS:
            raise _unknown(variable, "the environment")


def _unknown(written: str, source: str) -> ConfigError:
    """The error for a name that is not a key, with the nearest that is. No value: it may be a secret."""
    import difflib  # noqa: PLC0415 - only a mistake needs it

    known = list(_VARIABLES) if written.startswith("EDGE_") else _NAMES
    nearest = difflib.get_close_matches(written, known, n=1, cutoff=0.5)
    hint = f"did you mean {nearest[0]}?" if nearest else "`edge check-config` lists all keys"
    return ConfigError(shorten(written, _MAX_SHOWN_CHARS), source, f"there is no such key, {hint}")


# --- showing values ---


def _show(key: str, value: object) -> str:
    shown = mask(key, value)
    if isinstance(shown, bool) or (isinstance(shown, int | float) and 0 < shown < 2**53):
        return _toml(key, shown).strip('"')
    if isinstance(shown, tuple | list):
        shown = ", ".join(str(item) for item in shown)
    return shorten(str(shown), _MAX_SHOWN_CHARS) or '""'


def _toml(key: str, value: object) -> str:
    if isinstance(value, tuple):
        return "[" + ", ".join(_toml(key, item) for item in value) + "]"
    if isinstance(value, int | float) and not isinstance(value, bool) and key.endswith(("_seconds", "_bytes")):
        return f'"{format_value(key, value)}"'
    # JSON's values are TOML's; DEL is the one character that JSON leaves alone and TOML refuses.
    return msgspec.json.encode(value).decode().replace("\x7f", "\\u007f")
