from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from docs import make_api
from edge.config.schema import AuthSettings, Config, MetricsSettings
from edge.config.units import parse_duration
from edge.core.errors import InvalidRequest
from edge.core.event import check_type
from edge.core.resume import is_event_id
from edge.http import patterns
from edge.http import routes as http_app
from edge.http.openapi import codes, document
from edge.http.operations import operations
from edge.http.problems import PROBLEMS
from edge.server.assembly import assemble
from tests.security.hub import running

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent


def matches(pattern: str, text: str) -> bool:
    """As a JSON schema means it: `$` is the end, not the line end before it."""
    return re.search(pattern.replace("$", r"\Z"), text) is not None


# --- the document and the routes ---


@pytest.mark.parametrize("config", [Config(), Config(metrics=MetricsSettings(port=0))])
async def test_every_route_is_an_operation_and_takes_the_right_it_says(config: Config) -> None:
    _, context = await assemble(config)
    routes = {
        (route.method.lower(), route.path): route.permission
        for route in http_app.routes(context)
        if not re.fullmatch(r"/|/[\w.-]+\.(js|ts|css|svg|html)", route.path)
    }
    told = {(one.method, one.path): one.permission for one in operations(config) if one.method != "head"}
    assert routes == told
    await context.target.close()
    await context.store.close()


async def test_the_document_is_served() -> None:
    async with running() as hub, hub.client.get(f"{hub.url}/openapi.json") as response:
        assert (200, "application/json") == (response.status, response.content_type)
        served = await response.json()
    assert json.loads(json.dumps(document(Config()))) == served
    assert "3.1.0" == served["openapi"]


def test_every_code_can_happen_somewhere_and_is_told_there() -> None:
    config = Config(auth=AuthSettings(token=("x",)))
    told = {code for one in operations(config) for code in codes(one, config)}
    # These are answers to what is no operation.
    assert {"not_found", "method_not_allowed"} == set(PROBLEMS) - told


def test_the_reference_page_is_what_the_document_makes() -> None:
    assert make_api.page() == make_api.PAGE.read_text(encoding="utf-8"), "run `make docs`"


def test_without_auth_nothing_asks_for_a_token_and_with_it_everything_does() -> None:
    assert "securitySchemes" not in document(Config())["components"]
    made = document(Config(auth=AuthSettings(token=("x",), anonymous=("subscribe",))))
    for path, methods in made["paths"].items():
        for method, operation in methods.items():
            expected = None if operation["operationId"] in ("healthz", "readyz", "openapi", "ack") else 2
            if operation["operationId"] in ("subscribe", "headers", "history", "ticket"):
                assert [{}] == operation["security"]
            else:
                assert expected == (len(operation["security"]) if "security" in operation else None), (method, path)


# --- patterns say just what is taken ---


def duration_of_at_most(text: str, highest_seconds: float) -> bool:
    try:
        return parse_duration(text) <= highest_seconds
    except ValueError:
        return False


_numbers = st.from_regex(r"[0-9]{1,4}(\.[0-9]{1,10})?|0{0,14}[0-9]{1,6}|[0-9]{14,17}", fullmatch=True)
_units = st.sampled_from(["", "ms", "s", "m", "h", "d", "x", " s", "\n"])


@given(
    st.builds("{}{}".format, _numbers, _units) | st.text(),
    st.sampled_from([0.0, 0.05, 0.1, 1.0, 2.5, 9.0, 10.0, 60.0, 99.9, 100.0, 101.0, 1200.0, 3600.0]),
)
def test_the_pattern_of_a_bounded_duration(text: str, highest_seconds: float) -> None:
    pattern = patterns.duration_up_to(highest_seconds)
    assert duration_of_at_most(text, highest_seconds) is matches(pattern, text)


@pytest.mark.parametrize("highest_seconds", [0.05, 3.0, 60.0])
def test_the_pattern_of_a_duration_at_its_bound(highest_seconds: float) -> None:
    pattern = patterns.duration_up_to(highest_seconds)
    for text in (
        *(
            "0",
            "0.0",
            "000",
            "00000000000000.000000000",
            "60",
            "60.0",
            "060.000000000",
            "60.000000001",
            "61",
            "3",
            "3.0",
        ),
        *("1m", "1.0m", "01.000m", "1.1m", "0.016666666h", "0.016666667h", "60000ms", "60000.1ms", "50ms", "50.1ms"),
        *("000694444d", "0.000694444d", "0.000694445d", "3.000000001s", "2.999999999s", "49.999999999ms"),
    ):
        assert duration_of_at_most(text, highest_seconds) is matches(pattern, text), text


@given(st.text() | st.from_regex(r"e?dge?\.?.{0,3}|.{250,260}", fullmatch=True))
def test_the_pattern_of_a_type(name: str) -> None:
    try:
        check_type(name)
        taken = True
    except InvalidRequest:
        taken = False
    assert taken is matches(patterns.TYPE, name)


@given(st.from_regex(r"[0-9a-z]{0,33}-[0-9]{0,19}") | st.text("a1-\n", max_size=5))
def test_the_pattern_of_an_event_id(text: str) -> None:
    assert is_event_id(text) is matches(patterns.EVENT_ID, text)


# --- a running hub does what the document says ---

SETTINGS = """
[stream]
heartbeat_seconds = 0.3
max_lifetime_seconds = 0.01
[trigger]
wait_seconds = 0.01
max_wait_seconds = 0.05
"""
TOKEN = "the-token-of-schemathesis"


@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.parametrize("auth", [False, True])
def test_schemathesis_finds_nothing(auth: bool, tmp_path: Path) -> None:
    config = tmp_path / "edge.toml"
    config.write_text(SETTINGS + (f'[auth]\ntoken = "{TOKEN}"\n' if auth else ""))
    environment: dict[str, Any] = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "SCHEMATHESIS_HOOKS": "tests.http.schemathesis_hooks",
    }
    hub = subprocess.Popen(
        [sys.executable, "-m", "edge", "serve", "--port", "0", "--config", str(config)],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert hub.stdout is not None
    url = hub.stdout.readline().removeprefix("edge: listening on ").strip()
    try:
        run = subprocess.run(
            [
                *(sys.executable, "-m", "schemathesis.cli"),
                *("--config-file", str(HERE / "schemathesis.toml"), "run", f"{url}/openapi.json"),
                *("--checks", "all", "--max-examples", "8", "--seed", "1", "--no-color"),
                # A project exists as soon as it is published or subscribed to, also one that was deleted.
                *("--exclude-checks", "use_after_free"),
                *("--generation-database", "none"),
                # With a token it is the refusals that differ: the examples of the coverage phase ask for each.
                *(("--phases", "coverage", "-H", f"Authorization: Bearer {TOKEN}") if auth else ()),
            ],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert 0 == run.returncode, run.stdout + run.stderr
        assert hub.poll() is None
    finally:
        hub.terminate()
        _, log = hub.communicate(timeout=60)
    assert "unexpected_error" not in log
