"""Whatever comes in, a decoder takes it or refuses it in the way it says; nothing else comes out."""

# ruff: noqa: PT017 - a decoder may refuse, and what the refusal looks like is the point

from __future__ import annotations

import asyncio
import json
import math
from pathlib import Path
from typing import Any

import jwt
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from edge.auth import keys
from edge.auth.permissions import Identity
from edge.auth.tokens import Verifier
from edge.config.load import ConfigError, load
from edge.config.schema import KEYS, AuthSettings
from edge.config.units import parse_duration, parse_size
from edge.core.batches import FrameCache
from edge.core.counters import Counters
from edge.core.errors import EdgeError, Unauthenticated
from edge.core.event import Event, decode_json, decode_text
from edge.core.project import Project
from edge.core.resume import after_id
from edge.core.saved import PastEpoch
from edge.http import trigger
from edge.http.access_control import cookie_values
from edge.http.ndjson import Framing
from edge.http.source import Hosts, Origins
from tests.fuzz.mangling import mangle

CORPUS = Path(__file__).parent / "corpus"
KEY = "0123456789abcdef0123456789abcdef"
JSON_BODIES = sorted((CORPUS / "json").iterdir())

_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)
_names = st.sampled_from(["type", "data", "name", "id", "x"])


_JUNK = [b"\0", b"\r\n", b"\xff", b"\\ud800", b"[" * 50, b'"', b","]


@st.composite
def mangled(draw: st.DrawFn, seeds: list[bytes]) -> bytes:
    """One of `seeds` with bytes taken out, put in, or written over."""
    junk = st.binary(max_size=6) | st.sampled_from(_JUNK)
    return mangle(draw, bytearray(draw(st.sampled_from(seeds))), junk, least=0, cut=20)


def _dumped(value: Any) -> bytes:
    return json.dumps(value).encode()


_bodies = (
    mangled([path.read_bytes() for path in JSON_BODIES])
    | st.dictionaries(_names, _json, max_size=4).map(_dumped)
    | st.binary(max_size=100)
)


@given(_bodies)
@example(b"[" * 100_000)
@example(b'{"data":' + b"[" * 100_000)
@example(b'{"type":"\\ud800","data":1}')
@example(b'{"data":"\xff"}')
def test_an_event(body: bytes) -> None:
    try:
        event = decode_json(body, 1000)
    except EdgeError as error:
        assert error.code in ("invalid_event", "event_too_large")
        return
    assert isinstance(event, Event)
    assert not set("\r\n\0") & set(event.type)
    assert not event.type.startswith("edge.")
    json.loads(event.data)
    assert len(event.data) <= 1000


@given(_bodies)
@example(b'{"name":"x","data":' + b"[" * 100_000)
def test_a_trigger(body: bytes) -> None:
    try:
        order = trigger.decode(body)
    except EdgeError as error:
        assert "invalid_trigger" == error.code
        return
    assert order.name
    assert not set("\r\n\0") & set(order.name)
    json.loads(bytes(order.data))


@given(st.binary(max_size=200), st.none() | st.text(max_size=10))
def test_a_text(body: bytes, name: str | None) -> None:
    try:
        event = decode_text(body, name, 100)
    except EdgeError as error:
        assert error.code in ("invalid_event", "event_too_large")
        return
    assert body == event.data


@given(st.lists(st.binary(max_size=8) | st.just(b"\n"), max_size=12))
def test_lines_are_the_same_wherever_they_are_cut(pieces: list[bytes]) -> None:
    framing = Framing(1000)
    lines = [bytes(line) for piece in pieces for line in framing.feed(piece)]
    lines.append(bytes(framing.end()))
    assert b"".join(pieces).split(b"\n") == lines


def test_lines_are_the_same_cut_at_every_place() -> None:
    raw = b'{"data":1}\n\n{"data":"\xc3\xa9"}\r\n{"data":2}'
    for at in range(len(raw) + 1):
        framing = Framing(1000)
        lines = [*framing.feed(raw[:at]), *framing.feed(raw[at:]), framing.end()]
        assert raw.split(b"\n") == [bytes(line) for line in lines]


def _history() -> Project:
    """Five events of which the oldest two are gone, the first four of an earlier process."""
    project = Project("p1", "b2", Counters(), FrameCache())
    project.earlier = (PastEpoch("b1", 4, True),)
    for _ in range(5):
        project.append(b"data: x\n\n", 0.0)
    project.evict(2, "count", 0.0)
    return project


_HISTORY = _history()


@given(st.text(max_size=50) | st.from_regex(r"b[12]-[0-9]{1,3}|[0-9a-z]{1,33}-[0-9]{1,20}", fullmatch=True))
def test_an_event_id(text: str) -> None:
    start = after_id(_HISTORY, text)
    project = _HISTORY
    assert project.ring.oldest - 1 <= start.cursor <= project.ring.newest
    if start.gap is not None:
        start.gap.asked.encode(errors="replace")


@given(st.text(max_size=30) | st.from_regex(r"[0-9.]{1,20}(ms|s|m|h|d|MiB)?", fullmatch=True))
def test_durations_and_sizes(text: str) -> None:
    for parse in (parse_duration, parse_size):
        try:
            value = parse(text)
        except ValueError:
            continue
        assert math.isfinite(value)
        assert value >= 0


@given(st.sampled_from(sorted(KEYS)), st.text(st.characters(exclude_characters="\0"), max_size=40))
def test_a_variable(key: str, text: str) -> None:
    try:
        load(None, {f"EDGE_{key.replace('.', '_').upper()}": text}, {})
    except ConfigError as error:
        assert str(error).isprintable()


@given(
    st.text(max_size=60) | st.builds("[{}]\n{} = {}".format, st.text("aserv.", max_size=8), st.text(max_size=8), _json)
)
def test_a_configuration_file(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzzed.toml"
    path.write_text(text, encoding="utf-8", errors="surrogatepass")
    try:
        load(path, {}, {})
    except ConfigError as error:
        assert str(error).isprintable()


@given(st.text(max_size=60) | st.text("edge_token= ;\"'", max_size=40))
def test_cookies(header: str) -> None:
    for value in cookie_values(header, "edge_token"):
        assert value in header
        assert ";" not in value


_signed = jwt.encode({"edge": {"publish": ["*"]}, "exp": 2**33}, KEY, "HS256").encode()
_verifier = Verifier(AuthSettings(token=("static",), jwt_key=KEY))


@given(mangled([_signed]) | st.binary(max_size=60) | st.text("._-azAZ09=", max_size=60).map(str.encode))
def test_a_token(raw: bytes) -> None:
    token = raw.decode("utf-8", "surrogateescape")
    try:
        identity = asyncio.run(_verifier.verify(token))
    except Unauthenticated as error:
        assert len(token) < 8 or token not in error.detail
        return
    assert isinstance(identity, Identity)
    # Base64's last character has bits that mean nothing: all else is what was signed.
    assert _signed[:-1] == raw[: len(_signed) - 1]


_members = st.sampled_from(["kty", "crv", "x", "y", "n", "e", "k", "alg", "use", "kid"])
_values = st.sampled_from(["RSA", "EC", "OKP", "oct", "P-256", "Ed25519", "AQAB"])
_entries = st.dictionaries(_members, _json | _values, max_size=6)


@given(_json | st.fixed_dictionaries({"keys": st.lists(_entries, max_size=3)}))
def test_a_key_set(document: object) -> None:
    try:
        found = keys.from_set(document, ())
    except ValueError:
        return
    assert all(not isinstance(key.material, bytes) for key in found)


@given(st.text(max_size=40) | st.from_regex(r"https?://[^ ]{0,20}(:[0-9]{0,6})?", fullmatch=True), st.text(max_size=20))
def test_hosts_and_origins(text: str, other: str) -> None:
    hosts, origins = Hosts(("hub.example.org",)), Origins(("https://app.example.org",))
    if hosts.know(text):
        assert any(local in text.lower() for local in ("localhost", "127.", "1", "hub.example.org"))
    assert isinstance(origins.admits(text, other), bool)
    assert isinstance(origins.admits(other, text), bool)
