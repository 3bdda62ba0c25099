"""Frames, read back by a parser that was written from the specification."""

from __future__ import annotations

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from edge.core import sse
from edge.core.errors import InvalidRequest
from edge.core.event import FINAL, Event, check_type
from tests.core.eventstream import Comment, Message, Retry, lines_of, parse, unchunk

texts = st.text(
    st.one_of(
        st.sampled_from("\r\n\r\n: \0\ufeff"),
        st.characters(exclude_categories=["Cs"]),
        st.sampled_from("data:id:event:"),
    )
)


def is_type(name: str) -> bool:
    try:
        check_type(name)
    except InvalidRequest:
        return False
    return True


types = st.text(max_size=40).filter(is_type)


@given(data=texts, event_type=types, seq=st.integers(1, 10**18 - 1))
@example(data="", event_type="message", seq=1)
@example(data="\n", event_type=" message", seq=1)
@example(data="\r\n\r\n", event_type="message", seq=1)
@example(data="\r", event_type=":", seq=1)
@example(data=" leading", event_type="message", seq=1)
@example(data=": not a comment\nid: forged\nevent: forged\n\ndata: forged", event_type="tick", seq=1)
@example(data="\ufeffbom\0nul", event_type="\ufeff", seq=1)
@example(data="\u2028\u2029\x85\x0b\x0c", event_type="message", seq=1)
@example(data="line\n" * 40_000, event_type="message", seq=1)
@example(data="é" * 102_400, event_type="message", seq=1)
def test_any_text_comes_out_as_it_went_in(data: str, event_type: str, seq: int) -> None:
    frame = Event(event_type, data.encode()).frame(b"epoch1-", seq)
    assert [Message(event_type, lines_of(data), f"epoch1-{seq}", own_id=True)] == parse(frame)
    assert frame.endswith(b"\n\n")
    assert frame == unchunk(sse.chunk(frame))


@given(st.lists(st.tuples(types, texts), max_size=6))
def test_frames_joined_are_the_events_one_after_the_other(events: list[tuple[str, str]]) -> None:
    joined = b"".join(Event(name, data.encode()).frame(b"e-", seq) for seq, (name, data) in enumerate(events, 1))
    assert [
        Message(name, lines_of(data), f"e-{seq}", own_id=True) for seq, (name, data) in enumerate(events, 1)
    ] == parse(joined)


@given(data=texts, event_type=types, seq=st.integers(1, 10**18 - 1))
def test_a_number_can_be_put_on_later(data: str, event_type: str, seq: int) -> None:
    frame = Event(event_type, data.encode()).frame(b"e-", seq)
    text = Event(event_type, data.encode()).text()
    assert frame == sse.numbered(b"e-", seq, text)
    assert text == sse.text_of(frame)
    assert text == sse.text_of(id_first(seq, text))


def id_first(seq: int, text: bytes) -> bytes:
    """A frame as version 0.1 stored it."""
    return b"id: e-%d\n%b" % (seq, text)


@given(data=texts, event_type=types, seq=st.integers(1, 10**18 - 1))
def test_frames_of_both_versions_are_decoded(data: str, event_type: str, seq: int) -> None:
    text = Event(event_type, data.encode()).text()
    for frame in (sse.numbered(b"e-", seq, text), id_first(seq, text)):
        assert (f"e-{seq}", event_type, lines_of(data)) == sse.decode(frame)


@given(st.lists(st.tuples(types, texts, st.booleans()), min_size=1, max_size=6))
def test_what_finishes_a_project_is_known_and_not_sent(events: list[tuple[str, str, bool]]) -> None:
    held = [Event(name, data.encode(), final).frame(b"e-", seq) for seq, (name, data, final) in enumerate(events, 1)]
    sent = [Event(name, data.encode()).frame(b"e-", seq) for seq, (name, data, _) in enumerate(events, 1)]
    assert [final for _, _, final in events] == [frame.startswith(FINAL) for frame in held]
    assert b"".join(sent) == sse.without_final(b"".join(held))
    for frame, plain, (name, data, final) in zip(held, sent, events, strict=True):
        assert sse.decode(plain) == sse.decode(frame)
        assert sse.text_of(frame) == Event(name, data.encode(), final).text()


def test_the_bytes_of_a_frame() -> None:
    assert b"data: {}\nid: e-7\n\n" == Event("message", b"{}").frame(b"e-", 7)
    assert b"event: tick\ndata: a\ndata: b\nid: e-7\n\n" == Event("tick", b"a\r\nb").frame(b"e-", 7)


@given(
    name=st.sampled_from(("hello", "gap", "closing")),
    fields=st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), texts | st.integers() | st.none()),
    retry_ms=st.none() | st.integers(1, 10**6),
)
def test_control_frames_have_json_data_and_no_id(name: str, fields: dict[str, object], retry_ms: int | None) -> None:
    *before, message = parse(sse.control_frame(name, fields, retry_ms=retry_ms))
    assert ([] if retry_ms is None else [Retry(retry_ms)]) == before
    assert isinstance(message, Message)
    assert (f"edge.{name}", False) == (message.type, message.own_id)
    assert json.loads(json.dumps(fields)) == message.json


def test_hello_ends_with_its_id() -> None:
    frame = sse.control_frame("hello", {}, retry_ms=1, event_id="e-3")
    assert b"retry: 1\nevent: edge.hello\ndata: {}\nid: e-3\n\n" == frame


def test_pings() -> None:
    assert [b": ping\n", b": probe\n"] == [sse.PING_COMMENT, sse.PROBE_COMMENT]
    assert [Comment(" ping")] == parse(sse.PING_COMMENT)
    assert [Comment(" probe")] == parse(sse.PROBE_COMMENT)
    assert [Message("edge.ping", "{}", "", own_id=False)] == parse(sse.PING_EVENT)


@pytest.mark.parametrize("size", [1, 15, 16, 255, 4096])
def test_a_chunk_says_its_size_in_hexadecimal(size: int) -> None:
    assert f"{size:x}\r\n".encode() + b"x" * size + b"\r\n" == sse.chunk(b"x" * size)
