"""python read.py CLIENT URL [CLIENT URL]...: read each stream with that client, as its documentation shows.

What it gives is written as JSON lines with its place among them as "reader": {"open": true}, {"type", "id", "data"},
{"error"} (and it goes on), {"over"} (it has stopped for good).
"""

from __future__ import annotations

import asyncio
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import aiohttp
import httpx
import httpx_sse
import requests
import requests_sse
import sseclient
from aiohttp_sse_client2.client import EventSource as AiohttpEventSource
from ld_eventsource import SSEClient
from ld_eventsource.actions import Event, Fault, Start
from ld_eventsource.config import ErrorStrategy, RetryDelayStrategy

RETRY_SECONDS = 0.2
READ_SECONDS = 60
"""Longer than any heartbeat: httpx times out after 5 s by itself, requests never does."""
_writing = threading.Lock()


class Reader:
    """Writes what a client gives; for a library that doesn't reconnect, also what the next attempt sends."""

    def __init__(self, number: int) -> None:
        self._number = number
        self._last_id = ""

    def tell(self, **seen: Any) -> None:
        with _writing:
            sys.stdout.write(json.dumps({"reader": self._number} | seen) + "\n")
            sys.stdout.flush()

    def event(self, kind: str | None, id_: str | None, data: str | None) -> None:
        if id_:
            self._last_id = id_
        self.tell(type=kind or "message", id=id_ or "", data=data or "")

    @property
    def headers(self) -> dict[str, str]:
        return {"Accept": "text/event-stream"} | ({"Last-Event-ID": self._last_id} if self._last_id else {})

    @contextmanager
    def attempt(self, *errors: type[Exception]) -> Iterator[None]:
        try:
            yield
            self.tell(error="ended")
        except errors as error:
            self.tell(error=repr(error))
        time.sleep(RETRY_SECONDS)


def by_httpx_sse(url: str, reader: Reader) -> None:
    with httpx.Client(timeout=httpx.Timeout(5, read=READ_SECONDS)) as client:
        while True:
            with (
                reader.attempt(httpx.TransportError),
                httpx_sse.connect_sse(client, "GET", url, headers=reader.headers) as source,
            ):
                if source.response.status_code == 204:
                    return
                source.response.raise_for_status()
                reader.tell(open=True)
                for event in source.iter_sse():
                    reader.event(event.event, event.id, event.data)


def opened(url: str, reader: Reader) -> requests.Response | None:
    """A stream; None if the project is finished."""
    response = requests.get(url, stream=True, headers=reader.headers, timeout=READ_SECONDS)
    if response.status_code == 204:
        return None
    response.raise_for_status()
    reader.tell(open=True)
    return response


def by_sseclient_py(url: str, reader: Reader) -> None:
    while True:
        with reader.attempt(requests.ConnectionError, requests.exceptions.ChunkedEncodingError):
            response = opened(url, reader)
            if response is None:
                return
            for event in sseclient.SSEClient(response).events():
                reader.event(event.event, event.id, event.data)


def by_requests(url: str, reader: Reader) -> None:
    """No library: lines, decoded with the charset of the Content-Type."""
    while True:
        with reader.attempt(requests.ConnectionError, requests.exceptions.ChunkedEncodingError):
            response = opened(url, reader)
            if response is None:
                return
            fields: dict[str, list[str]] = {}
            line: str
            for line in response.iter_lines(decode_unicode=True):  # type: ignore[assignment]  # with a charset it is text
                name, _, value = line.partition(": ")
                if name:
                    fields.setdefault(name, []).append(value)
                elif not line and "data" in fields:
                    kind, id_ = (fields.get(name, [""])[0] for name in ("event", "id"))
                    reader.event(kind, id_, "\n".join(fields["data"]))
                    fields = {}


def by_requests_sse(url: str, reader: Reader) -> None:
    with requests_sse.EventSource(
        url,
        timeout=READ_SECONDS,
        on_open=lambda: reader.tell(open=True),
        on_error=lambda: reader.tell(error="on_error"),
        max_connect_retry=20,
        reconnection_time=timedelta(seconds=RETRY_SECONDS),
    ) as source:
        for event in source:
            reader.event(event.type, event.last_event_id, event.data)


def by_aiohttp_sse_client2(url: str, reader: Reader) -> None:
    """It comes back from an end by itself, and raises when it is cut: then it is opened again."""
    asyncio.run(_read_with_aiohttp(url, reader))


async def _read_with_aiohttp(url: str, reader: Reader) -> None:
    # By default a session of aiohttp ends every response after five minutes.
    timeout = aiohttp.ClientTimeout(total=None, sock_read=READ_SECONDS)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        while True:
            source = AiohttpEventSource(
                url,
                session=session,
                headers=reader.headers,
                reconnection_time=timedelta(seconds=RETRY_SECONDS),
                on_open=lambda: reader.tell(open=True),
            )
            try:
                async with source:
                    async for event in source:
                        reader.event(event.type, event.last_event_id, event.data)
                return
            except aiohttp.ClientError as error:
                reader.tell(error=repr(error))
                await asyncio.sleep(RETRY_SECONDS)


def by_launchdarkly(url: str, reader: Reader) -> None:
    client = SSEClient(
        url,
        error_strategy=ErrorStrategy.always_continue(),
        # By default it doubles with every drop until a connection has lasted a minute.
        retry_delay_strategy=RetryDelayStrategy.default(backoff_multiplier=1),
    )
    for action in client.all:
        if isinstance(action, Start):
            reader.tell(open=True)
        elif isinstance(action, Event):
            reader.event(action.event, action.last_event_id, action.data)
        elif isinstance(action, Fault):
            reader.tell(error=repr(action.error))


CLIENTS: dict[str, Callable[[str, Reader], None]] = {
    "aiohttp-sse-client2": by_aiohttp_sse_client2,
    "httpx-sse": by_httpx_sse,
    "launchdarkly-eventsource": by_launchdarkly,
    "requests": by_requests,
    "requests-sse": by_requests_sse,
    "sseclient-py": by_sseclient_py,
}


def read(client: str, url: str, reader: Reader) -> None:
    reason = "ended"
    try:
        CLIENTS[client](url, reader)
    except Exception as error:  # noqa: BLE001  # whatever a library raises
        reason = repr(error)
    reader.tell(over=reason)


if __name__ == "__main__":
    for number, (client, url) in enumerate(zip(sys.argv[1::2], sys.argv[2::2], strict=True)):
        threading.Thread(target=read, args=(client, url, Reader(number)), daemon=True).start()
    sys.stdin.read()  # until the test has gone
