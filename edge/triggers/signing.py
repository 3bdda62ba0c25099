"""The headers of Standard Webhooks (https://www.standardwebhooks.com): id, timestamp, signature.

Id and timestamp are sent unsigned too, where no secret is set: receivers deduplicate by the id.
"""

from __future__ import annotations

import binascii
from base64 import b64decode
from collections.abc import Collection
from datetime import UTC, datetime

from standardwebhooks.webhooks import Webhook

_PREFIX = "whsec_"
_KEY_BYTES_MIN, _KEY_BYTES_MAX = 24, 64


class Signer:
    def __init__(self, secrets: Collection[str]) -> None:
        """Each secret is base64, with or without `whsec_` before it. Raises ValueError, never naming it."""
        self._webhooks = [Webhook(_key(secret)) for secret in secrets]

    def headers(self, job_id: str, body: bytes, now_ms: int) -> dict[str, str]:
        """For one attempt: the timestamp is the attempt's, or a late retry would be taken for a replay."""
        seconds = now_ms // 1000
        headers = {"webhook-id": job_id, "webhook-timestamp": str(seconds)}
        # `sign` replaces the time zone instead of converting it, so it has to be UTC already.
        moment = datetime.fromtimestamp(seconds, tz=UTC)
        signatures = [webhook.sign(job_id, moment, body.decode()) for webhook in self._webhooks]
        if signatures:
            headers["webhook-signature"] = " ".join(signatures)  # a receiver accepts any that it knows the secret of
        return headers


def _key(secret: str) -> bytes:
    """The package decodes leniently: of a pass phrase it drops what is not base64 and signs with the rest."""
    text = secret.strip().removeprefix(_PREFIX).rstrip("=")
    try:
        key = b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not _KEY_BYTES_MIN <= len(key) <= _KEY_BYTES_MAX:
        raise ValueError(
            f"trigger.secret is not base64 of {_KEY_BYTES_MIN} to {_KEY_BYTES_MAX} bytes, as Standard"
            ' Webhooks ask: make one with echo "whsec_$(openssl rand -base64 32)"'
        )
    return key
