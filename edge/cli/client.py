"""The command line as a client of a running hub: publish, subscribe, trigger, status, history, explain, selftest.

Standard output holds what the hub answered, for scripts; everything else is on standard error. The hub is `--url` or
`EDGE_URL`, the token `EDGE_TOKEN`. `explain` and `selftest` fall back to the hub of the configuration, the others read
none.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, pairwise
from typing import Any

from edge.cli.commands import Listed, add_config, loaded, own_url
from edge.cli.hub import (
    DEFAULT_URL,
    CommandError,
    ExitStatus,
    Finished,
    Hub,
    Refused,
    Response,
    StreamEvent,
    Subscription,
    check_url,
    json_object,
    path_of_project,
    say,
    warn,
)

_TIMEOUT_SECONDS = 75.0
"""Longer than a trigger may wait."""


def add_to(listed: Listed) -> None:

    def add(
        name: str, summary: str, run: Callable[[argparse.Namespace, Hub], int | None], *, project: bool = True
    ) -> argparse.ArgumentParser:
        description = f"{summary[0].upper()}{summary[1:]}."
        parser = listed.add_parser(name, help=summary, description=description, allow_abbrev=False)
        parser.add_argument("--url", help=f"the hub (default: $EDGE_URL, or {DEFAULT_URL}); also unix:PATH")
        if project:
            parser.add_argument("project", metavar="PROJECT", help="the project's id")
        parser.set_defaults(run=lambda arguments: run(arguments, hub_of(arguments)))
        return parser

    publish = add("publish", "publish an event", _publish).add_argument
    publish("data", metavar="DATA", nargs="?", default="", help="text or JSON; - publishes each line of standard input")
    publish("--type", metavar="TYPE", help="the event's type (default: message)")
    publish("--require", metavar="N", help="fail unless N subscribers are connected")
    publish("--wait", metavar="DURATION", help="wait for a confirmed subscriber first, up to so long")
    publish("--final", action="store_true", help="the (last) event is the project's last: streams end after it")
    publish("--key", metavar="KEY", help="Idempotency-Key: publishes once; with -, KEY-1 and so on")

    subscribe = add(
        "subscribe", "print a project's events as they are published", _subscribe, project=False
    ).add_argument
    subscribe("projects", metavar="PROJECT", nargs="+", help="ids of up to 32 projects")
    starts = "missed (default), all, none, last, last:N, an event id, or a duration (10m)"
    subscribe("--since", metavar="START", help=starts)
    subscribe("--json", action="store_true", help="a JSON object per event, and per event of the hub")
    subscribe("--observe", action="store_true", help="watch without counting as a subscriber")
    subscribe("--count", type=_count, metavar="N", help="exit after N events")

    trigger = add("trigger", "start a job once a subscriber is confirmed", _trigger).add_argument
    trigger("name", metavar="NAME", help="the job's name")
    trigger("data", metavar="DATA", nargs="?", help="JSON; anything else is sent as a string")
    trigger("--timeout", metavar="DURATION", help="how long to wait (default: trigger.wait_seconds)")
    trigger("--connections", metavar="N", help="how many subscribers to wait for (default: 1)")
    trigger("--on-timeout", choices=("fail", "dispatch"), help="what to do without a subscriber")
    trigger("--confirm", choices=("transport", "client"), help="who has to confirm the connection")
    trigger("--key", metavar="KEY", help="Idempotency-Key: the same key starts the job once")

    status = add("status", "show the hub's projects, or one of them", _status, project=False).add_argument
    status("project", metavar="PROJECT", nargs="?", help="one project's id")
    status("--json", action="store_true", help="the response as it came")

    history = add("history", "print the events that a project holds", _history).add_argument
    history("--since", metavar="START", help="all (default), last:N, an event id, or a duration (10m)")
    history("--limit", metavar="N", help="at most so many (default: 100)")
    history("--json", action="store_true", help="a JSON object per event")

    explain = add("explain", "ask a running hub why a project had no subscriber", _explain)
    explain.add_argument("--json", action="store_true", help="the explanation as JSON")
    selftest = add("selftest", "subscribe through a URL and report what goes wrong", _selftest, project=False)
    selftest.add_argument("--quick", action="store_true", help="don't wait for a heartbeat")
    no_trigger = "start no job (with trigger.url it would be a real one)"
    selftest.add_argument("--no-trigger", action="store_true", help=no_trigger)
    for parser in (explain, selftest):
        add_config(parser, "; its auth.token is sent, and its hub is the default")


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text)):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1")
    return int(text)


def hub_of(arguments: argparse.Namespace) -> Hub:
    """The hub that a client command asks. Raises CommandError."""
    url = arguments.url or os.environ.get("EDGE_URL")
    token = os.environ.get("EDGE_TOKEN", "").rstrip("\r\n") or None  # which files and env files add
    if url:
        check_url(url)
    if "config" in arguments:
        config = loaded(arguments)[0]
        token = token or next(iter(config.auth.token), None)
        if not url:  # a loopback address, which no certificate names
            return Hub(own_url(config), token, verify=False, base_path=config.server.base_path or "")
    return Hub((url or DEFAULT_URL).rstrip("/"), token)


# --- commands ---


def _publish(arguments: argparse.Namespace, hub: Hub) -> None:
    number = 0
    query = _query(type=arguments.type, require=arguments.require, wait=arguments.wait)
    lines: Iterable[bytes] = sys.stdin.buffer if arguments.data == "-" else [_bytes(arguments.data)]
    with hub.connected(_TIMEOUT_SECONDS) as connection:
        for number, (line, is_last) in enumerate(_with_last(lines, look_ahead=arguments.final), 1):
            last = [("final", "true")] if is_last else []
            path = path_of_project(arguments.project, "/events", query + last)
            key = f"{arguments.key}-{number}" if arguments.key and arguments.data == "-" else arguments.key
            headers = {"Content-Type": "text/plain; charset=utf-8"} | _keyed(key)
            _print(connection.exchange("POST", path, line.rstrip(b"\r\n"), headers))
    if arguments.final and not number:
        raise CommandError(f"standard input has no line, so {arguments.project} is not finished")


def _with_last(lines: Iterable[bytes], *, look_ahead: bool) -> Iterator[tuple[bytes, bool]]:
    """Lines, each as it comes; with `look_ahead` when the next one has come, and whether it is the last."""
    if not look_ahead:
        return ((line, False) for line in lines)
    return ((line, following is None) for line, following in pairwise(chain(lines, (None,))) if line is not None)


def _subscribe(arguments: argparse.Namespace, hub: Hub) -> None:
    left = arguments.count
    subscription = Subscription(hub, arguments.projects, arguments.since, observe=arguments.observe)
    try:
        for event in subscription.events():
            own = event.type.startswith("edge.")
            if own and not arguments.json:
                _note(event, several=len(arguments.projects) > 1)
                continue
            line = ("" if not event.project else f"{event.project}\t") + _as_line(event.id, event.type, event.data)
            say(_as_json(event) if arguments.json else line)
            if not own and left is not None:
                left -= 1
                if left <= 0:
                    return
    except Finished as end:
        warn(f"the stream has ended: {end}")


def _trigger(arguments: argparse.Namespace, hub: Hub) -> None:
    given = {name: getattr(arguments, name) for name in ("timeout", "connections", "on_timeout", "confirm")}
    data = "null" if arguments.data is None else _as_json_text(arguments.data)
    headers = {"Content-Type": "application/json"} | _keyed(arguments.key)
    body = _bytes(f'{{"name": {json.dumps(arguments.name, ensure_ascii=False)}, "data": {data}}}')
    path = path_of_project(arguments.project, "/trigger", _query(**given))
    _print(hub.ask("POST", path, body, headers, timeout_seconds=_TIMEOUT_SECONDS))


def _status(arguments: argparse.Namespace, hub: Hub) -> None:
    response = _get(hub, "/projects" if arguments.project is None else path_of_project(arguments.project))
    document = response.document
    if response.status != 200 or arguments.json:
        _print(response)
    elif arguments.project is not None:
        say(_summary(document))
    else:
        say(_table(document["projects"]))
        if (rest := document["next_offset"]) is not None:
            warn(f"the busiest {rest} of {document['total']} projects; GET /projects?offset={rest} has the others")


def _history(arguments: argparse.Namespace, hub: Hub) -> None:
    response = _get(
        hub, path_of_project(arguments.project, "/history", _query(since=arguments.since, limit=arguments.limit))
    )
    if response.status != 200:
        raise Refused(response)
    if gap := response.document.get("gap"):
        warn(f"gap: {json.dumps(gap)}")
    events = response.document["events"]
    for event in events:
        line = _as_line(event["id"], event["type"], event["data"])
        say(json.dumps(event, ensure_ascii=False) + "\n" if arguments.json else line)
    if events and events[-1]["id"] != response.document["newest"]:
        warn(f"more events follow: --since {events[-1]['id']} continues here, --limit takes more at once")


def _explain(arguments: argparse.Namespace, hub: Hub) -> None:
    accept = "application/json" if arguments.json else "text/plain"
    _print(_get(hub, path_of_project(arguments.project, "/explain"), accept))


def _selftest(arguments: argparse.Namespace, hub: Hub) -> int:
    from edge.cli.selftest import SelfTest  # noqa: PLC0415 - no other command needs it

    passed = True
    for step in SelfTest(hub, idle=not arguments.quick, trigger=not arguments.no_trigger).run():
        say(step.line() + "\n")
        passed = passed and step.ok
    return ExitStatus.OK if passed else ExitStatus.FAILED


# --- requests and responses ---


def _query(**given: str | None) -> list[tuple[str, str]]:
    return [(name, value) for name, value in given.items() if value is not None]


def _keyed(key: str | None) -> dict[str, str]:
    return {} if key is None else {"Idempotency-Key": key}


def _get(hub: Hub, path: str, accept: str = "application/json") -> Response:
    return hub.ask("GET", path, headers={"Accept": accept}, timeout_seconds=_TIMEOUT_SECONDS)


def _print(response: Response) -> None:
    """Print the body. Raises Refused."""
    if response.status >= 300:
        raise Refused(response)
    text = response.body.decode(errors="replace")
    say(text if text.endswith("\n") else f"{text}\n")


# --- texts ---


def _as_line(event_id: str, event_type: str, data: str) -> str:
    return "\t".join((event_id, event_type, data.replace("\n", "\\n"))) + "\n"


def _as_json(event: StreamEvent) -> str:
    texts = (event.id, event.type, event.project)
    event_id, event_type, project = (json.dumps(text, ensure_ascii=False) for text in texts)
    end = f', "project": {project}' if event.project else ""
    return f'{{"id": {event_id}, "type": {event_type}, "data": {_as_json_text(event.data)}{end}}}\n'


def _bytes(argument: str) -> bytes:
    """An argument as UTF-8. What wasn't stays as it was given: the hub refuses it, in words."""
    return argument.encode(errors="surrogateescape")


def _as_json_text(text: str) -> str:
    """`text` on one line if it is JSON, with its numbers as they are written; any other text as a JSON string."""
    try:
        json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return json.dumps(text, ensure_ascii=False)
    return text.replace("\r", " ").replace("\n", " ")


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _note(event: StreamEvent, *, several: bool) -> None:
    """Say on standard error what happens to the connection."""
    fields = json_object(event.data)
    of = f"{fields['project']}: " if several and "project" in fields else ""
    match event.type:
        case "edge.hello":
            warn(f"{of}connected, {fields.get('replayed', 0)} to replay")
        case "edge.gap":
            lost = fields.get("lost")
            missing = "an unknown number of" if lost is None else lost
            warn(f"{of}gap ({fields.get('reason')}): {missing} events are missing")
        case "edge.closing" | "edge.disconnected":
            warn(f"{of}disconnected: {fields.get('reason')}")


def _table(projects: list[dict[str, Any]]) -> str:
    rows = [("PROJECT", "CONNECTIONS", "EVENTS", "PENDING", "LOST")]
    for each in projects:
        counts = (each["connections"], each["ring"]["events"], each["misses"]["pending"], each["misses"]["lost"])
        rows.append((each["project"], *map(str, counts)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "".join("  ".join(map(str.ljust, row, widths)).rstrip() + "\n" for row in rows)


def _summary(document: dict[str, Any]) -> str:
    ring, misses = document["ring"], document["misses"]
    left = document["last_disconnect"]
    lines = [
        document["project"],
        f"  connections   {document['connections_total']}",
        f"  events held   {ring['events']} ({ring['bytes'] / 1024:,.1f} KiB)",
        f"  oldest        {ring['oldest'] or '-'}",
        f"  newest        {ring['newest'] or '-'}",
        f"  misses        {', '.join(f'{misses[key]} {key}' for key in ('total', 'recovered', 'pending', 'lost'))}",
        f"  last connect  {document['last_connect'] or '-'}",
        *([f"  last closed   {left['at']} ({left['reason']})"] if left else ()),
        *(
            f"  {each['id']}  since {each['since']}  from {each['address']}  at {each['last_event'] or '-'}"
            for each in document["connections"]
        ),
    ]
    return "\n".join(lines) + "\n"
