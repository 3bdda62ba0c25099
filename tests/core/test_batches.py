"""What readers in step were written is noted once: from what a peer owes follows what it has got."""

from __future__ import annotations

from itertools import accumulate

from hypothesis import given
from hypothesis import strategies as st

from edge.core import resume, sse
from edge.core.batches import BatchLog
from tests.core.fakes import FakeConnection, make_hub, text

_batches = st.lists(st.tuples(st.integers(1, 3), st.integers(1, 300)), min_size=1, max_size=60)


def noted(sizes: list[tuple[int, int]], *, chunked: bool) -> tuple[BatchLog, list[int], list[int]]:
    """The batches (events, bytes of the body); where each begins and the last ends; how long each is on the wire."""
    batches = BatchLog()
    places = [0, *accumulate(events for events, _ in sizes)]
    for start, end, (_, body_bytes) in zip(places, places[1:], sizes, strict=False):
        batches.record(start, end, body_bytes)
        batches.record(start, end, body_bytes)
    return batches, places, [sse.chunk_bytes(size) if chunked else size for _, size in sizes]


@given(sizes=_batches, chunked=st.booleans(), data=st.data())
def test_what_has_arrived_is_known_to_the_batch(
    sizes: list[tuple[int, int]], *, chunked: bool, data: st.DataObject
) -> None:
    batches, places, wire_bytes = noted(sizes, chunked=chunked)
    joined = data.draw(st.integers(0, len(sizes)))
    left = data.draw(st.integers(joined, len(sizes)))
    ends = [0, *accumulate(wire_bytes[joined:left])]
    acked_bytes = data.draw(st.integers(0, ends[-1]))
    arrived = max(number for number, end in enumerate(ends) if end <= acked_bytes)

    found = batches.acknowledged(places[joined], places[left], ends[-1] - acked_bytes, chunked=chunked)

    assert places[joined + arrived] == found


@given(sizes=_batches, chunked=st.booleans(), data=st.data())
def test_marks_are_the_ends_of_the_batches(sizes: list[tuple[int, int]], *, chunked: bool, data: st.DataObject) -> None:
    batches, places, wire_bytes = noted(sizes, chunked=chunked)
    joined = data.draw(st.integers(0, len(sizes)))
    before_bytes = data.draw(st.integers(0, 1000))
    ends = list(accumulate(wire_bytes[joined:], initial=before_bytes))

    marks = batches.marks(places[joined], places[-1], ends[-1], chunked=chunked)

    assert list(zip(ends[1:], places[joined + 1 :], strict=True)) == list(zip(marks[::2], marks[1::2], strict=True))


def test_of_many_the_newest_are_kept_and_no_error_is_reported() -> None:
    batches = BatchLog()
    for end in range(1, 10_001):
        batches.record(end - 1, end, 10)
    assert 9_990 == batches.acknowledged(0, 10_000, 95, chunked=False)
    assert 0 == batches.acknowledged(0, 10_000, 5_000, chunked=False), "no longer known"
    assert 256 >= len(batches.marks(0, 10_000, 100_000, chunked=False)) // 2 >= 128


def test_a_connection_out_of_step_has_a_count_of_its_own() -> None:
    hub = make_hub()
    quick, slow = (FakeConnection(hub, name, chunked=False) for name in ("quick", "slow"))
    for reader in (quick, slow):
        hub.attach("p", reader, resume.nothing, 0.0)
    slow.stall(-1)
    for number in range(4):
        hub.publish("p", text("x" * number), 0.0)
        hub.flush(0.0)
    assert ([1, 2, 3, 4], [1]) == (quick.seqs, slow.seqs)
    slow.drain()
    hub.publish("p", text("in step again"), 0.0)
    hub.flush(0.0)
    assert ([1, 2, 3, 4, 5], [1, 2, 3, 4, 5]) == (quick.seqs, slow.seqs)
    ends = slow.ends[-5:]
    assert ends[1] == ends[2] == ends[3]
    for acked_bytes, known in ((ends[0], 1), (ends[1] - 1, 1), (ends[1], 4), (ends[4] - 1, 4), (ends[4], 5)):
        slow.acknowledge(acked_bytes)
        slow.refresh()
        assert known == slow.acknowledged


def test_the_hubs_own_frames_between_batches_hide_nothing() -> None:
    hub = make_hub()
    reader = FakeConnection(hub, "c")
    hub.attach("p", reader, resume.nothing, 0.0)
    for number in range(3):
        hub.publish("p", text("x" * number), 0.0)
        hub.flush(0.0)
    reader.control(b": more\n\n", 1.0)
    hub.publish("p", text("y"), 2.0)
    hub.flush(2.0)
    *_, one, two, three, _, four = reader.ends
    for acked_bytes, known in ((one - 1, 0), (one, 1), (three - 1, 2), (three, 3), (four - 1, 3), (four, 4)):
        reader.acknowledge(acked_bytes)
        assert (known < 4) == reader.refresh()
        assert known == reader.acknowledged
    assert two < three
