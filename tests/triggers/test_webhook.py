from __future__ import annotations

import asyncio
import base64
import json
import time
from typing import Any

import msgspec
import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st
from pytest_aiohttp.plugin import AiohttpServer
from standardwebhooks.webhooks import Webhook, WebhookVerificationError
from structlog.testing import capture_logs

from edge.core.errors import DispatchFailed, Draining, InvalidRequest
from edge.triggers.job import JOB_ID, Delivery, Job, Target
from edge.triggers.webhook import BASE_SECONDS, CAP_SECONDS, WebhookTarget, backoff_seconds, retry_after_seconds
from tests.triggers.receiver import Receiver, answer, receiving

SECRET = "whsec_" + base64.b64encode(b"0123456789abcdef0123456789abcdef").decode()
NOW_MS = 1_700_000_000_000  # Tue, 14 Nov 2023 22:13:20 GMT
TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def job(**changes: Any) -> Job:
    fields = {"id": "j1", "name": "api/iterate", "ts_ms": 1_700_000_000_123, "project": "p1"}
    return Job(**{**fields, "data": msgspec.Raw(b'{"a":1}'), **changes})


class Waits(list[float]):
    """A sleep that does not, and remembers."""

    async def __call__(self, seconds: float) -> None:
        self.append(seconds)


async def dispatch(receiver: Receiver, **options: Any) -> Delivery:
    target = WebhookTarget(receiver.url, **{"sleep": Waits(), "random": lambda: 1.0, **options})
    try:
        return await target.dispatch(job())
    finally:
        await target.close()


async def failed(receiver: Receiver, **options: Any) -> DispatchFailed:
    with pytest.raises(DispatchFailed) as failure:
        await dispatch(receiver, **options)
    return failure.value


async def test_the_job_arrives_at_a_real_server_as_one_post(aiohttp_server: AiohttpServer) -> None:
    seen: list[tuple[str, Any, dict[str, str]]] = []

    async def handler(request: web.Request) -> web.Response:
        seen.append((request.method, await request.json(), dict(request.headers)))
        return web.json_response({"ids": ["x"]})

    app = web.Application()
    app.router.add_post("/hook", handler)
    server = await aiohttp_server(app)
    target: Target = WebhookTarget(str(server.make_url("/hook?key=1")))
    delivery = await target.dispatch(job(traceparent=TRACEPARENT))
    await target.close()

    [(method, body, headers)] = seen
    assert method == "POST"
    assert body == {
        "id": "j1",
        "name": "api/iterate",
        "ts": 1_700_000_000_123,
        "project": "p1",
        "data": {"a": 1},
    }
    assert headers["Content-Type"] == "application/json"
    assert headers["User-Agent"] == "edge"
    assert headers["webhook-id"] == job().unique_id
    assert headers["traceparent"] == TRACEPARENT
    assert "webhook-signature" not in headers
    assert "Authorization" not in headers
    assert msgspec.json.encode(delivery) == (b'{"kind":"webhook","status":200,"attempts":1,"answer":{"ids": ["x"]}}')


@pytest.mark.parametrize(
    ("name", "media_type"),
    [
        ("json", "application/json"),
        ("inngest", "application/json"),
        ("cloudevents", "application/cloudevents+json"),
    ],
)
async def test_every_format_has_its_content_type_and_a_true_signature(name: str, media_type: str) -> None:
    async with receiving(answer(200, b'{"ids":["1"],"status":200}')) as receiver:
        await dispatch(receiver, format=name, secrets=[SECRET])
    [request] = receiver.requests
    assert request.headers["content-type"] == media_type
    assert request.headers["content-length"] == str(len(request.body))
    assert json.loads(request.body) == Webhook(SECRET).verify(request.body, request.headers)
    with pytest.raises(WebhookVerificationError):
        Webhook(SECRET).verify(request.body + b" ", request.headers)


async def test_every_attempt_has_the_same_id_and_its_own_timestamp_and_signature() -> None:
    seconds = int(time.time())
    clock = iter([seconds * 1000, 0, (seconds + 2) * 1000])
    async with receiving(answer(500), answer(200)) as receiver:
        await dispatch(receiver, secrets=(SECRET,), now_ms=lambda: next(clock))
    first, second = receiver.requests
    assert [job().unique_id] * 2 == [each.headers["webhook-id"] for each in (first, second)]
    assert [str(seconds), str(seconds + 2)] == [each.headers["webhook-timestamp"] for each in (first, second)]
    assert first.headers["webhook-signature"] != second.headers["webhook-signature"]
    Webhook(SECRET).verify(second.body, second.headers)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "hook",
        "ftp://u:secret@h/",
        "http:///x",
        "//h/x",
        "http://h:secret/",
        "http://h/sec ret",
        "http://[secret",
    ],
)
def test_a_url_that_can_not_work_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(ValueError, match=r"^trigger\.url is not a URL like") as refused:
        WebhookTarget(url)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://inn.gs/e/event-key", "https://inn.gs/…"),
        ("http://user:pass@127.0.0.1:8288/e/key?token=x#y", "http://127.0.0.1:8288/…"),
        ("http://[::1]:9000", "http://[::1]:9000"),
        ("http://h/?token=x", "http://h/…"),
    ],
)
def test_what_is_shown_of_the_url_has_no_credentials_path_or_query(url: str, shown: str) -> None:
    assert shown == WebhookTarget(url).safe_url


async def test_credentials_in_the_url_become_basic_auth_and_are_never_shown() -> None:
    async with receiving(answer(500)) as receiver:
        url = f"http://us%C3%A9r:p%3Ass@127.0.0.1:{receiver.port}/e/event-key?token=query-key"
        target = WebhookTarget(url, secrets=(SECRET,), retries=1, sleep=Waits())
        with capture_logs() as logs, pytest.raises(DispatchFailed) as failure:
            await target.dispatch(job())
        await target.close()
    expected = "Basic " + base64.b64encode("usér:p:ss".encode()).decode()
    assert [expected, expected] == [each.headers["authorization"] for each in receiver.requests]
    assert receiver.requests[0].line == "POST /e/event-key?token=query-key HTTP/1.1"
    shown = repr((logs, failure.value, failure.value.__dict__, failure.value.__context__, target.safe_url))
    assert [] == [each for each in ("usér", "us%C3", "ss@", "event-key", "query-key", SECRET[6:20]) if each in shown]


@pytest.mark.parametrize("traceparent", ["00-xyz", f"{TRACEPARENT}\r\nX-Forged: 1", "", TRACEPARENT.upper()])
async def test_a_traceparent_that_is_none_is_left_out(traceparent: str) -> None:
    async with receiving(answer(200)) as receiver:
        target = WebhookTarget(receiver.url)
        await target.dispatch(job(traceparent=traceparent))
        await target.close()
    assert not {"traceparent", "x-forged"} & receiver.requests[0].headers.keys()


@pytest.mark.parametrize("job_id", ["", "a b", "a\r\nX-Forged: 1", "a.1700000000", "é", "a" * 129])
async def test_an_id_that_is_not_safe_in_a_header_or_signature_is_refused(job_id: str) -> None:
    target = WebhookTarget("http://127.0.0.1:9/")
    with pytest.raises(InvalidRequest, match="job's id"):
        await target.dispatch(job(id=job_id))
    assert target.attempts == 0


@pytest.mark.parametrize(
    ("body", "shown"),
    [
        (b'{"big":1e400,"ids":["x"]}', b'{"big":1e400,"ids":["x"]}'),
        (b"true", b"true"),
        (b"Workflow was started", b'"Workflow was started"'),
        (b"{broken", b'"{broken"'),
        (b'"\xff"', '"\\"\ufffd\\""'.encode()),
        (b"[" * 4096, b'"' + b"[" * 4096 + b'"'),
        (b"\x1b[31m\r\n", b'"\\u001b[31m\\r\\n"'),
    ],
)
async def test_the_answer_is_shown_as_json_where_it_is_and_else_as_text(body: bytes, shown: bytes) -> None:
    async with receiving(answer(202, body)) as receiver:
        delivery = await dispatch(receiver)
    expected = b'{"kind":"webhook","status":202,"attempts":1,"answer":' + shown + b"}"
    assert expected == msgspec.json.encode(delivery)


async def test_an_empty_answer_is_left_out() -> None:
    async with receiving(answer(204)) as receiver:
        delivery = await dispatch(receiver)
    assert msgspec.json.encode(delivery) == b'{"kind":"webhook","status":204,"attempts":1}'


async def test_an_answer_of_exactly_4_kib_is_whole() -> None:
    body = json.dumps("x" * 4094).encode()
    async with receiving(answer(200, body)) as receiver:
        delivery = await dispatch(receiver)
    assert (msgspec.Raw(body), False) == (delivery.answer, delivery.truncated)


async def test_a_longer_answer_is_cut_between_characters_and_says_so() -> None:
    async with receiving(answer(200, b"x" + "é".encode() * 3000)) as receiver:
        delivery = await dispatch(receiver)
    assert msgspec.Raw(msgspec.json.encode("x" + "é" * 2047)) == delivery.answer
    assert delivery.truncated


async def test_a_compressed_answer_is_left_unread() -> None:
    async with receiving(answer(200, b"\x1f\x8bbomb", Content_Encoding="gzip")) as receiver:
        delivery = await dispatch(receiver)
    assert receiver.requests[0].headers["accept-encoding"] == "identity"
    assert msgspec.json.encode(delivery) == b'{"kind":"webhook","status":200,"attempts":1,"truncated":true}'


async def test_500_twice_and_then_200_is_three_attempts() -> None:
    waits = Waits()
    async with receiving(answer(500), answer(503), answer(200, b"ok")) as receiver:
        target = WebhookTarget(receiver.url, sleep=waits, random=lambda: 0.5)
        with capture_logs() as logs:
            delivery = await target.dispatch(job())
        await target.close()
    assert (200, 3, 3) == (delivery.status, delivery.attempts, len(receiver.requests))
    assert [0.125, 0.25] == waits
    assert (3, 2) == (target.attempts, target.retries)
    assert [("webhook_retry", 1, "answered 500", 0.125), ("webhook_retry", 2, "answered 503", 0.25)] == [
        (line["event"], line["attempt"], line["reason"], line["delay_seconds"]) for line in logs
    ]
    assert {("j1", "p1", target.safe_url, "warning")} == {
        (line["job"], line["project"], line["target"], line["log_level"]) for line in logs
    }


@pytest.mark.parametrize(("retries", "requests"), [(0, 1), (1, 2), (3, 4)])
async def test_retries_are_bounded(retries: int, requests: int) -> None:
    async with receiving(answer(503)) as receiver:
        failure = await failed(receiver, retries=retries)
    assert requests == len(receiver.requests)
    assert {"attempts": requests, "last_status": 503, "may_have_started": True} == failure.fields
    assert failure.detail.endswith("It may have started the job: check the target before you trigger it again.")


@pytest.mark.parametrize("status", [400, 401, 404, 409, 410, 413, 422])
async def test_a_refusal_is_final_at_once_and_started_nothing(status: int) -> None:
    async with receiving(answer(status, b"why")) as receiver:
        failure = await failed(receiver)
    assert {"attempts": 1, "last_status": status, "may_have_started": False} == failure.fields
    assert f"refused the job with {status}: " in failure.detail
    assert len(receiver.requests) == 1


@pytest.mark.parametrize("status", [301, 302, 303, 304, 307, 308])
async def test_a_redirect_is_not_followed(status: int) -> None:
    async with receiving(answer(200)) as elsewhere:
        async with receiving(answer(status, Location=elsewhere.url)) as receiver:
            failure = await failed(receiver)
        assert [] == elsewhere.requests
    assert failure.detail == (
        f"The target answered {status}, a redirect, which is never"
        " followed: set trigger.url to the address it moved to."
    )
    assert {"attempts": 1, "last_status": status, "may_have_started": False} == failure.fields


@pytest.mark.parametrize("status", [429, 503])
async def test_retry_after_is_waited_for_with_the_backoff_on_top(status: int) -> None:
    waits = Waits()
    async with receiving(answer(status, Retry_After="7"), answer(200)) as receiver:
        await dispatch(receiver, sleep=waits)
    assert [7.25] == waits


async def test_retry_after_as_a_date_is_counted_from_the_clock() -> None:
    waits = Waits()
    async with receiving(answer(429, Retry_After="Tue, 14 Nov 2023 22:13:25 GMT"), answer(200)) as receiver:
        await dispatch(receiver, sleep=waits, now_ms=lambda: 1_700_000_000_000)
    assert [5.25] == waits


async def test_a_longer_retry_after_is_handed_to_the_caller_instead() -> None:
    waits = Waits()
    async with receiving(answer(429, Retry_After="3600")) as receiver:
        failure = await failed(receiver, sleep=waits)
    assert ([], 1, 3600.0) == (waits, len(receiver.requests), failure.retry_after_seconds)
    assert {"attempts": 1, "last_status": 429, "may_have_started": False} == failure.fields
    assert "It asks for 3600 s without requests (Retry-After): try again then." in failure.detail


async def test_cookies_and_the_environments_proxy_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    async with receiving(answer(500, Set_Cookie="a=b"), answer(200)) as receiver:
        await dispatch(receiver)
    assert ["cookie" in each.headers for each in receiver.requests] == [False, False]


async def test_many_jobs_at_once_each_get_their_own_answer() -> None:
    async def echo(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        body = receiver.requests[-1].body
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))

    async with receiving(echo) as receiver:
        target = WebhookTarget(receiver.url)
        deliveries = await asyncio.gather(*(target.dispatch(job(id=f"j{n}")) for n in range(150)))
        await target.close()
    answers = [json.loads(msgspec.json.encode(each))["answer"]["id"] for each in deliveries]
    assert [f"j{n}" for n in range(150)] == answers


async def test_a_closed_target_starts_nothing() -> None:
    target = WebhookTarget("http://127.0.0.1:9/")
    await target.close()
    with pytest.raises(Draining):
        await target.dispatch(job())
    assert target.attempts == 0


async def test_closing_between_two_attempts_ends_the_dispatch() -> None:
    async def close_instead(_seconds: float) -> None:
        await target.close()

    async with receiving(answer(500)) as receiver:
        target = WebhookTarget(receiver.url, sleep=close_instead)
        with pytest.raises(DispatchFailed) as failure:
            await target.dispatch(job())
    assert ({"attempts": 1, "last_status": 500, "may_have_started": True}, 1) == (
        failure.value.fields,
        len(receiver.requests),
    )


async def test_a_proxy_gets_the_request_where_one_is_configured() -> None:
    async with receiving(answer(200)) as proxy:
        target = WebhookTarget("http://hooks.example/jobs", proxy=f"http://127.0.0.1:{proxy.port}")
        delivery = await target.dispatch(job())
        await target.close()
    assert 200 == delivery.status
    assert "hooks.example" == proxy.requests[0].headers["host"]


async def test_every_secret_signs() -> None:
    other = "whsec_" + base64.b64encode(b"o" * 32).decode()
    async with receiving(answer(200)) as receiver:
        await dispatch(receiver, secrets=[SECRET, other], now_ms=lambda: time.time_ns() // 1_000_000)
    [request] = receiver.requests
    for secret in (SECRET, other):
        Webhook(secret).verify(request.body, request.headers)


def test_no_other_project_has_the_id_that_targets_deduplicate_by() -> None:
    ids = {job(id=job_id, project=project).unique_id for job_id in ("1", "2") for project in ("a", "b", "a.b", "a-b")}
    assert 8 == len(ids)
    assert all(JOB_ID.fullmatch(unique_id) for unique_id in ids)


@pytest.mark.parametrize(
    ("body", "may_have_started"),
    [(b"<html>", False), (b'{"ids":[]}', False), (b"", False), (b'{"ok":true}', False), (b"[" * 5000, True)],
)
async def test_an_inngest_answer_without_ids_is_a_failure(body: bytes, may_have_started: bool) -> None:
    async with receiving(answer(200, body)) as receiver:
        with pytest.raises(DispatchFailed, match="https://HOST/e/EVENT_KEY") as failure:
            await dispatch(receiver, format="inngest")
    assert may_have_started is failure.value.fields["may_have_started"]
    assert 1 == len(receiver.requests)


@pytest.mark.parametrize("status", [401, 403, 404])
async def test_a_wrong_event_key_is_not_a_wrong_secret(status: int) -> None:
    async with receiving(answer(status)) as receiver:
        with pytest.raises(DispatchFailed, match="EVENT_KEY") as failure:
            await dispatch(receiver, format="inngest")
    assert "trigger.secret" not in failure.value.detail


# --- when it is tried again ---


def test_the_longest_wait_doubles_up_to_the_cap() -> None:
    assert [0.25, 0.5, 1.0, 2.0, 4.0, 5.0, 5.0] == [backoff_seconds(retry, 1.0) for retry in range(1, 8)]


@given(st.integers(1, 10**9), st.floats(0, 1, exclude_max=True))
def test_the_wait_is_spread_from_zero_to_its_bound(retry: int, share: float) -> None:
    assert 0 <= backoff_seconds(retry, share) <= CAP_SECONDS
    assert backoff_seconds(retry, 0.0) == 0
    assert backoff_seconds(retry, share) >= share * BASE_SECONDS


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("0", 0.0),
        ("7", 7.0),
        (" 120 ", 120.0),
        ("9" * 4000, 31_536_000.0),
        ("Tue, 14 Nov 2023 22:13:25 GMT", 5.0),
        ("Tue, 14 Nov 2023 22:13:15 GMT", 0.0),
        ("Tuesday, 14-Nov-23 22:13:25 GMT", 5.0),
        ("Tue Nov 14 22:13:25 2023", 5.0),
        (None, 0.0),
        ("", 0.0),
        ("-5", 0.0),
        ("1.5", 0.0),
        ("\u0667", 0.0),
        ("soon", 0.0),
        ("Tue, 99 Nov 2023 99:99:99 GMT", 0.0),
        ("Mon, 01 Jan 9999 00:00:00 -2359", 31_536_000.0),
    ],
)
def test_retry_after_is_read_as_seconds_or_date(header: str | None, seconds: float) -> None:
    assert seconds == retry_after_seconds(header, NOW_MS)


@given(st.text())
def test_any_retry_after_is_a_finite_wait(header: str) -> None:
    assert 0 <= retry_after_seconds(header, NOW_MS) <= 31_536_000.0
