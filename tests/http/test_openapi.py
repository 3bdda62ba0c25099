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
from jsonschema_rs import ValidationError

from docs import make_api
from edge import __version__
from edge.config.schema import AuthSettings, Config, MetricsSettings
from edge.config.units import parse_duration
from edge.core.errors import InvalidRequest
from edge.core.event import NewEvent, check_type
from edge.core.observer import Receipt
from edge.core.resume import is_event_id, is_stream_id
from edge.http import routes as http_app
from edge.http.ndjson import LinesTaken
from edge.http.openapi import document
from edge.http.params import LAST_ID_PARAMETERS
from edge.http.problems import PROBLEMS
from edge.http.status import Ack
from edge.http.trigger import Trigger
from edge.server.assembly import assemble
from edge.triggers.job import Delivery
from tests.http.client import check_answer
from tests.security.hub import running

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
DOCUMENT = document(Config())


def matches(pattern: str, text: str) -> bool:
    """As a JSON schema means it: `$` is the end, not the line end before it."""
    return re.search(pattern.replace("$", r"\Z"), text) is not None


# --- the document and the routes ---


def parameters(operation: dict[str, Any], place: str) -> set[str]:
    shared = DOCUMENT["components"]["parameters"]
    listed = [
        shared[one["$ref"].rpartition("/")[2]] if "$ref" in one else one for one in operation.get("parameters", ())
    ]
    return {one["name"] for one in listed if one["in"] == place}


@pytest.mark.parametrize("config", [Config(), Config(metrics=MetricsSettings(port=0))])
async def test_routes_and_document_agree(config: Config) -> None:
    _, context = await assemble(config)
    routes = {
        (route.method.lower(), route.path): (
            route.permission,
            set(route.parameters) - {"ticket", *LAST_ID_PARAMETERS[1:]},
            set(re.findall("{(.*?)}", route.path)),
        )
        for route in http_app.routes(context)
        if not re.fullmatch(r"/|/[\w.-]+\.(js|ts|css|svg|html)|/clients/.+", route.path)
    }
    described = {
        (method, path): (one.get("x-permission"), parameters(one, "query"), parameters(one, "path"))
        for path, methods in document(config)["paths"].items()
        for method, one in methods.items()
        if method != "head"
    }
    assert routes == described
    await context.target.close()
    await context.store.close()


STRUCTS = (Receipt, LinesTaken, NewEvent, Trigger, Ack, Delivery)


@pytest.mark.parametrize("struct", STRUCTS, ids=lambda one: str(one.__name__))
def test_schemas_have_the_fields_of_their_structs(struct: Any) -> None:
    schema = DOCUMENT["components"]["schemas"][struct.__name__]
    assert set(schema["properties"]) == set(struct.__struct_encode_fields__)
    assert schema.get("additionalProperties", True) is not struct.__struct_config__.forbid_unknown_fields


def test_an_answer_that_differs_from_its_schema_is_found() -> None:
    ready = {"ready": True, "waited_ms": 0.1, "connections": 1, "confirmed": "written"}
    ask = ("GET", "/projects/p/ready", 200, "application/json")
    check_answer(*ask, json.dumps(ready).encode())
    for wrong in (ready | {"more": 1}, ready | {"connections": None}, {"ready": True}):
        with pytest.raises(ValidationError):
            check_answer(*ask, json.dumps(wrong).encode())


async def test_document_is_served() -> None:
    async with running() as hub, hub.client.get(f"{hub.url}/openapi.json") as response:
        assert (200, "application/json") == (response.status, response.content_type)
        served = await response.json()
    assert document(Config()) == served
    assert ("3.1.0", __version__) == (served["openapi"], served["info"]["version"])


def test_every_code_is_listed_for_an_operation() -> None:
    text = json.dumps(document(Config())["paths"])
    # These are the answers to a request that is not an operation.
    assert {"not_found", "method_not_allowed"} == {code for code in PROBLEMS if f"`{code}`:" not in text}


def test_reference_page_is_generated_from_the_document() -> None:
    assert make_api.page() == make_api.PAGE.read_text(encoding="utf-8"), "run `make docs`"


def test_security_follows_the_configuration() -> None:
    secured = document(Config(auth=AuthSettings(token=("x",), anonymous=("subscribe",))))
    for path, methods in document(Config())["paths"].items():
        for method, operation in methods.items():
            permission = operation.get("x-permission")
            assert operation.get("security") == (None if permission is None else [{}])
            expected: list[Any] | None = [{}] if permission == "subscribe" else [{"bearer": []}, {"cookie": []}]
            expected = None if permission is None else expected
            assert secured["paths"][path][method].get("security") == expected, (method, path)


# --- patterns match exactly what is accepted ---


def pattern_of(*path: str) -> str:
    node: Any = DOCUMENT["components"]
    for name in path:
        node = node[name]
    pattern: str = node["pattern"]
    return pattern


@given(st.text() | st.from_regex(r"e?dge?\.?.{0,3}|.{250,260}", fullmatch=True))
def test_pattern_of_a_type(name: str) -> None:
    try:
        check_type(name)
        accepted = True
    except InvalidRequest:
        accepted = False
    assert accepted is matches(pattern_of("schemas", "NewEvent", "properties", "type"), name)
    assert accepted is matches(pattern_of("schemas", "Trigger", "properties", "name"), name)


@given(st.from_regex(r"[0-9a-z]{0,33}-[0-9]{0,19}") | st.text("a1-\n", max_size=5))
def test_pattern_of_an_event_id(text: str) -> None:
    assert is_event_id(text) is matches(pattern_of("schemas", "HistoryEvent", "properties", "id"), text)


@given(
    st.from_regex(r"[a.-]{0,2}:[0-9a-z]{0,33}-[0-9]{1,19}(,[a.]{0,129}:e-[0-9]){0,33}") | st.text("a1-:,\n", max_size=9)
)
def test_pattern_of_an_id_of_several_projects(text: str) -> None:
    stream = DOCUMENT["paths"]["/events"]["get"]["responses"]["200"]["content"]["text/event-stream"]
    assert is_stream_id(text) is matches(stream["schema"]["properties"]["id"]["pattern"], text)


@given(st.from_regex(r"[0-9]{0,17}(\.[0-9]{0,10})?[a-z]{0,2}") | st.text(max_size=5))
def test_pattern_of_a_duration(text: str) -> None:
    try:
        parse_duration(text)
        accepted = True
    except ValueError:
        accepted = False
    assert accepted is matches(pattern_of("parameters", "timeout", "schema"), text)


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
