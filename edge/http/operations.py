"""What can be asked of the hub, operation by operation: what `/openapi.json` and `docs/api.md` are made of.

Invariant: each route of `edge.http.routes` but the page's files has an operation that lists everything the route
answers, refusals included; tests/http/test_openapi.py holds the two together, and asks a running hub.
"""

from __future__ import annotations

from typing import Any

from edge.cluster.local import ORDERS
from edge.config.schema import Config
from edge.config.units import format_duration
from edge.core.event import NewEvent
from edge.core.observer import Receipt
from edge.diagnose import explain
from edge.http import patterns, schemas
from edge.http.operation import JSON, TEXT, Answer, Operation, Parameter
from edge.http.subscribe import LAST_ID_PARAMETERS
from edge.http.ticket import Ack
from edge.http.trigger import Trigger
from edge.triggers.readiness import CONFIRMS


def operations(config: Config) -> tuple[Operation, ...]:
    """All of them, as a hub with `config` has them."""
    made = _Operations(config)
    listed = (
        made.subscribe(), made.head_subscribe(), made.publish(), made.ready(), made.trigger(), made.ticket(),
        made.ack(), made.project(), made.history(), made.explain(), made.delete(), made.projects(), *made.life(),
        made.openapi(),
    )  # fmt: skip
    return listed if config.metrics.port is not None else (*listed, made.metrics())


_PROJECT = Parameter(
    "project",
    "path",
    {"type": "string", "pattern": patterns.PROJECT},
    "The project's id: 1 to 128 letters, digits, `.`, `_`, `~`, `-`, starting with a letter or digit.",
)
_KEY = Parameter(
    "Idempotency-Key",
    "header",
    {"type": "string", "pattern": patterns.IDEMPOTENCY_KEY},
    "Makes it safe to repeat the request: within 10 minutes, the same key returns the first response again.",
)
_REPLAYED = {"Idempotency-Replayed": "`true` if this is the response to an earlier request with the same key."}
_SAME = {"project": "$request.path.project"}
_AFTER_PUBLISHING = {"project": _SAME, "explain": _SAME, "subscribe": _SAME}
_FRAME = {
    "description": "An event of the stream. Names that begin with `edge.` are reserved for control events.",
    "type": "object",
    "properties": {
        "id": {"type": "string", "pattern": patterns.EVENT_ID},
        "event": {"type": "string"},
        "data": {"type": "string"},
        "retry": {"type": "integer"},
    },
}
_CONNECTIONS = Parameter(
    "connections",
    "query",
    {"type": "integer", "minimum": 1, "maximum": 1_000_000, "default": 1},
    "How many connections must be confirmed.",
)
_CONFIRM = Parameter(
    "confirm",
    "query",
    {"type": "string", "enum": list(CONFIRMS), "default": "transport"},
    "Who confirms a connection: the peer's transport, or the client itself by answering `edge.probe`.",
)
_EVENT_TYPE = {"type": "string", "pattern": patterns.TYPE}
_FULL = ("draining", "too_many_projects")
_ONCE = ("idempotency_mismatch", "too_many_idempotency_keys")
_BODY = ("body_too_large", "request_timeout", "unsupported_media_type", "unsupported_encoding", "expectation_failed")
_WRITING = (
    *("invalid_project", "invalid_parameter", "no_connection", "event_too_large", "too_many_waiting"),
    *("store_unavailable", "half_closed", *_BODY, *_ONCE, *_FULL),
)


_FLAG: dict[str, Any] = {"type": "string", "enum": ["true", "false"], "default": "false"}


class _Operations:
    def __init__(self, config: Config) -> None:
        self._config = config

    def _duration(self, name: str, text: str, default: str | None = None) -> Parameter:
        highest = self._config.trigger.max_wait_seconds
        schema: dict[str, Any] = {"type": "string", "pattern": patterns.duration_up_to(highest)}
        if default is not None:
            schema["default"] = default
        most = format_duration(highest)
        return Parameter(name, "query", schema, f"{text} A duration such as `500ms` or `3s`, at most {most}.")

    def _stream_parameters(self) -> tuple[Parameter, ...]:
        return (
            _PROJECT,
            Parameter("Last-Event-ID", "header", {"type": "string"}, "Continue after this event; wins over the query."),
            # The aliases are named here and not listed: generators make one Go name of several.
            Parameter(
                LAST_ID_PARAMETERS[0],
                "query",
                {"type": "string"},
                "The same, for clients that can't set headers. Aliases that EventSource polyfills and other hubs use: "
                f"{', '.join(f'`{name}`' for name in LAST_ID_PARAMETERS[1:])}.",
            ),
            Parameter(
                "since",
                "query",
                {"type": "string", "pattern": patterns.since(), "default": "missed"},
                "Where to start without one: `missed` (what no subscriber has received yet), `all`, `none`, `last` "
                "(the newest event), `last:20`, an event id, or a duration such as `10m` (up to ten years).",
            ),
            Parameter(
                "heartbeat",
                "query",
                {"type": "string", "enum": ["comment", "event"], "default": "comment"},
                "The form of a heartbeat: a comment, or an event `edge.ping` for clients that can't see comments.",
            ),
            Parameter(
                "observe",
                "query",
                _FLAG,
                "Open a stream that counts as nothing: not in receipts, readiness, connections, deliveries or misses. "
                "It requires the permission `status`.",
            ),
        )

    _STREAM_PROBLEMS = (
        "invalid_project",
        "invalid_parameter",
        "not_acceptable",
        "half_closed",
        "store_unavailable",
        *_FULL,
        "too_many_connections",
        "too_many_project_connections",
        "too_many_address_connections",
    )

    def subscribe(self) -> Operation:
        return Operation(
            "get",
            "/projects/{project}/events",
            "subscribe",
            "Subscribe",
            "Opens a stream: `edge.hello`, the replay, then live events, each once and in order. It ends when "
            "either side closes it; the hub sends `edge.closing` first.",
            "subscribe",
            (
                Answer(200, "The stream.", {"text/event-stream": _FRAME}),
                Answer(204, "The project is finished, and nothing is left to replay: do not reconnect."),
            ),
            self._stream_parameters(),
            problems=self._STREAM_PROBLEMS,
        )

    def head_subscribe(self) -> Operation:
        return self.subscribe()._replace(
            method="head",
            name="headers",
            title="Get a stream's headers",
            text="Returns the headers of a stream and opens none.",
            answers=(Answer(200, "The headers."),),
        )

    def publish(self) -> Operation:
        receipt = {JSON: {"oneOf": [Receipt, schemas.LinesTaken]}}
        return Operation(
            "post",
            "/projects/{project}/events",
            "publish",
            "Publish",
            "Accepts one event as JSON; plain text as the data of one event; or NDJSON, one event a line, each "
            "published as its line arrives. `application/x-www-form-urlencoded`, curl's default, is parsed as JSON.",
            "publish",
            (
                Answer(201, "Published while a subscriber was connected.", receipt, _REPLAYED, _AFTER_PUBLISHING),
                Answer(202, "Published and held: no subscriber was connected.", receipt, _REPLAYED, _AFTER_PUBLISHING),
            ),
            (
                _PROJECT,
                Parameter("type", "query", _EVENT_TYPE, "The type of a `text/plain` event; `message` by default."),
                Parameter(
                    "require",
                    "query",
                    {"type": "integer", "minimum": 0, "maximum": 1_000_000, "default": 0},
                    "With fewer connections, refuse the request and store nothing.",
                ),
                Parameter(
                    "final",
                    "query",
                    _FLAG,
                    "The project's last event: streams end once they have it. Publishing again reopens the project.",
                ),
                self._duration(
                    "wait", "First wait this long until `require` connections (default: one) are confirmed."
                ),
                _KEY,
            ),
            {JSON: NewEvent, TEXT: {"type": "string"}, "application/x-ndjson": {"type": "string"}},
            ("invalid_event", *_WRITING),
        )

    def ready(self) -> Operation:
        return Operation(
            "get",
            "/projects/{project}/ready",
            "ready",
            "Wait for a subscriber",
            "Returns as soon as enough connections are confirmed: registered, their replay written, and every byte "
            "acknowledged.",
            "status",
            (Answer(200, "The project is ready.", {JSON: schemas.Ready}),),
            (_PROJECT, self._wait(), _CONNECTIONS, _CONFIRM),
            problems=(
                *("invalid_project", "invalid_parameter", "no_connection", "draining", "too_many_waiting"),
                "half_closed",
            ),
        )

    def _wait(self) -> Parameter:
        return self._duration("timeout", "How long to wait.", format_duration(self._config.trigger.wait_seconds))

    def trigger(self) -> Operation:
        return Operation(
            "post",
            "/projects/{project}/trigger",
            "trigger",
            "Trigger a job",
            "Waits until a subscriber is confirmed, then dispatches the job exactly once.",
            "trigger",
            (Answer(202, "Dispatched.", {JSON: schemas.Triggered}, _REPLAYED),),
            (
                _PROJECT,
                self._wait(),
                _CONNECTIONS,
                _CONFIRM,
                Parameter(
                    "on_timeout",
                    "query",
                    {"type": "string", "enum": ["fail", "dispatch"], "default": "fail"},
                    "What to do when no subscriber is ready in time.",
                ),
                _KEY,
            ),
            {JSON: Trigger},
            ("invalid_trigger", "dispatch_failed", *_WRITING),
        )

    def ticket(self) -> Operation:
        return Operation(
            "post",
            "/projects/{project}/ticket",
            "ticket",
            "Get a ticket",
            "For a browser's EventSource, which can't send headers: opens one stream of the project as "
            "`?ticket=`, once, before it expires. The stream ends when the token that requested the ticket expires.",
            "subscribe",
            (Answer(201, "A ticket.", {JSON: schemas.Ticket}),),
            (_PROJECT,),
            problems=("invalid_project", "too_many_tickets", "store_unavailable"),
        )

    def ack(self) -> Operation:
        return Operation(
            "post",
            "/projects/{project}/connections/{connection}/ack",
            "ack",
            "Answer a probe",
            "A client's response to `edge.probe`, which `confirm=client` sends. The probe's token, which only its "
            "stream has received, is the authorization.",
            None,
            (Answer(204, "Accepted."),),
            (_PROJECT, Parameter("connection", "path", {"type": "string"}, "The id in `edge.hello`.")),
            {JSON: Ack},
            ("invalid_project", "invalid_request", "unknown_connection", "stale_probe", "store_unavailable", *_BODY),
        )

    def project(self) -> Operation:
        return Operation(
            "get",
            "/projects/{project}",
            "project",
            "Get a project",
            "Its connections, its ring, its misses.",
            "status",
            (Answer(200, "The project's state.", {JSON: schemas.ProjectStatus}),),
            (_PROJECT,),
            problems=("invalid_project", "unknown_project", "store_unavailable"),
        )

    def history(self) -> Operation:
        since = [one for one in self._stream_parameters() if one.name not in ("heartbeat", "observe")]
        since = [one._replace(schema={**one.schema, "default": "all"}) if one.name == "since" else one for one in since]
        limit: dict[str, Any] = {"type": "integer", "minimum": 1, "maximum": 1000, "default": 100}
        return Operation(
            "get",
            "/projects/{project}/history",
            "history",
            "Read a project's history",
            "The events in the ring, as one document. It does not count as a delivery.",
            "subscribe",
            (Answer(200, "The events, oldest first.", {JSON: schemas.History}),),
            (*since, Parameter("limit", "query", limit, "The maximum number of events.")),
            problems=("invalid_project", "invalid_parameter", "unknown_project", "store_unavailable"),
        )

    def explain(self) -> Operation:
        return Operation(
            "get",
            "/projects/{project}/explain",
            "explain",
            "Explain why no subscriber was connected",
            "The explanation as text, or as JSON if `Accept` names it.",
            "status",
            (Answer(200, "The explanation.", {TEXT: {"type": "string"}, JSON: explain.Explanation}),),
            (_PROJECT,),
            problems=("invalid_project", "store_unavailable"),
        )

    def delete(self) -> Operation:
        return Operation(
            "delete",
            "/projects/{project}",
            "delete",
            "Delete a project",
            "Closes its streams and drops its history.",
            "admin",
            (Answer(200, "Deleted.", {JSON: schemas.Deleted}),),
            (_PROJECT,),
            problems=("invalid_project", "unknown_project", "store_unavailable"),
        )

    def projects(self) -> Operation:
        limit = {"type": "integer", "minimum": 1, "maximum": 1000, "default": 100}
        offset = {"type": "integer", "minimum": 0, "maximum": 999_999_999, "default": 0}
        return Operation(
            "get",
            "/projects",
            "projects",
            "List projects",
            "A page of them, those with most connections first.",
            "status",
            (Answer(200, "A page.", {JSON: schemas.ProjectPage}),),
            (
                Parameter("limit", "query", limit, "The maximum number of projects."),
                Parameter("offset", "query", offset, "How many to skip."),
                Parameter("sort", "query", {"type": "string", "enum": list(ORDERS)}, "The order of the list."),
                Parameter("match", "query", {"type": "string"}, "A part of the name, in any case."),
            ),
            problems=("invalid_parameter", "store_unavailable"),
        )

    def life(self) -> tuple[Operation, Operation]:
        return (
            Operation(
                "get", "/healthz", "healthz", "Liveness", "The process runs and its event loop responds.", None,
                (Answer(200, "Alive.", {JSON: schemas.Sign}),),
            ),
            Operation(
                "get", "/readyz", "readyz", "Readiness", "Fails in a drain, or without the store.", None,
                (Answer(200, "Ready.", {JSON: schemas.Sign}),), problems=("draining", "store_unavailable"),
            ),
        )  # fmt: skip

    def metrics(self) -> Operation:
        either = {TEXT: {"type": "string"}, "application/openmetrics-text": {"type": "string"}}
        return Operation(
            "get", "/metrics", "metrics", "Metrics", "Metrics for Prometheus.", "metrics",
            (Answer(200, "The metrics.", either),),
        )  # fmt: skip

    def openapi(self) -> Operation:
        return Operation(
            "get", "/openapi.json", "openapi", "This document", "The OpenAPI description of this interface.", None,
            (Answer(200, "OpenAPI 3.1.", {JSON: {"type": "object"}}),),
        )  # fmt: skip
