from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.logs.text import is_traceparent, one_line, shorten, trace_of

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@given(st.text(st.characters(exclude_categories=())))
def test_one_line_holds_nothing_that_a_terminal_acts_on(text: str) -> None:
    line = one_line(text)

    assert line.isprintable()
    assert len(line.splitlines()) <= 1
    line.encode()


def test_one_line_leaves_readable_text_as_it_is() -> None:
    assert "Grüße, 世界 🚀" == one_line("Grüße, 世界 🚀")
    assert r"a\r\nb\x1b[31m\x85\u2028\u202e\x00" == one_line("a\r\nb\x1b[31m\x85\u2028\u202e\0")


def test_shorten_cuts_with_an_ellipsis() -> None:
    assert "abcd" == shorten("abcd", 4)
    assert "abc…" == shorten("abcde", 4)


@pytest.mark.parametrize(
    ("text", "well_formed"),
    [
        (TRACEPARENT, True),
        ("cc" + TRACEPARENT[2:], True),
        ("ff" + TRACEPARENT[2:], False),
        (TRACEPARENT.upper(), False),
        (f"{TRACEPARENT}-more", False),
        (f"{TRACEPARENT}\n", False),
        (re.sub("0af7651916cd43dd8448eb211c80319c", "0" * 32, TRACEPARENT), False),
        (re.sub("b7ad6b7169203331", "0" * 16, TRACEPARENT), False),
        ("", False),
    ],
)
def test_a_trace_that_is_none_is_ignored(text: str, well_formed: bool) -> None:
    assert well_formed is is_traceparent(text)
    assert (text if well_formed else None) == trace_of(text)
