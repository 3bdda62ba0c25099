"""`POST /projects/{project}/trigger`: wait for a subscriber that is really there, then start the job, exactly once.

Invariant: a job is dispatched only after the wait has ended well (or with `on_timeout=dispatch`), in a task of
its own: a caller that goes away while waiting leaves nothing behind, one that goes away later can't stop what has
begun.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Sequence

import msgspec

from edge.core.errors import EdgeError, InvalidRequest, NotReady
from edge.core.event import bounded, check_type, why_not_json
from edge.core.idempotency import Answer
from edge.core.observer import Receipt
from edge.http import params
from edge.http.context import Context
from edge.http.idempotency import answer_of, fingerprint, run_once
from edge.http.message import JSON, Request, Response
from edge.logs.setup import get_logger
from edge.logs.text import TRACE
from edge.store.base import Keyed
from edge.triggers.job import JOB_ID, Delivery, Job, StreamTarget
from edge.triggers.readiness import Confirm, Confirmation

_MAX_CONNECTIONS = 1_000_000
_WORTH_NOTING_SECONDS = 0.05
"""Longer than any confirmation takes: such a trigger has waited for its subscriber to come."""
_log = get_logger("trigger")
_NULL = msgspec.Raw(b"null")


class Trigger(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """The body of a trigger: the job's name, its data as JSON text, and an id to deduplicate by."""

    name: str
    data: msgspec.Raw = _NULL
    id: str | None = None


_decoder = msgspec.json.Decoder(Trigger)


async def trigger(context: Context, request: Request) -> Response:
    """Start a job as soon as a subscriber is confirmed."""
    name = request.project
    params.media_type(request, (JSON, params.FORM))
    longest = context.config.trigger.max_wait_seconds
    timeout_seconds = params.seconds(request, "timeout", context.config.trigger.wait_seconds, highest=longest)
    count = params.integer(request, "connections", 1, lowest=1, highest=_MAX_CONNECTIONS)
    dispatch_anyway = params.choice(request, "on_timeout", "fail", ("fail", "dispatch")) == "dispatch"
    confirm = params.confirm(request)
    key = params.idempotency_key(request)
    body = await params.read(context, request)
    order = decode(body)
    if context.target.kind == StreamTarget.kind:
        bounded(bytes(order.data), context.config.limits.max_event_bytes)
    keyed = None
    if key is not None or order.id is not None:
        scope = ("trigger", name, key) if key is not None else ("trigger-id", name, order.id or "")
        mark = fingerprint(order.name.encode(), bytes(order.data), (order.id or "").encode())
        keyed = Keyed(scope, mark, published)
    job = Job(
        id=order.id or f"trg_{secrets.token_hex(12)}",
        name=order.name,
        ts_ms=time.time_ns() // 1_000_000,
        project=name,
        data=order.data,
        traceparent=TRACE.get(),
        keyed=keyed,
    )
    response = await run_once(
        context,
        keyed,
        lambda: _wait(context, request, count, timeout_seconds, confirm, dispatch_anyway=dispatch_anyway),
        lambda confirmation: _start(context, job, confirmation),
    )
    if response.headers:  # only a replayed one has any
        context.triggers.outcomes["replayed"] += 1
    return response


def decode(body: bytes) -> Trigger:
    """Read a trigger's body. Raises InvalidRequest (`invalid_trigger`)."""
    try:
        order = _decoder.decode(body)
        bytes(order.data).decode()  # msgspec skips over raw text without looking at its encoding
        if not order.name:
            raise _invalid("The name is empty; name the job, as in api/iterate.")
        check_type(order.name)
    except (UnicodeDecodeError, RecursionError, msgspec.DecodeError) as error:
        reason = why_not_json(body, error)
        raise _invalid(
            reason or f'The body is not a trigger: {error}. Send {{"name": "api/iterate", "data": <any JSON>}}.'
        ) from None
    except InvalidRequest as error:
        raise _invalid(error.detail.replace("event type", "name").replace("Types", "Names")) from None
    if order.id is not None and JOB_ID.fullmatch(order.id) is None:
        raise _invalid("id must have 1 to 128 characters out of A-Z a-z 0-9 _ : ~ -.")
    return order


async def _wait(
    context: Context, request: Request, count: int, timeout_seconds: float, confirm: Confirm, *, dispatch_anyway: bool
) -> Confirmation:
    began, name = context.clock(), request.project
    outcomes = context.triggers.outcomes
    try:
        confirmation = await request.while_open(context.readiness.wait(name, count, timeout_seconds, confirm))
        if context.clock() - began >= _WORTH_NOTING_SECONDS:
            _note(context, name, "waited", began)
        return confirmation
    except NotReady:
        _note(context, name, "dispatched_anyway" if dispatch_anyway else "no_connection", began)
        if dispatch_anyway:
            return Confirmation(0, None, round((context.clock() - began) * 1000, 3))
        outcomes["no_connection"] += 1
        raise
    except (asyncio.CancelledError, InvalidRequest):  # the caller has gone, or closed its side
        outcomes["cancelled"] += 1
        _note(context, name, "cancelled", began)
        raise
    finally:
        context.triggers.wait_seconds.observe(context.clock() - began)


async def _start(context: Context, job: Job, confirmation: Confirmation) -> Answer:
    outcomes = context.triggers.outcomes
    keyed = job.keyed
    if keyed is not None and context.target.kind == StreamTarget.kind:
        besides = msgspec.json.encode(Started(job.id, job.name, confirmation))
        job = msgspec.structs.replace(job, keyed=keyed._replace(besides=besides))
    elif keyed is not None:
        await context.store.record_intent(keyed.key, job.id)
    try:
        delivery = await context.target.dispatch(job)
    except EdgeError as error:
        outcomes["failed"] += 1
        _note(context, job.project, "failed", context.clock())
        _log.warning(
            "trigger_failed", project=job.project, job=job.id, name=job.name, code=error.code, detail=error.detail
        )
        raise
    outcomes["dispatched"] += 1
    _log.info(
        "trigger_dispatched",
        project=job.project,
        job=job.id,
        name=job.name,
        target=delivery.kind,
        connections=confirmation.connections,
        waited_ms=confirmation.waited_ms,
    )
    return _triggered(job.project, Started(job.id, job.name, confirmation), delivery)


class Started(msgspec.Struct, frozen=True):
    """What the answer to a trigger says besides its delivery."""

    id: str
    name: str
    confirmation: Confirmation


def published(receipts: Sequence[Receipt], besides: bytes) -> Answer:
    """The answer for a job that became an event of its project's stream."""
    (receipt,) = receipts
    return _triggered(receipt.project, msgspec.json.decode(besides, type=Started), StreamTarget.delivery(receipt))


def _triggered(project: str, started: Started, delivery: Delivery) -> Answer:
    confirmation = started.confirmation
    answer = {
        "project": project,
        "id": started.id,
        "name": started.name,
        "waited_ms": confirmation.waited_ms,
        "connections": confirmation.connections,
        "confirmed": confirmation.confirmed,
        "dispatched": True,
        "target": delivery,
    }
    return answer_of(answer, 202)


def _note(context: Context, name: str, what: str, began_seconds: float) -> None:
    now = context.clock()
    context.history.trigger(name, what, now - began_seconds, now)


def _invalid(detail: str) -> InvalidRequest:
    return InvalidRequest(detail, code="invalid_trigger")
