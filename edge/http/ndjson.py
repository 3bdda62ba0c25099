"""Many events over one long request: `application/x-ndjson`, one event a line, published as its line arrives.

Invariant: a line is taken whole or not at all, and the first one that isn't taken ends the request: the answer
names it and says what was published before it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from contextlib import suppress

import msgspec

from edge.core.errors import EdgeError, InvalidRequest, LimitReached, StoreUnavailable, Unauthenticated
from edge.core.event import decode_json, decode_plain_lines
from edge.core.idempotency import Answer
from edge.core.observer import Receipt
from edge.http.access_control import expiry_of
from edge.http.context import Context
from edge.http.idempotency import answer_of
from edge.http.message import Request, Response, json_response
from edge.store.base import Keyed, all_of, receipt_of

_LINES_A_TURN = 256
"""Lines published before the loop gets a turn, so that subscribers are served while a burst comes in."""
_TOGETHER_BYTES = 256 * 1024
"""Larger lines are published one by one: together they would stand over the bounds of the ring for a moment."""


class LinesTaken(msgspec.Struct, frozen=True):
    """The answer; its fields are those of the JSON document."""

    published: int
    first_id: str | None
    last_id: str | None
    connections: int
    misses: int


class Framing:
    """Bytes in, whole lines out, without their line ends."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._rest: list[bytes] = []
        self._rest_bytes = 0

    def feed(self, data: bytes) -> list[bytes]:
        """The lines that `data` completes."""
        first, *more = data.split(b"\n")
        self._rest.append(first)
        self._rest_bytes += len(first)
        if not more:
            return []
        *whole, rest = more
        lines = [b"".join(self._rest), *whole]
        self._rest, self._rest_bytes = [rest], len(rest)
        return lines

    def check(self) -> None:
        """Raise LimitReached (`event_too_large`) when the line that is still open is too long already."""
        if self._rest_bytes > self._limit_bytes:
            raise LimitReached(
                f"The line exceeds limits.max_body_bytes ({self._limit_bytes}).",
                code="event_too_large",
                limit_bytes=self._limit_bytes,
            )

    def end(self) -> bytes:
        """What follows the last line end: a line, too."""
        return b"".join(self._rest)


class Lines:
    """What one request has published so far. `final`: its last event finishes the project, so one line is held back."""

    def __init__(self, context: Context, name: str, *, final: bool) -> None:
        self._context = context
        self._name = name
        self._max_event_bytes = context.config.limits.max_event_bytes
        self._taken = 0
        self._published = 0
        self._first_id: str | None = None
        self._last_id: str | None = None
        self._misses = 0
        self._connections = 0
        """As in the last receipt."""
        self._promised: list[Awaitable[Receipt]] = []
        self._final = final
        self._held_back: list[bytes] = []
        """The last line so far that isn't empty, and the empty ones behind it."""

    async def take(self, lines: list[bytes]) -> None:
        """Publish `lines`; empty ones say nothing. Raises what a single publish raises."""
        if self._final:
            lines = self._held_back + lines
            last = max((at for at, line in enumerate(lines) if line.strip()), default=len(lines))
            lines, self._held_back = lines[:last], lines[last:]
        for at in range(0, len(lines), _LINES_A_TURN):
            part = lines[at : at + _LINES_A_TURN]
            if not self._publish_together(part):
                for line in part:
                    if line.strip():
                        self._publish(line)
                    self._taken += 1
            if len(part) == _LINES_A_TURN:
                await asyncio.sleep(0)
            # Subscribers are written these lines before the next.
            while self._context.hub.is_crowded(self._name):  # noqa: ASYNC110 - a few turns
                await asyncio.sleep(0)
        await self._settle()

    async def end(self) -> None:
        """There are no more lines."""
        if self._held_back:
            self._publish(self._held_back[0], final=True)
            self._taken += 1
            await self._settle()

    def _publish_together(self, lines: list[bytes]) -> bool:
        """Publish all of `lines`, at a third of the cost. False when nothing was: one of them will say why."""
        # Not the first of a request: a project that can't be made is refused, and counted as refused, once.
        if not self._published or sum(map(len, lines)) > _TOGETHER_BYTES:
            return False
        events = decode_plain_lines([line for line in lines if line.strip()], self._max_event_bytes)
        if not events:
            return False
        try:
            batch = self._context.store.publish_many(self._name, events, self._context.clock())
        except EdgeError:
            return False
        if batch is None:
            return False
        self._taken += len(lines)
        self._published += batch.events
        self._last_id = batch.last_id
        self._misses += batch.events * batch.missed
        self._connections = self._context.hub.connected(self._name)
        return True

    def _publish(self, line: bytes, *, final: bool = False) -> None:
        event = decode_json(line, self._max_event_bytes)
        if final:
            event = msgspec.structs.replace(event, final=True)
        receipt = self._context.store.publish(self._name, event, self._context.clock())
        if isinstance(receipt, Receipt):
            self._count(receipt)
        else:
            self._promised.append(receipt)

    async def _settle(self) -> None:
        """Wait for what the store has yet to promise. Raises StoreUnavailable for the first that it could not keep."""
        promised, self._promised = self._promised, []
        failure: BaseException | None = None
        for outcome in await asyncio.gather(*promised, return_exceptions=True):
            if isinstance(outcome, Receipt):
                self._count(outcome)
            else:
                failure = failure or outcome
        if failure is not None:
            raise failure

    def _count(self, receipt: Receipt) -> None:
        self._published += 1
        self._last_id = receipt.id
        self._first_id = self._first_id or receipt.id
        self._misses += receipt.missed
        self._connections = receipt.connections

    def _totals(self) -> LinesTaken:
        return LinesTaken(self._published, self._first_id, self._last_id, self._connections, self._misses)

    def answer(self) -> Response:
        """All lines were taken. Raises InvalidRequest where there was none to finish the project with."""
        totals = self._totals()
        if self._final and not totals.published:
            raise _nothing_final(totals)
        return json_response(totals, status=201 if totals.connections and not self._misses else 202)

    async def ended(self, error: EdgeError) -> EdgeError:
        """`error`, with the line it stands for and what was published before."""
        with suppress(StoreUnavailable):  # the line's own error is the one to report; the totals count what was kept
            await self._settle()
        line = self._taken + 1
        error.fields = {**error.fields, "line": line, **msgspec.structs.asdict(self._totals())}
        error.detail += f" Line {line} and what follows were not taken; {self._published} before it stay published."
        return error


async def publish_arriving(context: Context, request: Request, name: str, *, final: bool) -> Response:
    """Publish lines as they arrive. When the hub drains, a publisher still sending learns what was accepted."""
    lines = Lines(context, name, final=final)
    limits = context.config.limits
    framing = Framing(limits.max_body_bytes)
    idle_seconds = limits.ndjson_idle_seconds
    too_slow = f"No data arrived for {idle_seconds:g} s; send an empty line now and then to keep a long request open."
    expires_at_seconds = expiry_of(request, context.clock())
    try:
        while True:
            async with context.until_drain(idle_seconds, too_slow):
                data = await request.next_chunk()
            if not data:
                break
            if expires_at_seconds is not None and context.clock() >= expires_at_seconds:
                raise Unauthenticated("The token expired during the request; get a new one.")
            await lines.take(framing.feed(data))
            framing.check()
        await lines.take([framing.end()])
        await lines.end()
    except EdgeError as error:
        raise await lines.ended(error) from None
    return lines.answer()


async def publish_whole(context: Context, name: str, body: bytes, keyed: Keyed, *, final: bool) -> Answer:
    """Publish the lines of a body that is here already: all of them or, raising, none, so that it can be done once."""
    events = []
    for number, line in enumerate(body.split(b"\n"), 1):
        try:
            if line.strip():
                events.append(decode_json(line, context.config.limits.max_event_bytes))
                context.hub.check(events[-1])
        except EdgeError as error:
            nothing = LinesTaken(0, None, None, context.hub.connected(name), 0)
            error.fields = {**error.fields, "line": number, **msgspec.structs.asdict(nothing)}
            error.detail += (
                f" This is line {number}. With an Idempotency-Key all lines are published or none; none was."
            )
            raise
        if number % _LINES_A_TURN == 0:
            await asyncio.sleep(0)
    if not events:
        nothing = LinesTaken(0, None, None, context.hub.connected(name), 0)
        if final:
            raise _nothing_final(nothing)
        return answer_of(nothing, 202)
    if final:
        events[-1] = msgspec.structs.replace(events[-1], final=True)
    keyed = keyed._replace(besides=str(len(events)).encode(), events=len(events))
    batch = context.store.publish_many(name, events, context.clock())
    if batch is not None:
        return keyed.answered([Receipt(name, batch.last_id, context.hub.connected(name), batch.missed)])
    # In one turn of the loop, and so in one transaction with the key.
    keys = [None] * (len(events) - 1) + [keyed]
    promised = [
        context.store.publish(name, event, context.clock(), key) for event, key in zip(events, keys, strict=True)
    ]
    receipts = await all_of(map(receipt_of, promised))
    return keyed.answered(receipts[-1:])


def _nothing_final(totals: LinesTaken) -> InvalidRequest:
    return InvalidRequest(
        "final=true makes the last line the project's last event, and there is no line; send one.",
        code="invalid_event",
        **msgspec.structs.asdict(totals),
    )


def published(receipts: Sequence[Receipt], besides: bytes) -> Answer:
    """The answer to lines published together: the receipt of the last, and how many they are."""
    (receipt,) = receipts
    count, (epoch, _, last) = int(besides), receipt.id.rpartition("-")
    first_id = f"{epoch}-{int(last) - count + 1}"
    taken = LinesTaken(count, first_id, receipt.id, receipt.connections, count * receipt.missed)
    return answer_of(taken, 201 if receipt.connections and not receipt.missed else 202)
