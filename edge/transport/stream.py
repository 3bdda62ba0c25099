"""The stream of a subscriber: a protocol that owns its transport, and 2 KiB in all.

A stream needs nothing of the request that asked for it. So the HTTP connection releases its transport, the `Stream`
becomes its protocol, and parser, request and response are freed.

While the transport holds nothing and there is no TLS, bytes go to the descriptor itself, which saves uvloop's 5 % of a
delivery, and to many of them in one call of `map`, which saves another 13 %: between two writes no statement of Python
runs. What the kernel doesn't take at once goes to the transport, which then pauses us.

Invariant: exactly one protocol owns the transport. From `take_over_transport` on it is the `Stream`, and the hub has
forgotten the `Stream` before its descriptor is closed, because both uvloop and asyncio call `connection_lost`
first.
"""

from __future__ import annotations

import asyncio
import errno
import os
import ssl
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cache
from itertools import repeat
from typing import Any, Protocol, cast

from aiohttp_sse import EventSourceResponse

from edge.core.connection import Connection
from edge.core.hub import Hub
from edge.logs.setup import get_logger
from edge.transport import tcp

_log = get_logger("hub")
_RECORD_DATA_BYTES = 16 * 1024
_RECORD_COST_BYTES = {"TLSv1.3": 22}
"""What TLS adds to a record: 5 of header, 1 of type, 16 of tag (RFC 8446). Both event loops write a record for each 16
KiB of a write (measured).
"""
_LEAST_RECORD_COST_BYTES = 14
"""Before TLS 1.3 it depends on the cipher and is at least this."""
NOT_DIRECTLY = -1
_HELD_BYTES = 16 * 1024
"""A longer replay goes out batch by batch, as the subscriber takes it."""
_ACK_SECONDS = 0.05
"""So long a stack may keep an acknowledgement back (40 ms on Linux, measured), unless its program closes before."""
_LONGEST_ACK_SECONDS = 1.0
_DEAD_ERRNOS = frozenset({errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ENETDOWN, errno.EHOSTDOWN})


HEADERS: Mapping[str, str] = {
    **EventSourceResponse().headers,
    "Content-Type": "text/event-stream; charset=utf-8",
    # Without no-transform Next.js, webpack-dev-server and Express hold a stream back to compress it.
    "Cache-Control": "no-cache, no-transform",
    # aiohttp-sse says keep-alive; but nothing comes after a stream, and a client that believed it would lose its next
    # request on a connection that is being closed.
    "Connection": "close",
    "X-Content-Type-Options": "nosniff",
}
"""Those that aiohttp-sse gives a stream, and ours."""


@cache
def stream_head(*, chunked: bool) -> bytes:
    """The status line and `HEADERS` of a stream; the caller adds its own and the empty line."""
    lines = [f"{name}: {value}" for name, value in {**HEADERS, "Server": "edge"}.items()]
    if chunked:
        lines.append("Transfer-Encoding: chunked")
    return "\r\n".join(["HTTP/1.1 200 OK", *lines, ""]).encode()


class Releasing(Protocol):
    """A protocol that hands its transport over, to which it has written `written_bytes`."""

    written_bytes: int

    def release(self) -> asyncio.Transport | None:
        """The transport, None if it is closed."""


class Stream(Connection, asyncio.Protocol):
    """A connection that is the protocol of its own transport."""

    __slots__ = (
        "_answered",
        "_base_bytes",
        "_clock",
        "_fd",
        "_held",
        "_hub",
        "_known_acked_bytes",
        "_record_cost_bytes",
        "_sock",
        "_target_bytes",
        "_transport",
    )

    def __init__(self, hub: Hub, clock: Callable[[], float], connection_id: str, address: str, **options: Any) -> None:
        super().__init__(connection_id, address, clock(), **options)
        self._hub = hub
        self._clock = clock
        self._transport: asyncio.Transport | None = None
        self._fd = NOT_DIRECTLY
        self._held: bytearray | None = None
        """What goes out in one write, until `uncork`: the head, the hello and the replay; `closing` and the end."""
        self._sock: tcp.Socket | None = None
        self._base_bytes = 0
        """What the peer acknowledges before the first event, counted since the connection began. Not used with TLS."""
        self._record_cost_bytes = 0
        """What TLS adds to each record; 0 without TLS."""
        self._target_bytes = 0
        """With TLS: so much the peer must have acknowledged since the connection began to have all."""
        self._answered = False
        """With TLS: whether the peer's stack answered when it was last looked at."""
        self._known_acked_bytes = 0

    def take_over_transport(self, protocol: Releasing, head: bytes) -> bool:
        """Become the protocol of the transport of `protocol`. See `attach_transport`.

        Returns False when the client has already gone.
        """
        transport = protocol.release()
        if transport is None:
            return False
        transport.set_protocol(self)
        self.attach_transport(transport, head, protocol.written_bytes)
        return True

    def attach_transport(self, transport: asyncio.Transport, head: bytes, before_bytes: int = 0) -> None:
        """Write to `transport`, whose protocol this is, from now on. `head` and what is written next wait for
        `uncork`. `before_bytes` have been written to it before.
        """
        tls: ssl.SSLObject | None = transport.get_extra_info("ssl_object")
        # "Not paused" is to mean "nothing is buffered": writes reach the kernel at once. Plain transports pause above
        # the mark; those of TLS at it, so that with zero they would pause, with nothing to wait for, for ever.
        transport.set_write_buffer_limits(high=0 if tls is None else 1, low=0)
        if not transport.is_reading():
            transport.resume_reading()
        self._transport = transport
        sock = transport.get_extra_info("socket")
        if tcp.supported(sock):
            self._sock = sock
        if tls is None:
            self._base_bytes = before_bytes + len(head)
            self._held = bytearray(head)
            return
        if self._sock is not None:
            self._record_cost_bytes = _RECORD_COST_BYTES.get(tls.version() or "", _LEAST_RECORD_COST_BYTES)
            self._target_bytes = tcp.written_bytes(sock) + transport.get_write_buffer_size()
            self._seal(head)
        transport.write(head)

    def _seal(self, wire: bytes) -> None:
        """Count what TLS makes of `wire`, which is about to be written."""
        records = -(-len(wire) // _RECORD_DATA_BYTES)
        self._target_bytes += len(wire) + records * self._record_cost_bytes

    def _write_directly_if_empty(self) -> None:
        sock, transport = self._sock, self._transport
        if sock is not None and transport is not None and not self._record_cost_bytes:
            self._fd = NOT_DIRECTLY if transport.get_write_buffer_size() else sock.fileno()

    @property
    def confirmable(self) -> bool:
        """Whether the kernel can tell what the peer has acknowledged; if not, written has to do."""
        return self._sock is not None

    @property
    def unacked_bytes(self) -> int:
        """Bytes written that the peer has not acknowledged (on TLS: bytes of its records)."""
        transport = self._transport
        if transport is None:
            return 0
        sock = self._open_socket()
        held_bytes = 0 if self._held is None else len(self._held)
        return held_bytes + transport.get_write_buffer_size() + (0 if sock is None else tcp.unacked_bytes(sock))

    @property
    def round_trip_seconds(self) -> float | None:
        sock = self._open_socket()
        return None if sock is None else tcp.path(sock).round_trip_seconds

    # What the hub asks of a connection

    def uncork(self) -> None:
        """Send what was held back; from now on each write goes out at once."""
        held, self._held = self._held, None
        if held:
            self._write_directly_if_empty()
            self.write(bytes(held))

    begin = uncork
    """Called once it is attached."""

    def write(self, wire: bytes) -> None:
        if self._fd != NOT_DIRECTLY:
            try:
                sent_bytes = os.write(self._fd, wire)
            except OSError:
                sent_bytes = 0  # full, or broken: the transport finds out which, and reports it
            if sent_bytes < len(wire):
                self._write_on(wire[sent_bytes:])
        elif self._held is not None:
            self._held += wire
            if len(self._held) >= _HELD_BYTES:
                self.uncork()
        else:
            self._write_on(wire)

    @staticmethod
    def write_each(connections: Sequence[Connection], wire: bytes) -> None:
        streams = cast(Sequence[Stream], connections)
        direct = [stream for stream in streams if stream._fd != NOT_DIRECTLY]
        others = [stream for stream in streams if stream._fd == NOT_DIRECTLY] if len(direct) < len(streams) else []
        descriptors = [stream._fd for stream in direct]
        sent_bytes: list[int] = []
        while len(sent_bytes) < len(direct):
            try:
                sent_bytes.extend(map(os.write, descriptors[len(sent_bytes) :], repeat(wire)))
            except OSError:
                sent_bytes.append(0)  # as above; `extend` keeps what came before (a test pins it)
        if sum(sent_bytes) < len(wire) * len(direct):
            for stream, done_bytes in zip(direct, sent_bytes, strict=True):
                if done_bytes < len(wire):
                    stream._write_on(wire[done_bytes:])
        for stream in others:
            stream.write(wire)

    def _write_on(self, wire: bytes) -> None:
        """Have the transport write what the kernel didn't take at once. If it raises, only this stream ends."""
        if self._transport is None:
            return
        try:
            if self._record_cost_bytes:
                self._seal(wire)
                self._hub.pending_acks(self)
            self._transport.write(wire)
        except Exception as error:  # noqa: BLE001 - the caller writes to other streams next
            self._hub.connection_failed(self, error, "flush")

    def acked_bytes(self) -> int:
        """Exact on plain TCP; with TLS the last moment at which all was acknowledged; else what the kernel took.

        Not "written less what is still owed": a transport that fails drops what it holds, and then owes nothing.
        """
        transport, sock = self._transport, self._open_socket()
        if transport is None:
            return self._known_acked_bytes
        if sock is None:
            if self._sock is None and not transport.is_closing():
                self._known_acked_bytes = self.written_bytes - transport.get_write_buffer_size()
        elif not self._record_cost_bytes:
            # Behind the end of the stream its peer acknowledges the end, too.
            self._known_acked_bytes = min(self.written_bytes, max(0, tcp.acked_bytes(sock) - self._base_bytes))
        else:
            self._answered = tcp.path(sock).answers
            if tcp.acked_bytes(sock) >= self._target_bytes and not self.unacked_bytes:
                self._known_acked_bytes = self.written_bytes
        return self._known_acked_bytes

    def _open_socket(self) -> tcp.Socket | None:
        """The socket, as long as it may be asked. With TLS `connection_lost` comes a turn of the loop after the
        descriptor was closed (and its number perhaps reused); from then on the transport says it is closing.
        """
        if self._record_cost_bytes and self._transport is not None and self._transport.is_closing():
            return None
        return self._sock

    def moved_bytes(self) -> int:
        transport = self._transport
        if transport is None:
            return 0
        if self._record_cost_bytes:
            self._answered = self.answers()
            return self.written_bytes - self.unacked_bytes
        if self._sock is None:
            return self.written_bytes - transport.get_write_buffer_size()
        return self.written_bytes - transport.get_write_buffer_size() - tcp.unacked_bytes(self._sock)

    def answers(self) -> bool:
        sock = self._open_socket()
        if sock is not None:
            return tcp.path(sock).answers
        # No TCP state: the peer of a Unix socket is on this machine, and can't vanish without closing it.
        return self._sock is None or self._answered

    def silent_seconds(self, now: float) -> float:
        sock = self._open_socket()
        return now - self.progress_seconds if sock is None else tcp.path(sock).last_ack_age_seconds

    def cork(self) -> None:
        self.uncork()
        self._fd, self._held = NOT_DIRECTLY, bytearray()

    def finish(self) -> None:
        if self.chunked:
            self.write(b"0\r\n\r\n")
        self.uncork()
        self._fd = NOT_DIRECTLY
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        if transport.can_write_eof():
            with suppress(OSError):  # reset by the peer a moment ago: the transport finds out, and reports it
                transport.write_eof()
        self._close_when_acked(self._clock() + _LONGEST_ACK_SECONDS)

    def _close_when_acked(self, until_seconds: float) -> None:
        """Close the transport when the peer has acknowledged all events, or closed, at `until_seconds` at the latest:
        after that the kernel says no more, and what it has not said counts as missed.
        """
        if self._transport is None:
            return
        if self.refresh() and self.confirmable and self._clock() < until_seconds:
            asyncio.get_running_loop().call_later(_ACK_SECONDS, self._close_when_acked, until_seconds)
        else:
            self._transport.close()

    def abort(self) -> None:
        self._fd, self._held = NOT_DIRECTLY, None
        if self._transport is not None:
            self._transport.abort()

    # What the transport says

    def pause_writing(self) -> None:
        self._fd = NOT_DIRECTLY
        self._hub.paused(self, self._clock())

    def resume_writing(self) -> None:
        self._write_directly_if_empty()
        self._hub.drained(self, self._clock())

    def data_received(self, data: bytes) -> None:
        """A subscriber has nothing to say: bytes behind its request are dropped unread."""

    def eof_received(self) -> bool:
        """A half-closed peer looks like a closed one: the stream ends, and what it can't take is dropped."""
        self.refresh()
        if self.paused:
            self.abort()
        return False

    def connection_lost(self, exc: BaseException | None) -> None:
        self._fd = NOT_DIRECTLY
        reason = self.leaving or self._reason(exc)
        self._hub.lost(self, reason, self._clock(), reset=isinstance(exc, ConnectionError))
        self._transport = None
        self._sock = None

    def _reason(self, exc: BaseException | None) -> str:
        if exc is None or isinstance(exc, ConnectionError | ssl.SSLError):
            return "client"
        if isinstance(exc, OSError) and exc.errno in _DEAD_ERRNOS:
            # TCP_USER_TIMEOUT also ends a subscriber whose window stayed shut.
            return "slow" if self.answers() else "dead"
        return "error"


class Traced(Connection):
    """A connection that logs what is written to it; made only where `server.log_level` is `debug`."""

    __slots__ = ()

    @staticmethod
    def write_batch(connections: Sequence[Connection], wire: bytes, seq: int, now: float) -> None:
        before = [connection.cursor for connection in connections]
        Connection.write_batch(connections, wire, seq, now)
        for connection, cursor in zip(connections, before, strict=True):
            cast(Traced, connection)._log_delivery(wire, seq, cursor)

    def write_events(self, wire: bytes, seq: int, now: float) -> None:
        before = self.cursor
        super().write_events(wire, seq, now)
        self._log_delivery(wire, seq, before)

    def _log_delivery(self, wire: bytes, seq: int, before: int) -> None:
        if self.project is not None:
            _log.debug(
                "delivered",
                project=self.project.name,
                connection=self.id,
                id=self.project.event_id(seq),
                events=seq - before,
                bytes=len(wire),
            )


class TracedStream(Traced, Stream):
    """A `Stream` that logs what is written to it."""

    __slots__ = ()
