"""Whose request it is: the address of the client, also behind proxies.

Any client can write `X-Forwarded-For`, so it counts only as far as those who wrote it are trusted: each proxy appends
the address it was called from, so the list is read from its end, over trusted addresses, and the first one that isn't
is the client's. `Forwarded` (RFC 7239) is read the same way. A proxy writes one of the two and passes the other on as
the client sent it: when both are there and disagree, neither is believed.

Invariant: without a trusted peer, no header changes the answer.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Sequence
from functools import lru_cache

from edge.http.message import Request

UNKNOWN = "local"
"""Of a peer without an address, as on a Unix socket."""
MAX_HOPS = 32
"""Read from the end: a longer list was sent to cause work."""
_MAX_ADDRESS_CHARS = 64
_WITH_PORT = re.compile(r"\[(?P<v6>[^\]]*)\](?::\w+)?|(?P<v4>[\d.]+):\w+", re.ASCII)

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class ClientAddresses:
    """Reads addresses as `server.trusted_proxies` allows: `networks` are addresses or networks in CIDR form."""

    def __init__(self, networks: Iterable[str]) -> None:
        self._trusted = tuple(ipaddress.ip_network(network) for network in networks)

    def of(self, request: Request) -> str:
        """The client's address in canonical form."""
        headers = request.headers
        if "X-Forwarded-For" not in headers and "Forwarded" not in headers:
            return _shown(request.peer)
        return self.behind(request.peer, headers.getall("X-Forwarded-For", ()), headers.getall("Forwarded", ()))

    def behind(self, remote: str | None, forwarded_for: Sequence[str], forwarded: Sequence[str]) -> str:
        """The same from the peer's address and the lines of the two headers."""
        if not remote:
            return UNKNOWN
        peer = _peer(remote)
        if peer is None or not self._trusts(peer):
            return _shown(remote)
        lists = (_hops(forwarded_for), [_forwarded_for(part) for part in _hops(forwarded)])
        answers = {self._client(hops, peer) for hops in lists if hops}
        return str(answers.pop() if len(answers) == 1 else peer)

    def is_proxy(self, address: str) -> bool:
        """Whether `address` is a trusted proxy's."""
        peer = _peer(address)
        return peer is not None and self._trusts(peer)

    def _client(self, hops: list[str], peer: _Address) -> _Address:
        """The last hop that isn't trusted. An unreadable entry ends the search at the hop that passed it on."""
        client = peer
        for hop in reversed(hops):
            address = _parse(hop)
            if address is None:
                return client
            client = address
            if not self._trusts(client):
                return client
        return client

    def _trusts(self, address: _Address) -> bool:
        return any(address in network for network in self._trusted)


def _hops(lines: Iterable[str]) -> list[str]:
    joined = ",".join(lines)
    return [hop.strip() for hop in joined.rsplit(",", MAX_HOPS)[-MAX_HOPS:]] if joined else []


def _forwarded_for(part: str) -> str:
    """The value of `for=` in one element of `Forwarded`, without its quotes; empty where there is none."""
    for pair in part.split(";"):
        name, _, value = pair.partition("=")
        if name.strip().lower() == "for":
            value = value.strip()
            return value[1:-1] if len(value) > 1 and value[0] == value[-1] == '"' else value
    return ""


def _parse(text: str) -> _Address | None:
    """An address, with or without port and brackets; None for what is none (`unknown`, `_hidden`, nonsense)."""
    if len(text) > _MAX_ADDRESS_CHARS:
        return None
    found = _WITH_PORT.fullmatch(text)
    if found is not None:
        text = found["v6"] or found["v4"]
    try:
        # A zone is only known on its own machine, and may hold any bytes.
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address):
        return address.ipv4_mapped or address
    return address


@lru_cache(maxsize=4096)
def _shown(remote: str | None) -> str:
    """The address of a peer in canonical form."""
    return str(_parse(remote) or remote) if remote else UNKNOWN


_peer = lru_cache(maxsize=4096)(_parse)
"""The address of a peer, as the kernel writes it."""
