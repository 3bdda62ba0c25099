"""Why an attempt failed, whether it is worth another, and whether the job may have been started.

The table of docs/trigger.md in code. Sentences are made here from kinds of errors, never from an
exception's own text: aiohttp's can hold the URL, and the URL can hold a key.
"""

from __future__ import annotations

import os

import aiohttp
import msgspec

from edge.triggers.retry import RETRY_AFTER_MAX_SECONDS


class Failure(msgspec.Struct, frozen=True):
    """`what` happened (follows "The target <address>") and `advice`: what to do about it.

    `may_have_started`: the target had the request and did not refuse it.
    """

    what: str
    advice: str
    retry: bool
    may_have_started: bool
    status: int | None = None
    retry_after_seconds: float = 0.0

    @property
    def asks_too_long(self) -> bool:
        return self.retry_after_seconds > RETRY_AFTER_MAX_SECONDS

    def sentence(self, address: str, attempts: int, may_have_started: bool) -> str:
        """The `detail` of the trigger's answer; `may_have_started` counts earlier attempts too."""
        tried = f" ({attempts} attempts)" if attempts > 1 else ""
        text = f"The target {address} {self.what}{tried}: {self.advice}."
        if self.asks_too_long:
            text += f" It asks to be left alone for {self.retry_after_seconds:.0f} s: come back then."
        if may_have_started:
            text += " It may have started the job: look there before you trigger it again."
        return text


def from_status(status: int, retry_after_seconds: float) -> Failure:
    """Any status but 2xx."""
    if status == 429:
        return Failure(
            "answered 429, too many requests",
            "come back later, or raise its limit",
            True,
            False,
            status,
            retry_after_seconds,
        )
    if status >= 500:
        return Failure(f"answered {status}", "look into its log", True, True, status, retry_after_seconds)
    if status in (401, 403):
        advice = "give it the same trigger.secret, or put the credentials it asks for into trigger.url"
    elif status in (404, 405, 410):
        advice = "correct the path in trigger.url"
    elif 300 <= status < 400:
        return Failure(
            f"answered {status}, a redirect, which is never followed",
            "set trigger.url to the address it moved to",
            False,
            False,
            status,
        )
    else:
        advice = "look into its log, and check that trigger.format is the one it expects"
    return Failure(f"refused the job with {status}", advice, False, False, status)


def from_timeout(sent: bool, timeout_seconds: float) -> Failure:
    if sent:
        return Failure(
            f"did not answer within {timeout_seconds:g} s",
            "let it answer before it works, or raise trigger.timeout_seconds",
            False,
            True,
        )
    return Failure(
        f"could not be reached within {timeout_seconds:g} s",
        "check that it runs and that no firewall drops the way to it",
        True,
        False,
    )


def from_error(error: aiohttp.ClientError | OSError, sent: bool) -> Failure:
    """`sent`: the request had begun to leave. A lost connection is repeated, nonsense is not."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return Failure(
            "has a certificate that is not trusted here",
            "correct trigger.url, or install the certificate's authority on the hub's machine",
            False,
            False,
        )
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return Failure("has a name that can't be resolved", "correct trigger.url, or mend DNS", True, False)
    if isinstance(error, aiohttp.ClientSSLError):
        return Failure("does not speak TLS", "correct trigger.url: http instead of https?", True, False)
    if not isinstance(error, (aiohttp.ClientConnectionError, OSError)):
        return Failure("answered something that is not HTTP", "correct trigger.url", False, sent)
    if sent:
        return Failure("closed the connection without an answer", "look into its log", True, True)
    number = error.errno if isinstance(error, OSError) else None
    reason = f" ({os.strerror(number)})" if number else ""
    return Failure(f"can't be reached{reason}", "start it, or correct trigger.url", True, False)
