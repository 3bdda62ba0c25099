from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import jwt
import pytest
from multidict import CIMultiDict

from tests.security.hub import AuthSettings, Config, CorsSettings, LimitsSettings, ServerSettings, code_of, running

TOKEN = "static-token-of-the-tests"
KEY = "0123456789abcdef0123456789abcdef"
GUARDED = Config(auth=AuthSettings(token=(TOKEN,), jwt_key=KEY))
EVENTS = "/projects/p1/events"
ROUTES = [
    ("GET", "/projects/p1/events", "subscribe"),
    ("POST", "/projects/p1/events", "publish"),
    ("GET", "/projects/p1/ready?timeout=0", "status"),
    ("POST", "/projects/p1/trigger?timeout=0", "trigger"),
    ("POST", "/projects/p1/ticket", "subscribe"),
    ("GET", "/projects/p1", "status"),
    ("DELETE", "/projects/p1", "admin"),
    ("GET", "/projects", "status"),
    ("GET", "/status", "status"),
    ("GET", "/metrics", "metrics"),
]


def minted(grants: object = None, /, *, key: str = KEY, algorithm: str = "HS256", **claims: Any) -> str:
    return jwt.encode({"exp": time.time() + 60, **claims, "edge": grants or {}}, key, algorithm)


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


async def frames_until(response: aiohttp.ClientResponse, name: str) -> dict[str, Any]:
    """The data of the next event `name` of a stream."""
    async for line in response.content:
        if line == f"event: {name}\n".encode():
            data: dict[str, Any] = json.loads((await response.content.readline()).removeprefix(b"data: "))
            return data
    raise AssertionError(f"the stream ended without {name}")


# --- a hub without auth, on this machine ---


@pytest.mark.parametrize(
    "host",
    ["localhost:{port}", "LOCALHOST", "127.0.0.1", "127.8.9.1:80", "[::1]:{port}", "app.localhost", "localhost."],
)
async def test_an_open_hub_answers_local_hosts(host: str) -> None:
    async with running() as hub:
        headers = {"Host": host.format(port=hub.port)}
        async with hub.client.get(f"{hub.url}/projects", headers=headers) as response:
            assert 200 == response.status


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:{port}",
        "10.0.0.1",
        "localhost.evil.example",
        "127.0.0.1.nip.io",
        "[::2]",
        "a b",
        "",
        "@",
    ],
)
@pytest.mark.parametrize("path", ["/projects", "/healthz", "/nothing"])
async def test_an_open_hub_refuses_other_hosts(host: str, path: str) -> None:
    async with running() as hub:
        headers = {"Host": host.format(port=hub.port)}
        async with hub.client.get(f"{hub.url}{path}", headers=headers) as response:
            assert (421, "wrong_host") == await code_of(response)
            assert headers["Host"] == (await response.json())["host"]


async def test_allowed_hosts_are_answered_too() -> None:
    async with running(Config(server=ServerSettings(allowed_hosts=("hub.example.org",)))) as hub:
        for host, status in (("Hub.example.org:443", 200), ("other.example.org", 421)):
            async with hub.client.get(f"{hub.url}/projects", headers={"Host": host}) as response:
                assert status == response.status


LISTED = Config(cors=CorsSettings(origins=("https://app.example.org", "https://*.dev.example.org")))


async def test_unsafe_requests_come_from_own_and_listed_origins_only() -> None:
    async with running(LISTED) as hub:
        own = f"http://127.0.0.1:{hub.port}"
        for headers, status in (
            ({}, 202),
            ({"Origin": own}, 202),
            ({"Origin": "https://app.example.org"}, 202),
            ({"Origin": "https://a.dev.example.org"}, 202),
            # Behind a proxy that has rewritten Host: a page can't write Sec-Fetch-Site.
            ({"Origin": "https://shop.example", "Sec-Fetch-Site": "same-origin"}, 202),
            ({"Origin": "https://evil.example"}, 403),
            ({"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"}, 403),
            ({"Origin": "https://sub.shop.example", "Sec-Fetch-Site": "same-site"}, 403),
            ({"Sec-Fetch-Site": "cross-site"}, 403),
            ({"Origin": "http://app.example.org"}, 403),
            ({"Origin": "http://127.0.0.1:1"}, 403),
            ({"Origin": "null"}, 403),
            ({"Origin": ""}, 403),
        ):
            async with hub.client.post(f"{hub.url}{EVENTS}", json={"data": 1}, headers=headers) as response:
                assert (headers, status) == (headers, response.status)
        async with hub.client.delete(f"{hub.url}/projects/p1", headers={"Origin": "https://evil.example"}) as response:
            assert (403, "origin_not_allowed") == await code_of(response)
        assert 5 == hub.context.hub.counters.published


NAVIGATION = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}
FOREIGN = {
    "fetch": {"Origin": "https://evil.example", "Sec-Fetch-Mode": "cors", "Sec-Fetch-Dest": "empty"},
    "EventSource": {"Origin": "https://evil.example", "Accept": "text/event-stream"},
    "fetch of an old browser": {"Origin": "https://evil.example", "Sec-Fetch-Site": ""},
    "frame": {"Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "iframe", **NAVIGATION},
    "object": {"Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "object", **NAVIGATION},
    "form or link": {"Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document", "Sec-Fetch-User": "?1", **NAVIGATION},
    "image": {"Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "image"},
    "script": {"Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "script"},
    "frame of an old browser": {"Sec-Fetch-Site": "", **NAVIGATION},
}


@pytest.mark.parametrize("auth", [AuthSettings(), GUARDED.auth], ids=["open", "with a visitor's cookie"])
@pytest.mark.parametrize("site", ["cross-site", "same-site"])
@pytest.mark.parametrize("way", FOREIGN)
async def test_a_foreign_page_opens_no_stream(way: str, site: str, auth: AuthSettings) -> None:
    headers = {"Sec-Fetch-Site": site, "Cookie": f"edge_token={TOKEN}", **FOREIGN[way]}
    if not headers["Sec-Fetch-Site"]:
        del headers["Sec-Fetch-Site"]
    async with running(Config(auth=auth)) as hub:
        async with hub.client.post(f"{hub.url}{EVENTS}", json={"data": 1}, headers=bearer(TOKEN)) as response:
            assert 202 == response.status
        async with hub.client.get(f"{hub.url}{EVENTS}", headers=headers) as response:
            assert (403, "origin_not_allowed") == await code_of(response)
        assert 0 == hub.context.hub.counters.added
        assert 1 == hub.context.hub.counters.misses.pending


async def test_own_pages_listed_origins_and_people_open_streams() -> None:
    async with running(LISTED) as hub:
        for headers in (
            {},
            {"Sec-Fetch-Site": "same-origin", "Accept": "text/event-stream"},
            {"Sec-Fetch-Site": "none", "Sec-Fetch-Mode": "navigate", **NAVIGATION},
            {"Sec-Fetch-Site": "cross-site", "Origin": "https://app.example.org"},
            {"Origin": "https://app.example.org"},
        ):
            async with hub.client.get(f"{hub.url}{EVENTS}", headers=headers) as response:
                assert (headers, 200) == (headers, response.status)


async def test_a_link_to_a_status_may_be_followed() -> None:
    headers = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", **NAVIGATION}
    async with running() as hub:
        for path in ("/projects", "/projects/p1/explain"):
            async with hub.client.get(f"{hub.url}{path}", headers=headers) as response:
                assert 200 == response.status


async def test_a_refused_origin_is_named_in_the_answer_the_log_and_explain(capfd: pytest.CaptureFixture[str]) -> None:
    async with running() as hub:
        headers = {"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"}
        async with hub.client.get(f"{hub.url}{EVENTS}", headers=headers) as response:
            answer = await response.json(content_type=None)
            assert "https://evil.example" == response.headers["Access-Control-Allow-Origin"]
        async with hub.client.get(f"{hub.url}/projects/p1/explain") as response:
            text = await response.text()
    host = f"127.0.0.1:{hub.port}"
    assert ("https://evil.example", host) == (answer["origin"], answer["host"])
    assert "https://evil.example" in answer["detail"]
    assert f"Origin https://evil.example, Host {host}" in text
    [line] = [json.loads(line) for line in capfd.readouterr().err.splitlines() if "request_refused" in line]
    named = {key: line[key] for key in ("project", "path", "origin", "host")}
    assert {"project": "p1", "path": EVENTS, "origin": "https://evil.example", "host": host} == named


async def test_a_wrong_host_is_named_in_the_log(capfd: pytest.CaptureFixture[str]) -> None:
    async with running() as hub, hub.client.get(f"{hub.url}{EVENTS}", headers={"Host": "evil.example"}) as response:
        assert "evil.example" in (await response.json())["detail"]
    [line] = [json.loads(line) for line in capfd.readouterr().err.splitlines() if "request_refused" in line]
    assert ("wrong_host", "evil.example") == (line["code"], line["host"])


# --- cross-origin ---


async def test_a_preflight_is_answered_for_listed_origins_only() -> None:
    async with running(Config(cors=CorsSettings(origins=("https://app.example.org",)), auth=GUARDED.auth)) as hub:
        ask = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
        headers = {"Origin": "https://app.example.org", **ask}
        async with hub.client.options(f"{hub.url}{EVENTS}", headers=headers) as response:
            assert 204 == response.status
            assert "https://app.example.org" == response.headers["Access-Control-Allow-Origin"]
            assert "true" == response.headers["Access-Control-Allow-Credentials"]
            assert "POST" in response.headers["Access-Control-Allow-Methods"].split(", ")
            assert "Authorization" in response.headers["Access-Control-Allow-Headers"].split(", ")
            assert "Origin" in response.headers.getall("Vary")
        async with hub.client.options(f"{hub.url}{EVENTS}", headers={"Origin": "https://evil", **ask}) as response:
            assert (403, "origin_not_allowed") == await code_of(response)
            assert "Access-Control-Allow-Methods" not in response.headers


async def test_listed_origins_may_read_answers() -> None:
    async with running(Config(cors=CorsSettings(origins=("https://app.example.org",)))) as hub:
        headers = {"Origin": "https://app.example.org"}
        for method, path in (("GET", EVENTS), ("POST", EVENTS), ("GET", "/nothing"), ("GET", "/projects/unknown")):
            async with hub.client.request(method, f"{hub.url}{path}", headers=headers, json={"data": 1}) as response:
                assert "https://app.example.org" == response.headers["Access-Control-Allow-Origin"]
        async with hub.client.get(f"{hub.url}/healthz", headers={"Origin": "https://evil.example"}) as response:
            assert 200 == response.status
            assert "Access-Control-Allow-Origin" not in response.headers


@pytest.mark.parametrize("origins", [(), ("https://app.example.org",)])
async def test_every_page_may_read_why_it_was_refused(origins: tuple[str, ...]) -> None:
    async with running(Config(cors=CorsSettings(origins=origins))) as hub:
        for method, path in (("POST", EVENTS), ("GET", EVENTS), ("GET", "/nothing"), ("PUT", EVENTS)):
            headers = {"Origin": "https://evil.example"}
            async with hub.client.request(method, f"{hub.url}{path}", headers=headers) as response:
                assert 400 <= response.status
                assert "https://evil.example" == response.headers["Access-Control-Allow-Origin"]
                assert "true" == response.headers["Access-Control-Allow-Credentials"]
                assert ["Origin"] == response.headers.getall("Vary")


@pytest.mark.parametrize("origins", [(), ("https://app.example.org",)])
@pytest.mark.parametrize(
    "head",
    [
        "GET /projects/{long} HTTP/1.1\r\nHost: localhost",
        "GET / HTTP/1.1\r\nHost: localhost\r\nX: {long}",
        "GET / HTTP/1.1\r\nHost: localhost" + "\r\nX: y" * 200,
        "nonsense",
    ],
    ids=["a long URL", "a long header", "many headers", "malformed"],
)
async def test_every_page_may_read_why_its_head_was_refused(origins: tuple[str, ...], head: str) -> None:
    async with running(Config(cors=CorsSettings(origins=origins))) as hub:
        reader, writer = await asyncio.open_connection(hub.host, hub.port)
        writer.write(f"{head.format(long='x' * 9000)}\r\nOrigin: https://evil.example\r\n\r\n".encode())
        answer = await reader.read()
        assert answer.startswith(b"HTTP/1.1 4")
        assert b"\r\nAccess-Control-Allow-Origin: https://evil.example\r\n" in answer
        writer.close()


async def test_a_star_admits_every_origin_without_its_cookies() -> None:
    async with running(Config(cors=CorsSettings(origins=("*",)), auth=GUARDED.auth)) as hub:
        headers = {"Origin": "https://evil.example", "Cookie": f"edge_token={TOKEN}"}
        async with hub.client.post(f"{hub.url}{EVENTS}", json={"data": 1}, headers=headers) as response:
            assert (401, "unauthenticated") == await code_of(response)
            assert "*" == response.headers["Access-Control-Allow-Origin"]
            assert "Access-Control-Allow-Credentials" not in response.headers
        headers = {"Origin": "https://app.example.org", **bearer(TOKEN)}
        async with hub.client.post(f"{hub.url}{EVENTS}", json={"data": 1}, headers=headers) as response:
            assert 202 == response.status


async def test_options_says_what_may_be_done() -> None:
    async with running() as hub:
        async with hub.client.options(f"{hub.url}{EVENTS}") as response:
            assert (204, "GET, HEAD, OPTIONS, POST") == (response.status, response.headers["Allow"])
        async with hub.client.options(f"{hub.url}/nothing") as response:
            assert (404, "not_found") == await code_of(response)


# --- tokens ---


@pytest.mark.parametrize(("method", "path", "permission"), ROUTES)
async def test_every_route_requires_its_permission(method: str, path: str, permission: str) -> None:
    async with running(GUARDED) as hub:

        async def ask(headers: dict[str, str]) -> tuple[int, str | None]:
            url = f"{hub.url}{path}"
            async with hub.client.request(method, url, headers=headers, data=b'{"name":"x","data":1}') as response:
                if response.status == 401:
                    assert 'Bearer realm="edge"' == response.headers["WWW-Authenticate"]
                return await code_of(response)

        others = {name: ["*"] for name in ("subscribe", "publish", "trigger", "status", "admin", "metrics")}
        del others[permission]
        assert (401, "unauthenticated") == await ask({})
        assert (401, "unauthenticated") == await ask(bearer("wrong"))
        assert (403, "forbidden") == await ask(bearer(minted(others)))
        assert (403, "forbidden") == await ask(bearer(minted({permission: ["p2", "q*", "*p1", "p*1"]})))
        for token in (TOKEN, minted({permission: ["*"]})):
            assert (await ask(bearer(token)))[0] not in (401, 403)
        if "p1" in path:
            for grant in ("p1", "p*"):
                assert (await ask(bearer(minted({permission: [grant]}))))[0] not in (401, 403)


async def test_health_checks_stay_open() -> None:
    async with running(GUARDED) as hub:
        for path in ("/healthz", "/readyz"):
            async with hub.client.get(f"{hub.url}{path}", headers={"Host": "10.0.0.7"}) as response:
                assert 200 == response.status


async def test_anonymous_permissions_are_for_requests_without_a_token() -> None:
    auth = AuthSettings(token=(TOKEN,), anonymous=("subscribe",))
    async with running(Config(auth=auth)) as hub:
        for method, headers, expected in (
            ("GET", {}, (200, None)),
            ("GET", bearer("wrong"), (401, "unauthenticated")),
            ("POST", {}, (401, "unauthenticated")),
            ("POST", bearer(TOKEN), (202, None)),
        ):
            async with hub.client.request(method, f"{hub.url}{EVENTS}", headers=headers, json={"data": 1}) as response:
                assert expected == await code_of(response)
                response.close()


async def test_the_cookie_is_taken_once() -> None:
    async with running(GUARDED) as hub:
        for cookies, status in (
            (f"edge_token={TOKEN}", 200),
            (f'a=b; edge_token="{TOKEN}"; c=d', 200),
            (f"xedge_token={TOKEN}", 401),
            ("edge_token=", 401),
            (f"edge_token={TOKEN}; edge_token={TOKEN}", 401),
        ):
            async with hub.client.get(f"{hub.url}/projects", headers={"Cookie": cookies}) as response:
                assert (cookies, status) == (cookies, response.status)


async def test_a_token_in_the_url_is_no_token() -> None:
    async with running(GUARDED) as hub:
        for name in ("token", "access_token", "edge_token", "ticket", "authorization"):
            async with hub.client.get(f"{hub.url}{EVENTS}?{name}={TOKEN}") as response:
                assert (401, "unauthenticated") == await code_of(response)


async def test_a_stream_ends_when_its_token_does() -> None:
    async with running(GUARDED) as hub:
        token = minted({"subscribe": ["p1"]}, exp=time.time() + 1)
        async with hub.client.get(f"{hub.url}{EVENTS}", headers=bearer(token)) as response:
            assert "expired" == (await frames_until(response, "edge.closing"))["reason"]
            await response.read()
        await asyncio.sleep(0)
        assert 1 == hub.context.hub.counters.removed["expired"]


async def test_a_token_that_expires_during_ndjson() -> None:
    async with running(GUARDED) as hub:
        taken = asyncio.Event()

        async def lines() -> AsyncIterator[bytes]:
            yield b'{"data":1}\n'
            await taken.wait()
            yield b'{"data":2}\n'

        async def let_it_end() -> None:
            while not hub.context.hub.counters.published or time.time() < ends:
                await asyncio.sleep(0.02)
            taken.set()

        ends = int(time.time()) + 2
        headers = {**bearer(minted({"publish": ["p1"]}, exp=ends)), "Content-Type": "application/x-ndjson"}
        ending = asyncio.create_task(let_it_end())
        async with hub.client.post(f"{hub.url}{EVENTS}", data=lines(), headers=headers) as response:
            answer = await response.json(content_type=None)
            assert (401, "unauthenticated", 1) == (response.status, answer["code"], answer["published"])
        await ending
        assert 1 == hub.context.hub.counters.published


async def test_cookies_may_take_several_lines() -> None:
    """As a proxy passes on those of HTTP/2 that has not joined them (RFC 9113, section 8.2.3)."""
    async with running(GUARDED) as hub:
        reader, writer = await asyncio.open_connection(hub.host, hub.port)
        cookies = f"Cookie: theme=dark\r\nCookie: edge_token={TOKEN}\r\n"
        writer.write(f"GET /projects HTTP/1.1\r\nHost: localhost\r\n{cookies}\r\n".encode())
        assert b"HTTP/1.1 200 OK\r\n" == await reader.readline()
        writer.close()


async def test_a_token_is_taken_once() -> None:
    """Of two, this hub and a proxy might each believe another one."""
    async with running(GUARDED) as hub:
        for tokens, status in (
            ((TOKEN,), 200),
            ((TOKEN, TOKEN), 401),
            ((TOKEN, "wrong"), 401),
            (("wrong", TOKEN), 401),
        ):
            headers = [("Authorization", f"Bearer {token}") for token in tokens]
            async with hub.client.get(f"{hub.url}/projects", headers=CIMultiDict(headers)) as response:
                assert (tokens, status) == (tokens, response.status)


# --- tickets ---


async def ticket_for(client: aiohttp.ClientSession, url: str, token: str, project: str = "p1") -> str:
    async with client.post(f"{url}/projects/{project}/ticket", headers=bearer(token)) as response:
        assert 201 == response.status
        assert "no-store" == response.headers["Cache-Control"]
        answer = await response.json()
    assert {"ticket": answer["ticket"], "expires_in": 60} == answer
    return str(answer["ticket"])


async def test_a_ticket_opens_one_stream_once() -> None:
    async with running(GUARDED) as hub:
        ticket = await ticket_for(hub.client, hub.url, minted({"subscribe": ["p1"]}))
        async with hub.client.head(f"{hub.url}{EVENTS}?ticket={ticket}") as response:
            assert 401 == response.status  # HEAD opens nothing
        async with hub.client.get(f"{hub.url}{EVENTS}?ticket={ticket}") as response:
            assert 200 == response.status
            assert "p1" == (await frames_until(response, "edge.hello"))["project"]
        async with hub.client.get(f"{hub.url}{EVENTS}?ticket={ticket}") as response:
            assert (401, "unauthenticated") == await code_of(response)


async def test_a_ticket_opens_a_stream_of_its_project_and_nothing_else() -> None:
    async with running(GUARDED) as hub:
        refused = [route for route in ROUTES if route[:2] != ("GET", EVENTS)]
        for method, path, _ in (*refused, ("GET", "/projects/p2/events", "subscribe")):
            ticket = await ticket_for(hub.client, hub.url, TOKEN)
            query = f"{'&' if '?' in path else '?'}ticket={ticket}"
            async with hub.client.request(method, f"{hub.url}{path}{query}", json={"data": 1}) as response:
                assert (method, path, (401, "unauthenticated")) == (method, path, await code_of(response))
        assert {} == hub.context.hub.projects


async def test_a_stream_opened_with_a_ticket_answers_its_probes() -> None:
    async with running(GUARDED) as hub:
        ticket = await ticket_for(hub.client, hub.url, minted({"subscribe": ["p1"]}))
        async with hub.client.get(f"{hub.url}{EVENTS}?ticket={ticket}") as stream:
            connection = (await frames_until(stream, "edge.hello"))["connection"]
            ready = asyncio.create_task(
                hub.client.get(f"{hub.url}/projects/p1/ready?timeout=10s&confirm=client", headers=bearer(TOKEN))
            )
            probe = await frames_until(stream, "edge.probe")
            url = f"{hub.url}/projects/p1/connections/{connection}/ack"
            async with hub.client.post(url, json={"probe": "0" * 32}) as response:
                assert (409, "stale_probe") == await code_of(response)
            async with hub.client.post(f"{url}?ticket={ticket}", json=probe) as response:
                assert 204 == response.status
            async with await ready as response:
                assert "client" == (await response.json())["confirmed"]


async def test_the_status_shows_whom_a_token_names_and_nothing_more_of_it() -> None:
    async with running(GUARDED) as hub:

        async def connection(token: str) -> dict[str, Any]:
            async with hub.client.get(f"{hub.url}{EVENTS}", headers=bearer(token)) as stream:
                await frames_until(stream, "edge.hello")
                async with hub.client.get(f"{hub.url}/projects/p1", headers=bearer(TOKEN)) as response:
                    [found] = (await response.json())["connections"]
            while hub.context.hub.connections:
                await asyncio.sleep(0.01)
            return dict(found)

        grants = {"subscribe": ["p1"]}
        shown = await connection(minted(grants, sub="ada", name="Ada", jti="secret-of-the-token"))
        assert "ada" == shown["sub"]
        assert "secret-of-the-token" not in json.dumps(shown)
        assert None is (await connection(TOKEN))["sub"]
        assert None is (await connection(minted(grants, sub=7)))["sub"]
        assert "a\\nb\\ud800" == (await connection(minted(grants, sub="a\nb\ud800")))["sub"]
        assert 256 == len((await connection(minted(grants, sub="x" * 1000)))["sub"])
        ticket = await ticket_for(hub.client, hub.url, minted(grants, sub="grace"))
        async with hub.client.get(f"{hub.url}{EVENTS}?ticket={ticket}") as stream:
            await frames_until(stream, "edge.hello")
            [one] = hub.context.hub.connections.values()
            assert "grace" == one.subject


async def test_a_stream_opened_with_a_ticket_ends_with_its_token() -> None:
    async with running(GUARDED) as hub:
        ticket = await ticket_for(hub.client, hub.url, minted({"subscribe": ["p1"]}, exp=time.time() + 1))
        async with hub.client.get(f"{hub.url}{EVENTS}?ticket={ticket}") as response:
            assert "expired" == (await frames_until(response, "edge.closing"))["reason"]


async def test_tickets_are_bounded() -> None:
    async with running(Config(limits=LimitsSettings(max_tickets=2), auth=GUARDED.auth)) as hub:
        for _ in range(2):
            await ticket_for(hub.client, hub.url, TOKEN)
        async with hub.client.post(f"{hub.url}/projects/p1/ticket", headers=bearer(TOKEN)) as response:
            assert (503, "too_many_tickets") == await code_of(response)
            assert "5" == response.headers["Retry-After"]


async def test_an_open_hub_issues_and_accepts_tickets() -> None:
    async with running() as hub:
        ticket = await ticket_for(hub.client, hub.url, "whatever")
        async with hub.client.get(f"{hub.url}{EVENTS}?ticket={ticket}") as response:
            assert 200 == response.status
