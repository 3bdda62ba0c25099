"""An in-memory transport for streams."""

from __future__ import annotations

import asyncio
from typing import Any

from edge.transport.stream import Stream


class Wire(asyncio.Transport):
    """An in-memory transport: the peer takes bytes on command, and pauses the stream while some are left."""

    def __init__(self) -> None:
        super().__init__()
        self.buffer = bytearray()
        self.protocol: Stream | None = None
        self.closing = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        was_empty = not self.buffer
        self.buffer += data
        if was_empty and self.protocol is not None:
            self.protocol.pause_writing()

    def take(self, count: int) -> bytes:
        taken = bytes(self.buffer[:count])
        del self.buffer[:count]
        if taken and not self.buffer and self.protocol is not None and not self.closing:
            self.protocol.resume_writing()
        return taken

    def get_write_buffer_size(self) -> int:
        return len(self.buffer)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        assert (high, low) == (0, 0)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return None

    def is_reading(self) -> bool:
        return True

    def is_closing(self) -> bool:
        return self.closing

    def can_write_eof(self) -> bool:
        return False

    def close(self) -> None:
        self.closing = True

    def abort(self) -> None:
        self.closing = True
        self.buffer.clear()
