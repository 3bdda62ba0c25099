"""The W3C trace context of the request at hand: passed on to the target, and named in every log line made under it.

https://www.w3.org/TR/trace-context/. Of the two headers only `traceparent` is carried: `tracestate` belongs to the
vendors of tracing systems, and we are none.

Invariant: what is carried is well-formed, so it can go into a header and a log line as it is.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from contextvars import ContextVar, copy_context
from typing import TypeVar

Argument = TypeVar("Argument")
Result = TypeVar("Result")
HEADER = "traceparent"
CURRENT: ContextVar[str | None] = ContextVar(HEADER, default=None)
# Version ff and ids of zeros only are invalid.
_WELL_FORMED = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}", re.ASCII)


def well_formed(traceparent: str) -> bool:
    """Whether it is a valid traceparent; the standard says to ignore an invalid one."""
    return _WELL_FORMED.fullmatch(traceparent) is not None


def under(traceparent: str, function: Callable[[Argument], Result], argument: Argument) -> Result:
    """Call `function`, and run the tasks it makes, under `traceparent`, if that is one."""
    if not well_formed(traceparent):
        return function(argument)
    context = copy_context()
    context.run(CURRENT.set, traceparent)
    return context.run(function, argument)
