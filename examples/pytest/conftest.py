"""A hub for the tests, and a project for each."""

from __future__ import annotations

import subprocess
import uuid
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session")
def hub_url() -> Iterator[str]:
    """A hub for all tests, on a free port."""
    with subprocess.Popen(["edge", "serve", "--port", "0"], stdout=subprocess.PIPE, text=True) as hub:
        assert hub.stdout is not None
        yield hub.stdout.readline().split()[-1]  # edge: listening on http://127.0.0.1:43121
        hub.terminate()


@pytest.fixture
def project() -> str:
    return f"test-{uuid.uuid4()}"
