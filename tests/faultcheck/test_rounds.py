"""A seed makes the same round again."""

from __future__ import annotations

import random

from tests.faultcheck.faults import draw


def test_a_seed_makes_the_same_plan_again() -> None:
    first, again = (draw("sqlite-async", random.Random("7"), 10) for _ in range(2))
    assert first == again
    assert len({draw("sqlite-async", random.Random(str(seed)), 10) for seed in range(10)}) > 1
