"""Webhooks of the hub, checked as Standard Webhooks say (https://www.standardwebhooks.com)."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

from edge_hub_client._errors import InvalidSignature

TOLERANCE_SECONDS = 300.0


def verify_webhook(secret: str | Sequence[str], headers: Mapping[str, str], body: bytes | str) -> Any:
    """The parsed body of a request that the hub has signed: a triggered job, or a hook.

    `secret` is `trigger.secret` (or `hooks.secret`), or several while one replaces the other; `body` is exactly what
    came. Raises InvalidSignature: answer 400 then. Deduplicate by the header `webhook-id`.
    """
    given = {name.lower(): value for name, value in headers.items()}
    message_id, timestamp = given.get("webhook-id", ""), given.get("webhook-timestamp", "")
    is_number = timestamp.isascii() and timestamp.isdigit() and len(timestamp) < 20  # int() refuses thousands of digits
    if not (is_number and abs(time.time() - int(timestamp)) <= TOLERANCE_SECONDS):
        raise InvalidSignature("The webhook has no timestamp, or one that is more than five minutes off.")
    body = body.encode() if isinstance(body, str) else body
    signed = f"{message_id}.{timestamp}.".encode() + body
    signatures = [
        signature[len("v1,") :].encode()
        for signature in given.get("webhook-signature", "").split()
        if signature.startswith("v1,")
    ]
    for each in [secret] if isinstance(secret, str) else secret:
        key = base64.b64decode(each.removeprefix("whsec_"))
        if not key:
            raise ValueError("The webhook secret is empty: anyone could sign with it.")
        expected = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest())
        if any(hmac.compare_digest(expected, signature) for signature in signatures):
            return json.loads(body)
    raise InvalidSignature("No signature of the webhook was made with this secret.")
