"""From defaults, a TOML file, the environment and flags to one frozen, checked `Config`.

    default  <  TOML file  <  EDGE_<SECTION>_<KEY>  <  flag

A secret may also be in a file: `<key>_file` in any of these layers names it (`FILE_KEYS`).

Invariant: a `Config` that `load` returns holds only values that can work, alone and together; everything else is a
`ConfigError`, one line that names the key and where its value came from, and shows no secret.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import cast

import msgspec
from msgspec import inspect

from edge.config import validate
from edge.config.schema import FILE_KEYS, SECRET_KEYS, Config, mask, value_of
from edge.config.units import format_value, parse_duration, parse_size
from edge.logs.text import one_line, shorten

__all__ = ["KEYS", "Config", "ConfigError", "Sources", "describe", "load", "load_with_sources"]

Sources = Mapping[str, str]
"""Where each value came from, by `section.key`; a key that isn't in it has its default."""

CONFIG_VARIABLE = "EDGE_CONFIG"
DEFAULT_SOURCE = "default"
_SECTIONS = Config.__struct_fields__
_INTEGER = re.compile(r"-?[0-9]{1,18}", re.ASCII)
_SEPARATOR = re.compile(r"[,\r\n]")
_MAX_SHOWN_CHARS = 80
_MAX_SECRET_BYTES = 64 * 1024


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
    config_path: Path | None,
    environ: Mapping[str, str],
    flags: Mapping[str, str],
    machine_defaults: Mapping[str, tuple[int, str]] = MappingProxyType({}),
) -> tuple[Config, Sources]:
    """As `load`, with where each value that isn't a default came from.

    `machine_defaults` replace defaults, by key, each with the reason (`edge.config.machine`).
    """
    nested: dict[str, dict[str, object]] = {}
    sources: dict[str, str] = {}
    files: dict[str, tuple[str, str]] = {}
    for key, raw, source in (
        *_from_file(config_path, environ),
        *_from_environment(environ),
        *((key, text, "--" + key.partition(".")[2].replace("_", "-")) for key, text in flags.items()),
    ):
        if key not in KEYS:
            files[key.removesuffix("_file")] = _file_name(key, raw, source), source
            continue
        # Checked even when a later layer wins: a broken value is found today, not when that layer goes.
        section, _, name = key.partition(".")
        nested.setdefault(section, {})[name] = _convert(key, raw, source)
        sources[key] = source
    for key, (path, source) in files.items():
        optional, path = path.startswith("-"), path.removeprefix("-")
        if optional and not Path(path).exists():
            continue
        if key in sources:
            raise ConfigError(f"{key}_file", source, f"can't be combined with {key} (from {sources[key]})")
        section, _, name = key.partition(".")
        nested.setdefault(section, {})[name] = _convert(key, _secret(f"{key}_file", path, source), path)
        sources[key] = path
    for key, (value, reason) in machine_defaults.items():
        if key not in sources:
            section, _, name = key.partition(".")
            settings = nested.setdefault(section, {})
            # A ring that was configured still fits.
            settings[name] = max(value, cast(int, settings.get("max_bytes", 0))) if key == "ring.total_bytes" else value
            sources[key] = reason
    config = msgspec.convert(nested, Config)
    check(config, sources)
    return config, sources


def check(config: Config, sources: Sources) -> None:
    """Raise ConfigError for values that can't be combined."""
    problem = validate.conflict(config, sources.keys())
    if problem is not None:
        key, message = problem
        raise ConfigError(key, sources.get(key, DEFAULT_SOURCE), message, value=value_of(config, key))


def refuse_exposure(config: Config, sources: Sources) -> None:
    """Raise ConfigError if a hub with `config` would be open to other machines without authentication.

    Not part of `load`: a client of a hub needs no permissions. A name is resolved when it is listened on.
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
        unset = value is None or (value == () and key in SECRET_KEYS)
        line = f"# {name} is not set" if unset else f"{name} = {_toml(key, mask(key, value))}"
        if key in sources:
            source = one_line(sources[key])
            line += f"  # {source}" if source.startswith(f"{DEFAULT_SOURCE} ") else f"  # from {source}"
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

_NAMES = (*KEYS, *sorted(f"{key}_file" for key in FILE_KEYS))
_VARIABLES = {f"EDGE_{key.replace('.', '_').upper()}": key for key in _NAMES}


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
            if raw not in (True, False, "true", "false") or (isinstance(raw, int) and not isinstance(raw, bool)):
                raise ValueError("must be true or false")
            return raw in (True, "true")
        case inspect.IntType() | inspect.FloatType():
            return _bounded(key, kind, _number(key, kind, raw))
        case inspect.LiteralType(values=choices):
            if raw not in choices:
                *most, last = (str(choice) for choice in choices)
                raise ValueError(f"must be {', '.join(most)} or {last}")
            return raw
        case inspect.VarTupleType(item_type=item_type):
            return tuple(dict.fromkeys(_parse(key, item_type, item) for item in _items(key, raw)))
        case inspect.UnionType(types=kinds):  # Every union in use is with None.
            # Compose files pass `""` for what isn't set; but an empty secret is a variable that was lost on its way,
            # and must not turn a check off.
            unset = raw == "" and not key.startswith("auth.") and key not in SECRET_KEYS
            inner = next(kind for kind in kinds if not isinstance(kind, inspect.NoneType))
            return None if unset else _parse(key, inner, raw)
        case _:
            return _text(key, raw)


def _text(key: str, raw: object) -> str:
    if not isinstance(raw, str):
        raise ValueError("must be a text in quotes")  # noqa: TRY004 - one kind of refusal
    if not raw.strip():
        raise ValueError("is empty: give it a value or leave it out")
    rule = validate.TEXT_RULES.get(key)
    return raw if rule is None else rule(raw)


def _items(key: str, raw: object) -> Iterable[object]:
    if isinstance(raw, str):
        items = [item for item in (part.strip() for part in _SEPARATOR.split(raw)) if item]
        return [""] if not items and key in SECRET_KEYS else items
    if isinstance(raw, list):
        return raw
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
    low, high = cast(float, kind.ge), cast(float, kind.le)  # Every number in the schema has both.
    if not low <= value <= high:  # Written so that NaN is refused too.
        raise ValueError(f"must be between {format_value(key, low)} and {format_value(key, high)}")
    return value


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


def _secret(key: str, path: str, source: str) -> str:
    try:
        return read_secret(Path(path))
    except ValueError as error:
        raise ConfigError(key, source, str(error), value=path) from None


def _file_name(key: str, raw: object, source: str) -> str:
    if not isinstance(raw, str) or not raw.strip("- "):
        raise ConfigError(key, source, "must be the name of a file", value=raw)
    return raw


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
        text = read_utf8(config_path)
    except ValueError as error:
        raise ConfigError("config", named_by, str(error), value=source) from None
    try:
        table = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError("config", named_by, f"isn't valid TOML: {error}", value=source) from None
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


def _from_environment(environ: Mapping[str, str]) -> Iterable[tuple[str, object, str]]:
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

    known = list(_VARIABLES) if written.startswith("EDGE_") else list(_NAMES)
    same_name = [key for key in KEYS if key.partition(".")[2] == written.rpartition(".")[2]]
    nearest = difflib.get_close_matches(written, same_name, n=1, cutoff=0) or difflib.get_close_matches(
        written, known, n=1
    )
    hint = f"did you mean {nearest[0]}?" if nearest else "`edge check-config` lists all keys"
    return ConfigError(shorten(written, _MAX_SHOWN_CHARS), source, f"there is no such key, {hint}")


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
