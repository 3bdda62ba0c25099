"""Origins whose pages may use a hub, and the address of a client behind proxies."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from edge.config.load import ConfigError, load
from edge.http.message import HTTP_1_1, Request
from edge.http.source import MAX_HOPS, ClientAddresses, Origins

PROXIES = ClientAddresses(["10.0.0.0/8", "192.0.2.1/32", "2001:db8::/32"])


def client(peer: str, *headers: tuple[str, str], proxies: ClientAddresses = PROXIES) -> str:
    return proxies.of(Request("GET", "/", HTTP_1_1, CIMultiDict(headers), peer))


def xff(text: str) -> tuple[str, str]:
    return ("X-Forwarded-For", text)


def forwarded(text: str) -> tuple[str, str]:
    return ("Forwarded", text)


@pytest.mark.parametrize(
    ("expected", "peer", "headers"),
    [
        ("203.0.113.9", "203.0.113.9", []),
        ("203.0.113.9", "203.0.113.9", [xff("198.51.100.1")]),  # it may write what it likes
        ("203.0.113.9", "203.0.113.9", [forwarded("for=198.51.100.1")]),
        ("10.0.0.1", "10.0.0.1", []),
        ("198.51.100.1", "10.0.0.1", [xff("198.51.100.1")]),
        ("198.51.100.1", "10.0.0.1", [xff("6.6.6.6, 198.51.100.1")]),  # the client's own lie stands further left
        ("198.51.100.1", "10.0.0.1", [xff("6.6.6.6"), xff("198.51.100.1")]),
        ("198.51.100.1", "10.0.0.1", [xff("198.51.100.1, 10.0.0.7,192.0.2.1")]),
        ("10.0.0.8", "10.0.0.1", [xff("10.0.0.8, 10.0.0.7")]),  # a client inside
        ("198.51.100.1", "10.0.0.1", [xff("198.51.100.1:4711")]),
        ("2001:db9::1", "2001:db8::1", [xff("[2001:DB9::1]:443")]),
        ("2001:db9::1", "10.0.0.1", [xff("2001:db9:0::1")]),
        ("198.51.100.1", "::ffff:10.0.0.1", [xff("::ffff:198.51.100.1")]),
        ("10.0.0.7", "10.0.0.1", [xff("198.51.100.1, unknown, 10.0.0.7")]),
        ("10.0.0.1", "10.0.0.1", [xff("nonsense")]),
        ("10.0.0.1", "10.0.0.1", [xff("")]),
        ("198.51.100.1", "10.0.0.1", [forwarded("for=198.51.100.1;proto=https;by=10.0.0.1")]),
        ("198.51.100.1", "10.0.0.1", [forwarded('proto=https;For="198.51.100.1:4711", for=10.0.0.7')]),
        ("2001:db9::1", "10.0.0.1", [forwarded('for="[2001:db9::1]:4711"')]),
        ("10.0.0.1", "10.0.0.1", [forwarded("for=_hidden")]),
        ("10.0.0.1", "10.0.0.1", [forwarded("xfor=198.51.100.1")]),
        ("198.51.100.1", "10.0.0.1", [forwarded("for=198.51.100.1"), xff("198.51.100.1")]),
        ("10.0.0.1", "10.0.0.1", [forwarded("for=6.6.6.6"), xff("198.51.100.1")]),  # one of them is a lie
        ("fe80::1", "10.0.0.1", [xff("fe80::1%eth0")]),  # zones mean nothing on another machine
        ("fe80::1", "10.0.0.1", [xff("fe80::1%\udcff")]),
        ("10.0.0.1", "10.0.0.1", [forwarded('for="198.51.100.1')]),
        ("local", "", [xff("198.51.100.1")]),
    ],
)
def test_the_last_hop_that_is_not_trusted_is_the_client(
    expected: str, peer: str, headers: list[tuple[str, str]]
) -> None:
    assert expected == client(peer, *headers)


def test_a_list_without_end_is_read_from_its_end_only() -> None:
    assert "10.0.0.2" == client("10.0.0.1", xff(",".join(["6.6.6.6"] + ["10.0.0.2"] * MAX_HOPS)))


@given(st.text(), st.text(), st.ip_addresses(v=4))
def test_without_a_trusted_peer_no_header_changes_the_answer(one: str, other: str, peer: ipaddress.IPv4Address) -> None:
    no_proxies = ClientAddresses(())
    assert str(peer) == client(str(peer), xff(one), forwarded(other), proxies=no_proxies)


@given(st.lists(st.ip_addresses(v=4).map(str)), st.ip_addresses(v=4).filter(lambda a: a.is_global))
def test_whatever_the_client_claims_its_own_address_is_found(claims: list[str], address: ipaddress.IPv4Address) -> None:
    assert str(address) == client("10.0.0.1", xff(", ".join([*claims, str(address), "192.0.2.1"])))


# --- origins ---

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
