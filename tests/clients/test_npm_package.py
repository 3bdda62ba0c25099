"""The npm package, installed from the hub's own URL into a fresh project: its types, its form, and what it does."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from edge import __version__
from edge.http import clients
from tests.browser.conftest import CHROMIUM
from tests.clients.client import HERE, NODE
from tests.clients.recipe import unpack
from tests.faults.hub import serving

pytestmark = [pytest.mark.slow, pytest.mark.clients]
FOLDER = HERE / "node"
MODULES = FOLDER / "node_modules"
NPM = NODE.parents[1] / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
DENO = next(MODULES.glob("@deno/*/deno"), MODULES / "deno")
TOKEN = "a-token-for-the-tests-of-the-package"
SIZES = {"edge.js": 5000, "react.js": 1100, "server.js": 3300, "testing.js": 3500}
"""Bytes, gzipped: a page loads edge.js and react.js."""
ENVIRONMENT = os.environ | {"PATH": f"{NODE.parent}:{os.environ['PATH']}", "NO_COLOR": "1"}


async def run(folder: Path, *command: str | Path, **environment: str) -> str:
    """What it prints; it has to succeed."""
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=folder,
        env=ENVIRONMENT | environment,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    process._transport.close()  # type: ignore[attr-defined]  # or it warns when it is collected
    assert 0 == process.returncode, output.decode()
    return output.decode()


@pytest.fixture
def app(tmp_path: Path) -> Path:
    """A folder with the package in it, and what it may be used with, from the tests' own modules."""
    modules = tmp_path / "node_modules"
    modules.mkdir()
    (tmp_path / "package.json").write_text('{"name": "app", "private": true, "type": "module"}')
    with tarfile.open(fileobj=io.BytesIO(clients.PACKAGES[0].body)) as archive:
        archive.extractall(modules, filter="data")
    (modules / "package").rename(modules / "edge-hub")
    for shared in ("@types", "csstype", "react", "react-dom", "scheduler"):
        (modules / shared).symlink_to(MODULES / shared)
    return tmp_path


async def test_it_installs_from_the_hub_and_does_in_node_and_deno_what_it_says(tmp_path: Path) -> None:
    (tmp_path / "package.json").write_text('{"name": "app", "private": true, "type": "module"}')
    async with serving(server__host="127.0.0.1", auth__anonymous=None, auth__token=TOKEN) as hub:
        url = f"{hub.url}/clients/edge-hub-{__version__}.tgz"
        await run(tmp_path, NODE, NPM, "install", "--no-audit", "--no-fund", "--silent", url)
        shutil.copy(FOLDER / "server.test.mjs", tmp_path)
        asked = {"EDGE_URL": hub.url, "EDGE_TOKEN": TOKEN}
        node = await run(tmp_path, NODE, "server.test.mjs", "node", **asked)
        deno = await run(tmp_path, DENO, "run", "--allow-all", "--no-remote", "server.test.mjs", "deno", **asked)
    assert 15 == sum(line.startswith("ok ") for line in node.splitlines())
    assert node == deno
    lock = json.loads((tmp_path / "package-lock.json").read_text())
    assert url == lock["packages"]["node_modules/edge-hub"]["resolved"]
    digest = base64.b64encode(hashlib.sha512(clients.PACKAGES[0].body).digest()).decode()
    assert f"sha512-{digest}" == lock["packages"]["node_modules/edge-hub"]["integrity"]


async def test_the_fake_tells_the_same_story_as_a_hub(app: Path) -> None:
    shutil.copy(FOLDER / "fake.test.mjs", app)
    async with serving(server__host="127.0.0.1", auth__anonymous=None) as hub:
        printed = await run(app, NODE, "fake.test.mjs", hub.url)
    assert printed == await run(app, NODE, "fake.test.mjs")
    assert 22 == len(printed.splitlines())


@pytest.mark.node
async def test_its_types_are_right_with_each_module_resolution(app: Path) -> None:
    shutil.copy(FOLDER / "types.tsx", app)
    page = (HERE.parents[1] / "docs" / "javascript.md").read_text()
    (app / "shown.tsx").write_text(page.partition("```tsx\n")[2].partition("```")[0])
    tsc = HERE.parent / "node" / "node_modules" / ".bin" / "tsc"
    for module, resolution in (("esnext", "bundler"), ("node16", "node16"), ("nodenext", "nodenext")):
        options = {
            "strict": True,
            "exactOptionalPropertyTypes": True,
            "noUncheckedIndexedAccess": True,
            "noEmit": True,
            "module": module,
            "moduleResolution": resolution,
            "target": "es2022",
            "jsx": "react-jsx",
            "lib": ["es2022", "dom", "dom.iterable"],
            "types": [],
        }
        (app / "tsconfig.json").write_text(
            json.dumps({"compilerOptions": options, "files": ["types.tsx", "shown.tsx"]})
        )
        assert "" == await run(app, tsc, "--project", ".")
    assert "" == await run(unpack("vite-react"), tsc, "--project", ".")  # Next checks its own


async def test_publint_and_attw_find_nothing(app: Path) -> None:
    publint = MODULES / "publint" / "src" / "cli.js"
    assert "All good!" in await run(app, NODE, publint, "--strict", "--pack=false", "node_modules/edge-hub")
    (app / "edge-hub.tgz").write_bytes(clients.PACKAGES[0].body)
    attw = MODULES / "@arethetypeswrong" / "cli" / "dist" / "index.js"
    await run(app, NODE, attw, "--profile", "esm-only", "edge-hub.tgz")


@pytest.mark.parametrize(("name", "limit"), SIZES.items())
def test_it_is_small(name: str, limit: int) -> None:
    files = {**clients.sources("js"), "edge.js": (HERE.parents[1] / "edge" / "static" / "edge.js").read_bytes()}
    packed = subprocess.run(["gzip", "--best", "--no-name"], input=files[name], capture_output=True, check=True).stdout
    assert len(packed) < limit


@pytest.mark.browser
async def test_the_examples_of_tests_pass_in_vitest_and_playwright() -> None:
    folder = unpack("testing")
    path = os.pathsep.join([str(Path(sys.executable).parent), ENVIRONMENT["PATH"]])  # with `edge`
    await run(folder, NODE, MODULES / "vitest" / "vitest.mjs", "run", PATH=path)
    playwright = MODULES / "@playwright" / "test" / "cli.js"
    await run(folder, NODE, playwright, "test", "--reporter=line", PATH=path, CHROMIUM=CHROMIUM)
