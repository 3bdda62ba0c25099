"""Connections that have not said what they want: they wait a while, in turns, and then they are aiohttp's."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from edge.core.hub import Hub
from edge.server import accept
from edge.server.accept import Lobby, Newcomer
from edge.server.fd_limit import FdLimit
from edge.server.throttle import Turnstile
from tests.core.fakes import make_hub


class Handler(asyncio.Protocol):
    """What stands for aiohttp's: it keeps what it was given."""

    def __init__(self, made: list[Handler]) -> None:
        self.data = b""
        self.transport: asyncio.BaseTransport | None = None
        self.lost = False
        made.append(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        assert self.transport is not None, "it was not introduced first"
        self.data += data

    def connection_lost(self, _exc: Exception | None) -> None:
        self.lost = True


class House:
    """A lobby behind a listening socket."""

    def __init__(self, port: int, lobby: Lobby, handlers: list[Handler]) -> None:
        self.port = port
        self.lobby = lobby
        self.handlers = handlers

    async def visit(self, *pieces: bytes) -> asyncio.StreamWriter:
        _, writer = await asyncio.open_connection("127.0.0.1", self.port)
        for piece in pieces:
            writer.write(piece)
            await asyncio.sleep(0.01)
        return writer

    @property
    def waiting(self) -> int:
        return len(self.lobby._recent) + len(self.lobby._before)

    @property
    def timed(self) -> bool:
        return self.lobby._timer is not None

    async def handed_over(self, count: int) -> None:
        async with asyncio.timeout(10):
            while len(self.handlers) < count:  # noqa: ASYNC110 - nobody is told
                await asyncio.sleep(0.005)


@pytest.fixture
async def house(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[House]:
    monkeypatch.setattr(accept, "_PATIENCE_SECONDS", 0.1)
    hub: Hub = make_hub()
    loop = asyncio.get_running_loop()
    handlers: list[Handler] = []
    made = Lobby(loop, FdLimit(hub), lambda: Handler(handlers))
    server = await loop.create_server(lambda: Newcomer(made), "127.0.0.1", 0)
    yield House(server.sockets[0].getsockname()[1], made, handlers)
    made.close()
    for handler in handlers:
        assert isinstance(handler.transport, asyncio.Transport)
        handler.transport.abort()
    server.close()
    await server.wait_closed()
    await asyncio.sleep(0.01)


async def leave(*writers: asyncio.StreamWriter) -> None:
    for writer in writers:
        writer.close()
    await asyncio.gather(*(writer.wait_closed() for writer in writers), return_exceptions=True)


async def test_who_says_nothing_gets_a_handler_with_its_deadlines(house: House) -> None:
    writer = await house.visit()
    await house.handed_over(1)
    assert (b"", 0) == (house.handlers[0].data, house.waiting)
    writer.write(b"late")
    async with asyncio.timeout(10):
        while house.handlers[0].data != b"late":  # noqa: ASYNC110 - nobody is told
            await asyncio.sleep(0.005)
    await leave(writer)


async def test_the_lobby_has_a_timer_only_while_somebody_is_there(house: House) -> None:
    timed = [house.timed]
    writer = await house.visit()
    timed.append(house.timed)
    await house.handed_over(1)
    await asyncio.sleep(0.25)
    assert [False, True, False] == [*timed, house.timed]
    await leave(writer)


async def test_what_was_said_is_handed_over_whole_and_in_order(house: House) -> None:
    writer = await house.visit(b"one ", b"two ", b"three")
    assert [b"one two three"] == [handler.data for handler in house.handlers]
    await leave(writer)


async def test_what_comes_while_it_waits_for_its_turn_waits_with_it(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns: list[object] = []
    monkeypatch.setattr(Turnstile, "pass_or_wait", lambda _self, enter: turns.append(enter))
    writer = await house.visit(b"one ", b"two")
    await asyncio.sleep(0.3)
    assert ([], 1) == (house.handlers, house.waiting), "it has said something: silence is no reason"
    [enter] = turns
    assert callable(enter)
    enter()
    assert [b"one two"] == [handler.data for handler in house.handlers]
    await leave(writer)


async def test_who_says_much_passes_at_once(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Turnstile, "pass_or_wait", lambda _self, _enter: None)
    writer = await house.visit(b"x" * 40_000, b"y" * 40_000)
    await house.handed_over(1)
    assert b"x" * 40_000 + b"y" * 40_000 == house.handlers[0].data
    await leave(writer)


async def test_who_has_gone_is_not_let_in(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    turns: list[object] = []
    monkeypatch.setattr(Turnstile, "pass_or_wait", lambda _self, enter: turns.append(enter))
    await leave(await house.visit(b"one"))
    await asyncio.sleep(0.05)
    [enter] = turns
    assert callable(enter)
    enter()
    assert ([], 0) == (house.handlers, house.waiting)


async def test_at_the_end_nobody_is_left(house: House) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", house.port)
    await asyncio.sleep(0.02)
    assert 1 == house.waiting
    house.lobby.close()
    with contextlib.suppress(ConnectionError):
        assert b"" == await reader.read()
    await asyncio.sleep(0.02)
    assert (0, False, []) == (house.waiting, house.timed, house.handlers)
    await leave(writer)
