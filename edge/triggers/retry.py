"""How long to wait before the next attempt.

Exponential backoff with full jitter: callers who failed together do not come back together. What the
target asks for by `Retry-After` is waited for on top, up to a bound; beyond it, waiting is the caller's.
"""

from __future__ import annotations

from datetime import UTC
from email.utils import parsedate_to_datetime

BASE_SECONDS = 0.25
CAP_SECONDS = 5.0
RETRY_AFTER_MAX_SECONDS = 10.0
"""A caller holds its trigger's request open meanwhile, and many give up after thirty seconds."""

_YEAR_SECONDS = 31_536_000.0


def backoff_seconds(retry: int, share: float) -> float:
    """The wait before the `retry`th retry (from 1); `share` is a random number from [0, 1)."""
    return share * min(CAP_SECONDS, BASE_SECONDS * 2.0 ** min(retry - 1, 30))


def retry_after_seconds(header: str | None, now_ms: int) -> float:
    """What `Retry-After` asks for, as seconds or an HTTP date (RFC 9110, 10.2.3); 0 where it is unusable."""
    text = (header or "").strip()
    if text.isascii() and text.isdigit():
        return min(float(text), _YEAR_SECONDS)
    try:
        moment = parsedate_to_datetime(text)
        if moment.tzinfo is None:  # the asctime form of an HTTP date names no zone and means GMT
            moment = moment.replace(tzinfo=UTC)
        asked = moment.timestamp()
    except (ValueError, TypeError, OverflowError):
        return 0.0
    return min(max(0.0, asked - now_ms / 1000), _YEAR_SECONDS)
