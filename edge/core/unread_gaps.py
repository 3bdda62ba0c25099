"""Gaps that report losses for the first time, until their peers are known to have received them.

Invariant: losses that a gap reported to a peer which never received it are reported by the next gap.
"""

from __future__ import annotations

from typing import NamedTuple

from edge.core.connection import Connection
from edge.core.ledger import Ledger


class _Gap(NamedTuple):
    """It reports `lost` events, from number `first` on, and is written behind byte `begins_at` of its stream."""

    lost: int
    first: int
    begins_at: int


class UnreadGaps:
    """Those of one project."""

    __slots__ = ("_of",)

    def __init__(self) -> None:
        self._of: dict[Connection, _Gap] = {}

    def report(self, ledger: Ledger, seq: int, connection: Connection) -> None:
        """`connection` is about to be written a gap that says that everything from `seq` on is gone."""
        lost, first = ledger.unreported_lost, ledger.unreported_from
        ledger.gap_reported(seq)
        if first is None or ledger.unreported_lost:
            return
        begins_at, before = connection.written_bytes, self._of.get(connection)
        if before is not None and connection.acked_bytes() <= before.begins_at:
            lost, first, begins_at = lost + before.lost, min(first, before.first), before.begins_at
        self._of[connection] = _Gap(lost, first, begins_at)

    def left(self, ledger: Ledger, connection: Connection, *, doubted: bool) -> None:
        """`connection` has gone; `doubted`: what its peer acknowledged counts for nothing."""
        gap = self._of.pop(connection, None)
        if gap is not None and (doubted or connection.acked_bytes() <= gap.begins_at):
            ledger.gap_unread(gap.lost, gap.first)
