"""What stands in one field can't become another: in the stream, in a header, in a log line, in a metric."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import jwt
import pytest

from tests.auth.keys import private_pem, public_pem
from tests.core.eventstream import Message, Parser
from tests.security.hub import running
from tests.security.wire import EVENTS

ROOT = Path(__file__).parents[2]
NASTY = [
    *("a\nid: 7", "a\rdata: forged", "a\r\n\r\nevent: edge.closing", "a\n\n: x", "\0", "a\0b", "\x85x"),
    *("\u2028data: x", "\u2029", "\u202egnp.exe", "😀" * 3),
    *("\ufeffx", "\x1b[2J\x1b]0;owned\x07", "\x7f\x9b31m", "<script>alert(1)</script>", '"}\n{"x":"'),
]  # fmt: skip


async def streamed(raw: bytes) -> list[Message]:
    return [item for item in Parser().feed(raw) if isinstance(item, Message)]


async def test_no_content_forges_a_field_of_the_stream() -> None:
    async with running() as hub:
        expected = []
        for text in NASTY:
            for kind, body, params in (
                ("text/plain", text.encode(), {}),
                ("application/json", json.dumps({"data": text}).encode(), {}),
                ("application/json", json.dumps({"data": text}, ensure_ascii=False).encode(), {}),
                ("application/json", json.dumps({"type": text, "data": 1}).encode(), {}),
                ("text/plain", b"x", {"type": text}),
            ):
                async with hub.client.post(
                    hub.url + EVENTS, data=body, headers={"Content-Type": kind}, params=params
                ) as response:
                    assert response.status in (202, 400)
                    if response.status == 202:
                        expected.append((await response.json())["id"])
        raw = b""
        async with hub.client.get(f"{hub.url}{EVENTS}?since=all") as response:
            async for line in response.content:
                raw += line
                if raw.count(b"\nid: ") == 1 + len(expected) and raw.endswith(b"\n\n"):
                    break
        events = [one for one in await streamed(raw) if not one.type.startswith("edge.")]
        assert expected == [one.id for one in events]
        assert ["edge.hello"] == [one.type for one in await streamed(raw) if one.type.startswith("edge.")]


async def test_no_parameter_forges_a_header_or_a_field_of_a_problem() -> None:
    async with running() as hub:
        for text in NASTY:
            for name in ("since", "heartbeat", "timeout", "last_event_id", "ticket"):
                url = f"{hub.url}/projects/p1/{'ready' if name == 'timeout' else 'events'}"
                async with hub.client.get(url, params={name: text}) as response:
                    assert {"x", "set-cookie", "id"}.isdisjoint(key.lower() for key in response.headers)
                    if response.status >= 400:
                        detail = (await response.json(content_type=None))["detail"]
                        assert detail.isprintable()


async def test_no_name_forges_a_metric() -> None:
    async with running() as hub:
        for name in ("a-b.c~d_e", "edge_misses_total", "x" * 128):
            async with hub.client.post(f"{hub.url}/projects/{name}/events", json={"data": 1}):
                pass
        async with hub.client.get(f"{hub.url}/metrics") as response:
            text = await response.text()
        for line in text.splitlines():
            assert re.fullmatch(r'#.*|[a-z_]+(\{[a-z_]+="[^"\n]*"(,[a-z_]+="[^"\n]*")*\})? [0-9.eE+-]+', line), line
        assert "a-b.c~d_e" not in text


# --- a hub of its own: its log, its process list entry, its errors ---

SECRETS = {
    "EDGE_AUTH_TOKEN": "the-static-token-0123456789",
    "EDGE_AUTH_JWT_KEY": public_pem("Ed25519"),
    "EDGE_TRIGGER_SECRET": "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=",
    "EDGE_TRIGGER_URL": "http://user:the-password@127.0.0.1:1/e/the-inngest-key",
}
SHOWN_NEVER = ["the-static-token", "MDEyMzQ1Njc4OWFiY2Rl", "the-password", "the-inngest-key"]


@contextmanager
def serving(log: Path, **environment: str) -> Iterator[tuple[str, int]]:
    """A hub in a process of its own: its URL and process id; all it logs is in `log`."""
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "edge", "serve", "--port", "0"],
            env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **environment},
            stdout=subprocess.PIPE,
            stderr=file,
        )
        assert process.stdout is not None
        url = process.stdout.readline().decode().removeprefix("edge: listening on ").strip()
        try:
            yield url, process.pid
        finally:
            process.terminate()
            process.communicate(timeout=60)


@pytest.mark.linux
@pytest.mark.parametrize("log_format", ["json", "console"])
def test_no_secret_is_shown_and_no_line_is_forged_in_the_log(log_format: str, tmp_path: Path) -> None:
    log = tmp_path / "log"
    token = jwt.encode({"edge": {"*": []}, "exp": time.time() + 60}, private_pem("Ed25519"), "EdDSA")
    more = {"EDGE_SERVER_LOG_FORMAT": log_format, "EDGE_SERVER_LOG_LEVEL": "debug", "EDGE_SERVER_ACCESS_LOG": "true"}
    shown = b""
    with serving(log, **SECRETS, **more) as (url, pid), httpx.Client(base_url=url, timeout=60) as client:
        static = {"Authorization": f"Bearer {SECRETS['EDGE_AUTH_TOKEN']}"}
        ticket = client.post("/projects/p1/ticket", headers=static).json()["ticket"]
        answers = [
            client.get("/projects", headers=static),
            client.get("/projects", headers={"Authorization": f"Bearer {token}"}),
            client.get("/projects", headers={"Authorization": f"Bearer {token[:-4]}AAAA"}),
            client.get("/projects", headers={"Cookie": f"edge_token={token}"}),
            client.get(f"/projects/p1/ready?ticket={ticket}&timeout=0"),
            client.get(f"/projects/p1/ready?ticket={ticket}&timeout=0"),
            client.get(f"/projects?token={token}"),
            client.post("/projects/p1/trigger?timeout=0&on_timeout=dispatch", json={"name": "x"}, headers=static),
        ]
        for text in NASTY:
            body = {"name": text, "data": text, "id": "x"}
            answers.append(client.post("/projects/p1/trigger?timeout=0", json=body, headers=static))
            answers.append(client.get("/projects/p1", params={"x": text}, headers={**static, "User-Agent": "\x1b[2J"}))
            answers.append(client.get(f"/projects/{text.encode().hex()}%0a%1b[2J/events", headers=static))
        for answer in answers[1:8]:
            shown += answer.content + str(answer.headers).encode()
        shown += b"".join(answer.content for answer in answers)
        proc = Path(f"/proc/{pid}/cmdline").read_bytes()
    lines = log.read_bytes()
    for secret in (*SHOWN_NEVER, token, token.rpartition(".")[2], ticket):
        for place, content in (("log", lines), ("answers", shown), ("process list", proc)):
            assert secret.encode() not in content, place
    assert not re.search(rb"[\x00-\x09\x0b-\x1f\x7f]|\xe2\x80[\xa8\xa9]|\xc2[\x80-\x9f]", lines), "a control character"
    for line in lines.decode().splitlines():
        if log_format == "json":
            assert {"time", "level", "event"} <= json.loads(line).keys()
        else:
            assert re.match(r"\d{4}-\d\d-\d\dT\S+Z (debug|info|warning|error) ", line), line


def test_nothing_a_caller_sends_changes_where_a_job_goes(tmp_path: Path) -> None:
    """The target is a field of no request; one that looks like it is refused, or is data."""
    with serving(tmp_path / "log") as (url, _), httpx.Client(base_url=url, timeout=60) as client:
        refused = client.post("/projects/p1/trigger?timeout=0&url=http://evil.example", json={"name": "x"})
        assert "unknown_parameter" == refused.json()["code"]
        for body in (
            {"name": "x", "url": "http://evil.example"},
            {"name": "x", "target": "http://evil.example"},
            {"name": "x", "headers": {"Host": "evil.example"}},
            {"name": "x", "data": {"url": "http://evil.example", "project": "p2"}},
        ):
            headers = {"X-Forwarded-Host": "evil.example", "Location": "http://evil.example"}
            path = "/projects/p1/trigger?timeout=0&on_timeout=dispatch"
            answer = client.post(path, json=body, headers=headers)
            if "data" not in body:
                assert (400, "invalid_trigger") == (answer.status_code, answer.json()["code"])
                continue
            assert (202, "stream") == (answer.status_code, answer.json()["target"]["kind"])
        assert 404 == client.get("/projects/p2").status_code
        assert 1 == client.get("/projects/p1").json()["ring"]["events"]
