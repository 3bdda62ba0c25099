"""Every error is a problem document, and every code can really be met."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from edge.cluster.local import LocalNode
from edge.core.errors import StoreUnavailable
from edge.http.problems import PROBLEMS
from tests.http.client import Answer, Site, read_answer
from tests.hubs import StartHub
from tests.triggers.receiver import answer, receiving

JSON = {"Content-Type": "application/json"}
HELLO = b"GET /projects/p/events HTTP/1.1\r\nHost: localhost\r\n\r\n"


async def limited_connections(start_hub: StartHub, setting: str) -> Answer:
    site = await start_hub(limits={setting: 1})
    async with site.stream():
        return await site.ask("GET", "/projects/p/events")


async def full_of_waiters(start_hub: StartHub) -> Answer:
    site = await start_hub(limits={"max_waiting": 1})
    waiting = asyncio.create_task(site.trigger(timeout="20s"))
    while site.context.readiness.waiting != 1:
        await asyncio.sleep(0.005)
    refused = await site.trigger()
    site.context.drain()
    await waiting
    return refused


async def full_of_projects(start_hub: StartHub) -> Answer:
    site = await start_hub(limits={"max_projects": 1})
    await site.publish(1, project="a")
    assert "too_many_projects" == (await site.ask("GET", "/projects/b/events")).problem["code"]
    return await site.publish(1, project="b")


async def full_of_keys(start_hub: StartHub) -> Answer:
    site = await start_hub(limits={"max_idempotency_keys": 1})
    await site.ask("POST", "/projects/p/events", json={"data": 1}, headers={"Idempotency-Key": "a"})
    return await site.ask("POST", "/projects/p/events", json={"data": 1}, headers={"Idempotency-Key": "b"})


async def other_body(start_hub: StartHub) -> Answer:
    site = await start_hub()
    await site.ask("POST", "/projects/p/events", json={"data": 1}, headers={"Idempotency-Key": "a"})
    return await site.ask("POST", "/projects/p/events", json={"data": 2}, headers={"Idempotency-Key": "a"})


async def half_closed_waiter(start_hub: StartHub) -> Answer:
    site = await start_hub()
    reader, writer = await site.raw(b"GET /projects/p/ready?timeout=20s HTTP/1.1\r\nHost: localhost\r\n\r\n")
    writer.write_eof()
    try:
        return await read_answer(reader)
    finally:
        writer.close()
        await writer.wait_closed()


async def failing_target(start_hub: StartHub) -> Answer:
    async with receiving(answer(404)) as receiver:
        site = await start_hub(trigger={"url": receiver.url})
        async with site.stream():
            return await site.trigger()


async def draining(start_hub: StartHub) -> Answer:
    site = await start_hub()
    site.context.drain()
    return await site.ask("GET", "/projects/p/events")


async def broken_handler(start_hub: StartHub, monkeypatch: pytest.MonkeyPatch) -> Answer:
    def broken(*_: object) -> None:
        raise LookupError("a detail no client should see")

    monkeypatch.setattr(LocalNode, "page", broken)
    site = await start_hub()
    return await site.ask("GET", "/projects")


async def broken_store(start_hub: StartHub, monkeypatch: pytest.MonkeyPatch) -> Answer:
    site = await start_hub()
    monkeypatch.setattr(type(site.context.store), "problem", StoreUnavailable("Make room.", retry_after_seconds=5))
    return await site.ask("GET", "/readyz")


def asked(method: str, path: str, **options: Any) -> Callable[[StartHub], Awaitable[Answer]]:
    async def case(start_hub: StartHub) -> Answer:
        return await (await start_hub()).ask(method, path, **options)

    return case


def sent(request: bytes) -> Callable[[StartHub], Awaitable[Answer]]:
    async def case(start_hub: StartHub) -> Answer:
        return await (await start_hub()).exchange(request)

    return case


def limited(setting: str) -> Callable[[StartHub], Awaitable[Answer]]:
    async def case(start_hub: StartHub) -> Answer:
        return await limited_connections(start_hub, setting)

    return case


EVENTS = "/projects/p/events"
CASES: dict[str, Callable[..., Awaitable[Answer]]] = {
    "invalid_project": asked("GET", "/projects/-/events"),
    "invalid_event": asked("POST", EVENTS, data="{}", headers=JSON),
    "invalid_trigger": asked("POST", "/projects/p/trigger", data="{}", headers=JSON),
    "invalid_parameter": asked("GET", f"{EVENTS}?since=never"),
    "invalid_request": asked("POST", "/projects/p/connections/c/ack", data="{}", headers=JSON),
    "malformed_http": sent(
        b"POST /projects/p/events HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n"
    ),
    "unknown_parameter": asked("GET", f"{EVENTS}?sinse=all"),
    "half_closed": half_closed_waiter,
    "url_too_long": sent(b"GET /" + b"x" * 9_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n"),
    "header_too_large": sent(b"GET / HTTP/1.1\r\nHost: localhost\r\nCookie: " + b"x" * 9_000 + b"\r\n\r\n"),
    "not_found": asked("GET", "/nothing"),
    "unknown_project": asked("GET", "/projects/p"),
    "method_not_allowed": asked("PUT", EVENTS),
    "not_acceptable": asked("GET", EVENTS, headers={"Accept": "text/html"}),
    "no_connection": asked("GET", "/projects/p/ready?timeout=0"),
    "body_too_large": sent(
        b"POST /projects/p/events HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 1048577\r\n\r\n"
        + b" " * 1048577
    ),
    "event_too_large": asked("POST", EVENTS, json={"data": "x" * (1 << 18)}),
    "unsupported_media_type": asked("POST", EVENTS, data=b"<x/>", headers={"Content-Type": "text/xml"}),
    "unsupported_encoding": sent(
        b"POST /projects/p/events HTTP/1.1\r\nHost: localhost\r\nContent-Encoding: gzip\r\n"
        b"Connection: close\r\nContent-Length: 1\r\n\r\nx"
    ),
    "expectation_failed": asked("POST", EVENTS, json={"data": 1}, headers={"Expect": "the-worst"}),
    "idempotency_mismatch": other_body,
    "too_many_project_connections": limited("max_connections_per_project"),
    "too_many_address_connections": limited("max_connections_per_address"),
    "internal": broken_handler,
    "dispatch_failed": failing_target,
    "draining": draining,
    "store_unavailable": broken_store,
    "too_many_connections": limited("max_connections"),
    "too_many_projects": full_of_projects,
    "too_many_waiting": full_of_waiters,
    "too_many_idempotency_keys": full_of_keys,
}


@pytest.mark.parametrize("code", CASES)
async def test_the_code_is_met(code: str, start_hub: StartHub, monkeypatch: pytest.MonkeyPatch) -> None:
    case = CASES[code]
    wants_patching = case in (broken_handler, broken_store)
    met = await (case(start_hub, monkeypatch) if wants_patching else case(start_hub))
    assert code == met.problem["code"]
    if PROBLEMS[code].status in (429, 503):
        assert int(met.headers["Retry-After"]) >= 1


def test_no_code_is_left_untested() -> None:
    """A code that isn't met here is named in another test file."""
    others = "".join(
        path.read_text() for path in Path(__file__).parent.parent.rglob("test_*.py") if path != Path(__file__)
    )
    assert set() == {code for code in PROBLEMS if code not in CASES and f'"{code}"' not in others}


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/projects/p/events", "GET, HEAD, OPTIONS, POST"),
        ("/projects/p", "DELETE, GET, HEAD, OPTIONS"),
        ("/healthz", "GET, HEAD, OPTIONS"),
    ],
)
@pytest.mark.parametrize("method", ["PUT", "PATCH", "TRACE"])
async def test_a_method_that_isnt_served_names_those_that_are(site: Site, path: str, allowed: str, method: str) -> None:
    refused = await site.ask(method, path)
    assert "method_not_allowed" == refused.problem["code"]
    assert set(allowed.split(", ")) == set(refused.headers["Allow"].replace(" ", "").split(","))


async def test_a_method_that_no_path_has_names_those_of_the_hub(site: Site) -> None:
    answer = await site.exchange(b"BREW /projects HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert (405, "DELETE, GET, HEAD, OPTIONS, POST") == (answer.status, answer.headers["Allow"])


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_an_empty_project_is_no_project_id(site: Site, method: str) -> None:
    """As a page sends it whose variable is empty."""
    assert "invalid_project" == (await site.ask(method, "/projects//events", json={"data": 1})).problem["code"]
    assert "not_found" == (await site.ask(method, "/projects//nothing")).problem["code"]


@pytest.mark.parametrize("path", ["/projects/", "/projects/p/", "/projects/p/events/", "//healthz", "/healthz/x"])
async def test_paths_are_taken_as_they_are(site: Site, path: str) -> None:
    assert "not_found" == (await site.ask("GET", path)).problem["code"]


async def test_an_unexpected_exception_is_logged_once_and_reveals_nothing(
    start_hub: StartHub, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    failed = await broken_handler(start_hub, monkeypatch)
    assert "internal" == failed.problem["code"]
    assert b"no client should see" not in failed.body
    assert b"LookupError" not in failed.body
    printed = "".join(capfd.readouterr())
    assert 1 == printed.count("unexpected_error")
    assert 1 == printed.count("LookupError: a detail no client should see")


async def test_a_refused_body_is_still_read_so_that_the_answer_arrives(site: Site) -> None:
    """Closing with bytes unread would make the kernel reset the connection, and the answer with it."""
    refused = await site.ask("POST", "/projects/p/events", data=io.BytesIO(b" " * (8 << 20)), headers=JSON)
    assert "body_too_large" == refused.problem["code"]


async def test_expect_100_continue_is_answered_first(site: Site) -> None:
    head = b"POST /projects/p/events HTTP/1.1\r\nHost: localhost\r\nContent-Length: 11\r\nExpect: 100-continue\r\n\r\n"
    reader, writer = await site.raw(head)
    assert b"HTTP/1.1 100 Continue\r\n" == await reader.readline()
    assert b"\r\n" == await reader.readline()
    writer.write(b'{"data": 1}')
    assert b"HTTP/1.1 202 Accepted\r\n" == await reader.readline()
    writer.close()
    await writer.wait_closed()


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_no_answer_names_versions(site: Site, method: str) -> None:
    assert "edge" == (await site.ask(method, "/nothing")).headers["Server"]
