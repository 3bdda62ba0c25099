"""Shutting down: every client is answered or closed, and the process ends in time, whatever its clients do."""

from __future__ import annotations

import asyncio
import json
import signal
import time

import pytest

from edge.http.subscribe import jittered
from tests.faults.hub import LOOPS, HubProcess, serving, until
from tests.faults.reader import open_stream, stopped_reader
from tests.faults.tls import TRUSTING, Certificate, self_signed

certificate = pytest.fixture(scope="module")(self_signed)
DRAIN_SECONDS = 1.5
SLACK_SECONDS = 10.0  # of a busy machine


async def connect(hub: HubProcess, head: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", hub.port)
    writer.write(head.replace("\n", "\r\n").encode())
    return reader, writer


async def answer_of(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], dict[str, object]]:
    head = (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 60)).decode()
    line, *lines = head.strip().split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (each.partition(":") for each in lines)}
    body = await asyncio.wait_for(reader.readexactly(int(headers["content-length"])), 60)
    return int(line.split()[1]), headers, json.loads(body)


@pytest.mark.parametrize("loop", LOOPS)
async def test_every_client_gets_an_end_and_the_process_ends_in_time(loop: str) -> None:
    async with serving(loop=loop, server__drain_seconds=DRAIN_SECONDS) as hub:
        address = ("127.0.0.1", hub.port)
        subscribers = [await open_stream(address, f"p{number % 3}") for number in range(30)]
        stalled = await stopped_reader(address, "stalled")
        for _ in range(100):
            await hub.publish("stalled", "x" * 5000)
        trigger = asyncio.create_task(hub.ask("POST", "/projects/q/trigger?timeout=50s", json={"name": "job"}))
        ready = asyncio.create_task(hub.ask("GET", "/projects/q/ready?timeout=50s"))
        lines, lines_writer = await connect(
            hub,
            "POST /projects/p0/events HTTP/1.1\nHost: localhost\nContent-Type: application/x-ndjson\n"
            "Transfer-Encoding: chunked\n\n",
        )
        lines_writer.write(b'10\r\n{"data": "first"\r\n1a\r\n}\n{"data": "second"}\n{"dat\r\n')
        await subscribers[0].events(2)
        upload, upload_writer = await connect(
            hub, "POST /projects/u/events HTTP/1.1\nHost: localhost\nContent-Length: 1000\n\n{"
        )
        begun, begun_writer = await connect(hub, "GET /heal")
        kept, kept_writer = await connect(hub, "GET /readyz HTTP/1.1\nHost: localhost\n\n")
        assert 200 == (await answer_of(kept))[0]
        await until(hub.metrics, lambda found: found["edge_waiting"] == 2)

        hub.signal(signal.SIGTERM)
        began = time.monotonic()
        closings = [await subscriber.until("edge.closing") for subscriber in subscribers]
        hub.signal(signal.SIGTERM)  # a parent and systemd may both send it
        kept_writer.write(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert 503 == (await answer_of(kept))[0]
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(*address)

        retries = []
        for subscriber, closing in zip(subscribers, closings, strict=True):
            assert "shutdown" == closing.json()["reason"]
            assert str(closing.json()["retry_ms"]) == closing.retry
            retries.append(int(closing.retry))
            await subscriber.to_the_end()
        assert 1000 <= min(retries)
        assert max(retries) <= 3000
        assert len(set(retries)) > 10
        for waiting in (trigger, ready):
            status, problem, headers = await waiting
            assert (503, "draining", "1") == (status, problem["code"], headers["Retry-After"])
        status, _, receipt = await answer_of(lines)
        assert (503, "draining", 2, 3) == (status, receipt["code"], receipt["published"], receipt["line"])
        assert str(receipt["last_id"]).endswith("-2")

        status, headers, problem = await answer_of(upload)
        assert (503, "draining") == (status, problem["code"])
        assert b"" == await begun.read()

        assert 0 == await hub.ended()
        assert DRAIN_SECONDS + 1 + SLACK_SECONDS > time.monotonic() - began
        assert "Traceback" not in hub.log_text
        for writer in (lines_writer, upload_writer, begun_writer, kept_writer):
            writer.close()
        for subscriber in subscribers:
            await subscriber.close()
        stalled.sock.close()


@pytest.mark.parametrize("loop", LOOPS)
async def test_without_work_in_progress_it_stops_at_once(loop: str) -> None:
    async with serving(loop=loop, server__drain_seconds=50) as hub:
        subscriber = await open_stream(("127.0.0.1", hub.port), "p")
        hub.signal(signal.SIGINT)
        await subscriber.until("edge.closing")
        assert 0 == await hub.ended()
        await subscriber.close()


@pytest.mark.parametrize("loop", LOOPS)
async def test_a_second_interrupt_ends_it_now(loop: str) -> None:
    async with serving(loop=loop, server__drain_seconds=50) as hub:
        stalled = await stopped_reader(("127.0.0.1", hub.port), "p")
        for _ in range(100):
            await hub.publish("p", "x" * 5000)
        polite = await open_stream(("127.0.0.1", hub.port), "q")
        hub.signal(signal.SIGINT)
        await polite.until("edge.closing")
        assert hub.process.returncode is None
        hub.signal(signal.SIGINT)
        assert -signal.SIGINT == await hub.ended()
        await polite.close()
        stalled.sock.close()


async def test_a_stream_ends_when_its_life_is_over() -> None:
    async with serving(stream__max_lifetime_seconds=1, stream__heartbeat_seconds=0.5) as hub:
        subscribers = [await open_stream(("127.0.0.1", hub.port), "p") for _ in range(20)]
        for subscriber in subscribers:
            assert "lifetime" == (await subscriber.until("edge.closing")).json()["reason"]
            await subscriber.to_the_end()
            await subscriber.close()
        await hub.removed("lifetime", 20)
        await hub.at_rest()


def test_lives_differ_by_a_tenth_so_that_streams_do_not_end_together() -> None:
    lives = [jittered(1000.0) for _ in range(1000)]
    assert 900 <= min(lives) < 910
    assert 1090 < max(lives) <= 1100


@pytest.mark.parametrize("loop", LOOPS)
async def test_over_tls_neither_a_stalled_subscriber_nor_one_that_says_no_goodbye_holds_it_up(
    loop: str, certificate: Certificate
) -> None:
    async with serving(
        loop=loop,
        server__drain_seconds=DRAIN_SECONDS,
        server__tls_cert=certificate.cert,
        server__tls_key=certificate.key,
    ) as hub:
        stalled = await open_stream(("127.0.0.1", hub.port), "p", ssl=TRUSTING, receive_buffer_bytes=4096)
        stalled.stop()
        for _ in range(100):
            await hub.publish("p", "x" * 5000)
        polite = await open_stream(("127.0.0.1", hub.port), "q", ssl=TRUSTING)
        silent = await open_stream(("127.0.0.1", hub.port), "q", ssl=TRUSTING)
        silent.stop()
        hub.signal(signal.SIGTERM)
        began = time.monotonic()
        assert "shutdown" == (await polite.until("edge.closing")).json()["reason"]
        assert 0 == await hub.ended()
        assert DRAIN_SECONDS + 1 + SLACK_SECONDS > time.monotonic() - began
        for subscriber in (stalled, polite, silent):
            await subscriber.close()
