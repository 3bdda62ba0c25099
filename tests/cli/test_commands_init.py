"""`edge init`, as a process."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

from edge.cli.commands import commented, example
from edge.config.load import load
from edge.config.schema import Config


def init(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "edge", "init", *arguments], cwd=folder, capture_output=True, text=True, check=False
    )


def test_the_file_changes_nothing_until_a_line_is_uncommented(tmp_path: Path) -> None:
    done = init(tmp_path)
    assert (0, "edge: wrote edge.toml; start with it: edge serve --config edge.toml\n") == (
        done.returncode,
        done.stdout,
    )
    assert Config() == load(tmp_path / "edge.toml", {}, {})[0]
    text = (tmp_path / "edge.toml").read_text()
    assert set(tomllib.loads(text)) == set(tomllib.loads(example()))
    (tmp_path / "edge.toml").write_text(text.replace("# port = 8080", "port = 8081"))
    assert 8081 == load(tmp_path / "edge.toml", {}, {})[0].server.port


def test_an_existing_file_is_kept(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text("mine")
    done = init(tmp_path, "mine.toml")
    assert (2, "edge: mine.toml exists; --force replaces it\n") == (done.returncode, done.stderr)
    assert "mine" == (tmp_path / "mine.toml").read_text()
    assert 0 == init(tmp_path, "mine.toml", "--force").returncode
    assert commented(example()) == (tmp_path / "mine.toml").read_text()


def test_a_hyphen_prints_it(tmp_path: Path) -> None:
    assert commented(example()) == init(tmp_path, "-").stdout
    assert [] == list(tmp_path.iterdir())


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    done = init(tmp_path, "no/such/edge.toml")
    assert (1, "edge: no/such/edge.toml: No such file or directory\n") == (done.returncode, done.stderr)
