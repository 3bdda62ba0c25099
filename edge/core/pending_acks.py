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

    def ask(self, count: int) -> None:
        """Ask at most `count` of them; those that still owe something stand last in line."""
        for connection in list(islice(self._connections, count)):
            del self._connections[connection]
            if connection.project is not None and connection.refresh():
                self._connections[connection] = None
