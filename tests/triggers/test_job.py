from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.core.errors import InvalidRequest
from edge.triggers.job import FORMATS, Job, content_type, encode_job

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


def job(data: bytes = b'{"a":1}', *, project: str = "p1", name: str = "api/iterate") -> Job:
    return Job(id="j1", name=name, ts_ms=1_700_000_000_123, project=project, data=msgspec.Raw(data))


def test_json_holds_the_job_as_it_is() -> None:
    expected = b'{"id":"j1","name":"api/iterate","ts":1700000000123,"project":"p1","data":{"a":1}}'
    assert expected == encode_job(job(), "json")


def test_inngest_puts_the_project_into_the_data() -> None:
    expected = b'{"id":"j1:f64551fcd6f0","name":"api/iterate","ts":1700000000123,"data":{"a":1,"project":"p1"}}'
    assert expected == encode_job(job(), "inngest")


@pytest.mark.parametrize("data", [b"[1]", b'"text"', b"null", b"1e400"])
def test_inngest_wraps_data_that_is_no_object_as_value(data: bytes) -> None:
    body = encode_job(job(data), "inngest")
    assert body.endswith(b'"data":{"value":' + data + b',"project":"p1"}}')


@pytest.mark.parametrize(
    "data",
    [
        b'{"project":"p2"}',
        b'{"project":"p2","project":"p3"}',
        rb'{"pro\u006aect":"p2"}',
        b' {"project":"p2"}',
    ],
)
def test_inngest_lets_no_caller_speak_for_another_project(data: bytes) -> None:
    assert encode_job(job(data), "inngest").endswith(b'"data":{"project":"p1"}}')


def test_cloudevents_is_version_1_in_structured_mode() -> None:
    expected = {
        "specversion": "1.0",
        "id": "j1",
        "source": "/projects/p1",
        "type": "api/iterate",
        "time": "2023-11-14T22:13:20.123Z",
        "subject": "p1",
        "datacontenttype": "application/json",
        "data": {"a": 1},
    }
    assert expected == json.loads(encode_job(job(), "cloudevents"))
    assert content_type("cloudevents") == "application/cloudevents+json"


def test_cloudevents_time_has_its_milliseconds_when_they_are_zero() -> None:
    midnight = Job(id="j1", name="n", ts_ms=0, project="p1", data=msgspec.Raw(b"null"))
    assert json.loads(encode_job(midnight, "cloudevents"))["time"] == "1970-01-01T00:00:00.000Z"


@pytest.mark.parametrize("data", [b"1e400", b"12345678901234567890123", b'{"a":1,"a":2}', b'"\\u00e9"'])
@pytest.mark.parametrize("name", ["json", "cloudevents"])
def test_data_goes_out_as_the_text_that_came_in(name: str, data: bytes) -> None:
    assert encode_job(job(data), name).endswith(b'"data":' + data + b"}")


def test_inngest_keeps_the_text_below_its_top_level() -> None:
    body = encode_job(job(b'{"a":{"b":1e400,"b":[ 1 ]}}'), "inngest")
    assert b'"data":{"a":{"b":1e400,"b":[ 1 ]},"project":"p1"}' in body


@pytest.mark.parametrize("name", FORMATS)
def test_data_in_another_encoding_is_refused(name: str) -> None:
    with pytest.raises(InvalidRequest, match="not JSON in UTF-8") as refused:
        encode_job(job(b'{"a":"\xff"}'), name)
    assert refused.value.__context__ is None


@given(JSON_VALUES, st.sampled_from(FORMATS), st.text())
def test_every_format_is_json_that_holds_the_data(value: object, name: str, title: str) -> None:
    body = json.loads(encode_job(job(json.dumps(value).encode(), name=title), name))
    if name != "inngest":
        expected = value
    elif isinstance(value, dict):
        expected = {**value, "project": "p1"}
    else:
        expected = {"value": value, "project": "p1"}
    assert expected == body["data"]
    assert title == body["type" if name == "cloudevents" else "name"]
