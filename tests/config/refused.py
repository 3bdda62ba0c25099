"""Configurations that are refused, and texts that several tests need."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path

import pytest

from edge.config.load import ConfigError, load

SIGNING_SECRET = "whsec_" + base64.b64encode(b"0123456789abcdef0123456789abcdef").decode()
PUBLIC_PEM = "-----BEGIN PUBLIC KEY-----\nMCow\n-----END PUBLIC KEY-----\n"


def refusal(
    environ: Mapping[str, str] | None = None,
    *,
    file: Path | None = None,
    flags: Mapping[str, str] | None = None,
) -> str:
    """The refusal as the command line prints it."""
    with pytest.raises(ConfigError) as caught:
        load(file, environ or {}, flags or {})
    line = str(caught.value)
    assert line.isprintable(), "one line, nothing a terminal acts on"
    return f"edge: {line}"
