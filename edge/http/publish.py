"""`POST /projects/{project}/events`: one event, or as many as the lines of a long NDJSON request.

Invariant: an event is on the ring or it is not, and the answer says which. From the check of `require` to the ring
nothing waits, and a line of NDJSON is taken whole or not at all.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import suppress

import msgspec
from aiohttp import web

from edge.core.errors import Draining, EdgeError, LimitReached, NotReady, StoreUnavailable
from edge.core.event import Event, decode_json, decode_text
from edge.core.observer import Receipt
from edge.http import bodies, params
from edge.http.replay import once
from edge.http.service import SERVICE, Service

_MAX_REQUIRED = 1_000_000
_LINES_A_TURN = 256
"""Lines published before the loop gets a turn, so that readers are served while a burst comes in."""


async def publish(request: web.Request) -> web.StreamResponse:
    """Publish to a project; the receipt says who was there."""
    service = request.app[SERVICE]
    name = params.project(request)
    kind = bodies.media_type(request, (bodies.JSON, bodies.FORM, bodies.TEXT, bodies.NDJSON))
    require = params.integer(request, "require", 0, lowest=0, highest=_MAX_REQUIRED)
    wait_seconds = None
    if "wait" in request.query:
        wait_seconds = params.seconds(request, "wait", 0, highest=service.config.trigger.max_wait_seconds)
    key = params.idempotency_key(request)
    if kind == bodies.NDJSON:
        return await _publish_lines(request, service, name, require, wait_seconds, key)
    body = await request.read()
    max_bytes = service.config.limits.max_event_bytes
    if kind == bodies.TEXT:
        event = decode_text(body, request.query.get("type"), max_bytes)
    else:
        event = decode_json(body, max_bytes)

    if key is None:
        await _ready(service, name, require, wait_seconds)
        return _receipt(await publish_one(service, name, event))

    async def act(_: None) -> web.Response:
        return _receipt(await publish_one(service, name, event))

    mark = bodies.fingerprint(kind.encode(), event.type.encode(), body)
    return await once(service, ("publish", name, key), mark, lambda: _ready(service, name, require, wait_seconds), act)


async def publish_one(service: Service, name: str, event: Event) -> Receipt:
    """Publish through the store; most of them answer at once."""
    receipt = service.store.publish(name, event, service.clock())
    return receipt if isinstance(receipt, Receipt) else await receipt


async def _ready(service: Service, name: str, require: int, wait_seconds: float | None) -> None:
    """Wait if that was asked for, then insist on `require` connections."""
    if wait_seconds is not None:
        await service.readiness.wait(name, max(require, 1), wait_seconds)
    project = service.hub.projects.get(name)
    there = len(project.connections) if project is not None else 0
    if there < require:
        raise NotReady(
            f"{there} of {require} required connections are there and the event was not stored; "
            "publish without require, or with wait.",
            retry_after_seconds=1,
            project=name,
            connections=there,
        )


def _receipt(receipt: Receipt) -> web.Response:
    return web.Response(
        status=201 if receipt.connections else 202,
        body=msgspec.json.encode(receipt),
        content_type=bodies.JSON,
    )


class _Lines:
    """What one NDJSON request has published so far."""

    def __init__(self, service: Service, name: str) -> None:
        self._service = service
        self._name = name
        self._max_event_bytes = service.config.limits.max_event_bytes
        self.line = 0
        self.published = 0
        self.first_id: str | None = None
        self.last_id: str | None = None
        self.misses = 0
        self._promised: list[Awaitable[Receipt]] = []

    def take(self, line: bytes) -> None:
        """Publish one line; an empty one says nothing. What the store has yet to promise is counted by `settle`."""
        self.line += 1
        if not line.strip():
            return
        event = decode_json(line, self._max_event_bytes)
        receipt = self._service.store.publish(self._name, event, self._service.clock())
        if isinstance(receipt, Receipt):
            self._count(receipt)
        else:
            self._promised.append(receipt)

    async def settle(self) -> None:
        """Wait for what the store has yet to promise. Raises StoreUnavailable for the first that it could not keep."""
        promised, self._promised = self._promised, []
        outcomes = await asyncio.gather(*promised, return_exceptions=True)
        failure: BaseException | None = None
        for outcome in outcomes:
            if isinstance(outcome, Receipt):
                self._count(outcome)
            else:
                failure = failure or outcome
        if failure is not None:
            raise failure

    def _count(self, receipt: Receipt) -> None:
        self.published += 1
        self.last_id = receipt.id
        if self.first_id is None:
            self.first_id = receipt.id
        self.misses += receipt.missed

    def totals(self) -> dict[str, object]:
        project = self._service.hub.projects.get(self._name)
        return {
            "published": self.published,
            "first_id": self.first_id,
            "last_id": self.last_id,
            "connections": len(project.connections) if project is not None else 0,
            "misses": self.misses,
        }


async def _publish_lines(
    request: web.Request,
    service: Service,
    name: str,
    require: int,
    wait_seconds: float | None,
    key: str | None,
) -> web.StreamResponse:
    if key is not None:
        # The body has to be known before it can be told from another one: it is read whole, and bounded.
        body = await request.read()

        async def act(_: None) -> web.Response:
            lines = _Lines(service, name)
            await _take_all(lines, body.split(b"\n"))
            return _totals(lines)

        mark = bodies.fingerprint(b"ndjson", body)
        return await once(
            service, ("publish", name, key), mark, lambda: _ready(service, name, require, wait_seconds), act
        )
    await _ready(service, name, require, wait_seconds)
    lines = _Lines(service, name)
    async for batch in _batches(request, service, lines):
        await _take_all(lines, batch)
    return _totals(lines)


async def _take_all(lines: _Lines, batch: list[bytes]) -> None:
    try:
        for number, line in enumerate(batch, 1):
            lines.take(line)
            if not number % _LINES_A_TURN:
                await asyncio.sleep(0)
        await lines.settle()
    except EdgeError as error:
        with suppress(StoreUnavailable):  # the line's own error is the one to tell; the totals count what was kept
            await lines.settle()
        raise _ended(lines, error) from None


def _ended(lines: _Lines, error: EdgeError) -> EdgeError:
    """The refusal of a line, with what was taken before it."""
    error.fields = {**error.fields, "line": lines.line, **lines.totals()}
    error.detail = (
        f"Line {lines.line}: {error.detail} "
        f"{lines.published} published before it stay published; nothing after it was taken."
    )
    return error


async def _batches(request: web.Request, service: Service, lines: _Lines) -> AsyncIterator[list[bytes]]:
    """The request's lines as they arrive, whole ones only; what follows the last line end counts as a line."""
    limit_bytes = service.config.limits.max_body_bytes
    rest: list[bytes] = []
    rest_bytes = 0
    async for data in _arriving(request, service, lines):
        first, *whole = data.split(b"\n")
        rest.append(first)
        rest_bytes += len(first)
        if whole:
            yield [b"".join(rest), *whole[:-1]]
            rest, rest_bytes = [whole[-1]], len(whole[-1])
        if rest_bytes > limit_bytes:
            lines.line += 1
            raise _ended(
                lines,
                LimitReached(
                    f"The line is longer than limits.max_body_bytes ({limit_bytes}) allows.",
                    code="event_too_large",
                    limit_bytes=limit_bytes,
                ),
            )
    yield [b"".join(rest)]


async def _arriving(request: web.Request, service: Service, lines: _Lines) -> AsyncIterator[bytes]:
    """The body piece by piece. A publisher that is still sending when the hub leaves is told what was taken."""
    drained = asyncio.create_task(service.drained.wait())
    try:
        while True:
            reading = asyncio.create_task(request.content.readany())
            await asyncio.wait((reading, drained), return_when=asyncio.FIRST_COMPLETED)
            if not reading.done():
                reading.cancel()
                lines.line += 1
                raise _ended(lines, Draining("The hub is shutting down; send it again.", retry_after_seconds=1))
            data = reading.result()
            if not data:
                return
            yield data
    finally:
        drained.cancel()


def _totals(lines: _Lines) -> web.Response:
    totals = lines.totals()
    status = 201 if totals["connections"] and not lines.misses else 202
    return web.Response(status=status, body=msgspec.json.encode(totals), content_type=bodies.JSON)
