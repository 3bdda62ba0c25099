"""`edge.diagnose.explain` as a pure function: there is a sentence for everything that can happen."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.core.counters import REMOVAL_REASONS
from edge.diagnose.explain import REFUSED, Situation, as_text, count, duration, explain
from edge.diagnose.observer import Fact
from tests.http.client import check_answer

KINDS = [
    *(("left", reason) for reason in REMOVAL_REASONS),
    *(("refused", code) for code in (*REFUSED, "a_code_of_tomorrow")),
    *(("late", reason) for reason in ("first", "dropped", "trigger")),
    *(("trigger", what) for what in ("waited", "no_connection", "dispatched_anyway", "cancelled", "failed")),
    *((kind, "") for kind in ("forgotten", "connected", "published")),
]
MISSES: list[dict[str, Any]] = [
    {},
    *(
        {
            "misses": dict(zip(("total", "recovered", "lost", "pending"), counts, strict=True)),
            "first_miss_seconds": first,
            "last_miss_seconds": 2.0,
        }
        for counts, first in (((5, 2, 1, 2), 1.0), ((1, 0, 0, 1), 2.0))
    ),
]
FACTS = st.builds(
    lambda kind, last, times, seconds, missed, recovered: Fact(
        kind[0], kind[1], last, times, seconds, "192.0.2.1", "c1", missed, min(missed, recovered), 0
    ),
    st.sampled_from(KINDS),
    st.floats(0, 1e6),
    st.integers(1, 1000),
    st.floats(0, 1e6),
    st.integers(0, 50),
    st.integers(0, 50),
)


@st.composite
def situations(draw: st.DrawFn) -> Situation:
    facts = sorted(draw(st.lists(FACTS, max_size=6)), key=lambda fact: fact.last_seconds, reverse=True)
    connections = draw(st.integers(0, 3))
    return Situation(
        project="p",
        now=1e6,
        began_seconds=0.0,
        known=draw(st.booleans()) or connections > 0,
        connections=connections,
        confirmed=draw(st.sampled_from([None, "acknowledged", "client", "written"])) if connections else None,
        waiting=draw(st.integers(0, 3)),
        **draw(st.sampled_from(MISSES)),
        facts=facts,
    )


@given(situations())
def test_every_situation_has_its_sentences(situation: Situation) -> None:
    explanation = explain(situation, lambda moment: f"T{moment:012.3f}")

    check_answer("GET", "/projects/p/explain", 200, "application/json", json.dumps(explanation).encode())
    for sentence in (
        explanation["answer"],
        explanation["why"],
        *explanation["todo"],
        *(fact["text"] for fact in explanation["facts"]),
    ):
        assert sentence[0].isupper() or sentence[0].isdigit() or sentence.startswith("p: "), sentence
        assert sentence.endswith("."), sentence
    assert (explanation["cause"] in ("connected", "timing", "dropped", "unconfirmed")) or not situation.connections
    assert bool(explanation["todo"]) or explanation["cause"] == "connected"
    times = [fact["at"] for fact in explanation["facts"]]
    assert sorted(times, reverse=True) == times


@given(situations())
def test_the_text_has_a_line_for_each_fact_and_no_other(situation: Situation) -> None:
    explanation = explain(situation, lambda moment: f"T{moment:012.3f}")
    lines = as_text(explanation).splitlines()

    # Answer, nothing, why, what to do, nothing, the head, the facts, the start.
    assert 3 + len(explanation["todo"]) + 2 + len(explanation["facts"]) + 1 == len(lines)
    assert all(line.isprintable() for line in lines)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-1, "0 ms"),
        (0.0021, "2 ms"),
        (0.354, "0.35 s"),
        (1.44, "1.4 s"),
        (12.4, "12 s"),
        (119, "119 s"),
        (180, "3 min"),
        (7200, "2 h"),
        (200_000, "2 days"),
    ],
)
def test_durations_are_as_short_as_they_can_be(seconds: float, text: str) -> None:
    assert text == duration(seconds)


def test_a_connection_that_recovered_events_and_was_gone_at_once_is_named() -> None:
    facts = [
        Fact("left", "client", 5.002, seconds=0.002, connection="c"),
        Fact("late", "first", 5.0, seconds=4.0, connection="c", missed=2, recovered=2),
    ]
    situation = Situation(project="p", now=6.0, began_seconds=0.0, known=True, facts=facts)
    texts = [fact["text"] for fact in explain(situation, str)["facts"]]
    end = "2 missed events recovered on arrival, by a connection that lasted only 2 ms."
    assert any(text.endswith(end) for text in texts)


def test_numbers_and_their_nouns() -> None:
    assert ["0 events", "1 event", "2 events", "12,000 events"] == [count(n, "event") for n in (0, 1, 2, 12_000)]
