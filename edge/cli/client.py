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
from typing import Any
from urllib.parse import quote, urlencode

from edge.cli.commands import add_config, loaded, own_url
from edge.cli.hub import DEFAULT_URL, Hub, Refused, Response, ask, connected, exchange, wrong_with
from edge.cli.output import CommandError, ExitStatus, say, warn
from edge.cli.subscriber import Finished, StreamEvent, Subscription, fields_of

_TIMEOUT_SECONDS = 75.0
"""Longer than a trigger may wait."""
_TEXT = {"Content-Type": "text/plain; charset=utf-8"}
_JSON = {"Content-Type": "application/json"}
_UNITS = ((1 << 20, "MiB"), (1 << 10, "KiB"))

Command = Callable[[argparse.Namespace, Hub], int]


def add_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the client commands."""
    publish = _command(commands, "publish", "publish an event", _publish)
    publish.add_argument("project", metavar="PROJECT", help="the project's id")
    publish.add_argument(
        "data", metavar="DATA", nargs="?", default="", help="text or JSON; - publishes each line of standard input"
    )
    publish.add_argument("--type", metavar="TYPE", help="the event's type (default: message)")
    publish.add_argument("--require", metavar="N", help="fail unless N subscribers are connected")
    publish.add_argument("--wait", metavar="DURATION", help="wait for a confirmed subscriber first, up to so long")
    publish.add_argument(
        "--final", action="store_true", help="the (last) event is the project's last: streams end after it"
    )
    publish.add_argument("--key", metavar="KEY", help="Idempotency-Key: publishes once; with -, KEY-1 and so on")

    subscribe = _command(commands, "subscribe", "print a project's events as they are published", _subscribe)
    subscribe.add_argument("projects", metavar="PROJECT", nargs="+", help="ids of up to 32 projects")
    subscribe.add_argument(
        "--since", metavar="START", help="missed (default), all, none, last, last:N, an event id, or a duration (10m)"
    )
    subscribe.add_argument("--json", action="store_true", help="a JSON object per event, and per event of the hub")
    subscribe.add_argument("--observe", action="store_true", help="watch without counting as a subscriber")
    subscribe.add_argument("--count", type=int, metavar="N", help="exit after N events")

    trigger = _command(commands, "trigger", "start a job once a subscriber is confirmed", _trigger)
    trigger.add_argument("project", metavar="PROJECT", help="the project's id")
    trigger.add_argument("name", metavar="NAME", help="the job's name")
    trigger.add_argument("data", metavar="DATA", nargs="?", help="JSON; anything else is sent as a string")
    trigger.add_argument("--timeout", metavar="DURATION", help="how long to wait (default: trigger.wait_seconds)")
    trigger.add_argument("--connections", metavar="N", help="how many subscribers to wait for (default: 1)")
    trigger.add_argument("--on-timeout", choices=("fail", "dispatch"), help="what to do without a subscriber")
    trigger.add_argument("--confirm", choices=("transport", "client"), help="who has to confirm the connection")
    trigger.add_argument("--key", metavar="KEY", help="Idempotency-Key: the same key starts the job once")

    status = _command(commands, "status", "show the hub's projects, or one of them", _status)
    status.add_argument("project", metavar="PROJECT", nargs="?", help="one project's id")
    status.add_argument("--json", action="store_true", help="the response as it came")

    history = _command(commands, "history", "print the events that a project holds", _history)
    history.add_argument("project", metavar="PROJECT", help="the project's id")
    history.add_argument("--since", metavar="START", help="all (default), last:N, an event id, or a duration (10m)")
    history.add_argument("--limit", metavar="N", help="at most so many (default: 100)")
    history.add_argument("--json", action="store_true", help="a JSON object per event")

    explain = _command(commands, "explain", "ask a running hub why a project had no subscriber", _explain)
    explain.add_argument("project", metavar="PROJECT", help="the project's id")
    explain.add_argument("--json", action="store_true", help="the explanation as JSON")

    selftest = _command(commands, "selftest", "subscribe through a URL and report what goes wrong", _selftest)
    selftest.add_argument("--quick", action="store_true", help="don't wait for a heartbeat")
    selftest.add_argument(
        "--no-trigger", action="store_true", help="start no job (with trigger.url it would be a real one)"
    )
    for parser in (explain, selftest):
        add_config(parser, "; its auth.token is sent, and its hub is the default")


def _command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], name: str, summary: str, command: Command
) -> argparse.ArgumentParser:
    parser = commands.add_parser(
        name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.", allow_abbrev=False
    )
    parser.add_argument("--url", help=f"the hub (default: $EDGE_URL, or {DEFAULT_URL}); also unix:PATH")
    parser.set_defaults(run=lambda arguments: command(arguments, hub_of(arguments)))
    return parser


def hub_of(arguments: argparse.Namespace) -> Hub:
    """The hub that a client command asks. Raises CommandError."""
    url, token = arguments.url or os.environ.get("EDGE_URL"), os.environ.get("EDGE_TOKEN")
    verify = True
    if "config" in arguments:
        config = loaded(arguments)[0]
        token = token or next(iter(config.auth.token), None)
        if not url:
            url, verify = own_url(config), False  # a loopback address, which no certificate names
    url = url or DEFAULT_URL
    if (wrong := wrong_with(url)) is not None:
        raise CommandError(f"--url {wrong}", ExitStatus.USAGE)
    return Hub(url.rstrip("/"), token or None, verify)


# --- commands ---


def _publish(arguments: argparse.Namespace, hub: Hub) -> int:
    query = _query(type=arguments.type, require=arguments.require, wait=arguments.wait)
    lines: Iterable[bytes] = sys.stdin.buffer if arguments.data == "-" else [arguments.data.encode()]
    with connected(hub, _TIMEOUT_SECONDS) as connection:
        for number, (line, is_last) in enumerate(_with_last(lines, look_ahead=arguments.final), 1):
            path = _path(arguments.project, "/events", query | ({"final": "true"} if is_last else {}))
            key = f"{arguments.key}-{number}" if arguments.data == "-" else arguments.key
            headers = _TEXT | ({"Idempotency-Key": key} if arguments.key else {})
            response = exchange(connection, hub, "POST", path, line.rstrip(b"\r\n"), headers)
            if response.status not in (201, 202):
                raise Refused(response)
            if status := say(response.body.decode()):
                return status
    return ExitStatus.OK


def _with_last(lines: Iterable[bytes], *, look_ahead: bool) -> Iterator[tuple[bytes, bool]]:
    """Lines, each as it comes; with `look_ahead` when the next one has come, and whether it is the last."""
    held: bytes | None = None
    for line in lines:
        if held is not None:
            yield held, False
        held = line if look_ahead else None
        if not look_ahead:
            yield line, False
    if held is not None:
        yield held, True


def _subscribe(arguments: argparse.Namespace, hub: Hub) -> int:
    left = arguments.count
    subscription = Subscription(hub, arguments.projects, arguments.since, observe=arguments.observe)
    try:
        for event in subscription.events():
            own = event.type.startswith("edge.")
            if own and not arguments.json:
                _note(event, several=len(arguments.projects) > 1)
                continue
            line = ("" if not event.project else f"{event.project}\t") + _as_line(event.id, event.type, event.data)
            if status := say(_as_json(event) if arguments.json else line):
                return status
            if not own and left is not None:
                left -= 1
                if left <= 0:
                    return ExitStatus.OK
    except Finished as end:
        warn(f"the stream has ended: {end.reason}")
    return ExitStatus.OK


def _trigger(arguments: argparse.Namespace, hub: Hub) -> int:
    query = _query(
        timeout=arguments.timeout,
        connections=arguments.connections,
        on_timeout=arguments.on_timeout,
        confirm=arguments.confirm,
    )
    job = {"name": arguments.name} | ({} if arguments.data is None else {"data": _json_or_text(arguments.data)})
    headers = _JSON | ({"Idempotency-Key": arguments.key} if arguments.key else {})
    body = json.dumps(job, ensure_ascii=False).encode()
    path = _path(arguments.project, "/trigger", query)
    return _answer(ask(hub, "POST", path, body, headers, timeout_seconds=_TIMEOUT_SECONDS))


def _status(arguments: argparse.Namespace, hub: Hub) -> int:
    path = "/projects" if arguments.project is None else _path(arguments.project)
    response = ask(hub, "GET", path, timeout_seconds=_TIMEOUT_SECONDS)
    if response.status != 200 or arguments.json:
        return _answer(response)
    document = json.loads(response.body)
    return say(_table(document["projects"]) if arguments.project is None else _summary(document))


def _history(arguments: argparse.Namespace, hub: Hub) -> int:
    path = _path(arguments.project, "/history", _query(since=arguments.since, limit=arguments.limit))
    response = ask(hub, "GET", path, timeout_seconds=_TIMEOUT_SECONDS)
    if response.status != 200:
        raise Refused(response)
    document = json.loads(response.body)
    if document.get("gap"):
        warn(f"gap: {json.dumps(document['gap'])}")
    for event in document["events"]:
        data = event["data"] if isinstance(event["data"], str) else json.dumps(event["data"], ensure_ascii=False)
        line = (
            json.dumps(event, ensure_ascii=False) + "\n"
            if arguments.json
            else _as_line(event["id"], event["type"], data)
        )
        if status := say(line):
            return status
    return ExitStatus.OK


def _explain(arguments: argparse.Namespace, hub: Hub) -> int:
    accept = {"Accept": "application/json" if arguments.json else "text/plain"}
    path = _path(arguments.project, "/explain")
    return _answer(ask(hub, "GET", path, headers=accept, timeout_seconds=_TIMEOUT_SECONDS))


def _selftest(arguments: argparse.Namespace, hub: Hub) -> int:
    from edge.cli.selftest import SelfTest  # noqa: PLC0415 - no other command needs it

    passed = True
    for step in SelfTest(hub, idle=not arguments.quick, trigger=not arguments.no_trigger).run():
        say(step.line() + "\n")
        passed = passed and step.ok
    return ExitStatus.OK if passed else ExitStatus.FAILED


# --- texts ---


def _as_line(event_id: str, event_type: str, data: str) -> str:
    return "\t".join((event_id, event_type, data.replace("\n", "\\n"))) + "\n"


def _as_json(event: StreamEvent) -> str:
    shown = {"id": event.id, "type": event.type, "data": _json_or_text(event.data)}
    shown |= {"project": event.project} if event.project else {}
    return json.dumps(shown, ensure_ascii=False) + "\n"


def _json_or_text(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _note(event: StreamEvent, *, several: bool) -> None:
    """Say on standard error what happens to the connection."""
    fields = fields_of(event)
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
    lines = [
        f"{document['project']}",
        f"  connections   {document['connections_total']}",
        f"  events held   {ring['events']} ({_size(ring['bytes'])})",
        f"  oldest        {ring['oldest'] or '-'}",
        f"  newest        {ring['newest'] or '-'}",
        f"  misses        {', '.join(f'{misses[key]} {key}' for key in ('total', 'recovered', 'pending', 'lost'))}",
        f"  last connect  {document['last_connect'] or '-'}",
    ]
    if left := document["last_disconnect"]:
        lines.append(f"  last closed   {left['at']} ({left['reason']})")
    lines += [
        f"  {each['id']}  since {each['since']}  from {each['address']}  at {each['last_event'] or '-'}"
        for each in document["connections"]
    ]
    return "\n".join(lines) + "\n"


def _size(size_bytes: int) -> str:
    for unit_bytes, name in _UNITS:
        if size_bytes >= unit_bytes:
            return f"{size_bytes / unit_bytes:.1f} {name}"
    return f"{size_bytes} bytes"


# --- helpers ---


def _path(project: str, rest: str = "", query: dict[str, str] | None = None) -> str:
    path = f"/projects/{quote(project, safe='')}{rest}"
    return f"{path}?{urlencode(query)}" if query else path


def _query(**given: str | None) -> dict[str, str]:
    return {name: value for name, value in given.items() if value is not None}


def _answer(response: Response) -> int:
    if response.status >= 300:
        raise Refused(response)
    text = response.body.decode(errors="replace")
    return say(text if text.endswith("\n") else f"{text}\n")
