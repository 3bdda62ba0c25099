"""Which names a hub answers to, and pages of which origins may use it.

Any web page can make a browser send requests to a hub on the same machine. Two headers reveal it: `Host`, when a
foreign name resolves to 127.0.0.1, and the `Origin` that browsers add.

Invariant: a header that can't be parsed is foreign.
"""

from __future__ import annotations

import re
from collections.abc import Collection

from edge.config.texts import WILDCARD_ORIGIN, is_local

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
