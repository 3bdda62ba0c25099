"""Plays rounds for as long as one likes: `python -m tests.faultcheck --store sqlite-async --seed 7 --minutes 30`."""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.faultcheck.faults import NAMED, STORES
from tests.faultcheck.judge import counts
from tests.faultcheck.records import line
from tests.faultcheck.report import report
from tests.faultcheck.rounds import play


def main() -> int:
    """0 when nothing was violated."""
    parser = argparse.ArgumentParser(prog="python -m tests.faultcheck", description=__doc__)
    parser.add_argument("--store", choices=STORES, required=True)
    parser.add_argument("--seed", default="1")
    parser.add_argument("--minutes", type=float, default=0.0, help="play rounds for so long; without it, one round")
    parser.add_argument("--round", type=int, default=0, help="begin with this round of the random seed")
    parser.add_argument("--faults", type=int, default=10, help="in each round")
    parser.add_argument("--only", nargs="*", default=(), choices=sorted(NAMED), help="draw from these faults alone")
    parser.add_argument("--folder", type=Path, help="keep logs and stores of the rounds here")
    asked = parser.parse_args()
    total: Counter[str] = Counter()
    rules: Counter[str] = Counter()
    began = time.monotonic()
    number = asked.round
    while True:
        seed, folder = f"{asked.seed}/{number}", asked.folder or Path(tempfile.mkdtemp(prefix="faultcheck-"))
        round_folder = folder / f"{asked.store}-{asked.seed}-{number}"
        result = asyncio.run(play(asked.store, seed, round_folder, faults=asked.faults, only=tuple(asked.only)))
        lines = sorted(result.history.records, key=lambda record: record.at)
        (round_folder / "history.txt").write_text("\n".join(map(line, lines)))
        found = counts(result.history, result.violations)
        total.update(found)
        rules.update(violation.rule for violation in result.violations)
        _say(f"round {number}: {_row(found)}")
        if result.violations:
            again = f"python -m tests.faultcheck --store {asked.store} --seed {asked.seed} --round {number}"
            again += f" --faults {asked.faults}" + (f" --only {' '.join(asked.only)}" if asked.only else "")
            _say(report(result, again) + "\n")
        number += 1
        if time.monotonic() - began >= asked.minutes * 60:
            break
    _say(f"{number - asked.round} rounds in {(time.monotonic() - began) / 60:.1f} min: {_row(total)}")
    _say(f"violations: {_row(rules) or 'none'}")
    return 1 if rules else 0


def _row(numbers: Counter[str] | dict[str, int]) -> str:
    return ", ".join(f"{value} {name}" for name, value in numbers.items())


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
