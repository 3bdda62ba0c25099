"""Which connection gets a pending missed event that has become deliverable.

Invariant: each event is assigned to at most one connection, and only in order. A subscriber that was already sent a
later event would have its `Last-Event-ID` set back.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from edge.core.connection import Connection
from edge.core.intervals import Intervals


def assign(pending: Intervals, connections: Iterable[Connection]) -> Iterator[tuple[Connection, Intervals]]:
    """Share the `pending` events among those of `connections` that asked for missed events and were never sent them.

    The newest connection that can take an event gets it. Events that no connection can take are left out.
    """
    left = Intervals(pending)
    able = [each for each in connections if each.takes_missed and not (each.paused or each.leaving)]
    while left:
        able = [each for each in able if each.sent_to < left.last and each.cursor >= left.first]
        if not able:
            return
        connection = max(able, key=_connected_at)
        able.remove(connection)
        events = Intervals(left.within(connection.sent_to + 1, connection.cursor))
        if events:
            left.remove(events.first, events.last)
            yield connection, events


def _connected_at(connection: Connection) -> tuple[float, int]:
    return connection.connected_at_seconds, connection.index
