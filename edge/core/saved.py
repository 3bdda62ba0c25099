"""A project as an earlier process saved it.

Invariant: an epoch is never given twice, not even by different processes, as long as each has its own `boot`.
"""

from __future__ import annotations

import msgspec

from edge.core.ledger import LedgerState


class PastEpoch(msgspec.Struct, frozen=True, array_like=True):
    """An epoch of an earlier process that this history continues. `last_seq` is the last number given in it.

    `whole`: it is known that no event was lost between this epoch and the next.
    """

    epoch: str
    last_seq: int
    whole: bool


class SavedProject(msgspec.Struct, frozen=True):
    """The state of a project: `frames` end with number `newest`, `times` are seconds of the hub's clock.

    New events get ids of `epoch`. Held events keep their epochs, which `earlier` lists, oldest first.
    """

    name: str
    epoch: str
    first_seq: int
    newest: int
    frames: list[bytes]
    times: list[float]
    ledger: LedgerState
    pinned: bool = False
    earlier: tuple[PastEpoch, ...] = ()
    finished: bool = False
