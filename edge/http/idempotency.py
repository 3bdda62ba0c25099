"""Do a request once, however often it is sent: `Idempotency-Key`, and the `id` of a trigger.

Invariant: only an answer that did something is remembered. A request that was refused, or whose caller went away before
anything happened, leaves no trace, and whoever waited for its answer takes its place.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar, cast

from edge.core.errors import Draining, EdgeError
from edge.core.idempotency import Answer, Key
from edge.core.observer import Receipt
from edge.http.context import Context
from edge.http.response import Response

if TYPE_CHECKING:
    from edge.cluster.store import RedisStore

Ready = TypeVar("Ready")
_REPLAYED = {"Idempotency-Replayed": "true"}


async def run_once(
    context: Context,
    key: Key | None,
    fingerprint: bytes,
    wait: Callable[[], Awaitable[Ready]],
    act: Callable[[Ready], Awaitable[Response]],
    published: Callable[[Receipt], Response],
) -> Response:
    """Wait, then act: once for each `key`, each time when it is None.

    `wait` ends with its caller, and nothing has happened then. `act` runs in a task of its own: what has begun goes on,
    and its answer is remembered, even when the caller goes away. `published` makes the answer of a request that is
    known to have published its event, though the node that did it never said so.

    Raises what `wait` and `act` raise, `idempotency_mismatch` and `too_many_idempotency_keys`, and Draining when the
    process didn't wait for `act` to end.
    """
    receipts = context.receipts
    if key is not None and context.store.kind == "redis":
        return await _once_in_all(cast("RedisStore", context.store), context, key, fingerprint, wait, act, published)
    if key is not None:
        while (entry := receipts.find(key, fingerprint, context.clock())) is not None:
            if entry.answer is not None:
                return _again(entry.answer)
            settled = asyncio.Event()
            entry.waiters.append(settled.set)
            await settled.wait()
        receipts.begin(key, fingerprint)
    try:
        ready = await wait()
    except BaseException:
        if key is not None:
            receipts.drop(key)
        raise
    return await _outcome(context, context.spawn(_settle(context, key, act(ready))))


async def _outcome(context: Context, acting: asyncio.Task[Response]) -> Response:
    try:
        return await context.outcome(acting)
    except asyncio.CancelledError:
        if not acting.cancelled():
            raise
        raise Draining(
            "The hub has left before this was done. It may have been done in part: look before you send it again.",
            retry_after_seconds=1,
            may_have_started=True,
        ) from None


async def _once_in_all(
    cluster: RedisStore,
    context: Context,
    key: Key,
    fingerprint: bytes,
    wait: Callable[[], Awaitable[Ready]],
    act: Callable[[Ready], Awaitable[Response]],
    published: Callable[[Receipt], Response],
) -> Response:
    """`run_once`, for all nodes: the key is claimed in Redis."""
    known = await cluster.idempotency.claim(key, fingerprint)
    if isinstance(known, Answer):
        return _again(known)
    if known is not None:
        response = published(known.receipt)
        response.headers = _REPLAYED
        return response
    try:
        ready = await wait()
    except BaseException:
        await context.outcome(context.spawn(cluster.idempotency.settle(key, None)))
        raise

    async def acting() -> Response:
        try:
            response = await act(ready)
        except EdgeError as error:
            if error.fields.get("may_have_started"):
                await cluster.idempotency.abandon(key)
            else:
                await cluster.idempotency.settle(key, None)
            raise
        except BaseException:
            await cluster.idempotency.abandon(key)
            raise
        await cluster.idempotency.settle(key, Answer(response.status, response.body))
        return response

    return await _outcome(context, context.spawn(acting()))


async def _settle(context: Context, key: Key | None, acting: Awaitable[Response]) -> Response:
    try:
        response = await acting
    except BaseException:
        if key is not None:
            context.receipts.drop(key)
        raise
    if key is not None:
        context.receipts.answer(key, Answer(response.status, response.body), context.clock())
    return response


def _again(answer: Answer) -> Response:
    return Response(answer.status, answer.body, answer.content_type, _REPLAYED)
