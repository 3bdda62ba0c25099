"""What schemathesis can't know by itself: how a body of NDJSON is made."""

from __future__ import annotations

import json

import schemathesis
from hypothesis import strategies as st

_types = st.text(st.characters(exclude_characters="\r\n\0", exclude_categories=["Cs"]), min_size=1, max_size=20)
_events = st.fixed_dictionaries(
    {"data": st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists, max_leaves=5)},
    optional={"type": _types.filter(lambda name: not name.startswith("edge."))},
)
_lines = st.lists(_events.map(json.dumps), max_size=5).map(lambda lines: "\n".join(lines).encode())
schemathesis.openapi.media_type("application/x-ndjson", _lines)
