"""`POST /projects/{project}/events` and `POST /events`: one event, or as many as the lines of a long NDJSON request.

Invariant: an event is on the ring or it is not, and the answer says which. From the check of `require` to the ring
nothing waits.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import msgspec

from edge.core.errors import InvalidRequest, NotReady
from edge.core.event import Event, check_type, decode_json, decode_text
from edge.core.idempotency import Answer
from edge.core.observer import Receipt
from edge.http import ndjson, params
from edge.http.context import Context
from edge.http.idempotency import answer_of, fingerprint, response_of, run_once
from edge.http.message import JSON, Request, Response
from edge.store.base import Keyed, all_of

_MAX_REQUIRED = 1_000_000
_OF_SEVERAL = (JSON, params.FORM, params.TEXT)
_OF_ONE = (*_OF_SEVERAL, params.NDJSON)


def publish(context: Context, request: Request) -> Response | Awaitable[Response]:
    """Publish to a project, or to several; the receipt says who was there."""
    kind = params.media_type(request, _OF_SEVERAL if request.projects else _OF_ONE)
    require, wait_seconds, event_type, final = 0, None, None, False
    if request.query_string:
        query = request.query
        if "require" in query:
            require = params.integer(request, "require", 0, lowest=0, highest=_MAX_REQUIRED)
        if "wait" in query:
            wait_seconds = params.seconds(request, "wait", 0, highest=context.config.trigger.max_wait_seconds)
        if "type" in query:
            event_type = _type_of_text(kind, query["type"][0])
        if "final" in query:
            final = params.flag(request, "final")
    key = params.idempotency_key(request)
    if key is not None:
        return _publish_once(context, request, kind, key, require, wait_seconds, final=final)
    waits = require or wait_seconds is not None or kind == params.NDJSON or request.projects
    body = None if waits else request.body()
    if body is None:
        return _publish_later(context, request, kind, require, wait_seconds, final=final)
    event = _decode(context, kind, params.bounded(context, body), event_type, final=final)
    promised = context.store.publish(request.project, event, context.clock())
    return _response(promised) if isinstance(promised, Receipt) else _respond_later(promised)


def _type_of_text(kind: str, event_type: str) -> str:
    """The type of an event whose body can't name it. Raises InvalidRequest (`invalid_parameter`) where it can."""
    if kind != params.TEXT:
        raise InvalidRequest(
            "The parameter type is for text/plain; put the type of a JSON event into the body, as in "
            '{"type": "progress", "data": <any JSON>}.',
            code="invalid_parameter",
            parameter="type",
        )
    check_type(event_type)
    return event_type


async def _publish_later(
    context: Context, request: Request, kind: str, require: int, wait_seconds: float | None, *, final: bool
) -> Response:
    """Publish to several projects, or what is yet to come, or what `require` and `wait` make wait."""
    if kind == params.NDJSON:
        await _ready(context, request, require, wait_seconds)
        return await ndjson.publish_arriving(context, request, request.project, final=final)
    event = _decode(context, kind, await params.read(context, request), request.parameter("type"), final=final)
    await _ready(context, request, require, wait_seconds)
    return response_of(await _publish(context, request, event))


def _response(receipt: Receipt) -> Response:
    return Response(201 if receipt.connections else 202, msgspec.json.encode(receipt) + b"\n")


async def _respond_later(promised: Awaitable[Receipt]) -> Response:
    return _response(await promised)


async def _publish_once(
    context: Context, request: Request, kind: str, key: str, require: int, wait_seconds: float | None, *, final: bool
) -> Response:
    """Publish under an idempotency key. NDJSON too has to be known whole, to be compared with another body."""
    name = request.project
    body = await params.read(context, request)
    event = None if kind == params.NDJSON else _decode(context, kind, body, request.parameter("type"), final=final)
    kinds = [kind.encode(), b"final"] if final else [kind.encode()]
    keyed = Keyed(
        ("publish-each", ",".join(sorted(request.projects)), key) if request.projects else ("publish", name, key),
        fingerprint(*kinds, b"" if event is None else event.type.encode(), body),
        ndjson.published if event is None else _published_each(request) if request.projects else published,
    )
    return await run_once(
        context,
        keyed,
        lambda: _ready(context, request, require, wait_seconds),
        lambda _: (
            ndjson.publish_whole(context, name, body, keyed, final=final)
            if event is None
            else _publish(context, request, event, keyed)
        ),
    )


async def _publish(context: Context, request: Request, event: Event, keyed: Keyed | None = None) -> Answer:
    now = context.clock()
    if request.projects:
        names = request.projects if keyed is None else keyed.projects
        return _published_each(request)(await context.store.publish_each(names, event, now, keyed), b"")
    promised = context.store.publish(request.project, event, now, keyed)
    return published([promised if isinstance(promised, Receipt) else await promised])


def published(receipts: Sequence[Receipt], _: bytes = b"") -> Answer:
    (receipt,) = receipts
    return answer_of(receipt, 201 if receipt.connections else 202)


def _published_each(request: Request) -> Callable[[Sequence[Receipt], bytes], Answer]:
    """The answer to a request that publishes to several projects: their receipts, in the order of the request."""

    def answer(receipts: Sequence[Receipt], _: bytes) -> Answer:
        in_order = sorted(receipts, key=lambda receipt: request.projects.index(receipt.project))
        return answer_of({"receipts": in_order}, 201 if all(receipt.connections for receipt in receipts) else 202)

    return answer


def _decode(context: Context, kind: str, body: bytes, event_type: str | None, *, final: bool) -> Event:
    max_bytes = context.config.limits.max_event_bytes
    event = decode_text(body, event_type, max_bytes) if kind == params.TEXT else decode_json(body, max_bytes)
    return msgspec.structs.replace(event, final=True) if final else event


async def _ready(context: Context, request: Request, require: int, wait_seconds: float | None) -> None:
    """Wait if that was asked for, then insist on `require` connections, in each project."""
    names = request.projects or (request.project,)
    if wait_seconds is not None:
        waits = (context.readiness.wait(name, max(require, 1), wait_seconds) for name in names)
        await request.while_open(all_of(waits))
    for name in names if require else ():
        view = await context.nodes.view(name)
        there = 0 if view is None else view.connections
        if there < require:
            raise NotReady(
                f"{there} of {require} required connections are open and nothing was stored; "
                "publish without require, or with wait.",
                retry_after_seconds=1,
                project=name,
                connections=there,
            )
