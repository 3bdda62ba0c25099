"""`edge selftest`: does a stream at this URL work as it should? Each step is run, timed and described.

It behaves like a page: it subscribes, publishes and triggers, disconnects and resumes, and keeps quiet for a while.
What goes wrong for subscribers is nearly always something between them and the hub, and each step detects its kind:
refused, held back by a proxy that buffers, cut off by an idle timeout, without its Last-Event-ID.

Invariant: it ends, whatever the other side does; and what it leaves behind is at most one project of its own name.
"""

from __future__ import annotations

import http.client
import json
import secrets
import socket
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import pairwise
from typing import Any, NamedTuple

from edge.cli.hub import Hub, Response, StreamEvent, Unreachable, json_object, parse, whole
from edge.logs.text import one_line, shorten

STEPS = ("reach", "subscribe", "publish", "trigger", "resume", "idle")
_ANSWER_SECONDS = 5.0
_EVENTS = 5
_PACE_SECONDS = 0.2
_LUMP_SECONDS = 0.05
_SLACK_SECONDS = 3.0
"""How much later than due a heartbeat may come."""
_MAX_DETAIL_CHARS = 300
_MAX_LINE_BYTES = 64 << 10
_BUFFERED = (
    "A proxy in between buffers or compresses the stream: turn both off for it (nginx: proxy_buffering off; Next.js, "
    "webpack-dev-server, Express with compression: let the hub's Cache-Control: no-transform through)"
)


class Step(NamedTuple):
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
    """A stream, read by a thread: events with the time of their arrival, and heartbeats."""

    def __init__(self, response: http.client.HTTPResponse, sock: socket.socket) -> None:
        encoding = response.getheader("Content-Encoding")
        encoded = "" if encoding is None else f"The response has Content-Encoding: {encoding}. "
        self.held_back_by = encoded + _BUFFERED
        self.hello: dict[str, Any] = {}
        self.gap: dict[str, Any] | None = None
        self.events: list[tuple[float, StreamEvent]] = []
        self.pings = 0
        self.last_byte_seconds = time.monotonic()
        self.ended_seconds: float | None = None
        plain = iter(lambda: response.readline(_MAX_LINE_BYTES), b"")
        self._arriving = plain if encoding is None else _unzipped(response)
        self._sock = sock
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def until(self, so: Callable[[], bool], timeout_seconds: float) -> bool:
        """Wait until `so()` or the end of the stream; returns whether it is true."""
        with self._changed:
            self._changed.wait_for(lambda: so() or self.ended_seconds is not None, timeout_seconds)
            return so()

    def expect(self, number: int) -> list[tuple[float, StreamEvent]]:
        """So many events, each with the time of its arrival. Raises Failed."""
        if not self.until(lambda: len(self.events) >= number, _ANSWER_SECONDS):
            arrived = f"{len(self.events)} of {number} events arrived within {_ANSWER_SECONDS:g} s"
            raise Failed(f"held back: {arrived}. {self.held_back_by}")
        return self.events

    def close(self) -> None:
        with suppress(OSError):  # the other side was first
            socket.socket.shutdown(self._sock, socket.SHUT_RDWR)  # below TLS: it wakes the thread
        self._thread.join()

    def _read(self) -> None:
        with suppress(OSError, ValueError, http.client.HTTPException):  # an end like any other
            for item in parse(self._lines()):
                if isinstance(item, StreamEvent):
                    self._take(item)
        with self._changed:
            self.ended_seconds = time.monotonic()
            self._changed.notify()

    def _lines(self) -> Iterator[bytes]:
        for line in self._arriving:
            with self._changed:
                self.last_byte_seconds = time.monotonic()
                self.pings += line.startswith(b": ping")
                self._changed.notify()
            yield line

    def _take(self, event: StreamEvent) -> None:
        with self._changed:
            if event.type == "edge.hello":
                self.hello = json_object(event.data)
            elif event.type == "edge.gap":
                self.gap = json_object(event.data)
            elif not event.type.startswith("edge."):
                self.events.append((time.monotonic(), event))
            self._changed.notify()


class SelfTest:
    """One run against `hub`. `idle`: wait for a heartbeat too; `trigger`: start a job (it goes to `trigger.url`)."""

    def __init__(self, hub: Hub, *, idle: bool = True, trigger: bool = True) -> None:
        self._hub = hub
        self._skipped = {name for name, wanted in (("idle", idle), ("trigger", trigger)) if not wanted}
        self._project = f"/projects/edge-selftest-{secrets.token_hex(4)}"
        self._last_id = ""

    def run(self) -> Iterator[Step]:
        """The steps, each as it is done. Nothing is tried after the first that fails."""
        try:
            for name in (each for each in STEPS if each not in self._skipped):
                work: Callable[[], tuple[float, str]] = getattr(self, f"_{name}")
                try:
                    yield Step(name, True, *work())
                except (Failed, Unreachable) as error:
                    yield Step(name, False, None, str(error))
                    break
        finally:
            with suppress(Unreachable):  # deleted if that is permitted; otherwise its events expire
                self._hub.ask("DELETE", self._project, timeout_seconds=_ANSWER_SECONDS)

    # The steps: each returns what it measured and a sentence, or raises Failed or Unreachable

    def _reach(self) -> tuple[float, str]:
        began = time.monotonic()
        response = self._hub.ask("GET", "/healthz", timeout_seconds=_ANSWER_SECONDS)
        took = time.monotonic() - began
        if response.status != 200 or response.document.get("status") != "ok":
            raise Failed(
                f"another server answers ({response.status}, {response.headers.get('Server', 'unnamed')}), not a hub; "
                "the URL leads elsewhere, or a proxy cannot reach the hub"
            )
        return took, "the hub responds"

    def _subscribe(self) -> tuple[float, str]:
        began = time.monotonic()
        with self._stream() as stream:
            took = time.monotonic() - began
            heartbeat = stream.hello.get("heartbeat_seconds")
        return took, f"the stream starts at once, with a heartbeat every {heartbeat:g} s"

    def _publish(self) -> tuple[float, str]:
        sent = []
        with self._stream() as stream:
            for number in range(_EVENTS):
                sent.append(time.monotonic())
                self._post("/events", {"type": "selftest", "data": number})
                time.sleep(_PACE_SECONDS)
            came = [when for when, _ in stream.expect(_EVENTS)]
            self._last_id = stream.events[-1][1].id
        late = sorted(arrived - left for arrived, left in zip(came, sent, strict=False))
        lumped = sum(after - before < _LUMP_SECONDS for before, after in pairwise(came))
        if late[-1] > _PACE_SECONDS and lumped >= _EVENTS // 2:
            raise Failed(f"buffered: events arrive in batches, up to {late[-1]:.1f} s late. {stream.held_back_by}")
        return late[len(late) // 2], f"{_EVENTS} events arrived one by one"

    def _trigger(self) -> tuple[float, str]:
        with self._stream() as stream:
            began = time.monotonic()
            answer = self._post("/trigger?timeout=3s", {"name": "selftest", "data": "selftest"})
            took, target = time.monotonic() - began, answer["target"]
            if target["kind"] != "stream":
                return took, f"the job was sent to trigger.url, which responded {target['status']}"
            arrived, event = stream.expect(1)[-1]
            self._last_id = event.id
            return arrived - began, f"the connection was confirmed in {answer['waited_ms']:g} ms, the job arrived"

    def _resume(self) -> tuple[float, str]:
        # A second subscriber reads them: only then does a lost Last-Event-ID mean that nothing is replayed.
        with self._stream() as other:
            for number in range(2):
                self._post("/events", {"type": "selftest", "data": f"missed {number}"})
            other.expect(2)
        began = time.monotonic()
        with self._stream(self._last_id) as stream:
            if stream.gap is not None:
                raise Failed(
                    f"no resume: the hub reports a gap ({stream.gap.get('reason')}). The URL leads to several hubs, or "
                    "the hub was just restarted"
                )
            stream.until(lambda: len(stream.events) >= 2, _ANSWER_SECONDS)
            took = time.monotonic() - began
            replayed = [event.data for _, event in stream.events]
        if replayed != ['"missed 0"', '"missed 1"']:
            raise Failed(
                f"no resume: {len(replayed)} events were replayed instead of the 2 that were missed. A proxy in "
                "between removes Last-Event-ID from the request: let it through, or use ?last_event_id="
            )
        return took, "2 missed events were replayed, each once"

    def _idle(self) -> tuple[float, str]:
        with self._stream() as stream:
            heartbeat_seconds = float(stream.hello["heartbeat_seconds"])
            began = stream.last_byte_seconds
            came = stream.until(lambda: stream.pings > 0, heartbeat_seconds + _SLACK_SECONDS)
            took = time.monotonic() - began
            if came:
                return took, f"an idle stream is kept alive by its heartbeat ({heartbeat_seconds:g} s)"
            if stream.ended_seconds is not None:
                raise Failed(
                    f"cut off: the stream ended after {stream.ended_seconds - began:.1f} s of silence, before its "
                    f"heartbeat ({heartbeat_seconds:g} s). An idle timeout in between closed it: raise it, or "
                    "set stream.heartbeat_seconds below it"
                )
            raise Failed(
                f"no heartbeat arrived within {took:.1f} s, although the interval is {heartbeat_seconds:g} s: "
                "a proxy in between drops or delays comments"
            )

    # What they are made of

    @contextmanager
    def _stream(self, last_event_id: str = "") -> Iterator[_Stream]:
        """A stream that has received its hello."""
        path = f"{self._project}/events" + ("" if last_event_id else "?since=none")
        # gzip, as browsers accept it: what compresses the stream in between is to do it here, too.
        headers = {"Accept-Encoding": "gzip"} | ({"Last-Event-ID": last_event_id} if last_event_id else {})
        with self._hub.connected(_ANSWER_SECONDS) as connection:
            try:
                response, sock = connection.stream(path, headers)
            except TimeoutError:
                raise Failed(
                    f"held back: the headers of the stream did not arrive within {_ANSWER_SECONDS:g} s. {_BUFFERED}"
                ) from None
            if response.status != 200:
                raise _refused("subscribing", whole(response))
            media_type = response.headers.get_content_type()
            if media_type != "text/event-stream":
                raise Failed(f"the response is {media_type}, not an event stream: another server responded")
            sock.settimeout(None)
            stream = _Stream(response, sock)
            try:
                if not stream.until(lambda: bool(stream.hello), _ANSWER_SECONDS):
                    raise Failed(
                        f"held back: the headers arrived, no event within {_ANSWER_SECONDS:g} s. {stream.held_back_by}"
                    )
                yield stream
            finally:
                stream.close()

    def _post(self, path: str, body: object) -> dict[str, Any]:
        headers, content = {"Content-Type": "application/json"}, json.dumps(body).encode()
        response = self._hub.ask("POST", self._project + path, content, headers, timeout_seconds=_ANSWER_SECONDS)
        if response.status not in (201, 202):
            raise _refused(f"POST {path.partition('?')[0][1:]}", response)
        return response.document


def _unzipped(response: http.client.HTTPResponse) -> Iterator[bytes]:
    """The lines of a gzipped response, each as soon as the compressor has let it out."""
    unzip, rest = zlib.decompressobj(wbits=31), b""
    while data := response.read1(_MAX_LINE_BYTES):
        *lines, rest = (rest + unzip.decompress(data)).split(b"\n")
        yield from (line + b"\n" for line in lines)


def _refused(what: str, response: Response) -> Failed:
    code = response.document.get("code")
    detail = f"by {response.headers.get('Server', 'a proxy')}, not by the hub"
    if code is not None:
        detail = f"{code}: {response.detail}"
    return Failed(f"refused: {what} got {response.status}, {shorten(detail, _MAX_DETAIL_CHARS)}")
