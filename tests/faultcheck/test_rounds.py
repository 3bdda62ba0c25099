"""A short round on each store. For longer ones see docs/fault-checker.md."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.faultcheck.faults import draw
from tests.faultcheck.judge import counts
from tests.faultcheck.report import report
from tests.faultcheck.rounds import play

USUAL = ("kill", "terminate", "stand_still", "reset_behind_its_back")
AROUND_REDIS = ("stall_redis", "kill_redis", "fill_redis", "kill", "terminate")


@pytest.mark.slow
@pytest.mark.linux
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("store", "faults"),
    [
        ("memory", USUAL),
        pytest.param("redis", AROUND_REDIS, marks=pytest.mark.redis),
        pytest.param("redis-two", AROUND_REDIS, marks=pytest.mark.redis),
    ],
)
async def test_a_round_breaks_no_promise(store: str, faults: tuple[str, ...], tmp_path: Path) -> None:
    result = await play(store, "ci", tmp_path / "round", faults=3, only=faults)
    assert [] == result.violations, report(result, f"--store {store} --only {' '.join(faults)}")
    found = counts(result.history, result.violations)
    assert 0 not in (found["receipts"], found["deliveries"], found["repeated"], found["connections"])


def test_a_seed_makes_the_same_plan_again() -> None:
    first, again = (draw("sqlite-async", random.Random("7"), 10) for _ in range(2))
    assert first == again
    assert len({draw("sqlite-async", random.Random(str(seed)), 10) for seed in range(10)}) > 1
