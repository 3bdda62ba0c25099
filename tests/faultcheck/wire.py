"""Requests and streams down to the byte, so that both can be cut anywhere."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from dataclasses import dataclass, field


@dataclass(slots=True)
class Frame:
    """An event of a stream, as far as it has come."""

    id: str = ""
    type: str = ""
    data: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "\n".join(self.data)


class EventLines:
    """Lines of an HTTP body, chunked or not, out of bytes in pieces of any size."""

    def __init__(self, *, chunked: bool) -> None:
        self._chunked = chunked
        self._raw = b""
        self._text = b""
        self._left = 0
        """Bytes of the current chunk that have not come yet, with the line end behind it."""

    def feed(self, some: bytes) -> list[str]:
        """The lines that `some` completes, without their ends."""
        if self._chunked:
            self._raw += some
            self._unpack()
        else:
            self._text += some
        *lines, self._text = self._text.split(b"\n")
        return [line.decode() for line in lines]

    def _unpack(self) -> None:
        while self._raw:
            if not self._left:
                size, end, rest = self._raw.partition(b"\r\n")
                if not end:
                    return
                self._raw, self._left = rest, int(size, 16) + 2
            part = self._raw[: self._left]
            self._raw = self._raw[self._left :]
            here = min(len(part), max(self._left - 2, 0))
            self._text += part[:here]
            self._left -= len(part)


def reset(writer: asyncio.StreamWriter) -> None:
    """Close with RST."""
    sock: socket.socket | None = writer.get_extra_info("socket")
    if sock is not None and sock.fileno() >= 0:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def read_head(reader: asyncio.StreamReader) -> tuple[int, dict[str, str]]:
    """Status and headers, their names in lower case."""
    line, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().strip().split("\r\n")
    return int(line.split()[1]), {name.lower(): value.strip() for name, _, value in (x.partition(":") for x in lines)}


def event(token: str) -> str:
    """What is published for a token: the token, and behind it what shows that nothing of it was lost."""
    return f"{token}|{'x' * _padding(token)}"


def token_of(data: str) -> str:
    """The token out of an event's data; a damaged event has another token."""
    text = json.loads(data) if data.startswith('"') else data
    token, _, padding = text.partition("|")
    return token if padding == "x" * _padding(token) else f"damaged: {text}"


def _padding(token: str) -> int:
    """Some events are large: one in ten."""
    number = sum(token.encode())
    return 4000 if not number % 10 else number % 50
