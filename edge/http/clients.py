"""`/clients/`: the client packages of this version of the hub, for `npm install URL` and `pip install URL`.

They are packed from their sources when this module is imported. Archives are deterministic, and not compressed: the
same sources make the same bytes with any Python and zlib, so the integrity in a lock file holds for every build.
"""

from __future__ import annotations

import base64
import hashlib
import html
import io
import struct
import tomllib
import zipfile
import zlib
from collections.abc import Iterable
from importlib import resources
from pathlib import Path
from typing import NamedTuple

import msgspec

from edge import __version__

_EDGE = Path(str(resources.files("edge")))
_PACKED = _EDGE / "clients"
_SOURCES = _PACKED if _PACKED.is_dir() else _EDGE.parent / "clients"
"""In a wheel or a binary `edge/clients`, in a checkout the folder beside the package."""
_NPM_TIME = 499162500
"""1985-10-26T08:15:00Z, as npm writes it for every file."""


class Package(NamedTuple):
    """One file of `/clients/`. `names`: what it is served as; the first one holds the version."""

    names: tuple[str, ...]
    install: str
    content_type: str
    body: bytes


def sources(name: str) -> dict[str, bytes]:
    """The files below the folder `clients/NAME`, by their paths in it."""
    folder = _SOURCES / name
    files = [path for path in folder.rglob("*") if path.is_file() and path.parent.name != "__pycache__"]
    return dict(sorted((path.relative_to(folder).as_posix(), path.read_bytes()) for path in files))


def _npm() -> Package:
    """The npm package: the files of `clients/js`, and `edge.js` as pages load it."""
    files = sources("js")
    for name in ("edge.js", "edge.d.ts"):
        files[name] = (_EDGE / "static" / name).read_bytes()
    manifest = msgspec.json.decode(files["package.json"]) | {"version": __version__}
    files["package.json"] = msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n"
    body = _gzip(_tar((f"package/{name}", content) for name, content in sorted(files.items())))
    names = tuple(f"edge-hub-{version}.tgz" for version in (__version__, "latest"))
    return Package(names, "npm install", "application/gzip", body)


def _tar(files: Iterable[tuple[str, bytes]]) -> bytes:
    """A tar archive (POSIX.1-1988, ustar). The standard library's module is not in the binary."""
    archive = bytearray()
    for name, content in files:
        numbers = b"0000644\0" + b"0000000\0" * 2 + b"%011o\0%011o\0" % (len(content), _NPM_TIME)
        before, after = name.encode().ljust(100, b"\0") + numbers, b"0" + bytes(100) + b"ustar\x0000"
        checksum = sum(before) + sum(after) + 8 * ord(" ")
        archive += (before + b"%06o\0 " % checksum + after).ljust(512, b"\0")
        archive += content + bytes(-len(content) % 512)
    return bytes(archive) + bytes(1024)


def _gzip(body: bytes) -> bytes:
    """`body` in gzip's format (RFC 1952), in stored blocks (RFC 1951, section 3.2.4)."""
    blocks = [body[start : start + 0xFFFF] for start in range(0, len(body), 0xFFFF)]
    made = [b"\x1f\x8b\x08" + bytes(6) + b"\xff"]
    for number, block in enumerate(blocks, 1):
        made += struct.pack("<BHH", number == len(blocks), len(block), 0xFFFF ^ len(block)), block
    return b"".join(made) + struct.pack("<II", zlib.crc32(body), len(body))


def _wheel() -> Package:
    """The Python wheel (PyPA, "Binary distribution format" and "Core metadata"): the package of `clients/python`."""
    files = sources("python")
    project = tomllib.loads(files["pyproject.toml"].decode())["project"]
    name = project["name"].replace("-", "_")
    info = f"{name}-{__version__}.dist-info"
    fields = [
        *(("Metadata-Version", "2.4"), ("Name", project["name"]), ("Version", __version__)),
        *(("Summary", project["description"]), ("Requires-Python", project["requires-python"])),
        *(("License-Expression", project["license"]), ("License-File", "LICENSE")),
        *(("Classifier", each) for each in project["classifiers"]),
        *(("Requires-Dist", each) for each in project["dependencies"]),
        ("Description-Content-Type", "text/markdown"),
    ]
    metadata = "".join(f"{field}: {value}\n" for field, value in fields).encode()
    packed = {path: content for path, content in files.items() if path.startswith(f"{name}/")} | {
        f"{info}/METADATA": metadata + b"\n" + files["README.md"].replace(b"VERSION", __version__.encode()),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: edge\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/licenses/LICENSE": files["LICENSE"],
    }
    record = "".join(f"{path},sha256={_digest(content)},{len(content)}\n" for path, content in packed.items())
    packed[f"{info}/RECORD"] = f"{record}{info}/RECORD,,\n".encode()
    body = io.BytesIO()
    with zipfile.ZipFile(body, "w") as archive:
        for path, content in packed.items():
            entry = zipfile.ZipInfo(path)  # of 1980
            entry.create_system, entry.external_attr = 3, 0o100644 << 16  # made on Unix
            archive.writestr(entry, content)
    return Package((f"{name}-{__version__}-py3-none-any.whl",), "pip install", "application/zip", body.getvalue())


def _digest(content: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()


PACKAGES = (_npm(), _wheel())


def index() -> bytes:
    """The page that lists them, with the links that `pip install --find-links` follows."""
    links = [
        f'<p>{package.install} <a href="{html.escape(name)}">{html.escape(name)}</a></p>'
        for package in PACKAGES
        for name in package.names
    ]
    return "\n".join(["<!DOCTYPE html>", '<html lang="en">', "<title>Clients of edge</title>", *links, ""]).encode()
