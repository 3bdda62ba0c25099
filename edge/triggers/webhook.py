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
  moment it is used, and then nobody can tell a request that was never read from one that was.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection
from random import SystemRandom
from types import SimpleNamespace

import aiohttp
import structlog

from edge.core.errors import DispatchFailed, Draining, InvalidRequest
from edge.logs import trace
from edge.triggers.address import parse_address
from edge.triggers.answer import ANSWER_BYTES, answer_json, read_answer
from edge.triggers.failure import Failure, from_error, from_status, from_timeout
from edge.triggers.formats import FORMATS, content_type, encode_job
from edge.triggers.job import JOB_ID, Delivery, Job
from edge.triggers.retry import backoff_seconds, retry_after_seconds
from edge.triggers.signing import Signer

CONNECTIONS_MAX = 100
"""Attempts under way at once; further ones wait for their turn within their time-out."""

_system_random = SystemRandom()

_log = structlog.get_logger("edge.target")


def _wall_clock_ms() -> int:
    return time.time_ns() // 1_000_000


class _Sent:
    """Told by aiohttp's tracing whether the request of one attempt has begun to leave."""

    __slots__ = ("began",)

    def __init__(self) -> None:
        self.began = False


async def _headers_sent(
    _session: aiohttp.ClientSession,
    context: SimpleNamespace,
    _params: aiohttp.TraceRequestHeadersSentParams,
) -> None:
    context.trace_request_ctx.began = True


class WebhookTarget:
    """Sends each job as one signed POST, with bounded retries. `attempts` and `retries` count requests.

    At worst a dispatch takes `(retries + 1) * timeout_seconds` and `retries` waits of up to
    `RETRY_AFTER_MAX_SECONDS` + `CAP_SECONDS` (both in `retry`). Cancelled, it leaves nothing behind.
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
        now_ms: Callable[[], int] = _wall_clock_ms,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        random: Callable[[], float] = _system_random.random,
    ) -> None:
        """Raises ValueError, in a sentence without secrets, for what can't work."""
        if format not in FORMATS:
            raise ValueError(f"trigger.format is not one of {', '.join(FORMATS)}")
        if timeout_seconds <= 0:
            raise ValueError("trigger.timeout_seconds is not above 0")
        if retries < 0:
            raise ValueError("trigger.retries is below 0")
        self._address = parse_address(url)
        self._signer = Signer(secrets)
        self._format = format
        self._timeout_seconds = timeout_seconds
        self._max_retries = retries
        self._proxy = proxy
        self._now_ms = now_ms
        self._sleep = sleep
        self._random = random
        self._session: aiohttp.ClientSession | None = None
        self._closed = False
        self.safe_url = self._address.shown
        self.attempts = 0
        self.retries = 0

    async def dispatch(self, job: Job) -> Delivery:
        if self._closed:
            raise Draining("The hub is leaving and starts no more jobs: try again.", retry_after_seconds=1)
        if not JOB_ID.fullmatch(job.id):
            raise InvalidRequest("The job's id is not 1 to 128 of A-Z a-z 0-9 _ : ~ -: give another.")
        body = encode_job(job, self._format)
        may_have_started, last_status = False, None
        attempt = 0
        while True:
            attempt += 1
            outcome = await self._attempt(job, body, attempt)
            if isinstance(outcome, Delivery):
                return outcome
            may_have_started = may_have_started or outcome.may_have_started
            last_status = outcome.status or last_status
            if attempt <= self._max_retries and outcome.retry and not outcome.asks_too_long:
                await self._wait(job, outcome, attempt)
                if not self._closed:
                    continue
            raise DispatchFailed(
                outcome.sentence(self.safe_url, attempt, may_have_started),
                retry_after_seconds=outcome.retry_after_seconds or None,
                attempts=attempt,
                last_status=last_status,
                may_have_started=may_have_started,
            )

    async def _wait(self, job: Job, failure: Failure, attempt: int) -> None:
        delay_seconds = failure.retry_after_seconds + backoff_seconds(attempt, self._random())
        _log.warning(
            "webhook_retry",
            job=job.id,
            project=job.project,
            target=self.safe_url,
            attempt=attempt,
            reason=failure.what,
            delay_seconds=round(delay_seconds, 3),
        )
        await self._sleep(delay_seconds)

    async def close(self) -> None:
        self._closed = True
        if self._session is not None:
            await self._session.close()

    async def _attempt(self, job: Job, body: bytes, attempt: int) -> Delivery | Failure:
        self.attempts += 1
        self.retries += attempt > 1
        sent = _Sent()
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
                asked_seconds = retry_after_seconds(response.headers.get("Retry-After"), self._now_ms())
                return from_status(response.status, asked_seconds)
            answer, complete = await read_answer(response, deadline)
        finally:
            response.close()
        return Delivery(
            kind=self.kind,
            status=response.status,
            attempts=attempt,
            answer=answer_json(answer, complete=complete),
            truncated=not complete,
        )

    async def _post(self, job: Job, body: bytes, sent: _Sent) -> aiohttp.ClientResponse:
        headers = self._signer.headers(job.id, body, self._now_ms())
        headers["Content-Type"] = content_type(self._format)
        if self._address.authorization is not None:
            headers["Authorization"] = self._address.authorization
        if job.traceparent is not None and trace.well_formed(job.traceparent):
            headers[trace.HEADER] = job.traceparent
        return await self._open_session().post(
            self._address.url,
            data=body,
            headers=headers,
            allow_redirects=False,
            trace_request_ctx=sent,
            proxy=self._proxy,
        )

    def _open_session(self) -> aiohttp.ClientSession:
        """Made at the first job: a session belongs to the loop that runs then."""
        if self._session is None:
            tracing = aiohttp.TraceConfig()
            tracing.on_request_headers_sent.append(_headers_sent)
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(force_close=True, limit=CONNECTIONS_MAX),
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={"User-Agent": "edge", "Accept-Encoding": "identity"},
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),
                trust_env=False,
                auto_decompress=False,
                read_bufsize=ANSWER_BYTES,
                trace_configs=[tracing],
            )
        return self._session
