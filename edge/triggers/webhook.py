"""A job taken to `trigger.url` by HTTP POST.

Invariants:

- Nothing a job holds changes where it goes: redirects are not followed, netrc is not read, no
  cookie is kept; a proxy is used only where the settings name one.
- An attempt costs bounded memory and time whatever the target does: `timeout_seconds` over all of it,
  from the look-up of the name to the last byte that is read.
- The status line decides. What becomes of the answer's body afterwards never turns a job that was
  taken into one that failed.
- An attempt whose request may have been taken is repeated only after a lost connection or a 5xx, under
  the same `webhook-id`. A time-out is not repeated then: the target is likely at work on the job, and
  a second start beside the first does more harm than an honest "may have started".
- Each attempt has a connection of its own. One kept alive may be closed by the target in the very
  moment it is used, and a request that was never read then looks like one that was.
- A failure's sentence is made here from the kind of the error, never from an exception's own text: aiohttp's
  can hold the URL, and the URL can hold a key. Together these sentences are the table of docs/trigger.md.
- What is shown of the address has no user, password, path or query. An Inngest event key is the path's last
  segment, a chat tool's webhook is all path; the operator has one `trigger.url` and knows it by its host.
"""

from __future__ import annotations

import asyncio
import codecs
import os
import ssl
import time
from base64 import b64encode
from collections.abc import Awaitable, Callable, Collection
from contextlib import suppress
from datetime import UTC
from email.utils import parsedate_to_datetime
from functools import partial
from random import SystemRandom
from types import SimpleNamespace
from typing import Final

import aiohttp
import msgspec
from standardwebhooks.webhooks import Webhook
from yarl import URL

from edge.core.errors import DispatchFailed, Draining, InvalidRequest
from edge.logs.setup import get_logger
from edge.logs.text import TRACE_HEADER, is_traceparent
from edge.triggers.job import JOB_ID, Delivery, Job, content_type, encode_job, signed_headers

ANSWER_BYTES: Final = 4096

_utf8 = codecs.getincrementaldecoder("utf-8")
CONNECTIONS_MAX = 100
"""Attempts under way at once; further ones wait for their turn within their time-out."""
BASE_SECONDS = 0.25
CAP_SECONDS = 5.0
RETRY_AFTER_MAX_SECONDS = 10.0
"""A caller holds its trigger's request open meanwhile, and many time out after thirty seconds."""
_YEAR_SECONDS = 31_536_000.0
_INNGEST_URL = "correct trigger.url: for Inngest it is https://HOST/e/EVENT_KEY, with a key that it knows"

_system_random = SystemRandom()

_log = get_logger("target")


async def _headers_sent(
    _session: aiohttp.ClientSession, context: SimpleNamespace, _params: aiohttp.TraceRequestHeadersSentParams
) -> None:
    context.trace_request_ctx.began = True


class WebhookTarget:
    """Sends each job as one signed POST, with bounded retries. `attempts` and `retries` count requests.

    At worst a dispatch takes `(retries + 1) * timeout_seconds` and `retries` waits of up to
    `RETRY_AFTER_MAX_SECONDS` + `CAP_SECONDS`. Cancelled, it leaves nothing behind.
    """

    kind: str = "webhook"

    def __init__(
        self,
        url: str,
        *,
        format: str = "json",  # noqa: A002 -- the setting is named trigger.format
        secrets: Collection[str] = (),
        timeout_seconds: float = 10.0,
        retries: int = 3,
        proxy: str | None = None,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        random: Callable[[], float] = _system_random.random,
    ) -> None:
        """Raises ValueError for a URL that can't work, in a sentence that does not repeat it."""
        self._url, self._authorization, self.safe_url = parse_address(url)
        self._webhooks = [Webhook(secret) for secret in secrets]  # `edge.config.texts` has checked them
        self._format = format
        self._timeout_seconds = timeout_seconds
        self._max_retries = retries
        self._proxy = proxy
        self._now_ms = now_ms
        self._sleep = sleep
        self._random = random
        self._tls = ssl.create_default_context()  # reads files, so not at the first job
        self._session: aiohttp.ClientSession | None = None
        self._closed = False
        self.attempts = 0
        self.retries = 0

    async def dispatch(self, job: Job) -> Delivery:
        if self._closed:
            raise Draining("The hub is shutting down and starts no more jobs; try again.")
        if not JOB_ID.fullmatch(job.id):
            raise InvalidRequest("The job's id must have 1 to 128 characters out of A-Z a-z 0-9 _ : ~ -.")
        body = encode_job(job, self._format)
        log = _log.bind(target=self.safe_url, job=job.id, project=job.project)
        may_have_started, last_status = False, None
        attempt = 0
        while True:
            attempt += 1
            outcome = await self._attempt(job, body, attempt)
            if isinstance(outcome, Delivery):
                return outcome
            may_have_started = may_have_started or outcome.may_have_started
            last_status = outcome.status or last_status
            if attempt <= self._max_retries and outcome.retry and not outcome.retry_too_late:
                delay_seconds = outcome.retry_after_seconds + backoff_seconds(attempt, self._random())
                log.warning(
                    "webhook_retry", attempt=attempt, reason=outcome.what, delay_seconds=round(delay_seconds, 3)
                )
                await self._sleep(delay_seconds)
                if not self._closed:
                    continue
            log.warning("webhook_failed", attempts=attempt, reason=outcome.what)
            raise DispatchFailed(
                outcome.sentence(attempt, may_have_started),
                retry_after_seconds=outcome.retry_after_seconds or None,
                attempts=attempt,
                last_status=last_status,
                may_have_started=may_have_started,
            )

    async def close(self) -> None:
        self._closed = True
        if self._session is not None:
            await self._session.close()

    async def _attempt(self, job: Job, body: bytes, attempt: int) -> Delivery | Failure:
        self.attempts += 1
        self.retries += attempt > 1
        sent = SimpleNamespace(began=False)
        """Whether the request has begun to leave, from aiohttp's tracing."""
        deadline = asyncio.get_running_loop().time() + self._timeout_seconds
        try:
            async with asyncio.timeout_at(deadline):
                response = await self._post(job, body, sent)
        except TimeoutError:
            return from_timeout(sent.began, self._timeout_seconds)
        except (aiohttp.ClientError, OSError) as error:
            return from_error(error, sent.began)
        try:
            if not 200 <= response.status < 300:
                wanted_seconds = retry_after_seconds(response.headers.get("Retry-After"), self._now_ms())
                return from_status(response.status, wanted_seconds, inngest=self._format == "inngest")
            answer, complete = await read_answer(response, deadline)
        finally:
            response.close()
        if self._format == "inngest" and not _names_ids(answer):
            return without_ids(response.status, complete=complete)
        return Delivery(
            kind=self.kind,
            status=response.status,
            attempts=attempt,
            answer=answer_json(answer, complete=complete),
            truncated=not complete,
        )

    async def _post(self, job: Job, body: bytes, sent: SimpleNamespace) -> aiohttp.ClientResponse:
        headers = signed_headers(self._webhooks, job.unique_id, body, self._now_ms())
        headers["Content-Type"] = content_type(self._format)
        if self._authorization is not None:
            headers["Authorization"] = self._authorization
        if job.traceparent is not None and is_traceparent(job.traceparent):
            headers[TRACE_HEADER] = job.traceparent
        return await self._open_session().post(
            self._url, data=body, headers=headers, allow_redirects=False, trace_request_ctx=sent, proxy=self._proxy
        )

    def _open_session(self) -> aiohttp.ClientSession:
        """Made at the first job: a session belongs to the loop that runs then."""
        if self._session is None:
            tracing = aiohttp.TraceConfig()
            tracing.on_request_headers_sent.append(_headers_sent)
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(ssl=self._tls, force_close=True, limit=CONNECTIONS_MAX),
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={"User-Agent": "edge", "Accept-Encoding": "identity"},
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),
                trust_env=False,
                auto_decompress=False,
                read_bufsize=ANSWER_BYTES,
                trace_configs=[tracing],
            )
        return self._session


def parse_address(text: str) -> tuple[URL, str | None, str]:
    """The URL without credentials, the `Authorization` header that they become, and what may be shown of it.

    Raises ValueError with a sentence that does not repeat the URL.
    """
    try:
        url = None if any(character <= " " or character == "\x7f" for character in text) else URL(text)
    except ValueError:
        url = None
    if url is None or url.scheme not in ("http", "https") or not url.host:
        raise ValueError("trigger.url is not a URL like https://host/path: give one with http or https and a host")
    authorization = None
    if url.user is not None or url.password is not None:
        pair = f"{url.user or ''}:{url.password or ''}"
        authorization = "Basic " + b64encode(pair.encode()).decode()
    return url.with_user(None), authorization, str(url.origin()) + ("" if url.raw_path_qs in ("", "/") else "/…")


async def read_answer(response: aiohttp.ClientResponse, deadline: float) -> tuple[bytes, bool]:
    """Up to `ANSWER_BYTES` + 1 of the body, whatever its length says, and whether that is all of it.

    It ends without an error when the body breaks off or `deadline` (the loop's clock) passes: the status
    has been read, and so the job was taken. A compressed body is left unread: it was requested without
    compression, and a bomb stays shut.
    """
    if response.headers.get("Content-Encoding", "identity").lower() != "identity":
        return b"", False
    body = bytearray()
    with suppress(TimeoutError, aiohttp.ClientError, OSError):
        async with asyncio.timeout_at(deadline):
            while len(body) <= ANSWER_BYTES:
                chunk = await response.content.read(ANSWER_BYTES + 1 - len(body))
                if not chunk:
                    return bytes(body), True
                body += chunk
    return bytes(body), False


def answer_json(body: bytes, *, complete: bool) -> msgspec.Raw | msgspec.UnsetType:
    """JSON to show: the body itself where it is whole and JSON in UTF-8, else its text as a string.

    Bad UTF-8 is replaced; a character that the cut went through is left out. Nothing for no body.
    """
    body = body[:ANSWER_BYTES]
    if not body:
        return msgspec.UNSET
    if complete:
        with suppress(UnicodeDecodeError, msgspec.DecodeError, RecursionError):
            body.decode()  # msgspec does not check the encoding of what it leaves as Raw
            msgspec.json.decode(body, type=msgspec.Raw)
            return msgspec.Raw(body)
    return msgspec.Raw(msgspec.json.encode(_utf8("replace").decode(body, final=complete)))


class _Taken(msgspec.Struct):
    ids: list[str]


def _names_ids(answer: bytes) -> bool:
    try:
        return bool(msgspec.json.decode(answer, type=_Taken).ids)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False


# --- failures ---


class Failure(msgspec.Struct, frozen=True):
    """Why an attempt failed: `what` happened (follows "The target") and `advice`, what to do about it.

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
    """The wait before the `retry`th retry (from 1); `share` is a random number from [0, 1).

    Exponential with full jitter: callers that failed together do not come back together. What the target asks for by
    `Retry-After` is waited for on top, up to a bound; beyond it, waiting is the caller's.
    """
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
