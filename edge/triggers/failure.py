"""Why an attempt failed, whether and when it is made again, and whether the job may have been started.

The table of docs/trigger.md in code. Sentences are made here from kinds of errors, never from an
exception's own text: aiohttp's can hold the URL, and the URL can hold a key. Waits are exponential with full jitter:
callers that failed together do not come back together. What the target asks for by `Retry-After` is waited for on top,
up to a bound; beyond it, waiting is the caller's.
"""

from __future__ import annotations

import os
from datetime import UTC
from email.utils import parsedate_to_datetime
from functools import partial

import aiohttp
import msgspec

BASE_SECONDS = 0.25
CAP_SECONDS = 5.0
RETRY_AFTER_MAX_SECONDS = 10.0
"""A caller holds its trigger's request open meanwhile, and many time out after thirty seconds."""

_YEAR_SECONDS = 31_536_000.0
_INNGEST_URL = "correct trigger.url: for Inngest it is https://HOST/e/EVENT_KEY, with a key that it knows"


class Failure(msgspec.Struct, frozen=True):
    """`what` happened (follows "The target") and `advice`: what to do about it.

    `may_have_started`: the target had the request and did not refuse it.
    """

    what: str
    advice: str
    retry: bool = False
    may_have_started: bool = False
    status: int | None = None
    retry_after_seconds: float = 0.0

    @property
    def retry_too_late(self) -> bool:
        return self.retry_after_seconds > RETRY_AFTER_MAX_SECONDS

    def sentence(self, attempts: int, may_have_started: bool) -> str:
        """The `detail` of the trigger's answer; `may_have_started` counts earlier attempts too.

        It doesn't name the target: where jobs go is the operator's business, not the caller's.
        """
        tried = f" ({attempts} attempts)" if attempts > 1 else ""
        text = f"The target {self.what}{tried}: {self.advice}."
        if self.retry_too_late:
            text += f" It asks for {self.retry_after_seconds:.0f} s without requests (Retry-After): try again then."
        if may_have_started:
            text += " It may have started the job: check the target before you trigger it again."
        return text


def from_status(status: int, retry_after_seconds: float, *, inngest: bool) -> Failure:
    """Any status but 2xx."""
    again = partial(Failure, retry=True, status=status, retry_after_seconds=retry_after_seconds)
    if status == 429:
        return again("answered 429, too many requests", "try again later, or raise its limit")
    if status >= 500:
        return again(f"answered {status}", "check its log", may_have_started=True)
    if 300 <= status < 400:
        what = f"answered {status}, a redirect, which is never followed"
        return Failure(what, "set trigger.url to the address it moved to", status=status)
    if inngest and status in (401, 403, 404, 405, 410):
        advice = _INNGEST_URL
    elif status in (401, 403):
        advice = "give it the same trigger.secret, or put the credentials it asks for into trigger.url"
    elif status in (404, 405, 410):
        advice = "correct the path in trigger.url"
    else:
        advice = "check its log, and check that trigger.format is the one it expects"
    return Failure(f"refused the job with {status}", advice, status=status)


def without_ids(status: int, *, complete: bool) -> Failure:
    """An answer to an Inngest event that doesn't name the events taken; where it broke off, they may have been."""
    what = f"answered {status} without the ids of the events it took"
    return Failure(what, _INNGEST_URL, may_have_started=not complete, status=status)


def from_timeout(sent: bool, timeout_seconds: float) -> Failure:
    if sent:
        advice = "let it respond before it starts the work, or raise trigger.timeout_seconds"
        return Failure(f"did not answer within {timeout_seconds:g} s", advice, may_have_started=True)
    advice = "check that it runs and that no firewall drops the traffic to it"
    return Failure(f"could not be reached within {timeout_seconds:g} s", advice, retry=True)


def from_error(error: aiohttp.ClientError | OSError, sent: bool) -> Failure:
    """`sent`: the request had begun to leave. A lost connection is repeated, nonsense is not."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        advice = "correct trigger.url, or install the certificate's authority on the hub's machine"
        return Failure("has a certificate that is not trusted here", advice)
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return Failure("has a name that can't be resolved", "correct trigger.url, or fix DNS", retry=True)
    if isinstance(error, aiohttp.ClientSSLError):
        return Failure("does not speak TLS", "correct trigger.url: http instead of https?", retry=True)
    if not isinstance(error, (aiohttp.ClientConnectionError, OSError)):
        return Failure("answered something that is not HTTP", "correct trigger.url", may_have_started=sent)
    if sent:
        return Failure("closed the connection without an answer", "check its log", retry=True, may_have_started=True)
    number = error.errno if isinstance(error, OSError) else None
    reason = f" ({os.strerror(number)})" if number else ""
    return Failure(f"can't be reached{reason}", "start it, or correct trigger.url", retry=True)


def backoff_seconds(retry: int, share: float) -> float:
    """The wait before the `retry`th retry (from 1); `share` is a random number from [0, 1)."""
    return share * min(CAP_SECONDS, BASE_SECONDS * 2.0 ** min(retry - 1, 30))


def retry_after_seconds(header: str | None, now_ms: int) -> float:
    """What `Retry-After` asks for, as seconds or an HTTP date (RFC 9110, 10.2.3); 0 where it is unusable."""
    text = (header or "").strip()
    if text.isascii() and text.isdigit():
        return min(float(text), _YEAR_SECONDS)
    try:
        moment = parsedate_to_datetime(text)
        if moment.tzinfo is None:  # the asctime form of an HTTP date names no zone and means GMT
            moment = moment.replace(tzinfo=UTC)
        wanted = moment.timestamp()
    except (ValueError, TypeError, OverflowError):
        return 0.0
    return min(max(0.0, wanted - now_ms / 1000), _YEAR_SECONDS)
