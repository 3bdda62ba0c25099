"""The hub under every order of things: found and made small by hypothesis, and on long random walks."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from hypothesis import settings

from edge.core.connection import NEVER
from tests.core.fakes import UNLIMITED, machine_settings
from tests.core.machine import GARBAGE, NAMES, ROOMS, SPANS, STARTS, TEXTS, HubMachine

TestHub = HubMachine.TestCase
TestHub.settings = settings(machine_settings(80, steps=40), report_multiple_bugs=False)


FINAL = (True, *(False,) * 9)
REASONS = ("client", "dead", "error")


class Walk:
    """The same steps taken at random, without hypothesis: longer walks at a tenth of the price, if hard to read."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.machine = HubMachine()
        pick = self.random.choice
        self.machine.begin(pick((3, 8)), pick((300, 1000)), pick((400, 1500)), pick((1, 2, 100)), pick((True, False)))
        # Each walk has its own habits: what is rare in one is common in another.
        self.actions, usual = zip(*self.possible(), strict=True)
        self.weights = [weight * self.random.uniform(0.1, 2) for weight in usual]

    def possible(self) -> list[tuple[Callable[[], None], float]]:
        """What can be done, and how often it usually is."""
        machine, pick, number = self.machine, self.random.choice, self.random.randrange
        return [
            (lambda: machine.publish(pick(NAMES), pick(TEXTS), pick(("message", "tick")), pick(FINAL)), 4),
            (lambda: machine.burst(pick(NAMES), number(2, 13)), 0.5),
            (lambda: machine.publish_many(pick(NAMES), number(1, 13)), 0.5),
            (lambda: machine.store(number(1, 9)), 4),
            (self.connect, 4),
            (lambda: self.with_reader(lambda: machine.drop(number(6), pick(REASONS), self.random.random())), 1),
            (lambda: self.with_reader(self.cut_and_come_back), 1),
            (lambda: self.with_reader(lambda: machine.acknowledge(number(6), self.random.random())), 1),
            (lambda: self.with_reader(lambda: machine.stall(number(6), pick(ROOMS))), 2),
            (lambda: self.with_reader(lambda: machine.close(number(6))), 0.1),
            (self.drain, 2),
            (machine.flush, 2),
            (machine.flush_all, 1),
            (lambda: machine.time_passes(pick((0.125, 1.0, 5.0))), 0.3),
            (lambda: machine.tick(pick((0.125, 1.0, 5.0))), 0.6),
            (lambda: machine.look_at(pick(NAMES)), 0.3),
            (lambda: machine.delete(pick(NAMES)), 0.1),
        ]

    def with_reader(self, act: Callable[[], None]) -> None:
        if self.machine.readers:
            act()

    def drain(self) -> None:
        if any(reader.connection.paused for reader in self.machine.readers.values()):
            self.machine.drain(self.random.randrange(6), self.random.choice(ROOMS))

    def cut_and_come_back(self) -> None:
        pick, number = self.random.choice, self.random.randrange
        self.machine.cut_and_come_back(number(6), self.random.random(), pick((*ROOMS, UNLIMITED)))

    def connect(self) -> None:
        pick, number = self.random.choice, self.random.randrange
        self.machine.connect(
            pick(NAMES),
            pick(
                (
                    *STARTS,
                    ("id", number(-3, 40)),
                    ("id", pick(GARBAGE)),
                    ("last", pick(SPANS)),
                    ("newest", number(1, 13)),
                )
            ),
            pick((*ROOMS, UNLIMITED)),
            pick((True, False)),
            pick((True, False)),
            pick(("192.0.2.1", "192.0.2.2")),
            pick((NEVER, NEVER, 10.0)),
            pick((True, False, False)),
            pick((True, False, False, False)),
        )

    def take(self, steps: int) -> None:
        try:
            for act in self.random.choices(self.actions, self.weights, k=steps):
                act()
                self.machine.all_is_right()
        finally:
            self.machine.teardown()


@pytest.mark.parametrize("seed", range(100))
def test_long_walks(seed: int) -> None:
    Walk(seed).take(300)
