"""A network of one cable: a namespace with a veth pair to us, which can be cut so that neither side is notified.

Sockets made "there" live in the namespace although the test's own process holds them: a socket belongs to the
namespace its thread stood in when it was made.
"""

from __future__ import annotations

import ctypes
import os
import random
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_CLONE_NEWNET = 0x40000000
_CUT = "table inet cut { chain in { type filter hook input priority 0; policy drop; }; \
chain out { type filter hook output priority 0; policy drop; }; }"


class Cable:
    """`here` is our address on it, `there` the other one."""

    def __init__(self) -> None:
        # 198.18.0.0/15 is for tests of networks (RFC 2544); a network of four addresses in it, taken at random.
        number = random.randrange(1 << 15) * 4
        base = (198 << 24) + (18 << 16) + number
        self.here = socket.inet_ntoa((base + 1).to_bytes(4))
        self.there = socket.inet_ntoa((base + 2).to_bytes(4))
        self.name = f"edge{os.getpid()}x{number}"
        self._link = f"ve{number}"

    def lay(self) -> None:
        """Raises CalledProcessError when the network is taken."""
        _ip("netns", "add", self.name)
        _ip("link", "add", self._link, "type", "veth", "peer", "name", "wire", "netns", self.name)
        _ip("address", "add", f"{self.here}/30", "dev", self._link)
        _ip("link", "set", self._link, "up")
        _ip("-n", self.name, "address", "add", f"{self.there}/30", "dev", "wire")
        _ip("-n", self.name, "link", "set", "wire", "up")
        _ip("-n", self.name, "link", "set", "lo", "up")

    def remove(self) -> None:
        subprocess.run(["ip", "link", "delete", self._link], check=False, capture_output=True)
        subprocess.run(["ip", "netns", "delete", self.name], check=False, capture_output=True)

    def cut(self) -> None:
        """From now on nothing passes, either way, and neither side is notified."""
        self._nft(_CUT)

    def mend(self) -> None:
        self._nft("delete table inet cut")

    def another_address(self) -> str:
        """One more address of the other end, which can be cut alone."""
        address = f"198.19.{random.randrange(256)}.{random.randrange(1, 255)}"
        _ip("-n", self.name, "address", "add", f"{address}/32", "dev", "wire")
        _ip("route", "add", f"{address}/32", "via", self.there, "dev", self._link)
        return address

    def cut_address(self, address: str) -> None:
        """As `cut`, for those alone who know the other end by `address`."""
        self._nft(
            f"table inet {_table(address)} {{ "
            f"chain in {{ type filter hook input priority 0; ip daddr {address} drop; }}; "
            f"chain out {{ type filter hook output priority 0; ip saddr {address} drop; }}; }}"
        )

    def mend_address(self, address: str) -> None:
        self._nft(f"delete table inet {_table(address)}")

    def cut_connection(self, port: int) -> None:
        """From now on nothing passes of the one connection that has `port` at our end; `mend` brings it back."""
        self._nft(
            "table inet cut { chain in { type filter hook input priority 0; "
            f"tcp sport {port} drop; }}; chain out {{ type filter hook output priority 0; tcp dport {port} drop; }}; }}"
        )

    def pull_out(self) -> None:
        """The link goes down, and our kernel sees that it has: it finds no neighbour to send to."""
        _ip("-n", self.name, "link", "set", "wire", "down")

    def plug_in(self) -> None:
        _ip("-n", self.name, "link", "set", "wire", "up")

    def socket(self) -> socket.socket:
        """A TCP socket that stands at the other end."""
        made: list[socket.socket] = []

        def make() -> None:
            with Path(f"/run/netns/{self.name}").open() as namespace:
                if ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), _CLONE_NEWNET):
                    raise OSError(ctypes.get_errno(), "setns")
            made.append(socket.socket(socket.AF_INET, socket.SOCK_STREAM))

        # A thread of its own: it ends in the namespace it went to, and no other thread was there.
        thread = threading.Thread(target=make)
        thread.start()
        thread.join()
        return made[0]

    def _nft(self, rules: str) -> None:
        subprocess.run(["ip", "netns", "exec", self.name, "nft", rules], check=True, capture_output=True)


@contextmanager
def cable() -> Iterator[Cable]:
    laid = Cable()
    try:
        laid.lay()
        yield laid
    finally:
        laid.remove()


def _table(address: str) -> str:
    return f"cut_{address.replace('.', '_')}"


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)
