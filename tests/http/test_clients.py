"""`/clients/`: what an installer makes of the packages that the hub serves."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
import zipfile
from base64 import urlsafe_b64encode
from email.parser import BytesParser
from hashlib import sha256
from pathlib import Path

import aiohttp
import pytest

from docs import make_wire
from edge import __version__
from edge.http import clients
from tests.hubs import StartHub

ROOT = Path(__file__).parents[2]
VERSIONED = f"/clients/edge-hub-{__version__}.tgz"


async def test_the_index_links_every_package_under_a_prefix_too(start_hub: StartHub) -> None:
    site = await start_hub(server={"base_path": "/hub"})
    index = (await site.ask("GET", "/hub/clients/")).body.decode()
    for package in clients.PACKAGES:
        for name in package.names:
            assert f'{package.install} <a href="{name}">' in index
            answer = await site.ask("GET", f"/hub/clients/{name}")
            assert (200, package.content_type, package.body) == (
                answer.status,
                answer.headers["Content-Type"],
                answer.body,
            )


async def test_a_package_has_a_tag_and_needs_no_token(start_hub: StartHub) -> None:
    site = await start_hub(auth={"token": ("secret-enough-for-a-test",)})
    answer = await site.ask("GET", VERSIONED)
    again = await site.ask("GET", VERSIONED, headers={"If-None-Match": answer.headers["ETag"]})
    head = await site.ask("HEAD", VERSIONED)
    assert (200, 304, 200) == (answer.status, again.status, head.status)
    assert (str(len(answer.body)), b"") == (head.headers["Content-Length"], head.body)
    assert "Content-Encoding" not in answer.headers
    assert answer.body == (await site.ask("GET", "/clients/edge-hub-latest.tgz")).body


@pytest.mark.parametrize(
    ("origin", "allowed"), [("https://app.example", "https://app.example"), ("https://other.example", "*")]
)
async def test_a_browser_finds_one_allowed_origin(
    start_hub: StartHub, session: aiohttp.ClientSession, origin: str, allowed: str
) -> None:
    site = await start_hub(cors={"origins": ("https://app.example",)})
    for path in ("/edge.js", VERSIONED):
        async with session.get(site.url + path, headers={"Origin": origin}) as answer:
            assert [allowed] == answer.headers.getall("Access-Control-Allow-Origin")


async def test_another_version_is_not_found(start_hub: StartHub) -> None:
    site = await start_hub()
    assert "not_found" == (await site.ask("GET", "/clients/edge-hub-99.0.0.tgz")).problem["code"]


def test_the_npm_package_holds_its_sources_and_what_pages_load() -> None:
    with tarfile.open(fileobj=io.BytesIO(clients.PACKAGES[0].body), mode="r:gz") as archive:
        members = archive.getmembers()
        packed = {
            member.name.removeprefix("package/"): reading.read()
            for member in members
            if (reading := archive.extractfile(member))
        }
    static = {name: (ROOT / "edge" / "static" / name).read_bytes() for name in ("edge.js", "edge.d.ts")}
    manifest = json.loads(packed["package.json"])
    assert clients.sources("js") | static | {"package.json": packed["package.json"]} == packed
    assert ("edge-hub", __version__) == (manifest["name"], manifest["version"])
    assert (ROOT / "LICENSE").read_bytes() == packed["LICENSE"]
    assert {(0o644, 0, 0, 499162500)} == {(member.mode, member.uid, member.gid, member.mtime) for member in members}


def test_the_wheel_holds_its_sources_and_a_record_of_them() -> None:
    wheel = clients.PACKAGES[1]
    with zipfile.ZipFile(io.BytesIO(wheel.body)) as archive:
        assert archive.testzip() is None
        packed = {entry.filename: archive.read(entry) for entry in archive.infolist()}
        assert {((1980, 1, 1, 0, 0, 0), 0o100644)} == {
            (entry.date_time, entry.external_attr >> 16) for entry in archive.infolist()
        }
    info = f"edge_hub_client-{__version__}.dist-info"
    rows = [line.split(",") for line in packed[f"{info}/RECORD"].decode().splitlines()]
    assert list(packed) == [path for path, _, _ in rows]
    for path, digest, size in rows[:-1]:
        encoded = urlsafe_b64encode(sha256(packed[path]).digest()).rstrip(b"=").decode()
        assert (f"sha256={encoded}", str(len(packed[path]))) == (digest, size)
    folder = ROOT / "clients" / "python" / "edge_hub_client"
    assert {f"edge_hub_client/{path.name}": path.read_bytes() for path in folder.iterdir() if path.is_file()} == {
        path: content for path, content in packed.items() if not path.startswith(info)
    }
    metadata = BytesParser().parsebytes(packed[f"{info}/METADATA"])
    assert ("edge-hub-client", __version__, ">=3.9") == tuple(
        metadata[field] for field in ("Name", "Version", "Requires-Python")
    )
    assert (ROOT / "LICENSE").read_bytes() == packed[f"{info}/licenses/LICENSE"]


@pytest.mark.parametrize("length", [1, 0xFFFF, 0xFFFF + 1, 3 * 0xFFFF])
def test_a_stored_archive_is_read_by_any_gzip(length: int) -> None:
    body = bytes(range(256)) * (length // 256) + bytes(length % 256)
    assert body == gzip.decompress(clients._gzip(body))


def test_the_types_of_the_wire_are_those_of_the_document() -> None:
    assert make_wire.declarations() == make_wire.FILE.read_text(encoding="utf-8"), "run `make docs`"
