"""The hub under every order of things: found and made small by hypothesis, and on long random walks."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from hypothesis import settings

from edge.core.connection import NEVER
from tests.core.fakes import machine_settings
from tests.core.machine import GARBAGE, NAMES, ROOMS, SPANS, STARTS, TEXTS, HubMachine

TestHub = HubMachine.TestCase
TestHub.settings = settings(machine_settings(80, steps=40), report_multiple_bugs=False)


class Walk:
    """The same steps taken at random, without hypothesis: longer walks at a tenth of the price, if hard to read."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.machine = HubMachine()
        pick = self.random.choice
        self.machine.begin(pick((3, 8)), pick((300, 1000)), pick((600, 1500)), pick((1, 2, 100)), pick((True, False)))
        # Each walk has its own habits: what is rare in one is common in another.
        self.weights = [self.random.random() ** 2 for _ in self.actions()]

    def actions(self) -> list[Callable[[], None]]:
        machine, pick, number = self.machine, self.random.choice, self.random.randrange
        return [
            lambda: machine.publish(pick(NAMES), pick(TEXTS), pick(("message", "tick"))),
            lambda: machine.burst(pick(NAMES), number(2, 13)),
            lambda: machine.connect(
                pick(NAMES),
                pick((*STARTS, ("id", number(-3, 40)), ("id", pick(GARBAGE)), ("last", pick(SPANS)))),
                pick(ROOMS),
                pick((True, False)),
                pick((True, False)),
                pick(("::1", "::2")),
                pick((NEVER, 10.0)),
                pick((True, False, False)),
            ),
            lambda: machine.drop(number(6), pick(("client", "dead", "error")), self.random.random()),
            lambda: machine.acknowledge(number(6), self.random.random()),
            lambda: machine.stall(number(6), pick(ROOMS)),
            lambda: machine.drain(number(6), pick(ROOMS)),
            lambda: machine.store(number(1, 9)),
            machine.flush,
            machine.flush_all,
            lambda: machine.time_passes(pick((0.125, 1.0, 5.0))),
            lambda: machine.beat(pick((0.125, 1.0, 5.0))),
            lambda: machine.look_at(pick(NAMES)),
            lambda: machine.delete(pick(NAMES)) if number(4) == 0 else None,
            lambda: machine.close(number(6)) if number(3) == 0 else None,
        ]

    def take(self, steps: int) -> None:
        needs_reader = {3, 4, 5, 14}
        try:
            for _ in range(steps):
                (chosen,) = self.random.choices(range(len(self.weights)), self.weights)
                if chosen in needs_reader and not self.machine.readers:
                    continue
                if chosen == 6 and not any(reader.connection.paused for reader in self.machine.readers.values()):
                    continue
                self.actions()[chosen]()
                self.machine.all_is_right()
        finally:
            self.machine.teardown()


@pytest.mark.parametrize("seed", range(40))
def test_long_walks(seed: int) -> None:
    Walk(seed).take(600)
