"""Durations and sizes as people write them: `500ms`, `3s`, `10m`, `4MiB`.

Pure functions. Only ASCII digits count (`int` and `float` take Arabic ones, underscores, `nan`, `1e9`), and
the number of digits is bounded, so no input is slow or infinite. What `format_*` writes, `parse_*` reads back
as the same number.
"""

from __future__ import annotations

import re

_SECONDS_PER_UNIT = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_BYTES_PER_UNIT = {"b": 1, "kb": 1000, "mb": 1000**2, "gb": 1000**3, "kib": 1024, "mib": 1024**2, "gib": 1024**3}
# Fifteen digits keep every number exact as a float (2**53 has sixteen).
_DURATION = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,9})?)(ms|s|m|h|d)?", re.ASCII)
_SIZE = re.compile(r"([0-9]{1,15})([A-Za-z]{1,3})?", re.ASCII)
_INTEGER = re.compile(r"-?[0-9]{1,18}", re.ASCII)


def parse_duration(text: str) -> float:
    """Seconds in `text`: `500ms`, `3s`, `1.5h`, `2d`; a bare number is seconds. ValueError otherwise."""
    match = _DURATION.fullmatch(text)
    if match is None:
        raise ValueError("must be a duration such as 500ms, 3s, 10m, 1h or 2d (a bare number is seconds)")
    number, unit = match.groups()
    return float(number) / 1000 if unit == "ms" else float(number) * _SECONDS_PER_UNIT[unit or "s"]


def parse_size(text: str) -> int:
    """Bytes in `text`: `4MiB`, `64KiB`, `1GiB`, `10MB`; a bare number is bytes. ValueError otherwise.

    Letter case doesn't matter. `K`, `M` and `G` alone are refused: to some they mean 1000, to others 1024.
    """
    match = _SIZE.fullmatch(text)
    unit = None if match is None else (match[2] or "b").lower()
    if match is None or unit not in _BYTES_PER_UNIT:
        raise ValueError("must be a size such as 4MiB, 64KiB, 1GiB or 10MB (a bare number is bytes)")
    return int(match[1]) * _BYTES_PER_UNIT[unit]


def parse_value(name: str, raw: object) -> float:
    """The number in a text or a TOML value of the setting `name`; the end of the name is its unit. ValueError
    otherwise. Only `_seconds` may have a fraction.
    """
    message = "must be a whole number"
    if name.endswith("_seconds"):
        if isinstance(raw, str):
            return parse_duration(raw)
        if isinstance(raw, float):
            return raw
        message = "must be a number of seconds or a duration such as 500ms, 3s or 10m"
    elif name.endswith("_bytes"):
        if isinstance(raw, str):
            return parse_size(raw)
        message = "must be a whole number of bytes or a size such as 64KiB or 4MiB"
    if isinstance(raw, str) and _INTEGER.fullmatch(raw):
        return int(raw)
    if isinstance(raw, str) and name.endswith("_ms") and raw[-1:].isalpha():
        milliseconds = parse_duration(raw) * 1000
        if milliseconds.is_integer():
            return int(milliseconds)
        message += " of milliseconds"
    if isinstance(raw, int) and not isinstance(raw, bool):
        return raw
    raise ValueError(message)


def format_duration(seconds: float) -> str:
    """The shortest exact form: `90` is `90s`, `600` is `10m`, `0.25` is `250ms`."""
    for unit, scale in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds and seconds % scale == 0:
            return f"{int(seconds) // scale}{unit}"
    milliseconds = seconds * 1000
    if seconds % 1 and milliseconds.is_integer() and milliseconds / 1000 == seconds:
        return f"{int(milliseconds)}ms"
    return f"{seconds:.9f}".rstrip("0").rstrip(".") + "s"


def format_size(size_bytes: int) -> str:
    """The shortest exact form: `1048576` is `1MiB`, `1000` is `1000`."""
    for unit, scale in (("GiB", 1024**3), ("MiB", 1024**2), ("KiB", 1024)):
        if size_bytes and size_bytes % scale == 0:
            return f"{size_bytes // scale}{unit}"
    return str(size_bytes)


def format_value(name: str, value: float) -> str:
    """A number as the setting `name` is written, by the unit at its end: `_seconds`, `_bytes`, `_ms`."""
    if name.endswith("_seconds"):
        return format_duration(value)
    if name.endswith("_bytes"):
        return format_size(int(value))
    return f"{int(value)}ms" if name.endswith("_ms") else str(int(value))
