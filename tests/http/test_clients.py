"""`/clients/`: what an installer makes of the packages that the hub serves."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from pathlib import Path

import pytest

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


@pytest.mark.parametrize("length", [1, 0xFFFF, 0xFFFF + 1, 3 * 0xFFFF])
def test_a_stored_archive_is_read_by_any_gzip(length: int) -> None:
    body = bytes(range(256)) * (length // 256) + bytes(length % 256)
    assert body == gzip.decompress(clients._gzip(body))
