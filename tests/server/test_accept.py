"""New connections: pending until their first bytes are there and their turn has come, then aiohttp's."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

import pytest

from edge.server import accept
from edge.server.accept import Acceptor, ConnectionThrottle, PendingConnection
from edge.server.fd_limit import FdLimit
from tests.core.fakes import make_hub


class Handler(asyncio.Protocol):
    """What stands for aiohttp's: it keeps what it was given."""

    def __init__(self, made: list[Handler]) -> None:
        self.data = b""
        self.transport: asyncio.BaseTransport | None = None
        self.ended = False
        self.lost = False
        made.append(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        assert self.transport is not None, "it was not introduced first"
        self.data += data

    def eof_received(self) -> bool:
        self.ended = True
        return True

    def connection_lost(self, _exc: Exception | None) -> None:
        self.lost = True


class Accepting:
    """An acceptor behind a listening socket."""

    def __init__(self, port: int, acceptor: Acceptor, handlers: list[Handler]) -> None:
        self.port = port
        self.acceptor = acceptor
        self.handlers = handlers

    async def visit(self, *pieces: bytes, end: bool = False) -> asyncio.StreamWriter:
        _, writer = await asyncio.open_connection("127.0.0.1", self.port)
        for piece in pieces:
            writer.write(piece)
            await asyncio.sleep(0.01)
        if end:
            writer.write_eof()
            await asyncio.sleep(0.02)
        return writer

    @property
    def pending(self) -> int:
        return len(self.acceptor.pending)

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(60):
            while not condition():  # noqa: ASYNC110 - sockets and lists have no event to wait for
                await asyncio.sleep(0.005)


@pytest.fixture
async def accepting() -> AsyncIterator[Accepting]:
    loop = asyncio.get_running_loop()
    handlers: list[Handler] = []
    acceptor = Acceptor(loop, FdLimit(make_hub()), lambda _network: Handler(handlers), idle_seconds=0.3)
    server = await loop.create_server(lambda: PendingConnection(acceptor), "127.0.0.1", 0)
    yield Accepting(server.sockets[0].getsockname()[1], acceptor, handlers)
    acceptor.close()
    for handler in handlers:
        assert isinstance(handler.transport, asyncio.Transport)
        handler.transport.abort()
    server.close()
    await server.wait_closed()
    await asyncio.sleep(0.01)


@pytest.fixture
def turns(monkeypatch: pytest.MonkeyPatch) -> list[Callable[[], None]]:
    """What waits for its turn; the throttle lets nothing through."""
    turns: list[Callable[[], None]] = []
    monkeypatch.setattr(ConnectionThrottle, "run_or_wait", lambda _self, start: turns.append(start))
    return turns


async def close(*writers: asyncio.StreamWriter) -> None:
    for writer in writers:
        writer.close()
    await asyncio.gather(*(writer.wait_closed() for writer in writers), return_exceptions=True)


async def test_a_silent_connection_is_closed_and_gets_no_handler(accepting: Accepting) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", accepting.port)
    with contextlib.suppress(ConnectionError):
        assert b"" == await reader.read()
    assert (0, []) == (accepting.pending, accepting.handlers)
    await close(writer)


async def test_what_was_sent_is_handed_over_whole_and_in_order(accepting: Accepting) -> None:
    writer = await accepting.visit(b"one ", b"two ", b"three")
    await accepting.until(lambda: [b"one two three"] == [handler.data for handler in accepting.handlers])
    assert 0 == accepting.pending
    await close(writer)


@pytest.mark.parametrize("end", [False, True])
async def test_what_comes_while_a_connection_waits_for_its_turn_waits_with_it(
    accepting: Accepting, turns: list[Callable[[], None]], end: bool
) -> None:
    writer = await accepting.visit(b"one ", b"two", end=end)
    assert ([], 1) == (accepting.handlers, accepting.pending)
    turns[0]()
    assert [(b"one two", end)] == [(handler.data, handler.ended) for handler in accepting.handlers]
    await close(writer)


async def test_a_connection_that_sends_much_is_let_through_at_once(
    accepting: Accepting, turns: list[Callable[[], None]]
) -> None:
    writer = await accepting.visit(b"x" * 40_000, b"y" * 40_000)
    await accepting.until(lambda: bool(accepting.handlers) and len(accepting.handlers[0].data) == 80_000)
    assert b"x" * 40_000 + b"y" * 40_000 == accepting.handlers[0].data
    await close(writer)


async def test_a_connection_that_is_lost_is_not_handed_over(
    accepting: Accepting, turns: list[Callable[[], None]]
) -> None:
    writer = await accepting.visit(b"one")
    writer.transport.abort()
    await accepting.until(lambda: accepting.pending == 0)
    turns[0]()
    assert [] == accepting.handlers


async def test_closing_leaves_no_connection_and_no_timer(accepting: Accepting) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", accepting.port)
    await accepting.until(lambda: accepting.pending == 1)
    accepting.acceptor.close()
    with contextlib.suppress(ConnectionError):
        assert b"" == await reader.read()
    await accepting.until(lambda: accepting.pending == 0)
    assert [] == accepting.handlers
    await close(writer)


async def test_so_many_start_at_once_and_the_rest_in_later_turns_in_their_order() -> None:
    throttle = ConnectionThrottle(asyncio.get_running_loop())
    started: list[int] = []
    most = accept._A_TURN
    total = 3 * most - 5
    for number in range(total):
        throttle.run_or_wait(lambda number=number: started.append(number))  # type: ignore[misc]
    assert list(range(most)) == started
    await asyncio.sleep(0)
    assert list(range(2 * most)) == started
    await asyncio.sleep(0)
    assert list(range(total)) == started


async def test_the_throttle_rests_and_starts_again() -> None:
    throttle = ConnectionThrottle(asyncio.get_running_loop())
    started: list[int] = []
    for number in range(3):
        throttle.run_or_wait(lambda number=number: started.append(number))  # type: ignore[misc]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert 0 == throttle._passed
    assert [0, 1, 2] == started


async def test_one_that_fails_delays_no_other() -> None:
    loop = asyncio.get_running_loop()
    failures: list[object] = []
    loop.set_exception_handler(lambda _, context: failures.append(context["exception"]))
    throttle = ConnectionThrottle(loop)
    started: list[int] = []

    def fail() -> None:
        raise LookupError

    for number in range(accept._A_TURN):
        throttle.run_or_wait(lambda number=number: started.append(number))  # type: ignore[misc]
    throttle.run_or_wait(fail)
    throttle.run_or_wait(lambda: started.append(-1))
    for _ in range(4):
        await asyncio.sleep(0)
    assert -1 == started[-1]
    assert [LookupError] == [type(failure) for failure in failures]
