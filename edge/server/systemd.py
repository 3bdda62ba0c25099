"""systemd: listening sockets from it; READY, STATUS, WATCHDOG and STOPPING to it.

The protocols are those of sd_listen_fds(3) and sd_notify(3): environment variables, and datagrams to a Unix socket.
Invariant: only `ready`, `reloading` and `stopping` wait for systemd, each at most `_WAIT_SECONDS`.
A task on the event loop feeds the watchdog, so systemd restarts a service whose loop hangs.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import time
from collections.abc import Callable, MutableMapping

_FIRST_DESCRIPTOR = 3
_FAMILIES = (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX)
_WAIT_SECONDS = 2.0
_STATUS_SECONDS = 1.0
_MICROSECONDS = 1_000_000


def inherited_sockets(environ: MutableMapping[str, str]) -> list[socket.socket]:
    """The listening TCP sockets that a socket unit handed to this process, none without one.

    Takes the variables out of `environ`: they hold for this process only. Raises OSError for what isn't such a socket.
    """
    count = _number(environ.pop("LISTEN_FDS", "0"), "LISTEN_FDS")
    environ.pop("LISTEN_FDNAMES", None)
    if not _is_ours(environ.pop("LISTEN_PID", None)):
        return []
    sockets: list[socket.socket] = []
    try:
        for descriptor in range(_FIRST_DESCRIPTOR, _FIRST_DESCRIPTOR + count):
            os.set_inheritable(descriptor, False)
            sockets.append(sock := socket.socket(fileno=descriptor))
            stream = sock.family in _FAMILIES and sock.type == socket.SOCK_STREAM
            if not stream or not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                raise OSError(f"descriptor {descriptor} from systemd is not a listening TCP or Unix stream socket")
    except OSError:
        for sock in sockets:
            sock.close()
        raise
    return sockets


class Notifier:
    """Notifies systemd of the state of this process. Without NOTIFY_SOCKET every call does nothing."""

    def __init__(self, environ: MutableMapping[str, str]) -> None:
        """Takes the variables out of `environ`: a child must not speak for us. Raises OSError."""
        path = environ.pop("NOTIFY_SOCKET", None)
        watchdog = _number(environ.pop("WATCHDOG_USEC", "0"), "WATCHDOG_USEC") / _MICROSECONDS
        watched = _is_ours(environ.pop("WATCHDOG_PID", str(os.getpid())))
        self.watchdog_seconds = watchdog if watched else 0.0
        """How long systemd waits for a sign of life; 0: for ever."""
        self._socket: socket.socket | None = None
        if path:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            try:
                self._socket.connect(f"\0{path[1:]}" if path.startswith("@") else path)
            except OSError:
                self._socket.close()
                raise

    def ready(self, status: str) -> bool:
        """The service has started, or has reloaded. False when systemd doesn't take it, and will end the service."""
        return self._send(f"READY=1\nSTATUS={status}", _WAIT_SECONDS)

    def reloading(self) -> None:
        """The configuration is being read again; `ready` follows."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}", _WAIT_SECONDS)

    def stopping(self, status: str, stop_seconds: float) -> None:
        """The service is shutting down, and requests `stop_seconds`, whatever its unit file allows."""
        microseconds = int(stop_seconds * _MICROSECONDS)
        self._send(f"STOPPING=1\nSTATUS={status}\nEXTEND_TIMEOUT_USEC={microseconds}", _WAIT_SECONDS)

    async def attend(self, status: Callable[[], str]) -> None:
        """Feed the watchdog, and send `status()`, until cancelled. What isn't accepted (systemd is busy, or is being
        replaced) the next turn sends again.
        """
        pause = min(_STATUS_SECONDS, self.watchdog_seconds / 3 or _STATUS_SECONDS)
        while self._socket is not None:
            await asyncio.sleep(pause)
            self._send(f"WATCHDOG=1\nSTATUS={status()}")

    def close(self) -> None:
        """Send nothing more."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _send(self, message: str, wait_seconds: float = 0.0) -> bool:
        """Whether systemd accepted `message`, or expects none."""
        if self._socket is None:
            return True
        self._socket.settimeout(wait_seconds)
        try:
            self._socket.send(message.encode())
        except OSError:
            return False
        return True


def _is_ours(pid: str | None) -> bool:
    """Whether systemd meant this process; or its parent, where the one-file binary unpacks and starts us."""
    ours = [os.getpid()]
    if hasattr(sys, "_MEIPASS"):
        ours.append(os.getppid())
    return pid in [str(number) for number in ours]


def _number(text: str, variable: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise OSError(f"{variable} is {text!r}, not a number; systemd sets it")
    return int(text)
