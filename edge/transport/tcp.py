"""What the kernel knows about a TCP socket: how much its peer has acknowledged.

Written is not received. Linux counts, for every socket, the bytes its peer acknowledged (`tcpi_bytes_acked`, a 64-bit
number at byte 120 of `TCP_INFO`) and those it has not (`SIOCOUTQ`); both can still be read on a socket that has just
failed (measured: 1,300 bytes written, 1,000 acknowledged before the cable was cut: 1000 and 300). Elsewhere, or on a
socket that is not TCP, `supported` says no and callers fall back to "written".
"""

from __future__ import annotations

import functools
import select
import socket
import struct
import sys
from typing import NamedTuple, Protocol

_LINUX = sys.platform == "linux"
if _LINUX:
    import fcntl
    import termios

_INFO_BYTES = 232
_RETRANSMITS_AT = 2
_PROBES_AT = 3
_LAST_ACK_RECEIVED_AT = 56
_ROUND_TRIP_AT = 68
_BYTES_ACKED_AT = 120
_PROBES_IN_FLIGHT = 1
"""A probe may be on its way just when we look."""
_NO_BYTES = bytes(4)
_U32 = struct.Struct("=I")
_U64 = struct.Struct("=Q")
_TCP_NOTSENT_LOWAT = 25
"""linux/tcp.h; Python's socket module has no name for it before 3.12 on every platform."""


class Socket(Protocol):
    """What of a socket is used here; asyncio's and uvloop's stand-ins have it."""

    @property
    def family(self) -> int: ...
    def fileno(self) -> int: ...
    def getsockopt(self, level: int, option: int, buffer_bytes: int, /) -> bytes: ...
    def setsockopt(self, level: int, option: int, value: int, /) -> None: ...


def sending_side_closed(sock: Socket) -> bool:
    """Whether the peer has closed its sending side, as far as the platform shows before all it sent was read."""
    if not _LINUX:
        return False
    poll = select.poll()
    poll.register(sock.fileno(), select.POLLRDHUP)
    return bool(poll.poll(0))


class Path(NamedTuple):
    """The state of the way to the peer."""

    round_trip_seconds: float
    last_ack_age_seconds: float
    """Since the last acknowledgement of any kind."""
    answers: bool
    """Nothing that was sent goes unanswered. A stopped subscriber's kernel answers every probe of its shut window; what
    is sent to a vanished peer is sent again and again (measured when `TCP_USER_TIMEOUT` strikes after 2 s: no
    retransmission and no open probe there; 3 retransmissions, or with a shut window 2 open probes, here).
    """


def is_tcp(sock: Socket) -> bool:
    """Whether `sock` takes the options of `prepare`."""
    return _LINUX and sock.family in (socket.AF_INET, socket.AF_INET6)


def supported(sock: Socket | None) -> bool:
    """Whether acknowledgements can be asked for on `sock`."""
    return sock is not None and is_tcp(sock) and _kernel_counts()


@functools.cache
def _kernel_counts() -> bool:
    """Whether `TCP_INFO` is whole; an emulation of Linux may cut it short (measured: qemu-user gives 4 bytes)."""
    with socket.socket() as sock:
        return len(_info(sock)) >= _BYTES_ACKED_AT + _U64.size


def acked_bytes(sock: Socket) -> int:
    """Bytes the peer has acknowledged since the connection began. Raises OSError on a closed descriptor."""
    return int(_U64.unpack_from(_info(sock), _BYTES_ACKED_AT)[0])


def unacked_bytes(sock: Socket) -> int:
    """Bytes handed to the kernel that the peer has not acknowledged, sent or not, and 1 for an end (`SIOCOUTQ`)."""
    if not _LINUX:
        return 0
    return int.from_bytes(fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, _NO_BYTES), sys.byteorder)


def written_bytes(sock: Socket) -> int:
    """Bytes handed to the kernel since the connection began: one consistent reading of the two numbers above."""
    acked = acked_bytes(sock)
    while True:
        unacked = unacked_bytes(sock)
        acked_again = acked_bytes(sock)
        if acked_again == acked:
            return acked + unacked
        acked = acked_again


def path(sock: Socket) -> Path:
    """What `TCP_INFO` says of the way; it still does on a socket that has just failed."""
    info = _info(sock)
    return Path(
        int(_U32.unpack_from(info, _ROUND_TRIP_AT)[0]) / 1e6,
        int(_U32.unpack_from(info, _LAST_ACK_RECEIVED_AT)[0]) / 1e3,
        not info[_RETRANSMITS_AT] and info[_PROBES_AT] <= _PROBES_IN_FLIGHT,
    )


UNSENT_LIMIT_BYTES = 32 * 1024
"""What the kernel may hold for a subscriber that has stopped, beyond what is in flight."""


def prepare(listening: socket.socket, dead_after_seconds: float) -> None:
    """Set on a listening socket what each connection to it inherits (Linux clones the options; a test pins it)."""
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    # asyncio sets it only where the protocol is named, which that of a socket made without isn't.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    set_user_timeout(listening, dead_after_seconds)
    keep_unsent_small(listening)


def keep_unsent_small(sock: Socket) -> None:
    """Let the kernel hold only `UNSENT_LIMIT_BYTES` that it can't send yet.

    By default a subscriber that has stopped swallows 4 MB of kernel memory before a write blocks (measured); bytes in
    flight are not limited by this, so a fast and distant subscriber loses nothing.
    """
    sock.setsockopt(socket.IPPROTO_TCP, _TCP_NOTSENT_LOWAT, UNSENT_LIMIT_BYTES)


def set_user_timeout(sock: Socket, seconds: float) -> None:
    """Let the kernel end the connection when written bytes stay unacknowledged, or its peer's window shut, so long."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(seconds * 1000))


def _info(sock: Socket) -> bytes:
    return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO_BYTES)
