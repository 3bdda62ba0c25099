"""Hosts a hub answers to, and origins whose pages may use it."""

from __future__ import annotations

import pytest

from edge.auth.hosts import Origins
from edge.config.load import ConfigError, load

WILDCARD = ("https://*.example.org", "http://*.dev.example.org:3000")


@pytest.mark.parametrize(
    "origin",
    [
        "https://app.example.org",
        "https://a.b.example.org",
        "HTTPS://App.Example.org",
        "http://x.dev.example.org:3000",
    ],
)
def test_a_wildcard_admits_subdomains(origin: str) -> None:
    assert Origins(WILDCARD).shares(origin)
    assert Origins(WILDCARD).admits(origin, "hub.example.org")


@pytest.mark.parametrize(
    "origin",
    [
        "https://example.org",
        "https://.example.org",
        "https://evilexample.org",
        "https://app.example.org.evil.net",
        "https://evil.net/.example.org",
        "https://evil.net:80.example.org",
        "https://user@app.example.org",
        "http://app.example.org",
        "https://app.example.org:8443",
        "https://x.dev.example.org:3000",
        "https://evil.net#.example.org",
        "null",
        "https://*.example.org.evil",
    ],
)
def test_a_wildcard_admits_nothing_else(origin: str) -> None:
    assert not Origins(WILDCARD).shares(origin)


@pytest.mark.parametrize("origin", ["https://*", "https://app.*.org", "https://**.example.org", "*.example.org"])
def test_a_wildcard_elsewhere_is_refused_at_the_start(origin: str) -> None:
    with pytest.raises(ConfigError, match=r"cors\.origins"):
        load(None, {"EDGE_CORS_ORIGINS": origin}, {})


def test_a_wildcard_is_a_configuration() -> None:
    assert ("https://*.example.org",) == load(None, {"EDGE_CORS_ORIGINS": "https://*.Example.org"}, {})[0].cors.origins
