"""The fixtures of `tests.hubs`, and plain or TLS."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.faults.tls import Certificate, self_signed
from tests.hubs import serve, session, site, start_hub

__all__ = ["serve", "session", "site", "start_hub"]


@pytest.fixture(scope="module")
def certificate() -> Iterator[Certificate]:
    yield from self_signed()


@pytest.fixture(params=["plain", "tls"])
def tls(request: pytest.FixtureRequest, certificate: Certificate) -> Certificate | None:
    return None if request.param == "plain" else certificate
