"""SIGHUP: what changes while streams stay open, what needs a restart, and what changes nothing."""

from __future__ import annotations

import asyncio
import base64
import signal
from pathlib import Path
from typing import Any

import pytest

from edge.server.accept import BESIDE_STREAMS
from tests.faults.hub import HubProcess, serving, until
from tests.faults.reader import open_stream
from tests.server.test_process import logged
from tests.triggers.receiver import answer, receiving

FIRST, SECOND = "first-token-of-some-length", "second-token-of-some-length"
SECRET = base64.b64encode(b"0" * 32).decode()


def write(path: Path, **sections: dict[str, Any]) -> None:
    lines = []
    for section, values in sections.items():
        lines.append(f"[{section}]")
        lines += [f"{name} = {value!r}".replace("True", "true") for name, value in values.items()]
    path.write_text("\n".join(lines))


def configured(path: Path) -> dict[str, Any]:
    """A hub that takes everything from the file at `path`."""
    return {"config": path, "server__log_format": "json", "server__host": "127.0.0.1", "auth__anonymous": None}


async def reloaded(hub: HubProcess, event: str = "config_reloaded") -> dict[str, Any]:
    before = sum(event in line for line in hub.log)
    hub.signal(signal.SIGHUP)
    return (await logged(hub, event, before + 1))[-1]


def bearer(token: str) -> dict[str, Any]:
    return {"headers": {"Authorization": f"Bearer {token}"}}


async def test_without_tls_a_hang_up_reloads_and_ends_nothing(tmp_path: Path) -> None:
    path = tmp_path / "edge.toml"
    write(path, ring={"max_events": 10})
    async with serving(**configured(path)) as hub:
        stream = await open_stream(("127.0.0.1", hub.port), "p")
        line = await reloaded(hub)
        assert ([], []) == (line["changed"], line["restart_needed"])
        write(path, ring={"max_events": 20}, limits={"max_projects": 1}, server={"log_level": "debug"})
        line = await reloaded(hub)
        assert ["server.log_level", "limits.max_projects"] == line["changed"]
        assert ["ring.max_events"] == line["restart_needed"]
        assert "too_many_projects" == (await hub.ask("POST", "/projects/q/events", json={"data": 1}))[1]["code"]
        await hub.publish("p", 1)
        assert [1] == await stream.events(1), "no stream notices"
        await stream.close()


async def first_line(hub: HubProcess) -> bytes:
    """Of the answer on a connection of its own, which stays open; empty where it is closed without one."""
    reader, writer = await asyncio.open_connection("127.0.0.1", hub.port)
    kept.append(writer)
    writer.write(b"GET /projects HTTP/1.1\r\nHost: localhost\r\n\r\n")
    return await reader.readline()


kept: list[asyncio.StreamWriter] = []


async def test_limits_of_connections_are_read_anew(tmp_path: Path) -> None:
    path = tmp_path / "edge.toml"
    write(path)
    async with serving(**configured(path)) as hub:
        write(path, limits={"max_connections_per_address": 1})
        assert ["limits.max_connections_per_address"] == (await reloaded(hub))["changed"]
        lines = [await first_line(hub) for _ in range(BESIDE_STREAMS + 2)]
        assert b" 200 " in lines[0]
        assert b" 429 " in lines[-1]
        write(path, limits={"max_connections_per_address": 1}, server={"trusted_proxies": ["127.0.0.1"]})
        await reloaded(hub)
        assert b" 200 " in await first_line(hub), "a proxy's connections aren't counted"
        write(path, limits={"idle_seconds": 0.1})
        await reloaded(hub)
        reader, writer = await asyncio.open_connection("127.0.0.1", hub.port)
        assert b"" == await reader.read(), "closed, as it is idle"
        for each in (writer, *kept):
            each.close()
        kept.clear()


async def test_tokens_rotate_without_a_moment_in_which_neither_is_good(tmp_path: Path) -> None:
    path = tmp_path / "edge.toml"
    write(path, auth={"token": [FIRST]})
    async with serving(**configured(path)) as hub:
        stream = await open_stream(("127.0.0.1", hub.port), "p", headers=f"Authorization: Bearer {FIRST}\r\n")

        async def statuses() -> tuple[int, ...]:
            answers = [await hub.ask("GET", "/projects", **bearer(token)) for token in (FIRST, SECOND)]
            return tuple(status for status, _, _ in answers)

        assert (200, 401) == await statuses()
        write(path, auth={"token": [FIRST, SECOND]})
        assert ["auth.token"] == (await reloaded(hub))["changed"]
        assert (200, 200) == await statuses()
        write(path, auth={"token": [SECOND]})
        await reloaded(hub)
        assert (401, 200) == await statuses()
        await hub.publish("p", 1, **bearer(SECOND))
        assert [1] == await stream.events(1), "no stream notices"
        await stream.close()
        assert FIRST not in hub.log_text
        assert SECOND not in hub.log_text


@pytest.mark.parametrize(
    ("broken", "why"),
    [
        ("[server", "isn't valid TOML"),
        ("[limits]\nmax_projects = 0", "limits.max_projects = 0"),
        ("[trigger]\nsecret = 'short'", "trigger.secret = ***"),
        ("[auth]\njwt_key = '-----BEGIN PUBLIC KEY-----'", "auth.jwt_key"),
        ("[limits]\nmax_event_bytes = '2MiB'", "must not be larger than ring.max_bytes"),
    ],
)
async def test_a_broken_file_changes_nothing_and_says_why(tmp_path: Path, broken: str, why: str) -> None:
    path = tmp_path / "edge.toml"
    write(path, auth={"token": [FIRST]})
    async with serving(**configured(path)) as hub:
        path.write_text(broken)
        line = await reloaded(hub, "config_not_reloaded")
        assert why in line["problem"]
        assert 200 == (await hub.ask("GET", "/projects", **bearer(FIRST)))[0]


async def test_a_hub_that_others_reach_is_not_opened_by_a_reload(tmp_path: Path) -> None:
    path = tmp_path / "edge.toml"
    write(path, auth={"token": [FIRST]})
    async with serving(**configured(path) | {"server__host": "0.0.0.0"}) as hub:
        path.write_text("")
        line = await reloaded(hub, "config_not_reloaded")
        assert "no permissions are configured" in line["problem"]
        assert 401 == (await hub.ask("GET", "/projects"))[0]


async def test_triggers_go_to_the_new_target_and_origins_are_read_anew(tmp_path: Path) -> None:
    path = tmp_path / "edge.toml"
    path.write_text("")
    async with receiving(answer(200)) as receiver, serving(**configured(path)) as hub:
        ask = {"json": {"name": "job"}, "params": {"on_timeout": "dispatch", "timeout": "0s"}}
        assert "stream" == (await hub.ask("POST", "/projects/p/trigger", **ask))[1]["target"]["kind"]
        write(path, trigger={"url": receiver.url, "secret": [SECRET]}, cors={"origins": ["https://a.example"]})
        assert ["trigger.url", "trigger.secret", "cors.origins"] == (await reloaded(hub))["changed"]
        origin = {"headers": {"Origin": "https://a.example"}}
        status, receipt, headers = await hub.ask("POST", "/projects/p/trigger", **ask, **origin)
        assert (202, "webhook") == (status, receipt["target"]["kind"])
        assert "https://a.example" == headers["Access-Control-Allow-Origin"]
        assert "webhook-signature" in receiver.requests[0].headers


async def test_a_store_that_is_not_ready_is_waited_for(tmp_path: Path) -> None:
    folder = tmp_path / "not-mounted-yet"
    async with serving(store__url=f"sqlite:{folder}/history.db", server__log_format="json") as hub:

        async def readiness() -> int:
            return (await hub.ask("GET", "/readyz"))[0]

        assert 503 == await readiness()
        assert 200 == (await hub.ask("GET", "/healthz"))[0]
        assert 0 == (await hub.metrics())["edge_store_available"]
        for method, ask in (("POST", "events"), ("GET", "events"), ("GET", "ready"), ("GET", "explain")):
            status, problem, _ = await hub.ask(method, f"/projects/p/{ask}")
            assert (503, "store_unavailable") == (status, problem["code"])
        [line] = await logged(hub, "store_not_opened")
        assert "does its folder exist" in line["error"]
        folder.mkdir()
        await until(readiness, lambda status: status == 200)
        await hub.publish("p", 1)
        assert 1 == (await hub.metrics())["edge_store_available"]
        assert 1 == len(await logged(hub, "store_not_opened")), "the same line repeated does not help"


async def test_a_store_that_turns_out_to_be_unusable_ends_the_process_with_2(tmp_path: Path) -> None:
    folder = tmp_path / "not-mounted-yet"
    async with serving(store__url=f"sqlite:{folder}/history.db") as hub:
        assert 503 == (await hub.ask("GET", "/readyz"))[0]
        made = tmp_path / "made"
        made.mkdir()
        (made / "history.db").write_bytes(b"not a database, but long enough to be looked at" * 100)
        made.rename(folder)
        assert 2 == await hub.ended()
        assert "it is not a database" in hub.log[-1]
