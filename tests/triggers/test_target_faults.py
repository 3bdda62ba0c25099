"""What a target does wrong, each down to the socket. No task and no descriptor is left after any of it."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edge.core.errors import DispatchFailed
from edge.triggers.job import Delivery, Job
from edge.triggers.webhook import WebhookTarget
from tests.faults.tls import certificate_for
from tests.triggers.receiver import Reply, answer, endless, hang, raw, receiving, reset

JOB = Job(id="j1", name="n", ts_ms=0, project="p1", data=msgspec.Raw(b"null"))
SHORT_SECONDS = 0.3
MIB = 1 << 20


async def no_wait(_seconds: float) -> None:
    await asyncio.sleep(0)


async def dispatch(url: str, **options: Any) -> Delivery:
    target = WebhookTarget(url, **{"sleep": no_wait, **options})
    try:
        return await target.dispatch(JOB)
    finally:
        await target.close()


async def failed(url: str, **options: Any) -> DispatchFailed:
    with pytest.raises(DispatchFailed) as failure:
        await dispatch(url, **options)
    return failure.value


def fields(attempts: int, *, may_have_started: bool, last_status: int | None = None) -> dict[str, object]:
    return {"attempts": attempts, "last_status": last_status, "may_have_started": may_have_started}


@pytest.fixture
def dead_port() -> Iterator[int]:
    """Bound and not listening: connections are refused, and no other process can take the port."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield sock.getsockname()[1]


async def test_no_process_listens(dead_port: int) -> None:
    failure = await failed(f"http://127.0.0.1:{dead_port}/hook")
    assert failure.detail == (
        "The target can't be reached (Connection refused) (4 attempts): start it, or correct trigger.url."
    )
    assert fields(4, may_have_started=False) == failure.fields


async def test_a_name_that_does_not_resolve() -> None:
    failure = await failed("http://absent.invalid/hook", retries=1)
    assert "The target has a name that can't be resolved (2 attempts): " in failure.detail
    assert fields(2, may_have_started=False) == failure.fields


async def test_a_connection_that_is_never_accepted_is_tried_again() -> None:
    with socket.socket() as full, socket.socket() as first, socket.socket() as second:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for waiting in (first, second):
            waiting.setblocking(False)
            waiting.connect_ex(full.getsockname())
        port = full.getsockname()[1]
        failure = await failed(f"http://127.0.0.1:{port}/", retries=1, timeout_seconds=SHORT_SECONDS)
    assert "could not be reached within 0.3 s (2 attempts): " in failure.detail
    assert fields(2, may_have_started=False) == failure.fields


async def test_a_target_that_hangs_is_not_retried() -> None:
    async with receiving(hang()) as receiver:
        failure = await failed(receiver.url, timeout_seconds=SHORT_SECONDS)
        await receiver.dropped.wait()
    assert "did not answer within 0.3 s: " in failure.detail
    assert failure.detail.endswith("It may have started the job: check the target before you trigger it again.")
    assert fields(1, may_have_started=True) == failure.fields
    assert len(receiver.requests) == 1


@pytest.mark.parametrize("reply", [reset, raw()], ids=["reset", "closed"])
async def test_a_connection_lost_before_the_answer_is_tried_again_with_the_same_id(reply: Reply) -> None:
    async with receiving(reply, reply, answer(200)) as receiver:
        delivery = await dispatch(receiver.url)
    assert (200, 3) == (delivery.status, delivery.attempts)
    assert [JOB.unique_id] * 3 == [each.headers["webhook-id"] for each in receiver.requests]


@pytest.mark.parametrize("reply", [reset, raw()], ids=["reset", "closed"])
async def test_a_connection_lost_every_time_says_that_the_job_may_have_started(reply: Reply) -> None:
    async with receiving(reply) as receiver:
        failure = await failed(receiver.url)
    assert "closed the connection without an answer (4 attempts): " in failure.detail
    assert fields(4, may_have_started=True) == failure.fields


async def test_what_an_earlier_attempt_may_have_started_is_not_forgotten() -> None:
    async with receiving(answer(500), answer(404)) as receiver:
        failure = await failed(receiver.url)
    assert fields(2, may_have_started=True, last_status=404) == failure.fields


async def test_the_last_status_is_kept_over_an_attempt_that_had_none() -> None:
    async with receiving(answer(503), reset) as receiver:
        failure = await failed(receiver.url, retries=1)
    assert fields(2, may_have_started=True, last_status=503) == failure.fields


@pytest.mark.parametrize(
    "reply",
    [
        raw(b"SSH-2.0-OpenSSH_9.2\r\n"),
        raw(b"\x00\xff" * 500),
        raw(b"HTTP/1.1 200 OK\r\n" + b"X: " + b"y" * 100_000 + b"\r\n\r\n"),
        raw(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 10_000 + b"\r\n"),
        raw(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok"),
    ],
    ids=["ssh", "bytes", "long header", "many headers", "two lengths"],
)
async def test_an_answer_that_is_not_http_is_final(reply: Reply) -> None:
    async with receiving(reply) as receiver:
        failure = await failed(receiver.url)
    assert "answered something that is not HTTP: " in failure.detail
    assert fields(1, may_have_started=True) == failure.fields


@pytest.mark.parametrize(
    "reply",
    [
        hang(b"HTTP/1.1 200 OK\r\n"),
        endless(b"HTTP/1.1 200 OK\r\nX: ", b"y", 0.01),
        endless(b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    ],
    ids=["half a head", "dripping head", "endless 100 Continue"],
)
async def test_a_head_that_never_ends_is_a_time_out(reply: Reply) -> None:
    async with receiving(reply) as receiver:
        failure = await failed(receiver.url, timeout_seconds=SHORT_SECONDS)
    assert "did not answer within 0.3 s: " in failure.detail


async def test_a_protocol_switch_is_no_delivery() -> None:
    async with receiving(raw(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n")) as r:
        failure = await failed(r.url)
    assert fields(1, may_have_started=False, last_status=101) == failure.fields


async def test_ten_gibibytes_of_answer_cost_a_few_buffers() -> None:
    sent_bytes = 0

    async def flood(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent_bytes
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10737418240\r\n\r\n")
        for _ in range(10 * 1024 * MIB // 65536):
            writer.write(b"x" * 65536)
            await writer.drain()
            sent_bytes += 65536

    async with receiving(flood) as receiver:
        delivery = await dispatch(receiver.url)
        await receiver.dropped.wait()
    assert msgspec.Raw(b'"' + b"x" * 4096 + b'"') == delivery.answer
    assert (200, 1, True) == (delivery.status, delivery.attempts, delivery.truncated)
    assert sent_bytes < 64 * MIB


async def test_an_answer_that_drips_ends_with_the_time_out_and_the_job_counts_as_taken() -> None:
    drip = endless(b"HTTP/1.1 202 Accepted\r\nContent-Length: 4000\r\n\r\n", b"yes", 0.05)
    async with receiving(drip) as receiver:
        delivery = await dispatch(receiver.url, timeout_seconds=SHORT_SECONDS)
    assert (202, 1, True) == (delivery.status, delivery.attempts, delivery.truncated)
    assert isinstance(delivery.answer, msgspec.Raw)
    assert bytes(delivery.answer).startswith(b'"yes')


async def test_an_answer_that_breaks_off_still_counts_as_taken() -> None:
    async with receiving(raw(b'HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"a":1}')) as receiver:
        delivery = await dispatch(receiver.url)
    assert (200, 1, True) == (delivery.status, delivery.attempts, delivery.truncated)
    assert msgspec.Raw(rb'"{\"a\":1}"') == delivery.answer


@pytest.mark.parametrize("reply", [hang(), hang(b"HTTP/1.1 200 OK\r\n\r\n")], ids=["head", "body"])
async def test_a_dispatch_cancelled_half_way_drops_its_connection(reply: Reply) -> None:
    async with receiving(reply) as receiver:
        target = WebhookTarget(receiver.url)
        dispatching = asyncio.create_task(target.dispatch(JOB))
        await receiver.requested.wait()
        dispatching.cancel()
        with pytest.raises(asyncio.CancelledError):
            await dispatching
        await receiver.dropped.wait()
        await target.close()


async def test_a_dispatch_cancelled_while_it_waits_makes_no_other_attempt() -> None:
    waiting = asyncio.Event()

    async def forever(_seconds: float) -> None:
        waiting.set()
        await asyncio.Event().wait()

    async with receiving(answer(500)) as receiver:
        target = WebhookTarget(receiver.url, sleep=forever)
        dispatching = asyncio.create_task(target.dispatch(JOB))
        await waiting.wait()
        dispatching.cancel()
        with pytest.raises(asyncio.CancelledError):
            await dispatching
        await target.close()
    assert (1, 1, 0) == (len(receiver.requests), target.attempts, target.retries)


async def test_closing_while_a_job_is_under_way_fails_it_and_leaves_nothing() -> None:
    async with receiving(hang()) as receiver:
        target = WebhookTarget(receiver.url, sleep=no_wait)
        dispatching = asyncio.create_task(target.dispatch(JOB))
        await receiver.requested.wait()
        await target.close()
        with pytest.raises(DispatchFailed) as failure:
            await dispatching
    assert fields(1, may_have_started=True) == failure.value.fields


async def test_https_to_a_port_that_speaks_http() -> None:
    async def refuse(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        failure = await failed(f"https://127.0.0.1:{port}/hook", retries=1)
    assert "does not speak TLS (2 attempts): correct trigger.url: http instead of https?" in failure.detail
    assert fields(2, may_have_started=False) == failure.fields


@pytest.fixture
def self_signed(tmp_path: Path) -> ssl.SSLContext:
    made = certificate_for("127.0.0.1", tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(made.cert, made.key)
    return context


async def test_a_certificate_that_is_not_trusted_is_final(self_signed: ssl.SSLContext) -> None:
    async with receiving(answer(200), tls=self_signed) as receiver:
        failure = await failed(f"https://127.0.0.1:{receiver.port}/hook")
    assert "has a certificate that is not trusted here: " in failure.detail
    assert fields(1, may_have_started=False) == failure.fields
    assert [] == receiver.requests
