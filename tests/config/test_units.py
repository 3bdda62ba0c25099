from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.config.units import format_duration, format_size, format_value, parse_duration, parse_size


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0.0),
        ("3", 3.0),
        ("0.25", 0.25),
        ("500ms", 0.5),
        ("3s", 3.0),
        ("1.5h", 5400.0),
        ("10m", 600.0),
        ("1h", 3600.0),
        ("2d", 172800.0),
    ],
)
def test_a_duration_is_read_in_seconds(text: str, seconds: float) -> None:
    assert seconds == parse_duration(text)


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", "3 s", " 3s", "3s\n", "-3s", "+3", "1e9", "nan", "inf", "1_000", "٣s", "3S", "3M", "3w"),
        *("1h30m", ".5", "5.", "s", "9" * 16, "9" * 5000, "0x10"),
    ],
)
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="must be a duration such as 500ms"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("0", 0),
        ("4096", 4096),
        ("17B", 17),
        ("64KiB", 65536),
        ("4MiB", 4 * 1024**2),
        ("1GiB", 1024**3),
        ("10MB", 10_000_000),
        ("5kB", 5000),
        ("2GB", 2_000_000_000),
        ("4mib", 4 * 1024**2),
    ],
)
def test_a_size_is_read_in_bytes(text: str, size_bytes: int) -> None:
    assert size_bytes == parse_size(text)


@pytest.mark.parametrize(
    "text",
    ["", "4 MiB", "-1", "1.5MiB", "4K", "4M", "4G", "4TiB", "٤MiB", "1_000", "MiB", "4\n", "4Mİ", "9" * 16],
)
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="must be a size such as 4MiB"):
        parse_size(text)


@given(st.integers(0, 10**12))
def test_a_size_survives_writing_and_reading(size_bytes: int) -> None:
    assert size_bytes == parse_size(format_size(size_bytes))


@given(st.one_of(st.integers(0, 10**9).map(float), st.integers(0, 10**9).map(lambda ms: ms / 1000)))
def test_a_duration_survives_writing_and_reading(seconds: float) -> None:
    assert seconds == parse_duration(format_duration(seconds))


@given(st.text())
def test_any_text_is_read_or_refused_with_a_valueerror(text: str) -> None:
    for parse in (parse_duration, parse_size):
        try:
            value = parse(text)
        except ValueError:
            continue
        assert 0 <= value < float("inf")


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("wait_seconds", 600.0, "10m"),
        ("wait_seconds", 0.25, "250ms"),
        ("wait_seconds", 90, "90s"),
        ("max_bytes", 262144, "256KiB"),
        ("max_bytes", 1000, "1000"),
        ("retry_ms", 1000, "1000ms"),
        ("max_events", 1000, "1000"),
    ],
)
def test_a_value_is_shown_in_the_unit_of_its_name(name: str, value: float, shown: str) -> None:
    assert shown == format_value(name, value)
