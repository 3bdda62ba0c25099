"""Do a request once, however often it is sent: `Idempotency-Key`, and the `id` of a trigger.

Invariant: an answer is remembered when its request did something, or may have. A request that was refused, or whose
caller disconnected before anything happened, leaves no trace, and one that waited for its answer takes its place.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

import msgspec

from edge.core.errors import Draining, EdgeError
from edge.core.idempotency import Answer
from edge.http import problems
from edge.http.context import Context
from edge.http.message import Response
from edge.store.base import Keyed

Ready = TypeVar("Ready")
_REPLAYED = {"Idempotency-Replayed": "true"}


async def run_once(
    context: Context,
    keyed: Keyed | None,
    wait: Callable[[], Awaitable[Ready]],
    action: Callable[[Ready], Coroutine[Any, Any, Answer]],
) -> Response:
    """Wait, then act: once for each key, each time without one.

    `wait` ends with its caller, and nothing has happened then. `action` runs in a task of its own: what has begun goes
    on, and its answer is remembered, even when the caller disconnects.

    Raises what `wait` and `action` raise, `idempotency_mismatch` and `too_many_idempotency_keys`, and Draining when the
    process didn't wait for `action` to end.
    """
    if keyed is None:
        return response_of(await _finished(context, action(await wait())))
    answer = await context.store.claim(keyed)
    if answer is not None:
        return Response(answer.status, answer.body, answer.content_type, _REPLAYED)
    try:
        ready = await wait()
    except BaseException:
        await context.outcome(context.spawn(context.store.settle(keyed.key, None)))
        raise
    return response_of(await _finished(context, _settled(context, keyed, action, ready)))


async def _settled(
    context: Context, keyed: Keyed, action: Callable[[Ready], Coroutine[Any, Any, Answer]], ready: Ready
) -> Answer:
    store = context.store
    try:
        answer = await action(ready)
    except EdgeError as error:
        refusal = problems.from_error(error)
        started = error.fields.get("may_have_started")
        await store.settle(keyed.key, Answer(refusal.status, refusal.body, refusal.content_type) if started else None)
        raise
    except BaseException:
        await store.abandon(keyed.key)
        raise
    await store.settle(keyed.key, answer)
    return answer


async def _finished(context: Context, action: Coroutine[Any, Any, Answer]) -> Answer:
    acting = context.spawn(action)
    try:
        return await context.outcome(acting)
    except asyncio.CancelledError:
        if not acting.cancelled():
            raise
        raise Draining(
            "The hub shut down before the request was complete. It may have taken effect in part; check first.",
            retry_after_seconds=1,
            may_have_started=True,
        ) from None


def fingerprint(*parts: bytes) -> bytes:
    """What distinguishes two requests with one idempotency key."""
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        digest.update(b"%d:" % len(part))
        digest.update(part)
    return digest.digest()


def answer_of(document: object, status: int) -> Answer:
    """`document` as JSON, as `json_response` writes it."""
    return Answer(status, msgspec.json.encode(document) + b"\n")


def response_of(answer: Answer) -> Response:
    return Response(answer.status, answer.body, answer.content_type)
