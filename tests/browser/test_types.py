"""edge.d.ts says what edge.js does: it compiles, and both have the same names."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.node

ROOT = Path(__file__).parent.parent.parent
NODE = ROOT / "tests" / "node"
DECLARED = (ROOT / "edge" / "static" / "edge.d.ts").read_text()
_LIST_MEMBERS = """import * as edge from "./edge/static/edge.js";
const own = (made) => Object.getOwnPropertyNames(made).filter((name) => name !== "constructor");
const members = Object.entries(edge).map(([name, made]) => [name, own(made.prototype)]);
console.log(JSON.stringify(Object.fromEntries(members)));
"""


def test_a_program_that_uses_the_types_compiles_and_wrong_uses_do_not() -> None:
    options = ("--noEmit", "--strict", "--module", "esnext", "--moduleResolution", "bundler", "--target", "es2022")
    done = subprocess.run(
        [NODE / "node_modules" / ".bin" / "tsc", *options, "--lib", "es2022,dom", "--types", "", "types.ts"],
        cwd=NODE,
        capture_output=True,
        text=True,
        check=False,
    )

    assert (0, "") == (done.returncode, done.stdout)


def test_every_class_and_member_of_edge_js_is_declared() -> None:
    listed = subprocess.run(
        ["node", "--input-type=module", "--eval", _LIST_MEMBERS], cwd=ROOT, capture_output=True, text=True, check=True
    )
    found: dict[str, list[str]] = json.loads(listed.stdout)
    declared = {
        name: set(re.findall(r"^  (?:readonly )?(\w+)[?(:]", body, re.MULTILINE))
        for name, body in re.findall(r"^export class (\w+) .*?\{$(.*?)^\}$", DECLARED, re.MULTILINE | re.DOTALL)
    }

    assert found.keys() == declared.keys()
    assert {} == {name: missing for name in found if (missing := set(found[name]) - declared[name])}
