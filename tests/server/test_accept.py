"""New connections: they wait for their first bytes and for their turn, then their requests are answered."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator, Callable

import pytest

from edge.config.schema import Config, LimitsSettings
from edge.server import accept
from edge.server.accept import ConnectionThrottle
from edge.server.aiohttp_server import HttpServer, HubRunner
from edge.server.assembly import assemble
from edge.server.connection import HttpConnection
from edge.server.listening import listen
from edge.server.reader import RequestReader

HEALTH = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
PUBLISH = (
    b"POST /projects/p/events HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n%b"
)


class Accepting:
    """A hub behind a listening socket."""

    def __init__(self, port: int, server: HttpServer) -> None:
        self.port = port
        self.server = server

    async def visit(self, *pieces: bytes, end: bool = False) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        for piece in pieces:
            writer.write(piece)
            await asyncio.sleep(0.01)
        if end:
            writer.write_eof()
            await asyncio.sleep(0.02)
        return reader, writer

    @property
    def connections(self) -> list[HttpConnection]:
        return list(self.server.connections)

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(60):
            while not condition():
                await asyncio.sleep(0.005)


@pytest.fixture
def idle_seconds() -> float:
    """So long that none is closed meanwhile, unless a test says otherwise."""
    return 300.0


@pytest.fixture
async def accepting(idle_seconds: float) -> AsyncIterator[Accepting]:
    app, _ = await assemble(Config(limits=LimitsSettings(idle_seconds=idle_seconds)))
    runner = HubRunner(app, shutdown_timeout_seconds=0.1)
    await runner.setup()
    [sock] = listen("127.0.0.1", 0)
    await runner.listen_on(sock)
    yield Accepting(sock.getsockname()[1], runner.server)
    await runner.cleanup()


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


@pytest.mark.parametrize("idle_seconds", [0.3])
@pytest.mark.parametrize("sent", [b"", HEALTH[:30], HEALTH + HEALTH[:30]], ids=["nothing", "half a head", "idle"])
async def test_a_connection_that_does_not_go_on_is_closed(accepting: Accepting, sent: bytes) -> None:
    reader, writer = await accepting.visit(sent)
    with contextlib.suppress(ConnectionError):
        assert sent.count(b"\r\n\r\n") == (await reader.read()).count(b"200 OK")
    assert [] == accepting.connections
    await close(writer)


@pytest.mark.parametrize("end", [False, True])
async def test_what_comes_while_a_connection_waits_for_its_turn_waits_with_it(
    accepting: Accepting, turns: list[Callable[[], None]], end: bool
) -> None:
    reader, writer = await accepting.visit(HEALTH[:20], HEALTH[20:] + HEALTH, HEALTH, end=end)
    [connection] = accepting.connections
    assert (1, None) == (len(turns), connection._parser)
    turns[0]()
    async with asyncio.timeout(60):
        for _ in range(3):
            assert b"200 OK" in await reader.readuntil(b"\r\n\r\n")
            await reader.readline()
        if end:
            assert b"" == await reader.read()
    await close(writer)


async def test_a_connection_that_sends_much_is_read_no_further_until_its_turn(
    accepting: Accepting, turns: list[Callable[[], None]]
) -> None:
    data = b"x" * 200_000
    reader, writer = await accepting.visit(PUBLISH % (len(data), data))
    [connection] = accepting.connections
    await accepting.until(lambda: connection._reading_paused)
    turns[0]()
    async with asyncio.timeout(60):
        assert b"202" in await reader.readline()
    await close(writer)


async def test_a_connection_that_is_lost_gets_no_parser(
    accepting: Accepting, turns: list[Callable[[], None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, writer = await accepting.visit(HEALTH)
    await accepting.until(lambda: len(turns) == 1)
    # A connection that is closed in order waits for its answer; this is a reset.
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
    await accepting.until(lambda: not accepting.connections)
    monkeypatch.delattr(RequestReader, "new_parser")
    turns[0]()


async def test_shutting_down_leaves_no_connection_and_no_timer(accepting: Accepting) -> None:
    reader, writer = await accepting.visit()
    await accepting.until(lambda: bool(accepting.connections))
    [connection] = accepting.connections
    await accepting.server.shut_down(0.1)
    with contextlib.suppress(ConnectionError):
        assert b"" == await reader.read()
    await accepting.until(lambda: not accepting.connections)
    assert connection._expiry is not None
    assert connection._expiry.cancelled()
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
