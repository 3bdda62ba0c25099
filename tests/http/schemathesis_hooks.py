"""What schemathesis can't know by itself: a body of NDJSON, the bounds that a pattern doesn't express, and that only
text has its type in the query.
"""

from __future__ import annotations

import json
from typing import Any

import schemathesis
from hypothesis import strategies as st

_types = st.text(st.characters(exclude_characters="\r\n\0", exclude_categories=["Cs"]), min_size=1, max_size=20)
_events = st.fixed_dictionaries(
    {"data": st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists, max_leaves=5)},
    optional={"type": _types.filter(lambda name: not name.startswith("edge."))},
)
_lines = st.lists(_events.map(json.dumps), min_size=1, max_size=5).map(lambda lines: "\n".join(lines).encode())
schemathesis.openapi.media_type("application/x-ndjson", _lines)

_ms = st.integers(0, 50).map("{}ms".format)  # trigger.max_wait_seconds of the hub that is tested
schemathesis.openapi.format("edge-wait", _ms | st.sampled_from(["0", "0.05", "0.001s", "0.0000001h"]))
_ids = st.from_regex(r"[0-9a-z]{1,32}-(0|[1-9][0-9]{0,17})", fullmatch=True)
_spans = st.builds("{}{}".format, st.integers(0, 3650), st.sampled_from(["", "ms", "s", "m", "h", "d"]))
_since = st.sampled_from(["missed", "all", "none", "last", "last:1", "last:999999"]) | _ids | _spans
schemathesis.openapi.format("edge-since", _since)


@schemathesis.hook
def before_call(_context: object, case: schemathesis.Case[Any], _options: dict[str, Any]) -> None:
    if case.media_type != "text/plain" and case.operation.method.upper() == "POST" and case.query:
        case.query.pop("type", None)
