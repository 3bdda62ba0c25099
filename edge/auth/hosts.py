"""Which names a hub answers to, and pages of which origins may reach it.

A page from anywhere can make a browser send requests to a hub on the same machine. Two things show it: the `Host` it
was tricked into (a foreign name that resolves to 127.0.0.1), and the `Origin` that browsers add.

Invariant: what can't be read is foreign.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection

_HOST = re.compile(
    r"(?:\[(?P<six>[0-9A-Fa-f:.]{2,45})\]|(?P<name>[A-Za-z0-9._-]{1,255}))(?::(?P<port>[0-9]{0,5}))?", re.ASCII
)
_ORIGIN = re.compile(r"(?P<scheme>https?)://(?P<host>[^/@?#\s\\]{1,300})", re.ASCII)
_DEFAULT_PORTS = {"http": "80", "https": "443"}
_MAX_REMEMBERED = 1024


class Hosts:
    """The names a hub answers to: the local ones and `allowed`."""

    def __init__(self, allowed: Collection[str]) -> None:
        self._allowed = frozenset(name.rstrip(".").lower() for name in allowed)
        self._known: set[str] = set()
        """`Host` headers that were looked at and found good; every request asks."""

    def know(self, header: str | None) -> bool:
        """Whether a request with this `Host` is meant for us. None (HTTP/1.0) is: no browser leaves it out."""
        if header in self._known or header is None:
            return True
        name = _name(header)
        if name is None or not (is_local(name) or name in self._allowed):
            return False
        if len(self._known) >= _MAX_REMEMBERED:
            self._known.clear()
        self._known.add(header)
        return True


class Origins:
    """The origins whose pages may use the hub: its own and `listed` (`*`: all)."""

    def __init__(self, listed: Collection[str]) -> None:
        self._listed = frozenset(origin.lower() for origin in listed)
        self.everyone = "*" in self._listed

    def shares(self, origin: str) -> bool:
        """Whether pages of `origin` may read answers: it is listed by name."""
        return origin.lower() in self._listed and origin != "*"

    def admits(self, origin: str, host: str | None) -> bool:
        """Whether a page of `origin` may act on a hub that was asked for as `host`."""
        return self.everyone or self.shares(origin) or is_own(origin, host)


def is_own(origin: str, host: str | None) -> bool:
    """Whether `origin` is the hub's own: the host and port that was asked for. A proxy may have ended TLS, so the
    scheme says nothing.
    """
    match = _ORIGIN.fullmatch(origin)
    if match is None or host is None:
        return False
    default_port = _DEFAULT_PORTS[match["scheme"]]
    asked = _HOST.fullmatch(host)
    from_page = _HOST.fullmatch(match["host"])
    if asked is None or from_page is None:
        return False
    return _parts(asked, default_port) == _parts(from_page, default_port)


def is_local(name: str) -> bool:
    """Whether a name or address means this machine, by itself and without asking anybody."""
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _name(host: str) -> str | None:
    match = _HOST.fullmatch(host)
    if match is None:
        return None
    return (match["six"] or match["name"]).rstrip(".").lower()


def _parts(match: re.Match[str], default_port: str) -> tuple[str, str]:
    return (match["six"] or match["name"]).rstrip(".").lower(), match["port"] or default_port
