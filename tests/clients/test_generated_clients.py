"""Clients generated from `/openapi.json`, compiled, and used: they publish, wait for a subscriber and trigger."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.clients.client import HERE, INSTALLED, NODE
from tests.faults.hub import HubProcess, serving
from tests.faults.reader import open_stream

pytestmark = [pytest.mark.slow, pytest.mark.clients]
MODULES = HERE / "node" / "node_modules"


async def run(*command: Path | str, cwd: Path, **environment: str) -> str:
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=cwd,
        env=os.environ | {"PATH": f"{INSTALLED / 'bin'}:{os.environ['PATH']}"} | environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    assert 0 == process.returncode, output.decode()
    return output.decode()


async def document_of(hub: HubProcess, folder: Path) -> Path:
    status, document, _ = await hub.ask("GET", "/openapi.json")
    assert 200 == status
    path = folder / "openapi.json"
    path.write_text(json.dumps(document))
    return path


async def by_python(document: Path, folder: Path, url: str) -> str:
    generated = await run(
        *(INSTALLED / "bin" / "openapi-python-client", "generate", "--meta", "none"),
        *("--path", document, "--output-path", folder / "hub"),
        cwd=folder,
    )
    assert "Unable to" not in generated
    return await run(
        INSTALLED / "bin" / "python", HERE / "python" / "generated.py", url, cwd=folder, PYTHONPATH=str(folder)
    )


async def by_typescript(document: Path, folder: Path, url: str) -> str:
    await run(NODE, MODULES / ".bin" / "openapi-typescript", document, "--output", folder / "hub.ts", cwd=folder)
    program = folder / "generated.ts"
    program.write_text((HERE / "node" / "generated.ts").read_text())
    options = {"strict": True, "noEmit": True, "target": "es2022", "module": "nodenext", "types": []}
    options |= {"lib": ["es2022", "dom"], "allowImportingTsExtensions": True}
    (folder / "tsconfig.json").write_text(json.dumps({"compilerOptions": options, "files": [program.name]}))
    (folder / "package.json").write_text('{"type": "module"}')
    await run(NODE, MODULES / ".bin" / "tsc", "--project", folder, cwd=folder)
    return await run(NODE, program, url, cwd=folder)


async def by_go(document: Path, folder: Path, url: str) -> str:
    source, program = folder / "hub.go", folder / "generated"
    await run(
        *(INSTALLED / "bin" / "oapi-codegen", "-generate", "types,client", "-package", "main", "-o", source, document),
        cwd=folder,
    )
    place = HERE / "go" / "generated" / "hub.go"
    overlay = folder / "overlay.json"
    overlay.write_text(json.dumps({"Replace": {str(place): str(source)}}))  # it is compiled as if it were there
    await run(
        *(INSTALLED / "bin" / "go", "build", "-overlay", overlay, "-o", program, "."),
        cwd=place.parent,
        CGO_ENABLED="0",
        GOFLAGS="-mod=readonly",
        GOTOOLCHAIN="local",
    )
    return await run(program, url, cwd=folder)


@pytest.mark.parametrize("generate", [by_python, by_typescript, by_go], ids=["python", "typescript", "go"])
async def test_a_generated_client_publishes_and_triggers(generate: Any, tmp_path: Path) -> None:
    async with serving() as hub:
        reader = await open_stream(("127.0.0.1", hub.port), "p")
        seen = json.loads(await generate(await document_of(hub, tmp_path), tmp_path, hub.url))
        assert ["from a generated client", {"prompt": "hello"}] == await reader.events(2)
        await reader.close()
    assert {"connections": 1, "ready": True, "dispatched": True, "refused": "invalid_project"} == seen
