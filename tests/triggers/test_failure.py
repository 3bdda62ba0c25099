from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.triggers.failure import BASE_SECONDS, CAP_SECONDS, backoff_seconds, retry_after_seconds

NOW_MS = 1_700_000_000_000  # Tue, 14 Nov 2023 22:13:20 GMT


def test_the_longest_wait_doubles_up_to_the_cap() -> None:
    assert [0.25, 0.5, 1.0, 2.0, 4.0, 5.0, 5.0] == [backoff_seconds(retry, 1.0) for retry in range(1, 8)]


@given(st.integers(1, 10**9), st.floats(0, 1, exclude_max=True))
def test_the_wait_is_spread_from_zero_to_its_bound(retry: int, share: float) -> None:
    assert 0 <= backoff_seconds(retry, share) <= CAP_SECONDS
    assert backoff_seconds(retry, 0.0) == 0
    assert backoff_seconds(retry, share) >= share * BASE_SECONDS


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("0", 0.0),
        ("7", 7.0),
        (" 120 ", 120.0),
        ("9" * 4000, 31_536_000.0),
        ("Tue, 14 Nov 2023 22:13:25 GMT", 5.0),
        ("Tue, 14 Nov 2023 22:13:15 GMT", 0.0),
        ("Tuesday, 14-Nov-23 22:13:25 GMT", 5.0),
        ("Tue Nov 14 22:13:25 2023", 5.0),
        (None, 0.0),
        ("", 0.0),
        ("-5", 0.0),
        ("1.5", 0.0),
        ("\u0667", 0.0),
        ("soon", 0.0),
        ("Tue, 99 Nov 2023 99:99:99 GMT", 0.0),
        ("Mon, 01 Jan 9999 00:00:00 -2359", 31_536_000.0),
    ],
)
def test_retry_after_is_read_as_seconds_or_date(header: str | None, seconds: float) -> None:
    assert seconds == retry_after_seconds(header, NOW_MS)


@given(st.text())
def test_any_retry_after_is_a_finite_wait(header: str) -> None:
    assert 0 <= retry_after_seconds(header, NOW_MS) <= 31_536_000.0
