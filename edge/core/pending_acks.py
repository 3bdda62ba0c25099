"""Connections that won't be able to say, when they are lost, what their peer acknowledged: they are asked in time.

Invariant: whoever was written to and has not been found to have everything stands here until it leaves.
"""

from __future__ import annotations

from itertools import islice

from edge.core.connection import Connection


class PendingAcks:
    __slots__ = ("_connections",)

    def __init__(self) -> None:
        self._connections: dict[Connection, None] = {}

    def add(self, connection: Connection) -> None:
        self._connections[connection] = None

    def forget(self, connection: Connection) -> None:
        self._connections.pop(connection, None)

    def take(self, count: int) -> list[Connection]:
        """Take out at most `count` of them, the longest waiting first; `add` those that still owe something."""
        taken = list(islice(self._connections, count))
        for connection in taken:
            del self._connections[connection]
        return taken
