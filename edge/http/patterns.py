"""What parameters look like, as patterns of a JSON schema (ECMA 262): `edge.http.params` and the core take just these.

Invariant: a text matches its pattern if and only if it is taken; tests/http/test_openapi.py asks both.
"""

from __future__ import annotations

from fractions import Fraction
from math import floor

from edge.core.event import TYPE_PATTERN

PROJECT = r"^[A-Za-z0-9][A-Za-z0-9._~-]{0,127}$"
IDEMPOTENCY_KEY = r"^[!-~]{1,255}$"
JOB_ID = r"^[A-Za-z0-9_:~-]{1,128}$"
EVENT_ID = r"^[0-9a-z]{1,32}-[0-9]{1,18}$"
DURATION = r"^[0-9]{1,15}(\.[0-9]{1,9})?(ms|s|m|h|d)?$"
TYPE = TYPE_PATTERN
LONGEST_SPAN_SECONDS = 10 * 365.25 * 86_400
"""Ten years. A longer span is a mistake, most often a Unix time."""
LAST = r"last(?::([1-9][0-9]{0,5}))?"

_DIGITS = 15
_DECIMALS = 9
_UNIT_MS = {"ms": 1, "s?": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}


def duration_up_to(highest_seconds: float) -> str:
    """Durations as people write them, of at most `highest_seconds`."""
    # The shortest decimal that means the same float, as people wrote it.
    highest_ms = Fraction(repr(highest_seconds)) * 1000
    each = (f"({_decimal_up_to(highest_ms / size_ms)}){unit}" for unit, size_ms in _UNIT_MS.items())
    return f"^({'|'.join(each)})$"


def since() -> str:
    """Where a stream may start."""
    return rf"^(missed|all|none|{LAST.replace('?:', '')})$|{EVENT_ID}|{duration_up_to(LONGEST_SPAN_SECONDS)}"


def _decimal_up_to(highest: Fraction) -> str:
    """Decimals of up to fifteen digits and nine places that are no larger than `highest`."""
    whole = floor(highest)
    places = str(floor((highest - whole) * 10**_DECIMALS)).rjust(_DECIMALS, "0")
    parts = [f"{_zeros(len(str(whole)))}{whole}({_fraction_up_to(places)})?"]
    if whole:
        parts.append(f"({_integer_below(str(whole))})([.][0-9]{{1,{_DECIMALS}}})?")
    return "|".join(parts)


def _integer_below(digits: str) -> str:
    """Integers below `digits`, with as many zeros in front as fit."""
    parts = []
    for at, digit in enumerate(digits):
        if digit != "0":
            rest = len(digits) - at - 1
            parts.append(f"{_zeros(len(digits))}{digits[:at]}[0-{int(digit) - 1}]{_any(rest)}")
    # Fewer digits are fewer, whatever they are.
    parts += [f"[0-9]{{1,{len(digits) - 1}}}"] if len(digits) > 1 else []
    return "|".join(parts)


def _fraction_up_to(places: str) -> str:
    """`.` and up to nine places, together no larger than `.places`."""
    parts = []
    for at, digit in enumerate(places):
        if digit != "0":
            parts.append(f"{places[:at]}[0-{int(digit) - 1}][0-9]{{0,{_DECIMALS - at - 1}}}")
        parts.append(places[: at + 1])
    return f"[.]({'|'.join(parts)})"


def _zeros(digits: int) -> str:
    return f"0{{0,{_DIGITS - digits}}}"


def _any(count: int) -> str:
    return f"[0-9]{{{count}}}" if count else ""
