"""Publishing many at once is publishing one by one, done sooner."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.core import resume
from edge.core.errors import Draining, EdgeError, LimitReached
from edge.core.event import Event, decode_json, decode_plain_lines
from edge.core.hub import Hub
from edge.core.limits import Limits
from tests.core.fakes import FakeConnection, Recorder, Woken

TEXT = st.text(st.characters(codec="utf-8"), max_size=20).map(str.encode)
EVENTS = st.lists(st.builds(Event, st.sampled_from(("message", "tick")), TEXT), min_size=1, max_size=30)


def hub(max_events: int, max_bytes: int) -> Hub:
    limits = Limits(max_events=max_events, max_bytes=max_bytes)
    return Hub(limits, boot="boot", wake=Woken(), observer=Recorder())


def state(hub: Hub, connection: FakeConnection | None) -> list[Any]:
    project = hub.projects["p"]
    ledger, counters = project.ledger, hub.counters
    return [
        project.ring.frames(),
        (project.ring.oldest, project.ring.newest, project.ring.size_bytes),
        (ledger.misses, ledger.recovered, ledger.lost, list(ledger.pending)),
        (
            counters.published,
            counters.delivered,
            counters.ring_events,
            counters.ring_bytes,
            sum(counters.evicted.values()),
        ),
        None if connection is None else connection.items,
    ]


@given(EVENTS, EVENTS, st.integers(1, 40), st.integers(300, 2000), st.booleans())
def test_many_at_once_leave_what_one_by_one_leaves(
    before: list[Event], events: list[Event], max_events: int, max_bytes: int, read: bool
) -> None:
    states, ids = [], []
    for together in (False, True):
        machine = hub(max_events, max_bytes)
        connection = FakeConnection(machine, "c") if read else None
        if connection is not None:
            machine.attach("p", connection, resume.nothing, 1.0)
        for event in before:
            machine.publish("p", event, 1.0)
        while machine.flush(1.0):
            pass
        if together:
            batch = machine.publish_many("p", events, 2.0)
            ids.append((batch.first_id, batch.last_id, batch.events, batch.missed))
        else:
            receipts = [machine.publish("p", event, 2.0) for event in events]
            ids.append((receipts[0].id, receipts[-1].id, len(receipts), receipts[0].missed))
        while machine.flush(2.0):
            pass
        states.append(state(machine, connection))
    assert ids[0] == ids[1]
    assert states[0] == states[1]


def test_all_or_none() -> None:
    machine = hub(10, 300)
    machine.publish("p", Event("message", b"1"), 1.0)
    with pytest.raises(LimitReached):
        machine.publish_many("p", [Event("message", b"2"), Event("message", b"x" * 400)], 1.0)
    machine.draining = True
    with pytest.raises(Draining):
        machine.publish_many("p", [Event("message", b"2")], 1.0)
    assert 1 == machine.counters.published


GOOD = (
    b'{"data": 1}',
    b'{"type": "message", "data": "\\u00e9"}',
    '{"data": "é"}'.encode(),
    b'{"data": [1, {"a": null}]}',
)
BAD = (b'{"data":', b"1}", b'{"data": 1}{"data": 2}', b'{"data": "\xff"}', b'{"data": 1, "x": 2}', b"[]")
REFUSED = (b'{"type": "edge.x", "data": 1}', b'{"data": "' + b"x" * 60 + b'"}', b'{"type": "", "data": 1}')
LINES = st.lists(st.sampled_from(GOOD) | st.sampled_from(BAD + REFUSED), max_size=6) | st.lists(st.sampled_from(GOOD))


@given(LINES)
def test_lines_are_decoded_together_only_when_each_is_good(lines: list[bytes]) -> None:
    one_by_one: list[Event] | None = []
    for line in lines:
        try:
            event = decode_json(line, 50)
        except EdgeError:
            one_by_one = None
            break
        assert one_by_one is not None
        one_by_one.append(event)
    assert one_by_one == decode_plain_lines(lines, 50)
