"""How long a peer may take nothing of what it owes before it is given up.

Invariant: `paused` has exactly the attached connections whose transport takes no more for now.
"""

from __future__ import annotations

from edge.core.connection import NEVER, Connection

_OWES_NOTHING = -1


class StallDetector:
    """`dead_after_seconds`, for every connection. Time is an argument."""

    __slots__ = ("_dead_after_seconds", "paused")

    def __init__(self, dead_after_seconds: float) -> None:
        self._dead_after_seconds = dead_after_seconds
        self.paused: dict[Connection, None] = {}

    def end_if_stuck(self, connection: Connection, now: float) -> None:
        """End a paused connection whose peer has taken nothing for too long."""
        if self.ends(connection, now) <= now:
            self.give_up(connection)

    def ends(self, connection: Connection, now: float) -> float:
        """When the peer will have taken nothing of what it owes for so long; NEVER if it owes nothing.

        What it owes counts from the first look that finds it: between two looks nobody knows since when.
        """
        moved_bytes = connection.moved_bytes()
        owes = moved_bytes != connection.written_bytes
        if not owes or moved_bytes != connection.progress_bytes:
            connection.progress_bytes = moved_bytes if owes else _OWES_NOTHING
            connection.progress_seconds = now
        return connection.progress_seconds + self._dead_after_seconds if owes else NEVER

    @staticmethod
    def give_up(connection: Connection) -> None:
        """End a stream: `slow` when the peer's stack still answers, `dead` when it doesn't."""
        connection.leaving = connection.leaving or ("slow" if connection.answers() else "dead")
        connection.abort()
