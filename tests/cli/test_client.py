"""The client commands, as processes, against a running hub."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.cli.hub import Hub, StreamEvent, parse
from tests.cli.process import PATIENCE_SECONDS, edge, environ
from tests.faults.hub import HubProcess, serving, until
from tests.observability import live
from tests.observability.rig import running

Lines = list[dict[str, Any]]
TOKEN = "a-token-of-some-length"


def as_json(out: str) -> Lines:
    return [json.loads(line) for line in out.splitlines()]


async def test_final_and_keys_apply_to_lines_of_standard_input(hub: HubProcess) -> None:
    command = ("publish", "p", "-", "--final", "--key", "import-7")
    first = await edge(hub, *command, given=b"one\ntwo\nthree")
    assert first == await edge(hub, *command, given=b"one\ntwo\nthree")
    assert (0, 3) == (first[0], len(as_json(first[1])))
    status, printed, err = await edge(hub, "subscribe", "p")
    assert (0, ["one", "two", "three"]) == (status, [line.split("\t")[2] for line in printed.splitlines()])
    assert "finished" in err
    assert (0, "", "") == await edge(hub, "publish", "p", "-", given=b"")
    refused = "edge: standard input has no line, so p is not finished\n"
    assert (1, "", refused) == await edge(hub, "publish", "p", "-", "--final", given=b"")


async def test_publish_prints_the_receipt(hub: HubProcess) -> None:
    status, out, err = await edge(hub, "publish", "p", '{"percent": 50}', "--type", "progress")
    assert (0, "") == (status, err)
    assert {"project": "p", "connections": 0, "missed": True} == {
        key: value for key, value in json.loads(out).items() if key != "id"
    }


async def test_publish_reads_standard_input_line_by_line(hub: HubProcess) -> None:
    status, out, _ = await edge(hub, "publish", "p", "-", given='one\n{"two": 2}\ndr\u00fcben'.encode())
    assert 0 == status
    assert 3 == len(as_json(out))
    _, printed, _ = await edge(hub, "subscribe", "p", "--json", "--count", "3")
    events = [line for line in as_json(printed) if not line["type"].startswith("edge.")]
    assert ["one", {"two": 2}, "dr\u00fcben"] == [event["data"] for event in events]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("1e400", "1e400"),
        ("12345678901234567890.10", "12345678901234567890.10"),
        ('{"a":1,"a":\n2}', '{"a":1,"a": 2}'),
        ("NaN", '"NaN"'),
        ("[" * 100_000 + "]" * 100_000, '"' + "[" * 100_000 + "]" * 100_000 + '"'),
    ],
    ids=["a number beyond any float", "digits", "lines and repeated keys", "not JSON", "nested"],
)
async def test_data_keeps_its_text_in_json_output(hub: HubProcess, text: str, shown: str) -> None:
    assert 0 == (await edge(hub, "publish", "p", "-", given=b"zero"))[0]
    await hub.ask("POST", "/projects/p/events", data=text.encode(), headers={"Content-Type": "text/plain"})
    status, printed, err = await edge(hub, "subscribe", "p", "--json", "--count", "2", "--since", "all")
    assert 0 == status, err
    assert f'"data": {shown}}}' == printed.splitlines()[-1][-len(shown) - 9 :]


@pytest.mark.parametrize(("text", "shown"), [("1e400", "1e400"), ("NaN", '"NaN"'), ("[1,", '"[1,"')])
async def test_a_triggers_data_is_sent_as_it_is_written(hub: HubProcess, text: str, shown: str) -> None:
    status, out, err = await edge(hub, "trigger", "p", "job", text, "--on-timeout", "dispatch", "--timeout", "0")
    assert (0, "") == (status, err), out
    _, printed, _ = await edge(hub, "history", "p")
    assert shown == printed.rstrip("\n").split("\t")[2]


async def test_a_list_says_what_it_leaves_out(hub: HubProcess) -> None:
    for number in range(101):
        await hub.ask("POST", f"/projects/p{number}/events", json={"data": number})
    _, _, err = await edge(hub, "status")
    assert "edge: the busiest 100 of 101 projects; GET /projects?offset=100 has the others\n" == err
    for number in range(3):
        await hub.ask("POST", "/projects/p/events", json={"data": number})
    _, printed, err = await edge(hub, "history", "p", "--limit", "2")
    first = printed.splitlines()[-1].split("\t")[0]
    assert err.startswith(f"edge: more events follow: --since {first} continues here")
    _, printed, err = await edge(hub, "history", "p", "--since", first)
    assert ("2", "") == (printed.rstrip().split("\t")[2], err)


async def test_a_key_publishes_once(hub: HubProcess) -> None:
    first = await edge(hub, "publish", "p", "x", "--key", "k")
    assert first == await edge(hub, "publish", "p", "x", "--key", "k")


@pytest.mark.parametrize("count", ["0", "-3", "x"])
async def test_subscribe_counts_from_1(hub: HubProcess, count: str) -> None:
    status, out, err = await edge(hub, "subscribe", "p", f"--count={count}")
    assert (2, "") == (status, out)
    assert "is not a whole number from 1" in err


async def test_without_a_subscriber_the_exit_status_is_3(hub: HubProcess) -> None:
    for command in (("publish", "p", "x", "--require", "1"), ("trigger", "p", "job", "--timeout", "10ms")):
        status, out, err = await edge(hub, *command)
        assert (3, "") == (status, out)
        assert err.startswith("edge: 409: ")


async def test_a_refusal_and_a_hub_that_is_not_there_exit_with_1(hub: HubProcess) -> None:
    for command, more in (
        (("publish", "no id", "x"), {}),
        (("subscribe", "no id"), {}),
        (("status",), {"EDGE_URL": "http://127.0.0.1:1"}),
        (("status",), {"EDGE_URL": "unix:/no/such/socket"}),
        (("history", "p"), {"EDGE_URL": "https://127.0.0.1:1"}),
    ):
        status, out, err = await edge(hub, *command, more=more)
        assert (1, "") == (status, out)
        assert err.startswith("edge: ")
        assert 1 == err.count("\n")


async def test_subscribe_prints_lines_and_says_what_happens_on_standard_error(hub: HubProcess) -> None:
    await edge(hub, "publish", "p", "a\nb", "--type", "note")
    status, out, err = await edge(hub, "subscribe", "p", "--count", "1")
    assert 0 == status
    event_id, event_type, data = out.rstrip("\n").split("\t")
    assert event_id.endswith("-1")
    assert ("note", "a\\nb") == (event_type, data)
    assert "edge: connected, 1 to replay\n" == err


async def test_subscribe_to_several_projects_shows_whose_events_they_are(hub: HubProcess) -> None:
    ids = []
    for project, text in (("a", "one"), ("b", "two"), ("a", "three")):
        ids.append(json.loads((await edge(hub, "publish", project, text))[1])["id"])
    await hub.ask("POST", "/projects/b/events?final=true", json={"type": "end", "data": "four"})
    status, out, err = await edge(hub, "subscribe", "a", "b", "--count", "4")
    assert 0 == status
    rows = [line.split("\t") for line in out.splitlines()]
    assert [["a", ids[0], "message", "one"], ["a", ids[2], "message", "three"], ["b", ids[1]]] == [
        *rows[:2],
        rows[2][:2],
    ]
    assert {"edge: a: connected, 2 to replay", "edge: b: connected, 2 to replay"} <= set(err.splitlines())
    await hub.ask("POST", "/projects/a/events?final=true", json={"data": "five"})
    status, out, err = await edge(hub, "subscribe", "a", "b", "--since", "all", "--json")
    assert (0, "edge: the stream has ended: finished\n") == (status, err)
    events = [line for line in as_json(out) if not line["type"].startswith("edge.")]
    assert Counter(a=3, b=2) == Counter(event["project"] for event in events)
    assert "end" in {event["type"] for event in events}


async def test_subscribe_resumes_over_a_restart_of_the_hub(tmp_path: Path) -> None:
    store: dict[str, Any] = {"store__url": f"sqlite:{tmp_path / 'h.db'}", "store__durability": "commit"}
    async with serving(**store) as hub:
        port = hub.port
        subscriber = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "edge", "subscribe", "p", "--count", "4"),
            env=environ(hub),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        await until(hub.metrics, lambda metrics: metrics["edge_connections"] == 1)
        for number in (1, 2):
            assert 0 == (await edge(hub, "publish", "p", str(number)))[0]
        await until(hub.metrics, lambda metrics: metrics["edge_events_delivered_total"] == 2)
        hub.process.kill()
        await hub.ended()
    async with serving(port=port, **store) as hub:
        for number in (3, 4):
            assert 0 == (await edge(hub, "publish", "p", str(number)))[0]
        out, _ = await asyncio.wait_for(subscriber.communicate(), PATIENCE_SECONDS)
    assert ["1", "2", "3", "4"] == [line.split("\t")[2] for line in out.decode().splitlines()]
    assert 0 == subscriber.returncode


async def test_trigger_waits_for_the_subscriber_and_prints_the_answer(hub: HubProcess) -> None:
    waiting = asyncio.create_task(edge(hub, "trigger", "p", "api/iterate", "hello", "--timeout", "20s"))
    status, out, _ = await edge(hub, "subscribe", "p", "--count", "1")
    assert 0 == status
    assert ["api/iterate", '"hello"'] == out.rstrip("\n").split("\t")[1:]
    status, out, _ = await waiting
    assert 0 == status
    assert json.loads(out)["dispatched"] is True


async def test_status_of_the_hub_and_of_a_project(hub: HubProcess) -> None:
    await edge(hub, "publish", "p", "x")
    _, table, _ = await edge(hub, "status")
    assert ["PROJECT", "CONNECTIONS", "EVENTS", "PENDING", "LOST"] == table.splitlines()[0].split()
    assert ["p", "0", "1", "1", "0"] == table.splitlines()[1].split()
    _, summary, _ = await edge(hub, "status", "p")
    assert "misses        1 total, 0 recovered, 1 pending, 0 lost" in summary
    _, document, _ = await edge(hub, "status", "p", "--json")
    assert 1 == json.loads(document)["misses"]["pending"]


async def test_the_token_is_sent_and_never_shown() -> None:
    token = "a-token-of-the-tests-that-is-long"
    async with serving(auth__anonymous=None, auth__token=token) as hub:
        assert 1 == (await edge(hub, "publish", "p", "x"))[0]
        status, out, err = await edge(hub, "publish", "p", "x", more={"EDGE_TOKEN": f"{token}\n"})
    assert 0 == status
    assert token not in out + err


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_knows_every_command(shell: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "edge", "completion", shell], stdout=subprocess.PIPE, text=True, check=True
    )
    for command in ("serve", "publish", "subscribe", "trigger", "status", "history", "check-config"):
        assert command in done.stdout


def test_bare_edge_shows_the_first_steps() -> None:
    done = subprocess.run([sys.executable, "-m", "edge"], stdout=subprocess.PIPE, text=True, check=True)
    for step in ("edge serve", "edge subscribe demo", "edge publish demo"):
        assert step in done.stdout


LINES = st.text(st.characters(exclude_characters="\r\n\0", exclude_categories=["Cs"]), max_size=20)


@given(st.lists(st.tuples(LINES, st.lists(LINES, min_size=1, max_size=3)), max_size=5))
def test_parsing_gives_back_what_was_framed(events: list[tuple[str, list[str]]]) -> None:
    wire = b": ping\n" + b"".join(
        (f"event: {kind}\n" if kind else "").encode()
        + b"".join(f"data: {line}\n".encode() for line in lines)
        + f"id: e-{number}\n\n".encode()
        for number, (kind, lines) in enumerate(events)
    )
    expected = [
        StreamEvent(f"e-{number}", kind or "message", "\n".join(lines)) for number, (kind, lines) in enumerate(events)
    ]
    assert expected == list(parse(wire.splitlines(keepends=True)))


def test_a_hub_is_a_url_or_a_socket() -> None:
    assert Hub("unix:/run/edge.sock", None) == Hub("unix:/run/edge.sock", None, verify=True)


async def test_explain_prints_what_the_hub_says() -> None:
    async with running() as hub:
        await hub.publish("p")
        text, document, refused = await asyncio.gather(
            live.output_of("explain", "p", "--url", f"{hub.url}/"),
            live.output_of("explain", "p", "--json", EDGE_SERVER_PORT=hub.url.rpartition(":")[2]),
            live.output_of("explain", "no id", "--url", hub.url),
        )

    assert 0 == text[0]
    assert text[1].startswith("p: no subscriber is connected.\n\nWhy: No subscriber has connected to this project")
    assert "never_connected" == json.loads(document[1])["cause"]
    assert 1 == refused[0]
    assert refused[1].startswith("edge: 400: A project id has 1 to 128 letters, ")


@pytest.mark.parametrize("unix", [False, True])
async def test_the_hub_of_the_configuration_may_have_a_prefix_and_a_socket(tmp_path: Path, unix: bool) -> None:
    environ = {"EDGE_SERVER_BASE_PATH": "/hub", "EDGE_AUTH_TOKEN": TOKEN, "EDGE_STREAM_HEARTBEAT_SECONDS": "300ms"}
    listening = ("--host", f"unix:{tmp_path}/a b.sock") if unix else ("--port", "0")
    serve = (sys.executable, "-m", "edge", "serve", *listening)
    async with live.process(*serve, env=environ) as hub:
        url = (await live.line_with(hub, r"listening on (\S.*)"))[1].strip()
        environ |= {"EDGE_SERVER_HOST": url} if unix else {"EDGE_SERVER_PORT": re.findall(r":(\d+)", url)[0]}
        explained, tested, healthy = await asyncio.gather(
            live.output_of("explain", "p", **environ),
            live.output_of("selftest", **environ),
            live.output_of("healthcheck", **environ),
        )

    assert (0, "p: no subscriber is connected.") == (explained[0], explained[1].splitlines()[0])
    assert 0 == tested[0], tested[1]
    assert 0 == healthy[0], healthy[1]


async def test_explain_sends_the_token_of_the_configuration_and_never_shows_it() -> None:
    async with running(auth={"token": [TOKEN]}) as hub:
        with_token, without, wrong = await asyncio.gather(
            live.output_of("explain", "p", "--url", hub.url, EDGE_AUTH_TOKEN=TOKEN),
            live.output_of("explain", "p", "--url", hub.url),
            live.output_of("explain", "p", "--url", "ftp://example.org", EDGE_AUTH_TOKEN=TOKEN),
        )

    assert 0 == with_token[0]
    assert with_token[1].startswith("p: no subscriber is connected.\n")
    assert 1 == without[0]
    assert "edge: 401: " in without[1]
    assert 2 == wrong[0]
    assert TOKEN not in with_token[1] + without[1] + wrong[1]
