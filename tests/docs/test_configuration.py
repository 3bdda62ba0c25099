from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from edge.cli.hub import ExitStatus
from edge.config.load import describe, load
from edge.config.schema import KEYS, Config, reloadable

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "configuration.md").read_text(encoding="utf-8")
EXAMPLE = DOCS.parent / "edge" / "static" / "edge.example.toml"
DOCUMENTED = re.findall(r"^\| `(\w+\.\w+)` \| (\S.*?) \| (\S.*\.) \|$", PAGE, re.MULTILINE)


def effective_defaults() -> dict[str, str]:
    """Each key with its default as the page writes it."""
    shown = {}
    section = ""
    for line in describe(Config(), {}).splitlines():
        if line.startswith("["):
            section = line.strip("[]")
        elif line.endswith(" is not set"):
            shown[f"{section}.{line.split()[1]}"] = "not set"
        elif line:
            name, _, value = line.partition(" = ")
            shown[f"{section}.{name}"] = "none" if value == "[]" else "`" + value.strip('"') + "`"
    return shown


def test_the_page_has_every_key_in_order_and_no_other() -> None:
    assert list(KEYS) == [key for key, _, _ in DOCUMENTED]


def test_the_page_has_every_default() -> None:
    assert effective_defaults() == {key: default for key, default, _ in DOCUMENTED}


def test_the_page_lists_what_a_reload_applies() -> None:
    listed = PAGE.partition("The hub applies changes of")[2].partition("The log line")[0]
    named = set(re.findall(r"`([\w.]+)`", listed))

    assert {key for key in KEYS if reloadable(key)} == {
        key for key in KEYS if key in named or key.partition(".")[0] in named
    }


def test_every_documented_exit_status_exists_and_the_reverse() -> None:
    documented = {int(status) for status in re.findall(r"^\| (\d+) \| \w", PAGE, re.MULTILINE)}

    assert set(ExitStatus) == documented


def test_the_example_file_is_the_defaults() -> None:
    assert Config() == load(EXAMPLE, {}, {})[0]


def test_the_example_file_names_every_key() -> None:
    text = EXAMPLE.read_text(encoding="utf-8")
    # What has no default stands there as a comment: taken out of it, every key must be known.
    example = tomllib.loads(re.sub(r"^# (\w+ = )", r"\1", text, flags=re.MULTILINE))

    assert list(KEYS) == [f"{section}.{name}" for section, table in example.items() for name in table]


@pytest.mark.parametrize("block", re.findall(r"(?<!-->\n)^```console\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL))
def test_the_output_on_the_page_is_real(block: str) -> None:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("EDGE_")}
    for command, expected in re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", block, re.MULTILINE):
        python = shlex.quote(sys.executable)
        done = subprocess.run(
            ["sh", "-c", command.replace("edge check-config", f"{python} -m edge check-config")],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            env=environ,
        )
        assert expected == done.stdout
