"""`server.base_path`: everything under the prefix, and nothing outside it but the probes and the metrics."""

from __future__ import annotations

import pytest

from edge.http.routes import routes
from tests.hubs import StartHub

PREFIX = "/tools/hub"


async def test_everything_is_served_under_the_prefix(start_hub: StartHub) -> None:
    site = await start_hub(server={"base_path": PREFIX})
    for route in routes(site.context):
        path = route.path.replace("{project}", "p").replace("{connection}", "c")
        allowed = (await site.ask("OPTIONS", PREFIX + path)).headers["Allow"]
        assert route.method in allowed.split(", ")
    assert 202 == (await site.ask("POST", f"{PREFIX}/projects/p/events", json={"data": 1})).status
    async with site.session.get(f"{site.url}{PREFIX}/projects/p/events?since=all") as response:
        assert b"edge.hello" in await response.content.readuntil(b"\n\n")
    assert 200 == (await site.ask("GET", f"{PREFIX}/%70rojects/p")).status


@pytest.mark.parametrize("base_path", [None, PREFIX])
async def test_an_encoded_slash_separates_nothing(start_hub: StartHub, base_path: str | None) -> None:
    site = await start_hub(server={"base_path": base_path})
    for path, code in {
        "/projects/a%2Fevents": "method_not_allowed",
        "/projects/a%2Fb/events": "invalid_project",
        "/projects%2Fa/events": "not_found",
        "/projects%2F%7Bproject%7D%2Fevents": "not_found",
        "/projects/a/connections%2F%7Bconnection%7D%2Fack": "not_found",
    }.items():
        target = f"{base_path or ''}{path}"
        request = f"POST {target} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 11\r\nConnection: close\r\n\r\n"
        answer = await site.exchange(request.encode() + b'{"data": 1}')
        assert code == answer.problem["code"], target
    assert {} == site.context.hub.projects


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics"])
async def test_probes_and_metrics_are_served_without_it_too(start_hub: StartHub, path: str) -> None:
    site = await start_hub(server={"base_path": PREFIX})
    assert [200, 200] == [(await site.ask("GET", each)).status for each in (path, PREFIX + path)]


@pytest.mark.parametrize(
    "path",
    [
        *(
            "/",
            "/projects",
            "/projects/p/events",
            "/openapi.json",
            "/edge.js",
            "/tools",
            "/tools/hubs",
            "/hub/projects",
        ),
        *(f"{PREFIX}x/projects", f"{PREFIX}/projects/", f"{PREFIX}{PREFIX}/projects", "/projects/tools/hub/events"),
    ],
)
async def test_nothing_else_is_served_outside(start_hub: StartHub, path: str) -> None:
    site = await start_hub(server={"base_path": PREFIX})
    assert "not_found" == (await site.ask("GET", path)).problem["code"]


async def test_the_page_is_a_folder_so_that_its_links_are_under_the_prefix(start_hub: StartHub) -> None:
    site = await start_hub(server={"base_path": PREFIX})
    redirect = await site.ask("GET", PREFIX)
    assert (308, f"{PREFIX}/") == (redirect.status, redirect.headers["Location"])
    page = await site.ask("GET", redirect.headers["Location"])
    assert "text/html; charset=utf-8" == page.headers["Content-Type"]
    assert b'src="/' not in page.body
    assert b'href="/' not in page.body


async def test_the_document_names_the_prefix(start_hub: StartHub) -> None:
    site = await start_hub(server={"base_path": PREFIX})
    document = (await site.ask("GET", f"{PREFIX}/openapi.json")).json
    assert [{"url": PREFIX}] == document["servers"]
    assert "/projects/{project}/events" in document["paths"]
