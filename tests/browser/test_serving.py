from __future__ import annotations

import gzip
from collections.abc import AsyncIterator, Awaitable, Callable
from importlib import resources
from typing import NamedTuple

import pytest
from aiohttp import ClientSession
from multidict import CIMultiDictProxy

from edge.config.schema import Config, ServerSettings
from tests.security.hub import running

STATIC = resources.files("edge").joinpath("static")
PAGE_FILES = tuple(
    "/" + file.name.replace("index.html", "")
    for file in STATIC.iterdir()
    if file.name.startswith(("index.", "page", "icon."))
)
CLIENT_FILES = ("/edge.js", "/edge.d.ts", "/clients/")


class Answer(NamedTuple):
    status: int
    headers: CIMultiDictProxy[str]
    body: bytes


Ask = Callable[..., Awaitable[Answer]]


@pytest.fixture
def server_settings() -> ServerSettings:
    return ServerSettings()


@pytest.fixture
async def ask(server_settings: ServerSettings) -> AsyncIterator[Ask]:
    async with (
        running(Config(server=server_settings)) as hub,
        ClientSession(f"{hub.url}/", auto_decompress=False, skip_auto_headers=("Accept-Encoding",)) as session,
    ):

        async def ask(path: str, method: str = "GET", **headers: str) -> Answer:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            async with session.request(method, path, headers=named) as response:
                return Answer(response.status, response.headers, await response.read())

        yield ask


@pytest.mark.parametrize(
    ("path", "content_type"),
    [
        ("/", "text/html; charset=utf-8"),
        ("/page.css", "text/css; charset=utf-8"),
        ("/page.js", "text/javascript; charset=utf-8"),
        ("/icon.svg", "image/svg+xml; charset=utf-8"),
        ("/edge.js", "text/javascript; charset=utf-8"),
        ("/edge.d.ts", "text/plain; charset=utf-8"),
    ],
)
async def test_a_file_comes_as_it_is_with_its_type(ask: Ask, path: str, content_type: str) -> None:
    answer = await ask(path)

    assert 200 == answer.status
    assert content_type == answer.headers["Content-Type"]
    assert STATIC.joinpath(path[1:] or "index.html").read_bytes() == answer.body


@pytest.mark.parametrize("path", PAGE_FILES + CLIENT_FILES)
async def test_every_file_is_checked_again_and_never_sniffed(ask: Ask, path: str) -> None:
    headers = (await ask(path)).headers

    assert "no-cache" == headers["Cache-Control"]
    assert "nosniff" == headers["X-Content-Type-Options"]
    assert "no-referrer" == headers["Referrer-Policy"]


async def test_the_page_may_load_nothing_from_elsewhere_run_nothing_inline_and_stand_in_no_frame(ask: Ask) -> None:
    policy = dict(
        directive.split(" ", 1) for directive in (await ask("/")).headers["Content-Security-Policy"].split("; ")
    )

    assert "'none'" == policy.pop("frame-ancestors")
    assert "'none'" == policy.pop("default-src")
    assert {"'self'", "'none'", "'script'"} == set(policy.values())


async def test_any_site_may_import_the_client_but_not_the_page(ask: Ask) -> None:
    assert "*" == (await ask("/edge.js")).headers["Access-Control-Allow-Origin"]
    assert "Access-Control-Allow-Origin" not in (await ask("/page.js")).headers


@pytest.mark.parametrize("path", PAGE_FILES + CLIENT_FILES)
async def test_who_takes_gzip_gets_the_same_file_gzipped(ask: Ask, path: str) -> None:
    plain = await ask(path)
    packed = await ask(path, Accept_Encoding="br, gzip;q=0.8")

    assert "gzip" == packed.headers["Content-Encoding"]
    assert plain.body == gzip.decompress(packed.body)
    assert plain.headers["ETag"] != packed.headers["ETag"]
    assert "Accept-Encoding" == plain.headers["Vary"] == packed.headers["Vary"]


@pytest.mark.parametrize("accepted", ["gzip;q=0", "br", "identity"])
async def test_who_does_not_take_gzip_gets_none(ask: Ask, accepted: str) -> None:
    assert "Content-Encoding" not in (await ask("/", Accept_Encoding=accepted)).headers


@pytest.mark.parametrize("encoding", ["identity", "gzip"])
async def test_a_cached_file_is_answered_304(ask: Ask, encoding: str) -> None:
    etag = (await ask("/edge.js", Accept_Encoding=encoding)).headers["ETag"]
    again = await ask("/edge.js", Accept_Encoding=encoding, If_None_Match=f'"other", W/{etag}')

    assert (304, b"", etag) == (again.status, again.body, again.headers["ETag"])
    assert 200 == (await ask("/edge.js", Accept_Encoding=encoding, If_None_Match='"other"')).status


async def test_head_answers_without_the_body(ask: Ask) -> None:
    answer = await ask("/", method="HEAD")

    assert (200, b"") == (answer.status, answer.body)


async def test_the_client_is_under_5_kb_gzipped(ask: Ask) -> None:
    assert 5000 > int((await ask("/edge.js", Accept_Encoding="gzip")).headers["Content-Length"])


@pytest.mark.parametrize("server_settings", [ServerSettings(page=False)])
async def test_with_the_page_turned_off_only_the_client_is_there(ask: Ask) -> None:
    assert {404} == {(await ask(path)).status for path in PAGE_FILES}
    assert {200} == {(await ask(path)).status for path in CLIENT_FILES}
