"""What a publisher may send, and every refusal with its code and a sentence that says what to do."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.core import event as event_module
from edge.core.errors import EdgeError, InvalidRequest, LimitReached
from edge.core.event import MAX_TYPE_CHARS, Event, check_type, decode_json, decode_text

MAX_BYTES = 1000
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(
    value=json_values,
    event_type=st.none() | st.sampled_from(("tick", "é/ß", " ", "data:")),
    indent=st.none() | st.just(1),
)
def test_json_data_goes_on_as_the_text_that_came(value: Any, event_type: str | None, indent: int | None) -> None:
    text = json.dumps(value, indent=indent)
    name = "" if event_type is None else f'"type": {json.dumps(event_type)}, '
    got = decode_json(f'{{{name}"data":{text}}}'.encode(), 1 << 20)
    assert Event("message" if event_type is None else event_type, text.encode()) == got


DEEP = 1_000_000
"""Python 3.14 takes as many levels as its stack of 8 MiB holds; earlier ones a thousand."""


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"nonsense", "not an event"),
        (b"[]", "not an event"),
        (b'{"type":"x"}', "data"),
        (b'{"data":1,"extra":2}', "extra"),
        (b'{"data":1,"type":5}', "type"),
        (b'{"data":1,"type":null}', "type"),
        (b'{"data":1}trailing', "trailing"),
        (b'{"data":}', "not an event"),
        (b'{"data":{"a":}}', "not an event"),
        (b'{"data":"open', "not an event"),
        (b'{"data":NaN}', "not an event"),
        (b'{"data":"\x00"}', "not an event"),
        (b'{"data":"\xff"}', "UTF-8"),
        (b'{"data":["ok","\xc3\x28"]}', "UTF-8"),
        (b'{"data":"\xed\xa0\x80"}', "UTF-8"),
        (b'{"data":1,"type":"\xff"}', "UTF-8"),
        (b'{"data":' + b"[" * DEEP + b"]" * DEEP + b"}", "nested"),
        (b'{"data":' + b'{"a":' * DEEP + b"1" + b"}" * DEEP + b"}", "nested"),
        (b'{"data":1,"type":""}', "empty"),
        (b'{"data":1,"type":"a\\nb"}', "CR, LF or NUL"),
        (b'{"data":1,"type":"a\\rb"}', "CR, LF or NUL"),
        (b'{"data":1,"type":"a\\u0000b"}', "CR, LF or NUL"),
        (b'{"data":1,"type":"edge.hello"}', "reserved"),
        (b'{"data":1,"type":"edge."}', "reserved"),
        (b'{"data":1,"type":"' + b"x" * 257 + b'"}', "257 characters"),
    ],
)
def test_what_is_no_event_is_refused(body: bytes, says: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        decode_json(body, 1 << 20)
    assert "invalid_event" == refused.value.code
    assert says in refused.value.detail


@pytest.mark.parametrize("name", ["edge", "edgewise", "Edge.x", " edge.x", "x" * MAX_TYPE_CHARS, "é" * 256, "message"])
def test_what_only_looks_like_a_wrong_type_is_taken(name: str) -> None:
    check_type(name)
    assert name == decode_text(b"", name, 0).type


def test_a_type_is_measured_in_characters() -> None:
    with pytest.raises(InvalidRequest, match="257 characters; 256 are allowed"):
        check_type("é" * 257)


def test_a_type_with_half_a_character_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="not UTF-8") as refused:
        check_type("\ud800")
    assert "invalid_event" == refused.value.code


def test_a_wrong_type_is_refused_each_time() -> None:
    for _ in range(2):
        with pytest.raises(InvalidRequest):
            decode_json(b'{"data":1,"type":"edge.x"}', 10)


def test_what_is_remembered_of_types_is_bounded() -> None:
    for number in range(3000):
        check_type(f"type {number}")
        assert len(event_module._checked_types) <= 1024
    check_type("message")


@pytest.mark.parametrize(("size", "fits"), [(MAX_BYTES - 1, True), (MAX_BYTES, True), (MAX_BYTES + 1, False)])
def test_data_may_be_as_long_as_allowed(size: int, fits: bool) -> None:
    text = b"1" * size
    for event in (partial(decode_json, b'{"data":%b}' % text), partial(decode_text, text, None)):
        if fits:
            assert text == event(MAX_BYTES).data
            continue
        with pytest.raises(LimitReached, match=f"{size} bytes") as refused:
            event(MAX_BYTES)
        assert "event_too_large" == refused.value.code
        assert {"limit_bytes": MAX_BYTES} == refused.value.fields


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "is empty"),
        (b" \n", "is empty"),
        (b"hello", "Content-Type: text/plain"),
        (b'{"event":"progress","data":1}', "`type` in place of `event`"),
        ('\ufeff{"data":1}'.encode(), "byte order mark"),
        ('{"data":1}'.encode("utf-16"), "UTF-16"),
        ('{"data":1}'.encode("utf-16-le"), "UTF-16"),
        ('{"data":1}'.encode("utf-32"), "UTF-16 or UTF-32"),
        (b'{"data":"\xff"}', "not UTF-8"),
        (rb'{"data":"\ud83d"}', r"half of a character, \ud83d;"),
        (rb'{"data":"\ud83dx"}', r"half of a character, \ud83d;"),
        (rb'{"data":"\uDE00"}', r"half of a character, \uDE00;"),
        (rb'{"data":["\ud83d\ude00","\ud83d\ud83d"]}', r"half of a character, \ud83d;"),
        (rb'{"type":"\ud83d","data":1}', r"half of a character, \ud83d;"),
        (rb'{"data":"\ud83d\ude00', "Input data was truncated"),
    ],
)
def test_a_common_mistake_is_named(body: bytes, says: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        decode_json(body, 100)
    assert says in refused.value.detail
    assert refused.value.detail.endswith(".")


def test_json_may_come_from_a_view() -> None:
    assert Event("message", b'"x"') == decode_json(memoryview(b'{"data":"x"}'), 10)


def test_text_is_taken_as_it_is() -> None:
    body = "\ufeff: any\0thing\r\n\r\n".encode()
    assert Event("message", body) == decode_text(body, None, 100)


def test_text_that_is_not_utf8_is_refused_with_the_place() -> None:
    with pytest.raises(InvalidRequest, match=r"byte 2\b") as refused:
        decode_text(b"ab\xff", None, 100)
    assert "invalid_event" == refused.value.code


def test_a_wrong_type_of_text_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="empty"):
        decode_text(b"x", "", 100)


def test_every_refusal_has_a_code_of_its_class_or_its_own() -> None:
    assert "invalid_request" == InvalidRequest("x").code
    assert "mine" == InvalidRequest("x", code="mine").code
    error = EdgeError("why", retry_after_seconds=2.0, status=503, project="p")
    assert ("internal", "why", 2.0, 503, {"project": "p"}) == (
        error.code,
        error.detail,
        error.retry_after_seconds,
        error.status,
        error.fields,
    )
