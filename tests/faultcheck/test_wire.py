"""What cuts streams anywhere, and still reads what came."""

from __future__ import annotations

import json

import pytest

from tests.faultcheck.wire import EventLines, event, token_of

BODY = b"id: e-1\ndata: one\n\n: ping\n"


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
def test_lines_come_whole_out_of_pieces_of_any_size(size: int) -> None:
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (BODY[:5], BODY[5:]))
    for wire, chunked in ((BODY, False), (chunks, True)):
        lines = EventLines(chunked=chunked)
        found = [line for at in range(0, len(wire), size) for line in lines.feed(wire[at : at + size])]
        assert BODY.decode().splitlines() == found


@pytest.mark.parametrize("token", ["p0-1", "p1-17.3", "t0-250"])
def test_a_token_is_found_in_its_event_unless_the_event_is_damaged(token: str) -> None:
    assert token == token_of(event(token)) == token_of(json.dumps(event(token)))
    assert token_of(event(token) + "x").startswith("damaged")
