"""What comes from outside into log lines: text, made safe to print, and the W3C trace context of a request.

Of the two headers of https://www.w3.org/TR/trace-context/ only `traceparent` is carried, into every log line and to
the target: `tracestate` belongs to the vendors of tracing systems, and we are none.
"""

from __future__ import annotations

import re
from contextvars import ContextVar

TRACE_HEADER = "traceparent"
TRACE: ContextVar[str | None] = ContextVar(TRACE_HEADER, default=None)
"""The traceparent of the request at hand: well-formed, so it can go into a header and a log line as it is."""
# Version ff and ids of zeros only are invalid.
_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}", re.ASCII)


def one_line(text: str) -> str:
    """`text` with every character that isn't printable written as an escape (`\\n`, `\\x1b`, `\\u2028`).

    What counts as printable is Unicode's word (`str.isprintable`): controls, line and paragraph separators,
    bidirectional overrides and lone surrogates are not.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def shorten(text: str, max_chars: int) -> str:
    """`text`, cut to `max_chars` with an ellipsis as its last character where it is longer."""
    return text if len(text) <= max_chars else text[: max_chars - 1] + "…"


def is_traceparent(text: str) -> bool:
    """Whether it is a valid traceparent; the standard says to ignore an invalid one."""
    return _TRACEPARENT.fullmatch(text) is not None


def trace_of(traceparent: str | None) -> str | None:
    """What `TRACE` is in a request with this header: None without one, or if it is invalid."""
    return traceparent if traceparent is not None and is_traceparent(traceparent) else None
