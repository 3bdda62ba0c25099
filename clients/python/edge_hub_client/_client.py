"""Two clients, one for synchronous code and one for asyncio: they send what `_calls.py` and `_stream.py` say."""

from __future__ import annotations

import asyncio
import functools
import inspect
import os
import time
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Coroutine,
    Generator,
    Iterable,
    Iterator,
    Mapping,
)
from typing import (
    TYPE_CHECKING,
    Any,
    Callable,
    TypeVar,
    Union,
)

import httpx
from httpx_sse import EventSource, SSEError

from edge_hub_client import _calls, _jobs, _stream
from edge_hub_client._calls import Attempts, Call, Verbs
from edge_hub_client._errors import EdgeError, Unreachable
from edge_hub_client._models import BatchReceipt, Event, NewEvent

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Concatenate, ParamSpec, Self

    P = ParamSpec("P")

T = TypeVar("T")
Token = Union[str, Callable[[], str], None]
AsyncToken = Union[str, Callable[[], Union[str, Awaitable[str]]], None]

DEFAULT_URL = "http://127.0.0.1:8080"
_CONNECT_SECONDS = 5.0
_LIMITS = httpx.Limits(max_connections=None, max_keepalive_connections=20)  # each subscription holds one


def _address(url: str | None) -> tuple[str, str | None]:
    """The base URL, and the path of a Unix socket. Without `url` it is that of EDGE_URL."""
    url = url or os.environ.get("EDGE_URL") or DEFAULT_URL
    return ("http://localhost", url[len("unix:") :]) if url.startswith("unix:") else (url.rstrip("/"), None)


def _timeout(call: Call[Any]) -> httpx.Timeout:
    return httpx.Timeout(_CONNECT_SECONDS, read=_calls.ANSWER_SECONDS + call.wait_seconds)


def _streaming(subscription: _stream.Subscription) -> httpx.Timeout:
    return httpx.Timeout(_stream.CONNECT_SECONDS, read=subscription._silence_seconds)


def _sync(verb: Callable[Concatenate[Any, P], Call[T]]) -> Callable[Concatenate[Client | Job, P], T]:
    def run(self: Client | Job, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self._run(verb(self, *args, **kwargs))

    return _described(run, verb)


def _async(
    verb: Callable[Concatenate[Any, P], Call[T]],
) -> Callable[Concatenate[AsyncClient | AsyncJob, P], Coroutine[Any, Any, T]]:
    async def run(self: AsyncClient | AsyncJob, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._run(verb(self, *args, **kwargs))

    return _described(run, verb)


def _described(run: T, verb: Callable[..., Call[Any]]) -> T:
    """`run` with the name, the parameters and the description of `verb`, and what its call reads as its result."""
    functools.update_wrapper(run, verb)  # type: ignore[arg-type]
    signature = inspect.signature(verb)
    returned = signature.return_annotation[len("Call[") : -1].replace("models.", "")
    run.__signature__ = signature.replace(return_annotation=returned)  # type: ignore[attr-defined]
    return run


class Client:
    """A client of the hub for synchronous code. It may be shared by threads.

    `url` is the hub's (default: $EDGE_URL, or http://127.0.0.1:8080), also `unix:PATH`; `token` is sent as
    `Authorization: Bearer` (default: $EDGE_TOKEN), and may be a function that gives one. `retries` is how often a
    request is sent again after a failure that may pass, under one idempotency key. `transport` is for tests.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        token: Token = None,
        retries: int = 5,
        transport: httpx.BaseTransport | None = None,
        verify: Any = True,
    ) -> None:
        base, uds = _address(url)
        if uds is not None and transport is None:
            transport = httpx.HTTPTransport(uds=uds, limits=_LIMITS)
        self._base = base
        self._token = token or os.environ.get("EDGE_TOKEN")
        self._retries = retries
        self._http = httpx.Client(transport=transport, verify=verify, limits=_LIMITS)

    publish = _sync(Verbs.publish)
    publish_to = _sync(Verbs.publish_to)
    trigger = _sync(Verbs.trigger)
    ticket = _sync(Verbs.ticket)
    ready = _sync(Verbs.ready)
    status = _sync(Verbs.status)
    history = _sync(Verbs.history)
    delete = _sync(Verbs.delete)

    def publish_many(
        self, project: str, events: Iterable[NewEvent], *, final: bool = False, key: str | None = None
    ) -> BatchReceipt:
        """Publish events over one request, each as soon as `events` gives it, and no faster than the hub takes them.

        Raises EdgeError, whose `problem` says how many were published. Without `key` those stay published;
        with it all are published, at the end, or none. `final`: the last one is the project's last event.
        """
        call = _calls.publish_many(project, key, final=final)
        return self._send(call, (_calls.as_line(event) for event in events))

    def subscribe(
        self,
        *projects: str,
        since: str | None = None,
        last_event_id: str | None = None,
        observe: bool = False,
        max_failures: int | None = None,
    ) -> Subscription:
        """The events of one or several projects, over as many connections as it takes; see `Subscription`.

        `since` and `last_event_id` say where to begin (docs/subscribe.md). `observe`: see everything, count as
        nothing. It tries for ever to reach the hub, or at most `max_failures` times in a row.
        """
        return Subscription(self, projects, since, last_event_id, observe=observe, max_failures=max_failures)

    def job(self, project: str, id: str, *, final: bool = False, **started: Any) -> Job:
        """The events of a job, for the program that does it; see `Job`.

        `started` goes into its first event. `final`: its last event is the project's last one, too.
        """
        return Job(self, project, id, started, final=final)

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _headers(self) -> dict[str, str]:
        token = self._token() if callable(self._token) else self._token
        return {"Authorization": f"Bearer {token}"} if token else {}

    def _run(self, call: Call[T]) -> T:
        attempts = Attempts(call, self._retries)
        while True:
            try:
                return self._send(attempts.call, attempts.call.body)
            except EdgeError as error:
                pause_seconds = attempts.after(error)
            time.sleep(pause_seconds)

    def _send(self, call: Call[T], content: bytes | Iterator[bytes] | None) -> T:
        headers = {**call.headers, **self._headers()}
        try:
            response = self._http.request(
                call.method,
                self._base + call.path,
                params=list(call.query),
                content=content,
                headers=headers,
                timeout=_timeout(call),
            )
        except httpx.RequestError as error:
            raise Unreachable(error) from error
        return call.result(response.status_code, response.headers, response.content)


class Subscription(_stream.Subscription):
    """Iterate over it: each event comes once, in order. It reconnects and resumes by itself.

    It ends when the project is finished. A gap comes as an event of type `edge.gap`, with `gap` set. It raises
    EdgeError where trying again can't help (401, 403, …). With `with`, it is connected when the block begins.
    """

    def __init__(self, client: Client, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._client = client
        self._items = self._read()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Event:
        return next(item for item in self._items if item is not None)

    def __enter__(self) -> Self:
        next(self._items, None)  # the hello
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End it, from the code that iterates."""
        self._items.close()
        self.state = "closed"

    def _read(self) -> Generator[Event | None, None, None]:
        """Events, and None for each hello."""
        while True:
            try:
                yield from self._one_connection()
                error = self._ended()
            except _stream.Finished:
                self.state = "closed"
                return
            except (httpx.RequestError, SSEError) as failure:
                error = Unreachable(failure)
            except EdgeError as refused:
                error = refused
            time.sleep(self._pause(error, can_renew=callable(self._client._token)))

    def _one_connection(self) -> Iterator[Event | None]:
        path, query, headers = self._request()
        client = self._client
        headers = {**headers, **client._headers()}
        with client._http.stream(
            "GET", client._base + path, params=list(query), headers=headers, timeout=_streaming(self)
        ) as response:
            if response.status_code != 200:
                raise self._refused(response.status_code, response.headers, response.read())
            for sse in EventSource(response).iter_sse():
                event = self._take(sse)
                if event is not None or sse.event == "edge.hello":
                    yield event
                answer = self._answer()
                if answer is not None:
                    try:
                        client._send(answer, answer.body)
                    except EdgeError:
                        continue  # the hub asks again


class Job(_jobs.JobState):
    """A job that streams its progress (docs/jobs.md): `with client.job(project, id) as job: job.progress(percent=40)`.

    The block publishes `started` when it begins. When it ends it publishes `complete`, or `failed` with "internal
    error" where it raised (the exception goes on), unless `complete` or `fail` was called in it.
    """

    def __init__(self, client: Client, project: str, id: str, started: Mapping[str, Any], *, final: bool) -> None:
        super().__init__(project, id, final=final)
        self._run = client._run
        self._started = started

    started = _sync(_jobs.started)
    progress = _sync(_jobs.progress)
    complete = _sync(_jobs.complete)
    fail = _sync(_jobs.fail)

    def __enter__(self) -> Self:
        self.started(**self._started)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.has_ended:
            return
        if error is None:
            self.complete()
        else:
            self.fail(_jobs.INTERNAL if isinstance(error, Exception) else _jobs.CANCELLED)


class AsyncClient:
    """A client of the hub for asyncio. The arguments are those of `Client`; `token` may be a coroutine function."""

    def __init__(
        self,
        url: str | None = None,
        *,
        token: AsyncToken = None,
        retries: int = 5,
        transport: httpx.AsyncBaseTransport | None = None,
        verify: Any = True,
    ) -> None:
        base, uds = _address(url)
        if uds is not None and transport is None:
            transport = httpx.AsyncHTTPTransport(uds=uds, limits=_LIMITS)
        self._base = base
        self._token = token or os.environ.get("EDGE_TOKEN")
        self._retries = retries
        self._http = httpx.AsyncClient(transport=transport, verify=verify, limits=_LIMITS)

    publish = _async(Verbs.publish)
    publish_to = _async(Verbs.publish_to)
    trigger = _async(Verbs.trigger)
    ticket = _async(Verbs.ticket)
    ready = _async(Verbs.ready)
    status = _async(Verbs.status)
    history = _async(Verbs.history)
    delete = _async(Verbs.delete)

    async def publish_many(
        self,
        project: str,
        events: Iterable[NewEvent] | AsyncIterable[NewEvent],
        *,
        final: bool = False,
        key: str | None = None,
    ) -> BatchReceipt:
        """Publish events over one request: see `Client.publish_many`."""

        async def lines() -> AsyncIterator[bytes]:
            if isinstance(events, AsyncIterable):
                async for event in events:
                    yield _calls.as_line(event)
            else:
                for event in events:
                    yield _calls.as_line(event)

        return await self._send(_calls.publish_many(project, key, final=final), lines())

    def subscribe(
        self,
        *projects: str,
        since: str | None = None,
        last_event_id: str | None = None,
        observe: bool = False,
        max_failures: int | None = None,
    ) -> AsyncSubscription:
        """The events of one or several projects: see `Client.subscribe`."""
        return AsyncSubscription(self, projects, since, last_event_id, observe=observe, max_failures=max_failures)

    def job(self, project: str, id: str, *, final: bool = False, **started: Any) -> AsyncJob:
        """The events of a job, for the program that does it: see `Client.job`."""
        return AsyncJob(self, project, id, started, final=final)

    async def close(self) -> None:
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _headers(self) -> dict[str, str]:
        token = self._token() if callable(self._token) else self._token
        if inspect.isawaitable(token):
            token = await token
        return {"Authorization": f"Bearer {token}"} if token else {}

    async def _run(self, call: Call[T]) -> T:
        attempts = Attempts(call, self._retries)
        while True:
            try:
                return await self._send(attempts.call, attempts.call.body)
            except EdgeError as error:
                pause_seconds = attempts.after(error)
            await asyncio.sleep(pause_seconds)

    async def _send(self, call: Call[T], content: bytes | AsyncIterator[bytes] | None) -> T:
        headers = {**call.headers, **await self._headers()}
        try:
            response = await self._http.request(
                call.method,
                self._base + call.path,
                params=list(call.query),
                content=content,
                headers=headers,
                timeout=_timeout(call),
            )
        except httpx.RequestError as error:
            raise Unreachable(error) from error
        return call.result(response.status_code, response.headers, response.content)


class AsyncSubscription(_stream.Subscription):
    """Iterate over it with `async for`: see `Subscription`. With `async with`, the block begins connected."""

    def __init__(self, client: AsyncClient, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._client = client
        self._items = self._read()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        try:
            async for item in self._items:
                if item is not None:
                    return item
        except asyncio.CancelledError:
            self._items = self._read()  # a time-out ends one wait, not the subscription: the next one resumes
            raise
        raise StopAsyncIteration

    async def __aenter__(self) -> Self:
        async for _hello in self._items:
            break
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """End it, from the task that iterates."""
        await self._items.aclose()
        self.state = "closed"

    async def _read(self) -> AsyncGenerator[Event | None, None]:
        """Events, and None for each hello."""
        while True:
            connection = self._one_connection()
            try:
                async for item in connection:
                    yield item
                error = self._ended()
            except _stream.Finished:
                self.state = "closed"
                return
            except (httpx.RequestError, SSEError) as failure:
                error = Unreachable(failure)
            except EdgeError as refused:
                error = refused
            finally:
                await connection.aclose()
            await asyncio.sleep(self._pause(error, can_renew=callable(self._client._token)))

    async def _one_connection(self) -> AsyncGenerator[Event | None, None]:
        path, query, headers = self._request()
        client = self._client
        headers = {**headers, **await client._headers()}
        async with client._http.stream(
            "GET", client._base + path, params=list(query), headers=headers, timeout=_streaming(self)
        ) as response:
            if response.status_code != 200:
                raise self._refused(response.status_code, response.headers, await response.aread())
            async for sse in EventSource(response).aiter_sse():
                event = self._take(sse)
                if event is not None or sse.event == "edge.hello":
                    yield event
                answer = self._answer()
                if answer is not None:
                    try:
                        await client._send(answer, answer.body)
                    except EdgeError:
                        continue  # the hub asks again


class AsyncJob(_jobs.JobState):
    """A job that streams its progress, with `async with`: see `Job`. Cancelled, it publishes `failed`, "cancelled"."""

    def __init__(self, client: AsyncClient, project: str, id: str, started: Mapping[str, Any], *, final: bool) -> None:
        super().__init__(project, id, final=final)
        self._run = client._run
        self._started = started

    started = _async(_jobs.started)
    progress = _async(_jobs.progress)
    complete = _async(_jobs.complete)
    fail = _async(_jobs.fail)

    async def __aenter__(self) -> Self:
        await self.started(**self._started)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.has_ended:
            return
        if error is None:
            await self.complete()
        else:
            await self.fail(_jobs.INTERNAL if isinstance(error, Exception) else _jobs.CANCELLED)
