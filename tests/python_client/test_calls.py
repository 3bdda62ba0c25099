"""What is sent again after a failure, and what is not. No sockets: `Attempts` only decides."""

from __future__ import annotations

import base64
import hmac
import json
import time
from datetime import UTC, datetime

import pytest
from edge_hub_client import DispatchFailed, EdgeError, InvalidSignature, Unreachable, verify_webhook
from edge_hub_client._calls import Attempts, Verbs
from edge_hub_client._errors import refusal
from edge_hub_client._stream import Subscription
from standardwebhooks.webhooks import Webhook

SECRET = "whsec_" + base64.b64encode(b"a key of thirty-two bytes, or so").decode()
PASSING = [Unreachable("reset"), *(EdgeError("some", "", status=status) for status in (429, 502, 503, 504))]
FINAL = [
    *(EdgeError("some", "", status=status) for status in (400, 401, 403, 404, 409, 413, 422, 500)),
    DispatchFailed("dispatch_failed", "", status=502),
    EdgeError("draining", "", status=503, problem={"may_have_started": True}),
    EdgeError("some", "", status=503, retry_after=600.0),
]


@pytest.mark.parametrize("error", PASSING, ids=str)
def test_what_may_pass_is_tried_again_under_the_same_key(error: EdgeError) -> None:
    attempts = Attempts(Verbs().publish("p", 1), retries=3)
    key = attempts.call.headers["Idempotency-Key"]
    pauses = [attempts.after(error) for _ in range(3)]
    assert pauses == sorted(pauses)
    assert 0.1 < pauses[0] < 0.4
    assert key == attempts.call.headers["Idempotency-Key"]
    with pytest.raises(EdgeError) as raised:
        attempts.after(error)
    assert error is raised.value


@pytest.mark.parametrize("error", FINAL, ids=str)
def test_what_cannot_pass_is_raised(error: EdgeError) -> None:
    with pytest.raises(EdgeError):
        Attempts(Verbs().publish("p", 1), retries=3).after(error)


def test_the_hub_says_when() -> None:
    attempts = Attempts(Verbs().publish("p", 1), retries=3)
    assert 3.7 < attempts.after(EdgeError("some", "", status=503, retry_after=5.0)) < 6.3


def test_without_room_for_keys_it_is_sent_once_more_without() -> None:
    full = EdgeError("too_many_idempotency_keys", "", status=503, retry_after=5.0)
    attempts = Attempts(Verbs().publish("p", 1), retries=3)
    assert 0 == attempts.after(full)
    assert "Idempotency-Key" not in attempts.call.headers
    with pytest.raises(Unreachable):
        attempts.after(Unreachable("reset"))  # it may have been published
    attempts = Attempts(Verbs().publish("p", 1, key="mine"), retries=1)
    assert attempts.after(full) > 0
    assert "mine" == attempts.call.headers["Idempotency-Key"]


@pytest.mark.parametrize("body", [b"", b"<html>", b"[1]", b"\xff"])
def test_an_answer_that_no_hub_gave(body: bytes) -> None:
    with pytest.raises(EdgeError) as raised:
        Verbs().publish("p", 1).result(200, {}, body)
    assert "not_a_hub" == raised.value.code
    assert "http_502" == refusal(502, {"Retry-After": "soon"}, body).code


def test_pauses_grow_to_half_a_minute_and_closing_says_its_own() -> None:
    subscription = Subscription(["p"], None, None, observe=False, max_failures=None)
    pauses = [subscription._pause(Unreachable("reset"), can_renew=False) for _ in range(20)]
    assert 0.7 < pauses[0] < 1.3
    assert 22 < pauses[-1] < 38
    subscription._closing_seconds = 0.2
    assert 0.2 == subscription._pause(Unreachable("reset"), can_renew=False)


def signed(secret: str = SECRET, age_seconds: float = 0.0) -> tuple[dict[str, str], bytes]:

    body = json.dumps({"id": "job-1", "name": "render", "data": "Grüße"}).encode()
    now = time.time() - age_seconds
    signature = Webhook(secret).sign("msg", datetime.fromtimestamp(now, UTC), body.decode())
    return {"Webhook-Id": "msg", "Webhook-Timestamp": str(int(now)), "Webhook-Signature": signature}, body


def test_a_webhook_is_verified() -> None:
    headers, body = signed()
    other = "whsec_" + base64.b64encode(bytes(32)).decode()
    assert "render" == verify_webhook(SECRET, headers, body)["name"]
    assert "render" == verify_webhook([other, SECRET], headers, body.decode())["name"]
    headers["Webhook-Signature"] = f"v1a,nonsense v1, {headers['Webhook-Signature']}"
    assert "render" == verify_webhook(SECRET, headers, body)["name"]


@pytest.mark.parametrize("secret", ["", "whsec_", [SECRET, ""]])
def test_a_secret_that_is_empty_is_an_error_and_not_a_key_that_anyone_has(secret: str | list[str]) -> None:
    headers, body = signed("whsec_" + base64.b64encode(bytes(32)).decode())
    digest = hmac.digest(b"", f"msg.{headers['Webhook-Timestamp']}.".encode() + body, "sha256")
    headers["Webhook-Signature"] = f"v1,{base64.b64encode(digest).decode()}"
    with pytest.raises(ValueError, match="empty"):
        verify_webhook(secret, headers, body)


@pytest.mark.parametrize("age_seconds", [-400, 400])
def test_an_old_webhook_is_refused(age_seconds: float) -> None:
    with pytest.raises(InvalidSignature):
        verify_webhook(SECRET, *signed(age_seconds=age_seconds))


@pytest.mark.parametrize(
    "change",
    [
        {"Webhook-Id": "other"},
        {"Webhook-Signature": "v1,ä"},
        {"Webhook-Timestamp": "١٢٣"},
        {"Webhook-Timestamp": "9" * 5000},
        {"body": b"{}"},
    ],
)
def test_a_changed_webhook_is_refused(change: dict[str, str | bytes]) -> None:
    headers, body = signed()
    changed = {name: str(value) for name, value in (headers | change).items() if name != "body"}
    with pytest.raises(InvalidSignature):
        verify_webhook(SECRET, changed, change.get("body", body))
    with pytest.raises(InvalidSignature):
        verify_webhook(SECRET, {}, body)
