"""Every test logs as a hub does, and leaves the configuration of logging as it was."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
import structlog

from edge.logs import setup


@pytest.fixture(autouse=True)
def _logs() -> Iterator[None]:
    """structlog's own way with tracebacks reads source files, which no event loop may wait for."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    setup.configure("json", "debug")
    structlog.configure(cache_logger_on_first_use=False)  # or what modules log stays bound to this for ever
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)
    structlog.reset_defaults()
