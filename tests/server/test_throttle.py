"""New connections pass a few a turn, in their order, and none is forgotten."""

from __future__ import annotations

import asyncio

from edge.server import throttle
from edge.server.throttle import Turnstile


async def test_so_many_pass_at_once_and_the_rest_in_later_turns_in_their_order() -> None:
    gate = Turnstile(asyncio.get_running_loop())
    passed: list[int] = []
    most = throttle._A_TURN
    comers = 3 * most - 5
    for number in range(comers):
        gate.pass_or_wait(lambda number=number: passed.append(number))  # type: ignore[misc]
    assert list(range(most)) == passed
    await asyncio.sleep(0)
    assert list(range(2 * most)) == passed
    await asyncio.sleep(0)
    assert list(range(comers)) == passed


async def test_it_rests_when_nobody_comes_and_opens_again() -> None:
    gate = Turnstile(asyncio.get_running_loop())
    passed: list[int] = []
    for number in range(3):
        gate.pass_or_wait(lambda number=number: passed.append(number))  # type: ignore[misc]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert 0 == gate._passed
    assert [0, 1, 2] == passed


async def test_one_that_fails_holds_up_nobody() -> None:
    loop = asyncio.get_running_loop()
    failures: list[object] = []
    loop.set_exception_handler(lambda _, context: failures.append(context["exception"]))
    gate = Turnstile(loop)
    passed: list[int] = []

    def fail() -> None:
        raise LookupError

    for number in range(throttle._A_TURN):
        gate.pass_or_wait(lambda number=number: passed.append(number))  # type: ignore[misc]
    gate.pass_or_wait(fail)
    gate.pass_or_wait(lambda: passed.append(-1))
    for _ in range(4):
        await asyncio.sleep(0)
    assert -1 == passed[-1]
    assert [LookupError] == [type(failure) for failure in failures]
