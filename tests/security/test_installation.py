from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from aiohttp import http_parser

from edge.config.load import ConfigError
from edge.server import process

ROOT = Path(__file__).parents[2]


def test_requests_are_read_by_the_c_parser() -> None:
    process.require_c_parser()
    assert http_parser.HttpRequestParser is not http_parser.HttpRequestParserPy


def test_without_it_the_hub_does_not_start() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "edge", "serve", "--port", "0"],
        env={**os.environ, "AIOHTTP_NO_EXTENSIONS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (2, "") == (run.returncode, run.stdout)
    assert "edge: aiohttp (from this installation): its C parser is missing" in run.stderr


def test_the_refusal_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_parser, "HttpRequestParser", http_parser.HttpRequestParserPy)
    with pytest.raises(ConfigError, match="AIOHTTP_NO_EXTENSIONS"):
        process.require_c_parser()


def test_aiohttp_is_newer_than_its_last_advisories() -> None:
    """3.14.5 is the newest there was; the last advisories were for versions before 3.13.3 (December 2025)."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert [one for one in project["dependencies"] if one.startswith("aiohttp>=3.14.5,<3.15")]
