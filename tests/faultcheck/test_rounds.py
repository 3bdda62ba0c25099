"""A short round on each store. For longer ones see docs/fault-checker.md."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.faultcheck.faults import draw
from tests.faultcheck.judge import counts
from tests.faultcheck.report import report
from tests.faultcheck.rounds import play

ROOT, FAKETIME, REDIS = pytest.mark.root, pytest.mark.faketime, pytest.mark.redis


@pytest.mark.slow
@pytest.mark.linux
@pytest.mark.parametrize(
    ("store", "sequence"),
    [
        ("memory", ("kill", "reset_behind_its_back", "terminate")),
        ("sqlite-async", ("restore_backup", "kill", "restore_backup")),
        ("sqlite-commit", ("kill", "delete_and_kill", "terminate")),
        pytest.param("sqlite-commit", ("fill_disk", "make_read_only", "kill"), marks=ROOT),
        pytest.param("sqlite-async", ("set_clock", "kill", "set_clock", "terminate"), marks=FAKETIME),
        pytest.param("redis", ("stall_redis", "kill_redis", "kill"), marks=REDIS),
        pytest.param("redis-two", ("kill", "fill_redis", "kill_redis"), marks=REDIS),
    ],
)
async def test_a_round_breaks_no_promise(store: str, sequence: tuple[str, ...], tmp_path: Path) -> None:
    result = await play(store, "ci", tmp_path / "round", sequence=sequence)
    assert [] == result.violations, report(result, f"{store}: {', '.join(sequence)}")
    found = counts(result.history, result.violations)
    assert 0 not in (found["receipts"], found["deliveries"], found["repeated"], found["connections"])


def test_a_seed_makes_the_same_plan_again() -> None:
    first, again = (draw("sqlite-async", random.Random("7"), 10) for _ in range(2))
    assert first == again
    assert len({draw("sqlite-async", random.Random(str(seed)), 10) for seed in range(10)}) > 1
