"""What the SQLite store writes in one transaction, row by row."""

from __future__ import annotations

from typing import NamedTuple

from edge.core.ledger import LedgerState


class Segment(NamedTuple):
    """Events `first_seq..last_seq` of one project, published at `at_seconds` (since 1970)."""

    project: str
    epoch: str
    first_seq: int
    last_seq: int
    at_seconds: float
    frames: bytes


class ProjectRow(NamedTuple):
    """A project as the hub knows it: ring bounds and ledger (its moments in seconds since 1970)."""

    name: str
    epoch: str
    first_seq: int
    oldest: int
    newest: int
    ledger: LedgerState


class ReceiptRow(NamedTuple):
    """An idempotency key: answered, or (`status` None) with job `job` about to leave."""

    key: str
    fingerprint: bytes
    job: str | None
    status: int | None
    content_type: str | None
    body: bytes | None
    at_seconds: float


class Batch(NamedTuple):
    """What one transaction writes."""

    segments: list[Segment]
    projects: list[ProjectRow]
    gone: list[str]
    """Projects the hub has forgotten."""
    receipts: list[ReceiptRow]
    dropped: list[str]
    """Keys whose request did nothing after all."""
    receipts_since_seconds: float
    """Receipts answered before this moment are no longer remembered."""

    @property
    def idle(self) -> bool:
        """Nothing is added or changed."""
        return not (self.segments or self.projects or self.receipts)
