"""`POST /projects/{project}/events`: one event, or as many as the lines of a long NDJSON request.

Invariant: an event is on the ring or it is not, and the answer says which. From the check of `require` to the ring
nothing waits.
"""

from __future__ import annotations

from aiohttp import web

from edge.core.errors import NotReady
from edge.core.event import Event, check_type, decode_json, decode_text
from edge.core.observer import Receipt
from edge.http import bodies, ndjson, params
from edge.http.context import CONTEXT, Context
from edge.http.idempotency import run_once

_MAX_REQUIRED = 1_000_000


async def publish(request: web.Request) -> web.StreamResponse:
    """Publish to a project; the receipt says who was there."""
    context = request.app[CONTEXT]
    name = params.project(request)
    kind = bodies.media_type(request, (bodies.JSON, bodies.FORM, bodies.TEXT, bodies.NDJSON))
    require = params.integer(request, "require", 0, lowest=0, highest=_MAX_REQUIRED)
    wait_seconds = None
    if "wait" in request.query:
        wait_seconds = params.seconds(request, "wait", 0, highest=context.config.trigger.max_wait_seconds)
    event_type = request.query.get("type")
    if event_type is not None:
        check_type(event_type)
    key = params.idempotency_key(request)
    if kind == bodies.NDJSON and key is None:
        await _ready(context, name, require, wait_seconds)
        return await ndjson.publish_arriving(request, context, name)

    # NDJSON with a key comes here too: its body has to be known before it can be told from another one.
    body = await bodies.read(request)
    event = None if kind == bodies.NDJSON else _decode(request, kind, body)

    async def act(_: None) -> web.Response:
        if event is None:
            return await ndjson.publish_whole(body, context, name)
        promised = context.store.publish(name, event, context.clock(), scope)
        return _published(promised if isinstance(promised, Receipt) else await promised)

    scope = None if key is None else ("publish", name, key)
    if key is None:
        await _ready(context, name, require, wait_seconds)
        return await act(None)
    mark = bodies.fingerprint(kind.encode(), b"" if event is None else event.type.encode(), body)
    return await run_once(context, scope, mark, lambda: _ready(context, name, require, wait_seconds), act, _published)


def _published(receipt: Receipt) -> web.Response:
    return bodies.json_response(receipt, status=201 if receipt.connections else 202)


def _decode(request: web.Request, kind: str, body: bytes) -> Event:
    max_bytes = request.app[CONTEXT].config.limits.max_event_bytes
    if kind == bodies.TEXT:
        return decode_text(body, request.query.get("type"), max_bytes)
    return decode_json(body, max_bytes)


async def _ready(context: Context, name: str, require: int, wait_seconds: float | None) -> None:
    """Wait if that was asked for, then insist on `require` connections."""
    if wait_seconds is not None:
        await context.readiness.wait(name, max(require, 1), wait_seconds)
    there = 0
    if require:
        there = (
            context.hub.connected(name) if context.cluster is None else await context.cluster.overview.connections(name)
        )
    if there < require:
        raise NotReady(
            f"{there} of {require} required connections are there and nothing was stored; "
            "publish without require, or with wait.",
            retry_after_seconds=1,
            project=name,
            connections=there,
        )
