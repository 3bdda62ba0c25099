"""A project is ready when a subscriber is confirmed: what the kernel says after a probe, never what we hope."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import aiohttp
import pytest

from edge.config.schema import Config
from edge.core import resume
from edge.supervisor import Supervisor
from edge.transport import tcp
from edge.triggers import readiness
from edge.triggers.readiness import Readiness
from tests.core.fakes import FakeConnection, make_hub
from tests.faults.cable import cable
from tests.faults.hub import LOOPS, serving, until
from tests.faults.inside import OPEN, hub_inside
from tests.faults.reader import open_stream
from tests.faults.tls import TRUSTING, Certificate, self_signed

certificate = pytest.fixture(scope="module")(self_signed)


@pytest.mark.namespaces
@pytest.mark.parametrize("loop", LOOPS)
async def test_a_half_open_peer_never_makes_a_project_ready(loop: str) -> None:
    with cable() as wire:
        async with serving(loop=loop) as hub:
            subscriber = await open_stream((wire.here, hub.port), "p", sock=wire.socket())
            status, answer, _ = await hub.ask("GET", "/projects/p/ready?timeout=10s")
            assert (200, "acknowledged", 1) == (status, answer["confirmed"], answer["connections"])
            ready = (await hub.project("p"))["last_ready"]
            assert ("acknowledged", 1) == (ready["confirmed"], ready["connections"])

            wire.cut()
            status, answer, headers = await hub.ask("GET", "/projects/p/ready?timeout=300ms")
            assert (409, "no_connection", 1) == (status, answer["code"], answer["connections"])
            assert "1" == headers["Retry-After"]
            status, answer, _ = await hub.ask("POST", "/projects/p/trigger?timeout=100ms", json={"name": "job"})
            assert 409 == status

            wire.mend()
            status, answer, _ = await hub.ask("POST", "/projects/p/trigger?timeout=20s", json={"name": "job"})
            assert (202, "acknowledged") == (status, answer["confirmed"])
            assert "job" == (await subscriber.frame()).type
            await subscriber.close()
            await hub.at_rest()


@pytest.mark.namespaces
async def test_a_thousand_waiting_triggers_share_one_probe() -> None:
    with cable() as wire:
        async with serving() as hub:
            subscriber = await open_stream((wire.here, hub.port), "p", sock=wire.socket())
            await hub.ask("GET", "/projects/p/ready?timeout=10s")
            wire.cut()
            waiting = [
                asyncio.create_task(hub.ask("POST", "/projects/p/trigger?timeout=50s", json={"name": "job"}))
                for _ in range(1000)
            ]
            await until(hub.metrics, lambda found: found["edge_waiting"] == 1000)
            wire.mend()
            assert [202] * 1000 == [status for status, _, _ in await asyncio.gather(*waiting)]
            await subscriber.events(0)
            while len([frame for frame in subscriber.frames if frame.type == "job"]) < 1000:
                await subscriber.frame()

            assert [": probe"] * 2 == [comment for comment in subscriber.comments if "probe" in comment]
            await subscriber.close()
            await hub.at_rest()


@pytest.mark.namespaces
async def test_the_kernel_is_polled_in_growing_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = 0
    ask = tcp.unacked_bytes

    def count(sock: tcp.Socket) -> int:
        nonlocal looks
        looks += 1
        return ask(sock)

    with cable() as wire:
        async with hub_inside(Config(auth=OPEN)) as (context, port):
            subscriber = await open_stream((wire.here, port), "p", sock=wire.socket())
            wire.cut()
            monkeypatch.setattr(tcp, "unacked_bytes", count)
            waits = [context.readiness.wait("p", 1, 1.0) for _ in range(100)]
            refused = await asyncio.gather(*waits, return_exceptions=True)

            assert {"no_connection"} == {getattr(error, "code", error) for error in refused}
            # Five turns, six doublings from 1 ms, then every 50 ms; a hundred who wait ask no more than one.
            assert 5 + 6 + 1.0 / 0.05 + 10 > looks
            assert 0 == context.readiness.waiting
            await subscriber.close()


@pytest.mark.linux
async def test_a_peer_that_delays_its_acknowledgements_is_confirmed() -> None:
    async with serving() as hub:
        subscriber = await open_stream(("127.0.0.1", hub.port), "p")
        for _ in range(5):
            subscriber.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 0)
            status, answer, _ = await hub.ask("GET", "/projects/p/ready?timeout=20s")
            assert (200, "acknowledged") == (status, answer["confirmed"])
        status, answer, _ = await hub.ask("GET", "/projects/p/ready?timeout=0")
        assert 200 == status
        await subscriber.close()


@pytest.mark.namespaces
@pytest.mark.parametrize("loop", LOOPS)
async def test_over_tls_a_half_open_peer_is_not_ready_and_a_healthy_one_is(loop: str, certificate: Certificate) -> None:
    with cable() as wire:
        async with serving(loop=loop, server__tls_cert=certificate.cert, server__tls_key=certificate.key) as hub:
            subscriber = await open_stream((wire.here, hub.port), "p", sock=wire.socket(), ssl=TRUSTING)
            status, answer, _ = await hub.ask("GET", "/projects/p/ready?timeout=20s")
            assert (200, "acknowledged") == (status, answer["confirmed"])
            wire.cut()
            assert 409 == (await hub.ask("GET", "/projects/p/ready?timeout=200ms"))[0]
            wire.mend()
            assert 200 == (await hub.ask("GET", "/projects/p/ready?timeout=20s"))[0]
            await subscriber.close()


async def test_without_acknowledgements_written_counts(tmp_path: Path) -> None:
    where = tmp_path / "hub.sock"
    async with hub_inside(Config(), unix=where) as (context, _):
        stream_reader, writer = await asyncio.open_unix_connection(str(where))
        writer.write(b"GET /projects/p/events HTTP/1.0\r\nHost: localhost\r\n\r\n")
        await stream_reader.readuntil(b"edge.hello")
        confirmation = await context.readiness.wait("p", 1, 10)
        assert ("written", 1) == (confirmation.confirmed, confirmation.connections)
        writer.close()
        await writer.wait_closed()


@pytest.mark.parametrize("what", ["ready", "trigger"])
async def test_with_confirm_client_the_client_itself_answers(what: str) -> None:
    async with serving() as hub:
        subscriber = await open_stream(("127.0.0.1", hub.port), "p")
        ack = f"/projects/p/connections/{subscriber.hello['connection']}/ack"
        method, body = ("GET", None) if what == "ready" else ("POST", {"name": "job"})

        async def ask(limit: str) -> tuple[int, dict[str, object], dict[str, str]]:
            return await hub.ask(method, f"/projects/p/{what}?confirm=client&timeout={limit}", json=body)

        assert 409 == (await ask("100ms"))[0]  # its kernel acknowledges, the client is silent
        old = await subscriber.until("edge.probe")
        waiting = [asyncio.create_task(ask("30s")) for _ in range(50)]
        probe = await subscriber.until("edge.probe")
        assert "" == probe.id

        status, problem, _ = await hub.ask("POST", ack, json=old.json())
        assert (409, "stale_probe") == (status, problem["code"])
        status, problem, _ = await hub.ask("POST", ack, json={"probe": "é"})
        assert (409, "stale_probe") == (status, problem["code"])
        status, problem, _ = await hub.ask("POST", ack, json={})
        assert (400, "invalid_request") == (status, problem["code"])
        status, problem, _ = await hub.ask("POST", ack.replace("/p/", "/other/"), json=probe.json())
        assert (404, "unknown_connection") == (status, problem["code"])
        status, problem, _ = await hub.ask("POST", "/projects/p/connections/0/ack", json=probe.json())
        assert (404, "unknown_connection") == (status, problem["code"])
        assert not any(task.done() for task in waiting)

        assert 204 == (await hub.ask("POST", ack, json=probe.json()))[0]
        for status, answer, _ in await asyncio.gather(*waiting):
            assert (202 if what == "trigger" else 200, "client", 1) == (
                status,
                answer["confirmed"],
                answer["connections"],
            )
        status, problem, _ = await hub.ask("POST", ack, json=probe.json())
        assert (409, "stale_probe") == (status, problem["code"])
        assert 2 == len([frame for frame in subscriber.frames if frame.type == "edge.probe"])
        await subscriber.close()
        await hub.at_rest()


async def test_more_clients_are_probed_while_the_first_are_silent() -> None:
    async with serving() as hub:
        subscribers = [await open_stream(("127.0.0.1", hub.port), "p") for _ in range(20)]
        oldest = subscribers[0]
        waiting = asyncio.create_task(hub.ask("GET", "/projects/p/ready?confirm=client&timeout=30s"))
        probe = await oldest.until("edge.probe")
        await hub.ask("POST", f"/projects/p/connections/{oldest.hello['connection']}/ack", json=probe.json())
        status, answer, _ = await waiting
        assert (200, "client", 1) == (status, answer["confirmed"], answer["connections"])
        for subscriber in subscribers:
            await subscriber.close()


async def test_a_wait_that_is_cancelled_while_its_process_ends_leaves_no_error() -> None:
    async with hub_inside(Config(auth=OPEN)) as (context, _):
        readiness = context.readiness
        assert isinstance(readiness, Readiness)
        waiting = asyncio.create_task(readiness.wait("p", 1, 60.0))
        await asyncio.sleep(0)
        [watch] = readiness._watches.values()
        [waiter] = watch.waiters
        readiness.drain()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert not waiter.future._log_traceback, "asyncio reports an exception that is never retrieved"


async def test_no_turn_asks_all_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counts looks between two turns of the event loop, never time."""
    hub, looks = make_hub(), [0]
    many = 4 * readiness._LOOKS_A_TURN

    class Asked(FakeConnection):
        confirmable = True

        def acked_bytes(self) -> int:
            looks[-1] += 1
            return super().acked_bytes()

    for number in range(many):
        hub.attach("p", Asked(hub, str(number)), resume.nothing, 0.0)
    ready = Readiness(hub, lambda: 0.0, 10, 10, Supervisor())
    waiting = asyncio.ensure_future(ready.wait("p", many, 60.0))
    while sum(looks) < 2 * many:
        await asyncio.sleep(0)
        looks.append(0)
    assert max(looks) <= 2 * readiness._LOOKS_A_TURN
    for connection in hub.connections.values():
        assert isinstance(connection, Asked)
        connection.acknowledge()
    assert (many, "acknowledged") == ((found := await waiting).connections, found.confirmed)


@pytest.mark.linux
async def test_where_the_kernel_tells_only_half_written_counts_as_confirmed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As under qemu-user, which cuts TCP_INFO to four bytes."""
    monkeypatch.setattr(tcp, "_info", lambda sock: sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 4))
    tcp._kernel_counts.cache_clear()
    try:
        async with hub_inside(Config(auth=OPEN)) as (context, port):
            subscriber = await open_stream(("127.0.0.1", port), "p")
            assert "written" == (await context.readiness.wait("p", 1, 20.0)).confirmed
            async with (
                aiohttp.ClientSession() as session,
                session.get(f"http://127.0.0.1:{port}/projects/p") as answer,
            ):
                assert 200 == answer.status
                assert [None] == [each["round_trip_ms"] for each in (await answer.json())["connections"]]
            await subscriber.close()
    finally:
        tcp._kernel_counts.cache_clear()
