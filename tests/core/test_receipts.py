"""One key, one answer: whatever comes in which order."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from edge.core.errors import InvalidRequest, LimitReached
from edge.core.idempotency import ENTRY_BYTES, Answer, Entry, Key, Receipts
from tests.core.fakes import machine_settings

KEEP_SECONDS = 10.0
MAX_KEYS = 3
keys = st.sampled_from([("publish", "p", str(number)) for number in range(5)])
marks = st.sampled_from([b"one body", b"another"])


class ReceiptsMachine(RuleBasedStateMachine):
    @initialize()
    def begin(self) -> None:
        self.receipts = Receipts(MAX_KEYS, KEEP_SECONDS)
        self.now = 0.0
        self.working: dict[Key, bytes] = {}
        self.answered: dict[Key, tuple[bytes, Answer, float]] = {}
        self.woken: list[Key] = []
        self.waiting: list[Key] = []
        self.refused = 0

    @rule(key=keys, mark=marks, wait=st.booleans())
    def ask(self, key: Key, mark: bytes, wait: bool) -> None:
        """As a request does: look the key up, begin when it is new, wait when it is at work."""
        self.answered = {one: found for one, found in self.answered.items() if found[2] + KEEP_SECONDS > self.now}
        known = self.working.get(key) or (self.answered[key][0] if key in self.answered else None)
        if known not in (None, mark):
            with pytest.raises(InvalidRequest) as mismatch:
                self.receipts.find(key, mark, self.now)
            assert "idempotency_mismatch" == mismatch.value.code
            return
        entry = self.receipts.find(key, mark, self.now)
        if key in self.answered:
            assert entry is not None
            assert self.answered[key][1] is entry.answer
        elif key in self.working:
            assert entry is not None
            assert None is entry.answer
            if wait:
                self.waiting.append(key)
                entry.waiters.append(lambda: self.woken.append(key))
        else:
            assert None is entry
            self.start(key, mark)

    def start(self, key: Key, mark: bytes) -> None:
        if len(self.working) + len(self.answered) < MAX_KEYS:
            assert mark == self.receipts.begin(key, mark).fingerprint
            self.working[key] = mark
            return
        self.refused += 1
        with pytest.raises(LimitReached) as full:
            self.receipts.begin(key, mark)
        assert ("too_many_idempotency_keys", 5, {"limit": MAX_KEYS}) == (
            full.value.code,
            full.value.retry_after_seconds,
            full.value.fields,
        )

    @precondition(lambda self: self.working)
    @rule(which=st.integers(0, 4), status=st.integers(200, 202))
    def answer(self, which: int, status: int) -> None:
        key = list(self.working)[which % len(self.working)]
        answer = Answer(status, b"{}")
        waited = self.waiting.count(key)
        before = len(self.woken)
        self.receipts.answer(key, answer, self.now)
        self.answered[key] = (self.working.pop(key), answer, self.now)
        assert [key] * waited == self.woken[before:]
        self.waiting = [one for one in self.waiting if one != key]

    @precondition(lambda self: self.working)
    @rule(which=st.integers(0, 4))
    def drop(self, which: int) -> None:
        key = list(self.working)[which % len(self.working)]
        waited = self.waiting.count(key)
        before = len(self.woken)
        self.receipts.drop(key)
        del self.working[key]
        assert [key] * waited == self.woken[before:]
        self.waiting = [one for one in self.waiting if one != key]

    @rule(seconds=st.sampled_from((0.0, 1.0, 5.0, 10.0, 11.0)))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @invariant()
    def same_as_the_model(self) -> None:
        assert len(self.working) + len(self.answered) == len(self.receipts)
        assert self.refused == self.receipts.refused


TestReceipts = ReceiptsMachine.TestCase
TestReceipts.settings = machine_settings(40, steps=30)


def test_dropping_what_is_not_at_work_does_nothing() -> None:
    receipts = Receipts(2, KEEP_SECONDS)
    receipts.drop(("do", "a"))
    receipts.begin(("do", "a"), b"x")
    receipts.answer(("do", "a"), Answer(201, b"{}"), 0.0)
    receipts.drop(("do", "a"))
    entry = receipts.find(("do", "a"), b"x", 1.0)
    assert isinstance(entry, Entry)


def test_an_answer_is_kept_so_long_and_no_longer() -> None:
    receipts = Receipts(2, KEEP_SECONDS)
    receipts.begin(("do", "a"), b"x")
    receipts.answer(("do", "a"), Answer(201, b"{}"), 5.0)
    assert None is not receipts.find(("do", "a"), b"x", 14.9)
    assert None is receipts.find(("do", "a"), b"x", 15.0)
    assert 0 == len(receipts)


def test_what_is_at_work_is_never_forgotten() -> None:
    receipts = Receipts(1, KEEP_SECONDS)
    receipts.begin(("do", "a"), b"x")
    assert None is not receipts.find(("do", "a"), b"x", 1e9)


def test_answers_of_an_earlier_process_are_given_again() -> None:
    receipts = Receipts(5, KEEP_SECONDS)
    receipts.restore(("do", "a"), b"x", Answer(202, b"a"), -8.0)
    receipts.restore(("do", "b"), b"y", Answer(202, b"b"), 0.0)
    entry = receipts.find(("do", "a"), b"x", 1.0)
    assert entry is not None
    assert Answer(202, b"a") == entry.answer
    assert None is receipts.find(("do", "a"), b"x", 2.0)
    with pytest.raises(InvalidRequest):
        receipts.find(("do", "b"), b"x", 2.0)


@pytest.mark.parametrize("answered", [True, False])
def test_everybody_who_waits_is_woken_and_finds_what_became_of_it(answered: bool) -> None:
    receipts = Receipts(2, KEEP_SECONDS)
    found: list[bool] = []
    entry = receipts.begin(("do", "a"), b"x")
    for _ in range(2):
        entry.waiters.append(lambda: found.append(receipts.find(("do", "a"), b"x", 0.0) is entry))
    if answered:
        receipts.answer(("do", "a"), Answer(201, b"{}"), 0.0)
    else:
        receipts.drop(("do", "a"))
    assert [answered, answered] == found


def test_a_long_answer_takes_the_place_of_several() -> None:
    receipts = Receipts(4, KEEP_SECONDS)
    receipts.begin(("do", "a"), b"x")
    receipts.answer(("do", "a"), Answer(202, b"x" * (3 * ENTRY_BYTES)), 0.0)
    assert 3 == len(receipts)
    receipts.begin(("do", "b"), b"x")
    with pytest.raises(LimitReached):
        receipts.begin(("do", "c"), b"x")
    receipts.find(("do", "a"), b"x", KEEP_SECONDS)
    assert 1 == len(receipts)
    receipts.begin(("do", "c"), b"x")


def test_one_project_gets_a_share() -> None:
    receipts = Receipts(10, KEEP_SECONDS, 2)
    for number in range(2):
        receipts.begin(("publish", "p", str(number)), b"x")
    with pytest.raises(LimitReached, match="its share of 2"):
        receipts.begin(("trigger", "p", "k"), b"x")
    receipts.begin(("publish", "q", "0"), b"x")
    receipts.drop(("publish", "p", "0"))
    receipts.begin(("trigger", "p", "k"), b"x")
    assert 1 == receipts.refused
