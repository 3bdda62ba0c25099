"""The React recipe of docs/browser.md: checked with TypeScript, built with Vite, and run on an origin of its own."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from aiohttp import web
from playwright.async_api import Browser

from tests.browser.conftest import OpenTab, Serve
from tests.faults.hub import until

pytestmark = pytest.mark.node

ROOT = Path(__file__).parent.parent.parent
NODE_MODULES = ROOT / "tests" / "node" / "node_modules"
_RECIPE = re.compile(r"^```tsx?\n// (\S+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
RECIPES = dict(_RECIPE.findall((ROOT / "docs" / "browser.md").read_text()))
MAIN = """
import { StrictMode } from "react";
import { createRoot } from "react-dom/client";
import { ProjectPage } from "./project-page";

const [url, projectId] = decodeURIComponent(location.hash.slice(1)).split(" ");
createRoot(document.getElementById("root")!).render(
  <StrictMode><ProjectPage url={url} projectId={projectId} /></StrictMode>,
);
"""
TSCONFIG = """{"compilerOptions": {"strict": true, "noEmit": true, "jsx": "react-jsx", "module": "esnext",
    "moduleResolution": "bundler", "target": "es2022", "lib": ["es2022", "dom", "dom.iterable"], "types": []},
    "include": ["src"], "exclude": ["src/main.tsx"]}"""


def node(folder: Path, program: str, *arguments: str) -> None:
    done = subprocess.run(
        [NODE_MODULES / ".bin" / program, *arguments], cwd=folder, capture_output=True, text=True, check=False
    )
    assert 0 == done.returncode, done.stdout + done.stderr


@pytest.fixture(scope="session")
def project_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("react")
    source = folder / "src"
    source.mkdir()
    for name, text in RECIPES.items():
        (source / name).write_text(text)
    for name in ("edge.js", "edge.d.ts"):
        shutil.copy(ROOT / "edge" / "static" / name, source)
    (source / "main.tsx").write_text(MAIN)
    (folder / "index.html").write_text('<div id="root"></div><script type="module" src="/src/main.tsx"></script>')
    (folder / "tsconfig.json").write_text(TSCONFIG)
    (folder / "package.json").write_text('{"type": "module"}')
    (folder / "node_modules").symlink_to(NODE_MODULES)
    return folder


def test_the_recipe_has_the_right_types(project_folder: Path) -> None:
    assert {"use-project-stream.ts", "project-page.tsx"} == set(RECIPES)
    node(project_folder, "tsc", "--project", ".")


@pytest_asyncio.fixture(loop_scope="session")
async def site(chromium: Browser, project_folder: Path) -> AsyncIterator[str]:
    """The built page's origin."""
    node(project_folder, "vite", "build", "--logLevel", "warn")

    async def index(_request: web.Request) -> web.FileResponse:
        return web.FileResponse(project_folder / "dist" / "index.html")

    app = web.Application()
    app.router.add_get("/", index)
    app.router.add_static("/assets", project_folder / "dist" / "assets")
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


async def test_the_recipe_waits_triggers_shows_events_and_comes_back(
    serve: Serve, open_tab: OpenTab, site: str
) -> None:
    hub = await serve(cors__origins=site)
    tab = await open_tab(f"{site}/#{hub.url} p")
    await tab.shows("[role=status]", "Real-time connection established")
    await tab.page.fill("input", "make it blue")
    await tab.page.click("button")
    await tab.shows("ol", 'api/iterate {"prompt":"make it blue"}')
    hub.signal(signal.SIGKILL)
    await tab.shows("[role=status]", "Real-time connection not active")
    again = await serve(hub.port, cors__origins=site)
    await tab.shows("[role=status]", "Real-time connection established")
    await again.publish("p", "back")
    await tab.shows("ol", 'message "back"')

    async def readers() -> int:
        return int((await again.project("p"))["connections_total"])

    await until(readers, lambda count: count == 1)
    assert [] == tab.errors
