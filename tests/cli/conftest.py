"""No test of the command line takes its settings from the environment of the tests."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator

import pytest

from tests.faults.hub import HubProcess, serving


@pytest.fixture(autouse=True)
def _no_settings_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("EDGE_"):
            monkeypatch.delenv(name)


@pytest.fixture
async def hub() -> AsyncIterator[HubProcess]:
    async with serving(stream__heartbeat_seconds="500ms", trigger__wait_seconds="0") as started:
        yield started
