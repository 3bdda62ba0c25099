"""The oracle itself, on the specification's own examples: what the other tests lean on."""

from __future__ import annotations

import pytest

from tests.core.eventstream import Comment, Message, Retry, messages, parse, unchunk


@pytest.mark.parametrize(
    ("stream", "data"),
    [
        (b"data: YHOO\ndata: +2\ndata: 10\n\n", ["YHOO\n+2\n10"]),
        (b": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\n", ["first event", "second event"]),
        (b"data\n\ndata\ndata\n\n", ["", "\n"]),
        (b"data:test\n\ndata: test\n\n", ["test", "test"]),
        (b"data:  two blanks\n\n", [" two blanks"]),
        (b"data: a\rdata: b\r\rdata: c\r\n\r\n", ["a\nb", "c"]),
        (b"\xef\xbb\xbfdata: bom\n\ndata: \xef\xbb\xbfkept\n\n", ["bom", "\ufeffkept"]),
        (b"id: 1\n\nevent: nothing\n\n", []),
        (b"unknown: field\ndata: x\n\n", ["x"]),
    ],
)
def test_data_as_the_specification_has_it(stream: bytes, data: list[str]) -> None:
    assert data == [message.data for message in messages(stream)]


def test_ids_types_comments_and_retry() -> None:
    stream = b"retry: 10\nretry: 1x\nid: 7\nevent: tick\ndata: 1\n\n:c\ndata: 2\n\nid: 8\0\ndata: 3\n\nid\ndata: 4\n\n"
    assert [
        Retry(10),
        Message("tick", "1", "7", own_id=True),
        Comment("c"),
        Message("message", "2", "7", own_id=False),
        Message("message", "3", "7", own_id=False),
        Message("message", "4", "", own_id=True),
    ] == parse(stream)


def test_chunks() -> None:
    assert b"abcdefghijklmnopq" == unchunk(b"3\r\nabc\r\ne\r\ndefghijklmnopq\r\n0\r\n\r\n")


def test_a_wrong_size_is_noticed() -> None:
    with pytest.raises(AssertionError, match="size"):
        unchunk(b"2\r\nabc\r\n")
