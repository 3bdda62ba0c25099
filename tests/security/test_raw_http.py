"""Requests made to confuse: each has one defined answer, and none leaves anything behind.

The list is kept as data so that tests/security/test_behind_nginx.py can send it through a proxy as well.
"""

from __future__ import annotations

import asyncio
import socket
from typing import NamedTuple

import pytest

from edge.config.schema import Config, LimitsSettings, ServerSettings
from tests.security.hub import running
from tests.security.wire import EVENT, EVENTS

MALFORMED = (400, "malformed_http")
UNKNOWN_METHOD = (405, "method_not_allowed")
TOO_LARGE = (431, "header_too_large")
INVALID_PROJECT = (400, "invalid_project")
NOT_FOUND = (404, "not_found")


class Case(NamedTuple):
    """Bytes to send, the answer (status and code), and whether the hub then closes the connection."""

    raw: str
    answer: tuple[int, str | None]
    closes: bool = False


def get(target: str, *headers: str, version: str = "HTTP/1.1", method: str = "GET") -> str:
    lines = [f"{method} {target} {version}", "Host: localhost", *headers]
    return "\r\n".join(lines) + "\r\n\r\n"


def post(*headers: str, body: str = "") -> str:
    return get(EVENTS, *headers, method="POST") + body


CHUNKED = "Transfer-Encoding: chunked"
CASES = {
    # Two ways to say where a body ends
    "both lengths": Case(post("Content-Length: 10", CHUNKED, body="0\r\n\r\n"), MALFORMED, closes=True),
    "two lengths": Case(post("Content-Length: 10", "Content-Length: 11", body=EVENT), MALFORMED, closes=True),
    "the same length twice": Case(post("Content-Length: 10", "Content-Length: 10", body=EVENT), MALFORMED, closes=True),
    "a list of lengths": Case(post("Content-Length: 10, 10", body=EVENT), MALFORMED, closes=True),
    "a negative length": Case(post("Content-Length: -1"), MALFORMED, closes=True),
    "a signed length": Case(post("Content-Length: +10", body=EVENT), MALFORMED, closes=True),
    "a length beyond 64 bits": Case(post(f"Content-Length: {'9' * 23}"), MALFORMED, closes=True),
    "identity coding": Case(post("Transfer-Encoding: identity", body=EVENT), MALFORMED, closes=True),
    "chunked not last": Case(post("Transfer-Encoding: chunked, identity", body="0\r\n\r\n"), MALFORMED, closes=True),
    "a coding below chunked": Case(
        post("Transfer-Encoding: gzip, chunked", body="0\r\n\r\n"), (415, "unsupported_encoding")
    ),
    "a coding that looks like chunked": Case(post("Transfer-Encoding: xchunked"), MALFORMED, closes=True),
    "chunked twice": Case(post(CHUNKED, CHUNKED, body="0\r\n\r\n"), MALFORMED, closes=True),
    "a space before the colon": Case(post("Transfer-Encoding : chunked"), MALFORMED, closes=True),
    "a control character before chunked": Case(post("Transfer-Encoding: \x0bchunked"), MALFORMED, closes=True),
    "chunked in HTTP/1.0": Case(
        f"POST {EVENTS} HTTP/1.0\r\n{CHUNKED}\r\n\r\na\r\n{EVENT}\r\n0\r\n\r\n",
        (415, "unsupported_encoding"),
        closes=True,
    ),
    # Chunks
    "good chunks": Case(post(CHUNKED, body=f"a\r\n{EVENT}\r\n0\r\n\r\n"), (202, None)),
    "a chunk with an extension": Case(post(CHUNKED, body=f"a;x=y\r\n{EVENT}\r\n0\r\n\r\n"), (202, None)),
    "a chunk size that is none": Case(post(CHUNKED, body="xyz\r\n"), MALFORMED, closes=True),
    "a negative chunk": Case(post(CHUNKED, body="-1\r\n"), MALFORMED, closes=True),
    "a chunk size with a prefix": Case(post(CHUNKED, body=f"0xa\r\n{EVENT}\r\n0\r\n\r\n"), MALFORMED, closes=True),
    "a chunk beyond 64 bits": Case(post(CHUNKED, body="f" * 18 + "\r\n"), MALFORMED, closes=True),
    "chunks that end in LF": Case(post(CHUNKED, body=f"a\n{EVENT}\n0\n\n"), MALFORMED, closes=True),
    "a chunk longer than its size": Case(post(CHUNKED, body=f"5\r\n{EVENT}\r\n0\r\n\r\n"), MALFORMED, closes=True),
    "trailers too long": Case(
        post(CHUNKED, body=f"a\r\n{EVENT}\r\n0\r\n" + "X: y\r\n" * 5000 + "\r\n"), MALFORMED, closes=True
    ),
    # Headers
    "a folded header": Case(get("/projects", "X: a\r\n b"), MALFORMED, closes=True),
    "LF alone": Case("GET /projects HTTP/1.1\nHost: localhost\n\n", MALFORMED, closes=True),
    "CR inside a header": Case(get("/projects", "X: a\rY: b"), MALFORMED, closes=True),
    "NUL inside a header": Case(get("/projects", "X: a\0b"), MALFORMED, closes=True),
    "a header without a colon": Case(get("/projects", "Xyz"), MALFORMED, closes=True),
    "a header name with a space": Case(get("/projects", "X y: z"), MALFORMED, closes=True),
    "a header without a name": Case(get("/projects", ": z"), MALFORMED, closes=True),
    "bytes beyond ASCII in a header": Case(get("/projects", "X: \xff\xfe"), (200, None)),
    "a long header": Case(get("/projects", f"X: {'a' * 9000}"), TOO_LARGE, closes=True),
    "a long header name": Case(get("/projects", f"{'a' * 9000}: x"), TOO_LARGE, closes=True),
    "many headers": Case(get("/projects", *["X: y"] * 200), TOO_LARGE, closes=True),
    "a long target": Case(get("/" + "a" * 9000), (414, "url_too_long"), closes=True),
    "no Host": Case("GET /projects HTTP/1.1\r\n\r\n", MALFORMED, closes=True),
    "two Hosts": Case(get("/projects", "Host: evil.example"), MALFORMED, closes=True),
    "an empty Host": Case("GET /projects HTTP/1.1\r\nHost:\r\n\r\n", (421, "wrong_host")),
    "an unknown expectation": Case(
        post("Expect: 200-ok", "Content-Length: 10", body=EVENT), (417, "expectation_failed")
    ),
    "a header declared hop by hop": Case(
        post("Connection: Content-Length", "Content-Length: 10", body=EVENT), (202, None)
    ),
    # Targets
    "absolute form": Case(get("http://localhost/projects"), (200, None)),
    "absolute form for another host": Case(get("http://evil.example/projects"), (421, "wrong_host")),
    "another scheme": Case(get("foo:bar"), MALFORMED, closes=True),
    "authority form": Case(get("evil.example:80"), MALFORMED, closes=True),
    "CONNECT": Case(get("evil.example:80", method="CONNECT"), (421, "wrong_host")),
    "the server as a whole": Case(get("*", method="OPTIONS"), (204, None)),
    "an asterisk for something else": Case(get("*"), MALFORMED, closes=True),
    "no path behind the host": Case(get("http://localhost"), (200, None)),
    "a query behind the host": Case(get("http://localhost?x=1"), (400, "unknown_parameter")),
    "two slashes": Case(get("//projects"), NOT_FOUND),
    "two slashes and a host": Case(get("//evil.example/projects"), NOT_FOUND),
    "two slashes inside": Case(get("/projects//p1"), NOT_FOUND),
    "a trailing slash": Case(get("/projects/"), NOT_FOUND),
    "a trailing slash after a project": Case(get("/projects/p1/"), NOT_FOUND),
    "dots": Case(get("/projects/../metrics"), NOT_FOUND),
    "encoded dots": Case(get("/projects/%2e%2e/events"), INVALID_PROJECT),
    "an encoded slash": Case(get("/projects/a%2fb"), INVALID_PROJECT),
    "an encoded slash before the project": Case(get("/projects%2fa/events"), NOT_FOUND),
    "the name of a route": Case(get("/projects%2f%7Bproject%7D"), NOT_FOUND),
    "the name of a stream's route": Case(get("/projects%2f%7Bproject%7D%2fevents"), NOT_FOUND),
    "an encoded NUL": Case(get("/projects/a%00b"), INVALID_PROJECT),
    "an encoded line end": Case(get("/projects/a%0d%0ab"), INVALID_PROJECT),
    "an encoded route": Case(get("/%70rojects"), (200, None)),
    "a broken escape": Case(get("/projects/%zz"), INVALID_PROJECT),
    "an escape that is not UTF-8": Case(get("/projects/%ff%fe"), INVALID_PROJECT),
    "a space encoded": Case(get("/projects/a%20b"), INVALID_PROJECT),
    "bytes beyond ASCII": Case(get("/projects/\xc3\xa9"), MALFORMED, closes=True),
    "NUL in the target": Case(get("/proj\0ects"), MALFORMED, closes=True),
    "a fragment": Case(get("/projects#x"), (200, None)),
    "a backslash": Case(get("/projects\\p1"), NOT_FOUND),
    "another case": Case(get("/PROJECTS"), NOT_FOUND),
    # Methods and versions
    "TRACE": Case(get("/projects", method="TRACE"), (405, "method_not_allowed")),
    "PUT": Case(get("/projects", method="PUT"), (405, "method_not_allowed")),
    "an unknown method": Case(get("/projects", method="BREW"), UNKNOWN_METHOD, closes=True),
    "a method in small letters": Case(get("/projects", method="get"), UNKNOWN_METHOD, closes=True),
    "a known method and more": Case(get("/projects", method="GETS"), UNKNOWN_METHOD, closes=True),
    "no method": Case(get("/projects", method="(get)"), MALFORMED, closes=True),
    "words without a version": Case("hello hub\r\n\r\n", MALFORMED, closes=True),
    "a method override": Case(get("/projects/p1", "X-HTTP-Method-Override: DELETE"), (404, "unknown_project")),
    "HEAD": Case(get("/projects", method="HEAD"), (200, None)),
    "HEAD of nothing": Case(get("/nothing", method="HEAD"), (404, None)),
    "HTTP/0.9": Case("GET /projects\r\n\r\n", (505, "unsupported_http_version"), closes=True),
    "HTTP/1.0 without Host": Case("GET /projects HTTP/1.0\r\n\r\n", (200, None), closes=True),
    "HTTP/1.2": Case(get("/projects", version="HTTP/1.2"), (505, "unsupported_http_version"), closes=True),
    "HTTP/1.10": Case(get("/projects", version="HTTP/1.10"), MALFORMED, closes=True),
    "HTTP/2.0 in words": Case(get("/projects", version="HTTP/2.0"), (505, "unsupported_http_version"), closes=True),
    "the preface of HTTP/2": Case("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", (505, "unsupported_http_version"), closes=True),
    "a TLS hello": Case("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", MALFORMED, closes=True),
    "empty lines first": Case("\r\n\r\n" + get("/projects"), (200, None)),
    "NULs first": Case("\0\0" + get("/projects"), MALFORMED, closes=True),
    "an upgrade to WebSocket": Case(get("/projects", "Connection: Upgrade", "Upgrade: websocket"), (200, None)),
    "an upgrade to HTTP/2": Case(
        get("/projects", "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAAP__"),
        (200, None),
    ),
    # Bodies
    "a compressed body": Case(
        post("Content-Encoding: gzip", "Content-Length: 10", body=EVENT), (415, "unsupported_encoding")
    ),
    "a body that a GET has no use for": Case(get("/projects", "Content-Length: 10") + EVENT, (200, None)),
}


@pytest.mark.parametrize("name", CASES)
async def test_each_has_its_answer_and_the_hub_lives_on(name: str) -> None:
    raw, (status, code), closes = CASES[name]
    async with running() as hub:
        wire = await hub.wire()
        wire.send(raw)
        heard = await wire.heard(answers=None if closes else 1, bodies=not raw.startswith("HEAD"))
        assert ([status], [code] if code else []) == (heard.statuses, heard.codes)
        assert closes is heard.closed
        assert b"aiohttp" not in heard.raw
        assert b"Python" not in heard.raw
        if not closes:
            # The next request on the same connection is itself, and not what was left of this one.
            wire.send(get("/healthz"))
            assert [200] == (await wire.heard(answers=1)).statuses
        async with hub.client.get(f"{hub.url}/healthz") as response:
            assert 200 == response.status
        assert status == 202 or 0 == hub.context.hub.counters.published


async def test_pipelined_requests_are_answered_in_order() -> None:
    async with running() as hub:
        wire = await hub.wire()
        wire.send(post("Content-Length: 10", body=EVENT) + get("/nothing") + get("/healthz"))
        assert [202, 404, 200] == (await wire.heard(answers=3)).statuses


async def test_requests_behind_a_subscribe_are_dropped_unread() -> None:
    async with running() as hub:
        wire = await hub.wire()
        wire.send(get(EVENTS) + post("Content-Length: 10", body=EVENT) + get("/healthz"))
        heard = await wire.heard(patience_seconds=0.5)
        assert ([200], False) == (heard.statuses, heard.closed)
        assert b"event: edge.hello" in heard.raw
        wire.send(post("Content-Length: 10", body=EVENT))
        assert b"" == (await wire.heard(patience_seconds=0.3)).raw
        assert 0 == hub.context.hub.counters.published


# --- slow requests ---

IMPATIENT = Config(limits=LimitsSettings(idle_seconds=0.4))


@pytest.mark.parametrize("beginning", ["", "GE", "GET /projects HTTP/1.1\r\nHost: localhost\r\nX: "])
async def test_headers_have_a_deadline_however_they_drip(beginning: str) -> None:
    async with running(IMPATIENT) as hub:
        wire = await hub.wire()
        wire.send(beginning)

        async def drip() -> None:
            while True:
                await asyncio.sleep(0.05)
                wire.send("a" if beginning else "\r\n")

        dripping = asyncio.create_task(drip())
        heard = await wire.heard()
        dripping.cancel()
        assert heard.closed


@pytest.mark.parametrize("length", ["Content-Length: 1000", CHUNKED])
async def test_a_body_has_a_deadline_however_it_drips(length: str) -> None:
    async with running(IMPATIENT) as hub:
        wire = await hub.wire()
        wire.send(post(length))

        async def drip() -> None:
            while True:
                await asyncio.sleep(0.05)
                wire.send("1\r\na\r\n" if length == CHUNKED else "a")

        dripping = asyncio.create_task(drip())
        heard = await wire.heard(answers=1)
        assert ([408], ["request_timeout"]) == (heard.statuses, heard.codes)
        dripping.cancel()


async def test_an_idle_ndjson_request_ends_with_what_was_published() -> None:
    # Four times as long as the pauses, so that a machine that stands still for a second changes nothing.
    async with running(Config(limits=LimitsSettings(ndjson_idle_seconds=2))) as hub:
        wire = await hub.wire()
        wire.send(get(EVENTS, CHUNKED, "Content-Type: application/x-ndjson", method="POST"))
        for _ in range(5):  # an empty line now and then keeps it open
            wire.send("1\r\n\n\r\n")
            await asyncio.sleep(0.5)
        wire.send(f"b\r\n{EVENT}\n\r\n")
        heard = await wire.heard(answers=1)
        assert ([408], ["request_timeout"]) == (heard.statuses, heard.codes)
        assert b'"published":1' in heard.raw


async def test_an_idle_connection_is_closed() -> None:
    async with running(IMPATIENT) as hub:
        wire = await hub.wire()
        wire.send(get("/healthz"))
        heard = await wire.heard()
        assert ([200], True) == (heard.statuses, heard.closed)


@pytest.mark.linux
async def test_a_client_that_takes_no_answer_is_given_up_by_the_kernel() -> None:
    async with running(IMPATIENT) as hub:
        wire = await hub.wire()
        wire.send(get("/healthz"))
        await wire.heard(answers=1)
        assert hub.runner.server is not None
        [connection] = hub.runner.server.connections
        assert connection.transport is not None
        sock = connection.transport.get_extra_info("socket")
        assert 30_000 == sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)


async def test_a_body_without_an_end_is_cut_at_the_bound() -> None:
    async with running(Config(limits=LimitsSettings(max_body_bytes=1000, max_event_bytes=1000))) as hub:
        for kind in ("application/json", "text/plain", "application/x-ndjson"):
            wire = await hub.wire()
            wire.send(get(EVENTS, CHUNKED, f"Content-Type: {kind}", method="POST"))
            for _ in range(20):
                wire.send("64\r\n" + "a" * 100 + "\r\n")
            heard = await wire.heard(answers=1)
            assert [413] == heard.statuses


async def test_a_body_that_is_too_large_is_refused_before_it_comes() -> None:
    async with running() as hub:
        wire = await hub.wire()
        wire.send(post("Content-Length: 9999999"))
        heard = await wire.heard(answers=1)
        assert ([413], ["body_too_large"]) == (heard.statuses, heard.codes)


async def test_no_answer_names_a_version() -> None:
    async with running(Config(server=ServerSettings(allowed_hosts=("hub",)))) as hub:
        wire = await hub.wire()
        for raw in (get("/healthz"), get("/nothing"), get("/projects", method="PUT"), get("/openapi.json")):
            wire.send(raw)
            heard = await wire.heard(answers=1)
            head = heard.raw.partition(b"\r\n\r\n")[0]
            assert b"\r\nServer: edge\r\n" in head + b"\r\n"
            assert b"aiohttp" not in head
