"""Every example in docs/trigger.md is what really happens."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edge.triggers.job import FORMATS, Delivery, Job
from edge.triggers.webhook import WebhookTarget
from tests.triggers.receiver import Received, answer, receiving

PAGE = (Path(__file__).parents[2] / "docs" / "trigger.md").read_text()
SECRET = "whsec_" + base64.b64encode(b"0123456789abcdef0123456789abcdef").decode()
JOB = Job(
    id="job_2Xk9",
    name="api/iterate",
    ts_ms=1_700_000_000_123,
    project="p1",
    data=msgspec.Raw(b'{"prompt": "a red house"}'),
)


def example(title: str) -> str:
    [text] = re.findall(rf"<!-- {re.escape(title)} -->\n```\w+\n(.*?)\n```\n", PAGE, re.DOTALL)
    return str(text)


async def sent(now_ms: int = JOB.ts_ms, **options: Any) -> tuple[Received, Delivery]:
    reply = answer(202, b'{"ids":["1"]}' if options.get("format") == "inngest" else b'{"queued":true}')
    async with receiving(reply) as receiver:
        url = f"http://127.0.0.1:{receiver.port}/jobs"
        target = WebhookTarget(url, secrets=(SECRET,), now_ms=lambda: now_ms, **options)
        delivery = await target.dispatch(JOB)
        await target.close()
        received = receiver.requests[0]
        received.headers["host"] = received.headers["host"].replace(str(receiver.port), "3000")
    return received, delivery


@pytest.mark.parametrize("name", FORMATS)
async def test_the_page_shows_the_body_of_every_format(name: str) -> None:
    received, _ = await sent(format=name)
    assert example(name) == received.body.decode()


async def test_the_page_shows_the_headers() -> None:
    received, _ = await sent()
    line, *lines = example("json: headers").splitlines()
    assert line == received.line
    expected = {name.lower(): value for name, value in (each.split(": ", 1) for each in lines)}
    assert expected == received.headers


async def test_the_page_shows_what_the_caller_gets() -> None:
    _, delivery = await sent()
    assert example("delivery") == msgspec.json.encode(delivery).decode()


async def test_the_python_receiver_accepts_what_is_signed_and_nothing_else() -> None:
    received, _ = await sent(now_ms=time.time_ns() // 1_000_000)
    names: dict[str, Any] = {}
    exec(example("verify: python"), names)
    assert json.loads(received.body) == names["verify"](SECRET, received.headers, received.body)
    with pytest.raises(Exception, match="No matching signature"):
        names["verify"](SECRET, received.headers, received.body + b" ")


@pytest.mark.node
@pytest.mark.parametrize(
    ("change", "outcome"),
    [
        ({}, "job_2Xk9"),
        ({"body": "{}"}, "wrong signature"),
        ({"webhook-id": "job_other"}, "wrong signature"),
        ({"webhook-signature": "v1,AAAA v0,x"}, "wrong signature"),
        ({"webhook-timestamp": "1700000000"}, "too old or too new"),
        ({"webhook-timestamp": "soon"}, "too old or too new"),
    ],
)
async def test_the_node_receiver_accepts_what_is_signed_and_nothing_else(
    change: dict[str, str], outcome: str, tmp_path: Path
) -> None:
    received, _ = await sent(now_ms=time.time_ns() // 1_000_000)
    given = {"body": received.body.decode(), **received.headers, **change}
    script = tmp_path / "verify.mjs"
    script.write_text(
        example("verify: node")
        + f"\nconst given = {json.dumps(given)};\n"
        + f"try {{ console.log(verify({json.dumps(SECRET)}, given, Buffer.from(given.body)).id) }}"
        + " catch (error) { console.log(error.message) }\n"
    )
    node = shutil.which("node")
    assert node, "Node is among the system packages of the tests: run make test"
    process = await asyncio.create_subprocess_exec(node, script, stdout=subprocess.PIPE)
    output, _ = await process.communicate()
    assert outcome == output.decode().strip()
