"""A hub in memory, for the tests of an application: the real clients run against it, without a network.

It answers as a hub does: it keeps events, waits for subscribers, replays, resumes and remembers idempotency keys. It
has no limits, no permissions and no probes; for those run the real one (docs/development.md).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import threading
import time
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from typing import Any
from urllib.parse import unquote

import httpx

from edge_hub_client._calls import as_json
from edge_hub_client._models import Event

Job = dict[str, Any]
Answer = tuple[int, Any]
_PATH = re.compile(r".*?/(?:projects/(?P<project>[^/]+)(?:/(?P<verb>.+))?|(?P<several>events))$")


class _Project:
    def __init__(self) -> None:
        self.events: list[Event] = []
        self.received = 0  # the newest that a subscriber got
        self.is_finished = False
        self.streams: list[_Stream] = []
        self.answers: dict[str, tuple[bytes, Answer]] = {}


class FakeHub(httpx.BaseTransport, httpx.AsyncBaseTransport):
    """`Client(transport=hub)`, `AsyncClient(transport=hub)`: any number of them, in any thread.

    `on_job` is called with each job that is triggered, as a target would be. Without it a job is published to its own
    project, as an event of its name.
    """

    def __init__(self, on_job: Callable[[Job], Any] | None = None) -> None:
        self.jobs: list[Job] = []
        """Every job that was triggered, in order."""
        self._on_job = on_job
        self._projects: dict[str, _Project] = {}
        self._epoch = 1
        self._refusal: Answer | None = None
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._wakers: set[Callable[[], object]] = set()

    # --- what a test does and looks at ---

    def publish(self, project: str, data: Any = None, *, type: str = "message", final: bool = False) -> Event:
        """Publish an event, as another program would."""
        with self._lock:
            found = self._project(project)
            event = Event(project, self._id(len(found.events) + 1), type, as_json(data).decode())
            found.events.append(event)
            found.is_finished = final
            self._wake()
            return event

    def events(self, project: str) -> list[Event]:
        """Everything that was published to the project."""
        with self._lock:
            return list(self._project(project).events)

    def connections(self, project: str) -> int:
        """How many streams of the project are open."""
        with self._lock:
            return len(self._project(project).streams)

    def cut(self, project: str) -> None:
        """Cut the project's streams; clients reconnect."""
        with self._lock:
            for stream in [*self._project(project).streams]:
                stream.end()
            self._wake()

    def restart(self) -> None:
        """Cut all streams and forget all events: a client that reconnects gets a gap."""
        with self._lock:
            for project in [*self._projects]:
                self.cut(project)
            self._projects.clear()
            self._epoch += 1

    def refuse(self, status: int | None, code: str = "") -> None:
        """Answer every request with this status and code, such as 503 and "draining", until `refuse(None)`."""
        self._refusal = None if status is None else _problem(status, code, "Refused by the test.")

    # --- the transport ---

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        body = request.read()
        with self._changed:
            answer = self._answer(request, body)
            try:
                while True:
                    self._changed.wait(next(answer))
            except StopIteration as done:
                return _response(done.value)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        answer = self._answer(request, await request.aread())
        with self._waiting() as changed:
            try:
                while True:
                    changed.clear()
                    left_seconds = next(answer)
                    with contextlib.suppress(asyncio.TimeoutError):
                        await asyncio.wait_for(changed.wait(), left_seconds)
            except StopIteration as done:
                return _response(done.value)

    @contextlib.contextmanager
    def _waiting(self) -> Iterator[asyncio.Event]:
        """An event that is set, from any thread, with each change."""
        changed, loop = asyncio.Event(), asyncio.get_running_loop()

        def wake() -> None:
            loop.call_soon_threadsafe(changed.set)

        with self._lock:
            self._wakers.add(wake)
        try:
            yield changed
        finally:
            with self._lock:
                self._wakers.discard(wake)

    def _wake(self) -> None:
        self._changed.notify_all()
        for wake in [*self._wakers]:
            wake()

    # --- the hub ---

    def _project(self, name: str) -> _Project:
        return self._projects.setdefault(name, _Project())

    def _id(self, seq: int) -> str:
        return f"{self._epoch}-{seq}"

    def _answer(self, request: httpx.Request, body: bytes) -> Generator[float, None, Any]:
        """The answer to a request; yields how long it waits for a change."""
        if self._refusal is not None:
            return self._refusal
        match = _PATH.match(request.url.path)
        if match is None:
            return _problem(404, "not_found", f"Nothing is at {request.url.path}.")
        names = request.url.params.get_list("project") if match["several"] else [unquote(match["project"])]
        verb = f"{request.method} {'events' if match['several'] else match['verb'] or ''}".strip()
        if verb == "GET events":
            return self._subscribe(request, names)
        if verb in ("POST events", "POST trigger"):
            return (yield from self._once(request, body, names, verb))
        return (yield from self._look(request, names[0], verb))

    def _once(self, request: httpx.Request, body: bytes, names: list[str], verb: str) -> Generator[float, None, Answer]:
        """Publish or trigger, or give the answer that its idempotency key has got before."""
        key = request.headers.get("Idempotency-Key")
        known = self._project(names[0]).answers
        if key in known:
            fingerprint, answer = known[key]
            detail = "This idempotency key was used with a different body."
            return answer if fingerprint == body else _problem(422, "idempotency_mismatch", detail)
        if verb == "POST trigger":
            answer = yield from self._trigger(request, names[0], json.loads(body))
        else:
            answer = yield from self._publish(request, names, body)
        if key and answer[0] < 300:
            known[key] = (body, answer)
        return answer

    def _ready(self, request: httpx.Request, project: str, timeout: str, default: str) -> Generator[float, None, bool]:
        wanted = int(request.url.params.get("connections") or request.url.params.get("require") or 1)
        deadline = time.monotonic() + _seconds(request.url.params.get(timeout, default))
        while self.connections(project) < wanted:
            left_seconds = deadline - time.monotonic()
            if left_seconds <= 0:
                return False
            yield left_seconds
        return True

    def _publish(self, request: httpx.Request, names: list[str], body: bytes) -> Generator[float, None, Answer]:
        parameters = request.url.params
        if "wait" in parameters or "require" in parameters:
            ready = yield from self._ready(request, names[0], "wait", "0")
            if not ready:
                return _problem(409, "no_connection", "No subscriber is connected, and nothing was stored.")
        is_batch = "ndjson" in request.headers.get("Content-Type", "")
        lines = [json.loads(line) for line in (body.splitlines() if is_batch else [body]) if line.strip()]
        if not lines and parameters.get("final") == "true":
            return _problem(400, "invalid_event", "There is no line to be the last event.")
        receipts = []
        for number, line in enumerate(lines, 1):
            for name in names:
                connections = self.connections(name)
                final = parameters.get("final") == "true" and number == len(lines)
                event = self.publish(name, line.get("data"), type=line.get("type", "message"), final=final)
                receipt = {"project": name, "id": event.id, "connections": connections}
                receipts.append({**receipt, "missed": not connections})
        if is_batch:
            ids: list[Any] = [receipt["id"] for receipt in receipts] or [None]
            misses = [receipt for receipt in receipts if receipt["missed"]]
            counts = {"published": len(receipts), "connections": self.connections(names[0]), "misses": len(misses)}
            return 200, {**counts, "first_id": ids[0], "last_id": ids[-1]}
        return 201, {"receipts": receipts} if "project" in parameters else receipts[0]

    def _trigger(self, request: httpx.Request, project: str, job: Job) -> Generator[float, None, Answer]:
        started = time.monotonic()
        ready = yield from self._ready(request, project, "timeout", "3s")
        if not ready and request.url.params.get("on_timeout") != "dispatch":
            return _problem(409, "no_connection", "No subscriber is connected, and the job was not started.")
        number = len(self.jobs) + 1
        sent = {"id": job.get("id") or f"trg_{number}", "name": job["name"], "ts": int(time.time() * 1000)}
        sent.update(project=project, data=job.get("data"))
        self.jobs.append(sent)
        target: dict[str, Any] = {"kind": "webhook", "status": 202, "attempts": 1}
        if self._on_job is not None:
            self._on_job(sent)
        else:
            event = self.publish(project, job.get("data"), type=job["name"])
            target = {"kind": "stream", "status": 201, "attempts": 1, "answer": {"project": project, "id": event.id}}
        receipt = {"project": project, "id": sent["id"], "name": job["name"], "dispatched": True, "target": target}
        waited_ms = (time.monotonic() - started) * 1000
        confirmed = "acknowledged" if ready else None
        return 202, {
            **receipt,
            "waited_ms": waited_ms,
            "connections": self.connections(project),
            "confirmed": confirmed,
        }

    def _look(self, request: httpx.Request, name: str, verb: str) -> Generator[float, None, Answer]:
        project = self._project(name)
        if verb == "GET ready":
            ready = yield from self._ready(request, name, "timeout", "3s")
            if not ready:
                return _problem(409, "no_connection", "No subscriber is connected.")
            found = {"ready": True, "waited_ms": 0.0, "connections": self.connections(name)}
            return 200, {**found, "confirmed": "acknowledged"}
        if verb == "POST ticket":
            return 201, {"ticket": f"ticket-{name}", "expires_in": 60}
        if verb == "GET history":
            return 200, self._history(request, name)
        if not (project.events or project.streams):
            return _problem(404, "unknown_project", f"Nothing was published to {name}.")
        return 200, self._delete(name) if verb == "DELETE" else self._status(name)

    def _delete(self, name: str) -> dict[str, Any]:
        closed = self.connections(name)
        self.cut(name)
        self._epoch += 1
        return {"project": name, "connections_closed": closed, "events_dropped": len(self._projects.pop(name).events)}

    def _history(self, request: httpx.Request, name: str) -> dict[str, Any]:
        start, gap = self._start(request, name)
        limit = int(request.url.params.get("limit", "100"))
        events = [
            {"id": event.id, "type": event.type, "data": event.data, "time": "1970-01-01T00:00:00.000Z"}
            for event in self._project(name).events[start : start + limit]
        ]
        return {"project": name, **self._ends(name), "gap": gap, "events": events}

    def _status(self, name: str) -> dict[str, Any]:
        project = self._project(name)
        pending = len(project.events) - project.received
        return {
            "project": name,
            "ring": {**self._ends(name), "events": len(project.events), "bytes": 0},
            "misses": {"total": pending, "recovered": 0, "lost": 0, "pending": pending, "first": None, "last": None},
            "epoch": str(self._epoch),
            "connections": [],
            "connections_total": len(project.streams),
            **dict.fromkeys(("last_connect", "last_disconnect", "last_ready")),
            "finished": project.is_finished,
        }

    def _ends(self, name: str) -> dict[str, str | None]:
        events = self._project(name).events
        return {"oldest": events[0].id if events else None, "newest": events[-1].id if events else None}

    def _start(self, request: httpx.Request, name: str, position: str = "") -> tuple[int, dict[str, Any] | None]:
        """How many events come before the start that a request asks for, and the gap."""
        project = self._project(name)
        parameters, count = request.url.params, len(project.events)
        since = position or parameters.get("last_event_id") or parameters.get("since", "missed")
        named = {"all": 0, "none": count, "missed": project.received, "last": max(0, count - 1)}
        if since in named:
            return named[since], None
        if since.startswith("last:"):
            return max(0, count - int(since[len("last:") :])), None
        epoch, _, seq = since.rpartition("-")
        if not epoch:
            return 0, None  # a duration: all of it is recent
        if epoch == str(self._epoch):
            return int(seq), None
        return 0, {"asked": since, "reason": "restart", "lost": None, **self._ends(name)}

    def _subscribe(self, request: httpx.Request, names: list[str]) -> Any:
        with self._lock:
            given = request.headers.get("Last-Event-ID", "")
            positions = dict(each.split(":") for each in given.split(",")) if ":" in given else {names[0]: given}
            starts = {name: self._start(request, name, positions.get(name, "")) for name in names}
            if all(self._project(name).is_finished for name in names) and all(
                start == len(self._project(name).events) for name, (start, _) in starts.items()
            ):
                return 204, None
            stream = _Stream(self, starts)
            for name in names:
                self._project(name).streams.append(stream)
            self._wake()
            return stream

    def _next(self, stream: _Stream) -> bytes:
        """What a stream has got to say now, or nothing."""
        frames = []
        for name, position in stream.positions.items():
            project = self._project(name)
            for event in project.events[position:]:
                stream.positions[name] += 1
                shown = event.type if len(stream.positions) == 1 else f"{name}/{event.type}"
                lines = [f"event: {shown}", f"data: {event.data}", f"id: {self._position(stream)}"]
                frames.append("\n".join(lines) + "\n\n")
            project.received = max(project.received, stream.positions[name])
            if project.is_finished and name not in stream.finished:
                stream.finished.add(name)
                frames.append(_frame("edge.closing", {"project": name, "reason": "finished", "retry_ms": 0}))
        if len(stream.finished) == len(stream.positions):
            stream.end()
        return "".join(frames).encode()

    def _position(self, stream: _Stream) -> str:
        if len(stream.positions) == 1:
            return self._id(*stream.positions.values())
        return ",".join(f"{name}:{self._id(position)}" for name, position in stream.positions.items())

    def _hello(self, stream: _Stream) -> bytes:
        frames = []
        for name, gap in stream.gaps.items():
            hello = {"project": name, "connection": f"connection-{id(stream)}", "heartbeat_seconds": 15.0}
            replayed = len(self._project(name).events) - stream.positions[name]
            frames.append(_frame("edge.hello", {**hello, "replayed": replayed}, self._position(stream)))
            if gap is not None:
                frames.append(_frame("edge.gap", {"project": name, **gap}))
        return "".join(frames).encode()


class _Stream(httpx.SyncByteStream, httpx.AsyncByteStream):
    """An open stream: the body of a response."""

    def __init__(self, hub: FakeHub, starts: dict[str, tuple[int, dict[str, Any] | None]]) -> None:
        self.positions = {name: start for name, (start, _) in starts.items()}
        self.gaps = {name: gap for name, (_, gap) in starts.items()}
        self.finished: set[str] = set()
        self._hub = hub
        self._has_ended = False

    def end(self) -> None:
        self._has_ended = True
        for name in self.positions:
            streams = self._hub._project(name).streams
            if self in streams:
                streams.remove(self)

    def __iter__(self) -> Iterator[bytes]:
        with self._hub._changed:
            text = self._hub._hello(self)
        while True:
            if text:
                yield text
            with self._hub._changed:
                if self._has_ended:
                    return
                text = self._hub._next(self)
                if not (text or self._has_ended):
                    self._hub._changed.wait()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        with self._hub._lock:
            text = self._hub._hello(self)
        with self._hub._waiting() as changed:
            while True:
                if text:
                    yield text
                changed.clear()
                with self._hub._lock:
                    if self._has_ended:
                        return
                    text = self._hub._next(self)
                if not (text or self._has_ended):
                    await changed.wait()

    def close(self) -> None:
        with self._hub._lock:
            self.end()
            self._hub._wake()

    async def aclose(self) -> None:
        self.close()


def _frame(event_type: str, data: object, position: str | None = None) -> str:
    ending = "" if position is None else f"id: {position}\n"
    return f"event: {event_type}\ndata: {as_json(data).decode()}\n{ending}\n"


def _problem(status: int, code: str, detail: str) -> Answer:
    kind = {"type": f"urn:edge:problem:{code}", "title": code, "status": status}
    return status, {**kind, "detail": detail, "code": code}


def _seconds(text: str) -> float:
    return float(text[:-2]) / 1000 if text.endswith("ms") else float(text.rstrip("s"))


def _response(answer: Any) -> httpx.Response:
    if isinstance(answer, _Stream):
        return httpx.Response(200, headers={"Content-Type": "text/event-stream"}, stream=answer)
    status, document = answer
    return httpx.Response(status, content=b"" if document is None else as_json(document))
