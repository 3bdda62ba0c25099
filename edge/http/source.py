"""Where a request comes from: which name of the hub it uses, which page sent it, which address is the client's.

Any web page can make a browser send requests to a hub on the same machine. Two headers reveal it: `Host`, when a
foreign name resolves to 127.0.0.1, and the `Origin` that browsers add.

Any client can write `X-Forwarded-For`, so it counts only as far as those who wrote it are trusted: each proxy appends
the address it was called from, so the list is read from its end, over trusted addresses, and the first one that isn't
is the client's. `Forwarded` (RFC 7239) is read the same way. A proxy writes one of the two and passes the other on as
the client sent it: when both are there and disagree, neither is believed.

Invariants: a `Host` or `Origin` that can't be parsed is foreign; without a trusted peer, no header changes the address.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection, Iterable
from functools import lru_cache

from edge.config.texts import WILDCARD_ORIGIN, is_local
from edge.http.message import Request

_HOST = re.compile(
    r"(?:\[(?P<six>[0-9A-Fa-f:.]{2,45})\]|(?P<name>[A-Za-z0-9._-]{1,255}))(?::(?P<port>[0-9]{0,5}))?", re.ASCII
)
_ORIGIN = re.compile(r"(?P<scheme>https?)://(?P<host>[^/@?#\s\\]{1,300})", re.ASCII)
# Labels only, so that no user name, port or path hides the real host.
_SUBDOMAIN = r"[a-z0-9_-]{1,63}(?:\.[a-z0-9_-]{1,63}){0,8}"
_DEFAULT_PORTS = {"http": "80", "https": "443"}
_MAX_REMEMBERED = 1024


class Hosts:
    """The names a hub answers to: the local ones and `allowed`."""

    def __init__(self, allowed: Collection[str]) -> None:
        self._allowed = frozenset(name.rstrip(".").lower() for name in allowed)
        self.known: set[str] = set()
        """`Host` headers that `know` has accepted; checked for every request."""

    def know(self, header: str | None) -> bool:
        """Whether a request with this `Host` is for this hub. None (HTTP/1.0) is: browsers always send one."""
        if header in self.known or header is None:
            return True
        found = _host_and_port(header, "")
        if found is None or not (is_local(found[0]) or found[0] in self._allowed):
            return False
        if len(self.known) >= _MAX_REMEMBERED:
            self.known.clear()
        self.known.add(header)
        return True


class Origins:
    """The origins whose pages may use the hub: its own and `listed` (`*`: all, `https://*.example.org`: subdomains)."""

    def __init__(self, listed: Collection[str]) -> None:
        self._listed = frozenset(origin.lower() for origin in listed)
        wildcards = filter(None, map(WILDCARD_ORIGIN.fullmatch, self._listed))
        self._wildcards = [re.compile(f"{each[1]}://{_SUBDOMAIN}{re.escape(each[2])}", re.ASCII) for each in wildcards]
        self.everyone = "*" in self._listed

    def shares(self, origin: str) -> bool:
        """Whether pages of `origin` may read answers: it is listed, or a subdomain that a wildcard lists."""
        lowered = origin.lower()
        listed = origin != "*" and lowered in self._listed
        return listed or any(pattern.fullmatch(lowered) for pattern in self._wildcards)

    def admits(self, origin: str, host: str | None) -> bool:
        """Whether a page of `origin` may use a hub that was requested as `host`."""
        return self.everyone or self.shares(origin) or is_own(origin, host)


def is_own(origin: str, host: str | None) -> bool:
    """Whether `origin` is the hub's own: the requested host and port. A proxy may terminate TLS, so the scheme is
    ignored.
    """
    match = _ORIGIN.fullmatch(origin)
    if match is None or host is None:
        return False
    default_port = _DEFAULT_PORTS[match["scheme"]]
    requested = _host_and_port(host, default_port)
    return requested is not None and requested == _host_and_port(match["host"], default_port)


def _host_and_port(text: str, default_port: str) -> tuple[str, str] | None:
    match = _HOST.fullmatch(text)
    return match and ((match["six"] or match["name"]).rstrip(".").lower(), match["port"] or default_port)


# --- addresses ---

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
        headers, remote = request.headers, request.peer
        peer = _peer(remote) if remote and ("X-Forwarded-For" in headers or "Forwarded" in headers) else None
        if peer is None or not self._trusts(peer):
            return _shown(remote)
        forwarded = _hops(headers.getall("Forwarded", ()))
        lists = (_hops(headers.getall("X-Forwarded-For", ())), [_forwarded_for(part) for part in forwarded])
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
