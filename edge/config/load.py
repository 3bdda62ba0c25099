"""From defaults, a TOML file, credentials, the environment and flags to one frozen, checked `Config`.

    default  <  TOML file  <  $CREDENTIALS_DIRECTORY/<section>.<key>  <  EDGE_<SECTION>_<KEY>  <  flag

A secret may also stand in a file that `<key>_file` names.

Invariant: a `Config` that `load` returns holds only values that can work, alone and together; everything else
is a `ConfigError`, one line that names the key and where its value came from. No secret is ever in that line.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import cast

import msgspec
from msgspec import inspect

from edge.config import secret_files, validate
from edge.config.schema import SECRET_KEYS, Config, mask, value_of
from edge.config.units import format_value, parse_duration, parse_size
from edge.logs.text import one_line, shorten

__all__ = ["KEYS", "Config", "ConfigError", "Sources", "describe", "load", "load_with_sources"]

Sources = Mapping[str, str]
"""Where each value came from, by `section.key`; a key that isn't in it has its default."""

CONFIG_VARIABLE = "EDGE_CONFIG"
CREDENTIALS_VARIABLE = "CREDENTIALS_DIRECTORY"
DEFAULT_SOURCE = "default"

# Kubernetes puts the address of every service into every pod's environment (FOO_SERVICE_HOST, FOO_PORT=tcp://...,
# FOO_PORT_80_TCP_ADDR), so a service named `edge` would stop its own pods. No key of ours looks like these.
_KUBERNETES_NAME = re.compile(r"EDGE_(\w+_)?(SERVICE_(HOST|PORT)(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_[A-Z]+)?)")
_KUBERNETES_PORT = re.compile(r"(tcp|udp|sctp)://")

_INTEGER = re.compile(r"-?[0-9]{1,18}", re.ASCII)
_MAX_SHOWN_CHARS = 80


class ConfigError(Exception):
    """A configuration that can't work. `str()` is one line for standard error, and holds no secret.

    `key` is `section.key` (or the name as it was written, where there is no such key), `source` the variable,
    flag or file it came from, `message` what to do about it. `value` is shown masked, and not at all if None.
    """

    def __init__(self, key: str, source: str, message: str, *, value: object = None) -> None:
        super().__init__(key, source, message)
        self.key = key
        self.source = source
        self.message = message
        self._shown = "" if value is None else f" = {_show(key, value)}"

    def __str__(self) -> str:
        return one_line(f"edge: {self.key}{self._shown} (from {self.source}): {self.message}")


def load(config_path: Path | None, environ: Mapping[str, str], flags: Mapping[str, str]) -> Config:
    """The checked configuration. `flags` are by `section.key`; raises ConfigError.

    Without a `config_path` the variable EDGE_CONFIG names the file; without either there is none.
    """
    return load_with_sources(config_path, environ, flags)[0]


def load_with_sources(
    config_path: Path | None, environ: Mapping[str, str], flags: Mapping[str, str]
) -> tuple[Config, Sources]:
    """As `load`, with where each value that isn't a default came from."""
    values: dict[str, object] = {}
    sources: dict[str, str] = {}
    for key, raw, source in (
        *_from_file(config_path, environ),
        *_from_credentials(environ),
        *_from_environment(environ),
        *((key, text, "--" + key.partition(".")[2].replace("_", "-")) for key, text in flags.items()),
    ):
        # Checked even when a later layer wins: a broken value that sleeps in a file is found today.
        values[key] = _convert(key, raw, source)
        sources[key] = source
    for key, path, source in _secrets_in_files(values, sources):
        values[key] = _convert(key, _secret(f"{key}_file", path, source), str(path))
        sources[key] = str(path)
    config = msgspec.convert(_nest(values), Config)
    problem = validate.conflict(config, sources.keys())
    if problem is not None:
        key, message = problem
        raise ConfigError(key, sources.get(key, DEFAULT_SOURCE), message, value=value_of(config, key))
    return config, sources


def refuse_exposure(config: Config, sources: Sources) -> None:
    """Raise ConfigError if a hub with `config` would be open to others than this machine, unasked.

    Not part of `load`: who only asks a hub needs no rights. A name is looked at when it is listened on.
    """
    if validate.exposed(config, config.server.host):
        source = sources.get("server.host", DEFAULT_SOURCE)
        raise ConfigError("server.host", source, validate.EXPOSED, value=config.server.host)


def describe(config: Config, sources: Sources) -> str:
    """`config` as TOML: secrets masked, keys without a value as comments, beside each value its origin."""
    lines: list[str] = []
    section = ""
    for key in KEYS:
        if section != (section := key.partition(".")[0]):
            lines += ["", f"[{section}]"]
        name = key.partition(".")[2]
        value = value_of(config, key)
        line = f"# {name} is not set" if value is None else f"{name} = {_toml(key, mask(key, value))}"
        if key in sources:
            line += f"  # from {one_line(sources[key])}"
        lines.append(line)
    return "\n".join(lines[1:]) + "\n"


# --- what each key takes ---


def _keys() -> dict[str, inspect.Type]:
    sections = cast(inspect.StructType, inspect.type_info(Config)).fields
    return {
        f"{section.name}.{field.name}": field.type
        for section in sections
        for field in cast(inspect.StructType, section.type).fields
    }


KEYS: Mapping[str, inspect.Type] = _keys()
"""Every key there is, as `section.key`, with its type, in the order of the documentation."""

_VARIABLES = {f"EDGE_{key.replace('.', '_').upper()}": key for key in KEYS}


def _convert(key: str, raw: object, source: str) -> object:
    """`raw`, a text or a TOML value, as the type of `key`, inside its bounds."""
    try:
        return _parse(key, KEYS[key], raw)
    except ValueError as error:
        raise ConfigError(key, source, str(error), value=raw) from None


def _parse(key: str, kind: inspect.Type, raw: object) -> object:
    if isinstance(raw, str) and not raw.isascii():
        try:
            raw.encode()
        except UnicodeEncodeError:
            raise ValueError("must be valid UTF-8") from None
    match kind:
        case inspect.BoolType():
            return _yes_or_no(raw)
        case inspect.IntType() | inspect.FloatType():
            return _bounded(key, kind, _number(key, kind, raw))
        case inspect.LiteralType(values=choices):
            if raw not in choices:
                raise ValueError("must be " + _either(choices))
            return raw
        case inspect.VarTupleType(item_type=item_type):
            return tuple(dict.fromkeys(_parse(key, item_type, item) for item in _items(raw)))
        case inspect.UnionType(types=kinds):  # Every union in use is with None.
            return _optional(key, next(inner for inner in kinds if not isinstance(inner, inspect.NoneType)), raw)
        case _:
            return _text(key, raw)


def _yes_or_no(raw: object) -> bool:
    if isinstance(raw, bool):
        return raw
    if raw in ("true", "false"):
        return raw == "true"
    raise ValueError("must be true or false")


def _optional(key: str, kind: inspect.Type, raw: object) -> object:
    # Compose files pass `""` for what isn't set; but an empty secret is a variable that was lost on its way, and must
    # not turn a check off.
    if raw == "" and not key.startswith("auth.") and key not in SECRET_KEYS:
        return None
    return _parse(key, kind, raw)


def _text(key: str, raw: object) -> str:
    if not isinstance(raw, str):
        raise ValueError("must be a text in quotes")  # noqa: TRY004 - one kind of refusal
    if not raw.strip():
        raise ValueError("is empty: give it a value or leave it out")
    check = validate.TEXT_RULES.get(key)
    return raw if check is None else check(raw)


def _items(raw: object) -> Iterable[object]:
    if isinstance(raw, list):
        return raw
    if isinstance(raw, str):
        return [item for item in (part.strip() for part in raw.split(",")) if item]
    raise ValueError("must be a list of texts")


def _number(key: str, kind: inspect.IntType | inspect.FloatType, raw: object) -> int | float:
    if isinstance(raw, str):
        if key.endswith("_seconds"):
            return parse_duration(raw)
        if key.endswith("_bytes"):
            return parse_size(raw)
        if key.endswith("_ms") and raw.endswith(("ms", "s", "m", "h", "d")):
            milliseconds = parse_duration(raw) * 1000
            if milliseconds != round(milliseconds):
                raise ValueError("must be a whole number of milliseconds")
            return round(milliseconds)
        if _INTEGER.fullmatch(raw):
            return int(raw)
    elif isinstance(raw, int) and not isinstance(raw, bool):
        return float(raw) if isinstance(kind, inspect.FloatType) and abs(raw) < 2**53 else raw
    elif isinstance(raw, float) and isinstance(kind, inspect.FloatType):
        return raw
    if key.endswith("_seconds"):
        raise ValueError("must be a number of seconds or a duration such as 500ms, 3s or 10m")
    if key.endswith("_bytes"):
        raise ValueError("must be a whole number of bytes or a size such as 64KiB or 4MiB")
    raise ValueError("must be a whole number")


def _bounded(key: str, kind: inspect.IntType | inspect.FloatType, value: int | float) -> int | float:
    low, high = cast(float, kind.ge), cast(float, kind.le)  # Every number in `settings` has both.
    if not low <= value <= high:  # Written so that NaN is refused too.
        raise ValueError(f"must be between {format_value(key, low)} and {format_value(key, high)}")
    return value


def _either(choices: Iterable[object]) -> str:
    *most, last = (str(choice) for choice in choices)
    return f"{', '.join(most)} or {last}"


# --- the layers ---


def _from_file(config_path: Path | None, environ: Mapping[str, str]) -> Iterable[tuple[str, object, str]]:
    named_by = "--config"
    if config_path is None:
        named = environ.get(CONFIG_VARIABLE)
        if not named:
            return
        config_path, named_by = Path(named), CONFIG_VARIABLE
    import tomllib  # noqa: PLC0415 - most starts have no file

    source = str(config_path)
    try:
        table = tomllib.loads(config_path.read_bytes().decode("utf-8"))
    except OSError as error:
        message = f"can't read it: {error.strerror or type(error).__name__}"
        raise ConfigError("config", named_by, message, value=source) from None
    except UnicodeDecodeError:
        raise ConfigError("config", named_by, "must be UTF-8", value=source) from None
    except (ValueError, RecursionError) as error:
        raise ConfigError("config", named_by, f"isn't valid TOML: {error}", value=source) from None
    for section, content in table.items():
        if section not in Config.__struct_fields__:
            name = next(iter(content), "") if isinstance(content, dict) else ""
            raise _unknown(f"{section}.{name}" if name else section, source)
        if not isinstance(content, dict):
            raise ConfigError(section, source, f"must be a table: [{section}]")
        for name, raw in content.items():
            key = f"{section}.{name}"
            if key not in KEYS:
                raise _unknown(key, source)
            yield key, raw, source


def _from_credentials(environ: Mapping[str, str]) -> Iterable[tuple[str, object, str]]:
    """systemd's LoadCredential= and the secrets of containers: files named after the key they hold.

    A file that isn't named `<section>.something` is somebody else's.
    """
    folder = environ.get(CREDENTIALS_VARIABLE)
    if not folder or not Path(folder).is_dir():
        return
    try:
        paths = sorted(Path(folder).iterdir())
    except OSError as error:
        message = f"can't read it: {error.strerror or type(error).__name__}"
        raise ConfigError("credentials", CREDENTIALS_VARIABLE, message, value=folder) from None
    for path in paths:
        key, source = path.name, f"credential {path.name}"
        if key.partition(".")[0] not in Config.__struct_fields__ or "." not in key:
            continue
        if key not in KEYS:
            raise _unknown(key, f"${CREDENTIALS_VARIABLE}")
        try:
            yield key, path.read_text("utf-8").rstrip("\r\n"), source
        except OSError as error:
            raise ConfigError(key, source, f"can't read it: {error.strerror or type(error).__name__}") from None
        except UnicodeDecodeError:
            raise ConfigError(key, source, "must be UTF-8") from None


def _from_environment(environ: Mapping[str, str]) -> Iterable[tuple[str, object, str]]:
    for variable in sorted(environ):
        if variable == CONFIG_VARIABLE or not variable.startswith("EDGE_"):
            continue
        if _is_kubernetes(variable, environ):
            continue
        key = _VARIABLES.get(variable)
        if key is None:
            if _is_somebody_elses(variable):
                continue
            raise _unknown(variable, "the environment")
        yield key, environ[variable], variable


def _is_somebody_elses(variable: str) -> bool:
    """Scripts around a hub call theirs EDGE_URL, EDGE_BIN or EDGE_HOME. A key has a section and a name, so one word
    can't be one, though it may be half of one: EDGE_PORT is refused, as it is meant for the hub.
    """
    word = variable.removeprefix("EDGE_").lower()
    halves = {half for key in KEYS for half in key.split(".")} - {"url"}
    return "_" not in word and word not in halves


def _secrets_in_files(values: Mapping[str, object], sources: Sources) -> Iterable[tuple[str, Path, str]]:
    """Each secret whose file is named: the key, the file, and where that name came from."""
    for key in sorted(SECRET_KEYS):
        name = f"{key}_file"
        if name in values and values[name] is not None:
            if values.get(key) is not None:
                raise ConfigError(name, sources[name], f"can't be had together with {key} (from {sources[key]})")
            yield key, Path(str(values[name])), sources[name]


def _secret(key: str, path: Path, source: str) -> str:
    try:
        return secret_files.read(path)
    except ValueError as error:
        raise ConfigError(key, source, str(error), value=str(path) if key.endswith("_file") else None) from None


def _is_kubernetes(variable: str, environ: Mapping[str, str]) -> bool:
    if _KUBERNETES_NAME.fullmatch(variable):
        return True
    return variable.endswith("_PORT") and _KUBERNETES_PORT.match(environ[variable]) is not None


def _unknown(written: str, source: str) -> ConfigError:
    """The error for a name that is no key, with the nearest that is. No value: it may be a secret."""
    import difflib  # noqa: PLC0415 - only a mistake needs it

    known = list(_VARIABLES) if written.startswith("EDGE_") else list(KEYS)
    same_name = [key for key in KEYS if key.partition(".")[2] == written.rpartition(".")[2]]
    nearest = difflib.get_close_matches(written, same_name, n=1, cutoff=0) or difflib.get_close_matches(
        written, known, n=1
    )
    hint = f"did you mean {nearest[0]}?" if nearest else "`edge check-config` lists all keys"
    return ConfigError(shorten(written, _MAX_SHOWN_CHARS), source, f"there is no such key, {hint}")


def _nest(values: Mapping[str, object]) -> dict[str, dict[str, object]]:
    nested: dict[str, dict[str, object]] = {}
    for key, value in values.items():
        section, _, name = key.partition(".")
        nested.setdefault(section, {})[name] = value
    return nested


# --- showing values ---


def _show(key: str, value: object) -> str:
    shown = mask(key, value)
    if isinstance(shown, bool):
        return str(shown).lower()  # as TOML has it
    if isinstance(shown, int | float) and 0 < shown < 2**53 and key.endswith(("_seconds", "_bytes")):
        return format_value(key, shown)
    if isinstance(shown, tuple | list):
        shown = ", ".join(str(item) for item in shown)
    return shorten(str(shown), _MAX_SHOWN_CHARS) or '""'


def _toml(key: str, value: object) -> str:
    if isinstance(value, tuple):
        return "[" + ", ".join(_toml(key, item) for item in value) + "]"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        # JSON's escapes are TOML's; DEL is the one character that JSON leaves alone and TOML refuses.
        return msgspec.json.encode(value).decode().replace("\x7f", "\\u007f")
    if isinstance(value, int | float) and key.endswith(("_seconds", "_bytes")):
        return f'"{format_value(key, value)}"'
    return str(value)
