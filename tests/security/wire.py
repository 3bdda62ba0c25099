"""Bytes to a hub and what comes back, without an HTTP library in between."""

from __future__ import annotations

import asyncio
import re
from typing import NamedTuple

EVENTS = "/projects/p1/events"
EVENT = '{"data":1}'
_STATUS = re.compile(rb"^HTTP/1\.[01] (\d{3})", re.MULTILINE)
_CODE = re.compile(rb'"code":"(\w+)"')


class Heard(NamedTuple):
    """The statuses and problem codes that came, whether the hub closed the connection, and all of it."""

    statuses: list[int]
    codes: list[str]
    closed: bool
    raw: bytes


class Wire:
    """One TCP connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, host: str, port: int) -> Wire:
        return cls(*await asyncio.open_connection(host, port))

    def send(self, raw: str | bytes) -> None:
        self._writer.write(raw if isinstance(raw, bytes) else raw.encode("latin-1"))

    async def heard(self, *, answers: int | None = None, patience_seconds: float = 10.0, bodies: bool = True) -> Heard:
        """What has come once the hub closed, so many answers are complete, or nothing more came in time.

        Without `bodies` an answer ends with its headers, whatever length they tell (HEAD).
        """
        raw, closed = b"", False
        try:
            async with asyncio.timeout(patience_seconds):
                while answers is None or complete(raw, bodies=bodies) < answers:
                    data = await self._reader.read(65536)
                    if not data:
                        closed = True
                        break
                    raw += data
        except TimeoutError:
            pass
        except ConnectionError:
            closed = True
        return Heard([int(found) for found in _STATUS.findall(raw)], _codes(raw), closed, raw)

    async def close(self) -> None:
        self._writer.close()
        await asyncio.gather(self._writer.wait_closed(), return_exceptions=True)


def complete(raw: bytes, *, bodies: bool) -> int:
    """How many whole answers with a Content-Length (or none to have) stand in `raw`."""
    count = 0
    while b"\r\n\r\n" in raw:
        head, _, raw = raw.partition(b"\r\n\r\n")
        length = re.search(rb"^content-length: (\d+)", head, re.MULTILINE | re.IGNORECASE)
        size = int(length[1]) if length and bodies else 0
        if len(raw) < size:
            break
        raw = raw[size:]
        count += 1
    return count


def _codes(raw: bytes) -> list[str]:
    return [found.decode() for found in _CODE.findall(raw)]
