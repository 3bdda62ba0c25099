"""`edge selftest`: does a stream at this URL work as it should? Each step is run, timed and described.

It does what a page does: it subscribes, has events published and a job triggered, goes away and comes back, keeps quiet
for a while. What goes wrong for readers is nearly always something between them and the hub, and each step knows the
marks of its kind: refused, held back by a proxy that buffers, cut off by an idle time-out, without its Last-Event-ID.

Invariant: it ends, whatever the other side does; and what it leaves behind is at most one project of its own name.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any

import aiohttp
import msgspec

from edge.diagnose.client import Hub
from edge.logs.text import one_line, shorten

STEPS = ("reach", "subscribe", "publish", "trigger", "resume", "idle")
_ANSWER_SECONDS = 5.0
_EVENTS = 5
_PACE_SECONDS = 0.2
_LUMP_SECONDS = 0.05
_SLACK_SECONDS = 3.0
"""How much later than due a heartbeat may come."""
_MAX_DETAIL_CHARS = 300


_BUFFERED = (
    "A proxy in between buffers or compresses the stream: turn both off for it (nginx: proxy_buffering off; Next.js, "
    "webpack-dev-server, Express with compression: let the hub's Cache-Control: no-transform through)"
)


class Step(msgspec.Struct, frozen=True):
    """The result of one step; `seconds` is the measured time, None if there is none."""

    name: str
    ok: bool
    seconds: float | None
    text: str

    def line(self) -> str:
        took = "" if self.seconds is None else f"{self.seconds * 1000:.1f} ms"
        return one_line(f"{'ok  ' if self.ok else 'FAIL'}  {self.name:<10}{took:>12}  {self.text}")


class Failed(Exception):
    """A step failed; the text says why."""


class _Stream:
    """A stream, read by a task: events with the time of their arrival, and heartbeats."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self.hello: dict[str, Any] = {}
        self.events: list[tuple[float, str | None, str]] = []
        """`(when it came, id, data)` of events of the project."""
        encoding = response.headers.get("Content-Encoding")
        self.held_back_by = (
            _BUFFERED if encoding is None else f"The response has Content-Encoding: {encoding}. {_BUFFERED}"
        )
        self.gap: dict[str, Any] | None = None
        self.pings = 0
        self._fields: dict[str, str] = {}
        self.ended_seconds: float | None = None
        self.last_byte_seconds = time.monotonic()
        self._changed = asyncio.Event()
        self._task = asyncio.create_task(self._read(response))

    async def until(self, so: Callable[[], bool], timeout_seconds: float) -> bool:
        """Wait until `so()`; returns whether it became true."""
        try:
            async with asyncio.timeout(timeout_seconds):
                while not so() and self.ended_seconds is None:
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            return so()
        return so()

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])

    async def _read(self, response: aiohttp.ClientResponse) -> None:
        rest = b""
        try:
            async for data in response.content.iter_any():
                self.last_byte_seconds = time.monotonic()
                *lines, rest = (rest + data).split(b"\n")
                for line in lines:
                    self._take(line.decode(errors="replace"))
                self._changed.set()
        except (aiohttp.ClientError, OSError):
            pass  # an end like any other: `until` sees `ended_seconds`
        finally:
            self.ended_seconds = time.monotonic()
            self._changed.set()

    def _take(self, line: str) -> None:
        if line:
            name, _, value = line.partition(": ")
            if name:
                self._fields[name] = value
            else:
                self.pings += value == "ping"
            return
        fields, self._fields = self._fields, {}
        kind = fields.get("event", "message")
        if kind == "edge.hello":
            self.hello = json.loads(fields["data"])
        elif kind == "edge.gap":
            self.gap = json.loads(fields["data"])
        elif not kind.startswith("edge.") and "data" in fields:
            self.events.append((time.monotonic(), fields.get("id"), fields["data"]))


class SelfTest:
    """One run against `hub`. `idle`: wait for a heartbeat too; `trigger`: start a job (it goes to `trigger.url`)."""

    def __init__(self, hub: Hub, *, idle: bool = True, trigger: bool = True) -> None:
        self._hub = hub
        self._wanted = {"idle": idle, "trigger": trigger}
        self._project = f"edge-selftest-{secrets.token_hex(4)}"
        self._session: aiohttp.ClientSession
        self._last_id: str | None = None

    async def run(self) -> AsyncIterator[Step]:
        """The steps, each as it is done. Nothing is tried after the first that fails."""
        headers = {"User-Agent": "edge-selftest"}
        if self._hub.token is not None:
            headers["Authorization"] = f"Bearer {self._hub.token}"
        async with aiohttp.ClientSession(
            headers=headers,
            connector=aiohttp.TCPConnector(ssl=self._hub.verify),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=_ANSWER_SECONDS),
        ) as self._session:
            steps: dict[str, Callable[[], Awaitable[tuple[float | None, str]]]] = {
                "reach": self._reach,
                "subscribe": self._subscribe,
                "publish": self._publish,
                "trigger": self._trigger,
                "resume": self._resume,
                "idle": self._idle,
            }
            for name, work in steps.items():
                if not self._wanted.get(name, True):
                    continue
                step = await self._try(name, work)
                yield step
                if not step.ok:
                    break
            await self._clean_up()

    async def _try(self, name: str, work: Callable[[], Awaitable[tuple[float | None, str]]]) -> Step:
        try:
            seconds, text = await work()
            return Step(name, True, seconds, text)
        except Failed as error:
            return Step(name, False, None, str(error))
        except (aiohttp.ClientError, OSError) as error:
            return Step(name, False, None, _in_words(error))

    # The steps: each returns what it measured and a sentence, or raises Failed

    async def _reach(self) -> tuple[float, str]:
        began = time.monotonic()
        async with asyncio.timeout(_ANSWER_SECONDS), self._session.get(f"{self._hub.url}/healthz") as response:
            body = await response.text(errors="replace")
        took = time.monotonic() - began
        if response.status != 200 or '"status":"ok"' not in body.replace(" ", ""):
            raise Failed(
                f"another server answers ({response.status}, {response.headers.get('Server', 'unnamed')}), not a hub; "
                "the URL leads elsewhere, or a proxy cannot reach the hub"
            )
        return took, "the hub responds"

    async def _subscribe(self) -> tuple[float, str]:
        began = time.monotonic()
        async with self._stream() as stream:
            took = time.monotonic() - began
            heartbeat = stream.hello.get("heartbeat_seconds")
        return took, f"the stream starts at once, with a heartbeat every {heartbeat:g} s"

    async def _publish(self) -> tuple[float, str]:
        sent: list[float] = []
        async with self._stream() as stream:
            for number in range(_EVENTS):
                sent.append(time.monotonic())
                await self._post("events", {"type": "selftest", "data": number})
                await asyncio.sleep(_PACE_SECONDS)
            if not await stream.until(lambda: len(stream.events) >= _EVENTS, _ANSWER_SECONDS):
                came_count = f"{len(stream.events)} of {_EVENTS} events arrived within {_ANSWER_SECONDS:g} s"
                raise Failed(f"held back: {came_count}. {stream.held_back_by}")
            came = [when for when, _, _ in stream.events]
            self._last_id = stream.events[-1][1]
        late = [arrived - left for arrived, left in zip(came, sent, strict=False)]
        lumped = sum(after - before < _LUMP_SECONDS for before, after in pairwise(came))
        if max(late) > _PACE_SECONDS and lumped >= _EVENTS // 2:
            raise Failed(f"buffered: events arrive in batches, up to {max(late):.1f} s late. {stream.held_back_by}")
        return sorted(late)[len(late) // 2], f"{_EVENTS} events arrived one by one"

    async def _trigger(self) -> tuple[float, str]:
        async with self._stream() as stream:
            began = time.monotonic()
            known = len(stream.events)
            answer = await self._post("trigger?timeout=3s", {"name": "selftest", "data": "selftest"})
            took = time.monotonic() - began
            target = answer["target"]
            if target["kind"] != "stream":
                return took, f"the job was sent to trigger.url, which responded {target['status']}"
            if not await stream.until(lambda: len(stream.events) > known, _ANSWER_SECONDS):
                raise Failed(f"the job was started, but its event did not arrive within {_ANSWER_SECONDS:g} s")
            self._last_id = stream.events[-1][1]
            return stream.events[-1][
                0
            ] - began, f"the connection was confirmed in {answer['waited_ms']:g} ms, the job arrived"

    async def _resume(self) -> tuple[float, str]:
        # A second subscriber reads them: only then does a lost Last-Event-ID mean that nothing is replayed.
        async with self._stream() as other:
            for number in range(2):
                await self._post("events", {"type": "selftest", "data": f"missed {number}"})
            if not await other.until(lambda: len(other.events) >= 2, _ANSWER_SECONDS):
                raise Failed(f"{len(other.events)} of 2 events arrived within {_ANSWER_SECONDS:g} s")
        began = time.monotonic()
        async with self._stream(last_event_id=self._last_id) as stream:
            if stream.gap is not None:
                raise Failed(
                    f"no resume: the hub reports a gap ({stream.gap['reason']}). The URL leads to several hubs, or "
                    "the hub was just restarted"
                )
            await stream.until(lambda: len(stream.events) >= 2, _ANSWER_SECONDS)
            took = time.monotonic() - began
            got = [data for _, _, data in stream.events]
        if got != ['"missed 0"', '"missed 1"']:
            raise Failed(
                f"no resume: {len(got)} events were replayed instead of the 2 that were missed. A proxy in between "
                "removes Last-Event-ID from the request: let it through, or use ?last_event_id="
            )
        return took, "2 missed events were replayed, each once"

    async def _idle(self) -> tuple[float, str]:
        async with self._stream() as stream:
            heartbeat_seconds = float(stream.hello["heartbeat_seconds"])
            began = stream.last_byte_seconds
            came = await stream.until(lambda: stream.pings > 0, heartbeat_seconds + _SLACK_SECONDS)
            now = time.monotonic()
            if came:
                return now - began, f"an idle stream is kept alive by its heartbeat ({heartbeat_seconds:g} s)"
            if stream.ended_seconds is not None:
                raise Failed(
                    f"cut off: the stream ended after {stream.ended_seconds - began:.1f} s of silence, before its "
                    f"heartbeat ({heartbeat_seconds:g} s). An idle timeout in between closed it: raise it, or "
                    "set stream.heartbeat_seconds below it"
                )
            raise Failed(
                f"no heartbeat arrived within {now - began:.1f} s, although the interval is {heartbeat_seconds:g} s: "
                "a proxy in between drops or delays comments"
            )

    # What they are made of

    @asynccontextmanager
    async def _stream(self, last_event_id: str | None = None) -> AsyncIterator[_Stream]:
        """A stream that has received its hello."""
        url = f"{self._hub.url}/projects/{self._project}/events"
        headers = {"Accept": "text/event-stream", "Cache-Control": "no-cache"}
        if last_event_id is not None:
            headers["Last-Event-ID"] = last_event_id
        query = {} if last_event_id is not None else {"since": "none"}
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                response = await self._session.get(url, headers=headers, params=query)
        except TimeoutError:
            raise Failed(
                f"held back: the headers of the stream did not arrive within {_ANSWER_SECONDS:g} s. {_BUFFERED}"
            ) from None
        try:
            if response.status != 200:
                raise await self._refused("subscribing", response)
            if response.content_type != "text/event-stream":
                raise Failed(f"the response is {response.content_type}, not an event stream: another server responded")
            stream = _Stream(response)
            try:
                if not await stream.until(lambda: bool(stream.hello), _ANSWER_SECONDS):
                    raise Failed(
                        f"held back: the headers arrived, no event within {_ANSWER_SECONDS:g} s. {stream.held_back_by}"
                    )
                yield stream
            finally:
                await stream.close()
        finally:
            response.close()

    async def _post(self, what: str, body: object) -> dict[str, Any]:
        url = f"{self._hub.url}/projects/{self._project}/{what}"
        async with asyncio.timeout(_ANSWER_SECONDS), self._session.post(url, json=body) as response:
            if response.status not in (201, 202):
                raise await self._refused(f"POST {what.partition('?')[0]}", response)
            answer: dict[str, Any] = await response.json(content_type=None)
            return answer

    @staticmethod
    async def _refused(what: str, response: aiohttp.ClientResponse) -> Failed:
        async with asyncio.timeout(_ANSWER_SECONDS):
            body = await response.content.read(64 * 1024)
        try:
            document = json.loads(body)
            detail = f"{document['code']}: {document['detail']}"
        except (ValueError, KeyError, TypeError):
            detail = f"by {response.headers.get('Server', 'a proxy')}, not by the hub"
        return Failed(f"refused: {what} got {response.status}, {shorten(detail, _MAX_DETAIL_CHARS)}")

    async def _clean_up(self) -> None:
        """Delete the project if permitted; otherwise its events expire."""
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                (await self._session.delete(f"{self._hub.url}/projects/{self._project}")).release()
        except (aiohttp.ClientError, OSError, TimeoutError):
            return


def _in_words(error: Exception) -> str:
    """A network error in words."""
    match error:
        case aiohttp.ClientConnectorCertificateError():
            return f"the certificate is not valid for this name: {error.certificate_error}"
        case aiohttp.ClientConnectorDNSError():
            return "the host name can't be resolved"
        case aiohttp.ClientConnectorError():
            return f"refused: no process accepts connections there ({error.os_error.strerror or error.os_error})"
        case TimeoutError():
            return f"no response within {_ANSWER_SECONDS:g} s"
        case _:
            return f"the connection broke: {str(error) or type(error).__name__}"
